"""A Ctrl-C that is heard, whatever was at work when it came."""

import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType


_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # which Windows does not all have


@contextlib.contextmanager
def heard_again() -> Generator[Callable[[], None]]:
    """Gives a function that raises what a signal's handler has raised where that came to nothing.

    An exception that a handler raises amid a callback, as of JAX's at the end of garbage collection, is
    printed and ignored, and training would go on.
    """
    raised: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
        handlers = {number: found for number in numbers if callable(found := signal.getsignal(number))}

    def hear(number: int, frame: FrameType | None) -> None:
        try:
            handlers[number](number, frame)
        except BaseException:
            raised.append(number)
            raise

    def check() -> None:
        if raised:
            handlers[raised[0]](raised[0], None)

    for number in handlers:
        signal.signal(number, hear)
    try:
        yield check
    finally:
        for number, found in handlers.items():
            signal.signal(number, found)
