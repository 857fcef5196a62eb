"""What the main function of every script stands in: its options, and a sentence for whatever ends it early.

Exit codes: 0, done; 1, done, but the results are in doubt; 2, it cannot run so, change the command; 3, what
was right failed on this machine; 4, a fault of the program, with a traceback; 128 and the signal's number,
stopped (130 by Ctrl-C, 129 and 143 by SIGHUP and SIGTERM, 141 where nobody reads the output any more).
"""

import contextlib
import functools
import importlib.metadata
import io
import os
import pathlib
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, ParamSpec


Arguments = ParamSpec("Arguments")
CANNOT, FAILED, FAULT, UNREAD = 2, 3, 4, 141
STOPPED_BY = ("SIGINT", "SIGTERM", "SIGHUP")  # which Windows does not all have
EXTRAS = {"tyro": "experiments", "cosmic_ray": "mutation", "coverage": "mutation"}
AGAIN = 0.02  # seconds until a signal that was lost is sent again
SMALLER = "; a smaller batch, network or number of seeds needs less"


class Stopped(BaseException):
    """A signal that asks the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


STOPS = (KeyboardInterrupt, Stopped, MemoryError, OSError, RuntimeError)  # what is no fault of the command


def outermost(main: Callable[Arguments, int | None]) -> Callable[Arguments, int]:
    """`main`, whose exceptions become a sentence and an exit code; notes added to them are said as well."""

    @functools.wraps(main)
    def guarded(*arguments: Arguments.args, **named: Arguments.kwargs) -> int:
        with _signals_raised():
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, io.TextIOWrapper):  # a terminal may know no more than ASCII
                    stream.reconfigure(errors="replace")
            try:
                code = main(*arguments, **named) or 0
                if sys.stdout is not None:  # who closed it wants to see nothing
                    sys.stdout.flush()
            except Exception as error:
                return _failed(error)
            except KeyboardInterrupt as stop:
                return _say("interrupted", stop, 128 + signal.SIGINT)
            except Stopped as stop:
                said = "interrupted" if stop.number == signal.SIGINT else f"stopped by {stop}"
                return _say(said, stop, 128 + stop.number)
        return code

    return guarded


def _failed(error: Exception) -> int:
    match error:
        case BrokenPipeError():
            _silence()
            return UNREAD
        case OSError() if error.errno is not None and error.filename is None and not _writable():
            _silence()
            return _say(f"error: standard output cannot be written ({error.strerror})", error, FAILED)
        case MemoryError():
            return _say(f"error: out of memory{_reason(error)}{SMALLER}", error, FAILED)
        case ModuleNotFoundError() if error.name in EXTRAS:
            problem = f"error: {error.name} is not installed: pip install 'dfc_jax[{EXTRAS[error.name]}]'"
            return _say(problem, error, CANNOT)
        case ArithmeticError():
            problem = f"error: a number of the options is too large or too small{_reason(error)}"
            return _say(problem, error, CANNOT)
        case ChildProcessError():
            return _say(f"error: {error}", error, FAILED)
        case ValueError() | OSError() | ImportError():
            return _say(f"error: {error}", error, CANNOT)
        case RuntimeError() if not isinstance(error, NotImplementedError | RecursionError):
            if "RESOURCE_EXHAUSTED" in str(error):
                return _say(f"error: out of memory{_reason(error)}{SMALLER}", error, FAILED)
            from_device = type(error).__module__.startswith("jax")
            return _say(f"error: {_first(error)}", error, FAILED if from_device else CANNOT)
    traceback.print_exception(error)  # with its notes
    return FAULT


def _writable() -> bool:
    """Whether what is printed goes out."""
    try:
        print(flush=True)
    except OSError:
        return False
    return True


def _silence() -> None:
    """Python flushes standard output once more at its end, which would fail again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _first(error: Exception) -> str:
    """The first line of what may be pages."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _reason(error: Exception) -> str:
    return f" ({_first(error)})" if str(error) else ""


def _say(sentence: str, error: BaseException, code: int) -> int:
    notes = [note for note in getattr(error, "__notes__", ()) if "\n" not in note]  # JAX has long ones
    with contextlib.suppress(OSError, ValueError):  # nobody may be there to read it
        print("; ".join([sentence, *notes]), file=sys.stderr)
    return code


def _signal_main_thread(number: int) -> None:
    """Wake it, too, from a system call; Windows cannot."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        signal.raise_signal(number)


def _send_again(number: int, heard: list[int]) -> None:
    """Until it is heard: one that comes as the main thread enters a system call does not wake it."""
    time.sleep(AGAIN)
    while not heard:
        _signal_main_thread(number)
        time.sleep(AGAIN)


@contextlib.contextmanager
def _signals_raised() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise `Stopped` in the main thread. `KeyboardInterrupt` would not do for
    Ctrl-C: `fit` hears it, and returns what there is.

    What is raised amid garbage collection Python only reports: then the signal comes again a little later.
    """
    before = _unheard()
    if not before:  # within another one of these, which hears them
        yield
        return
    senders: list[tuple[threading.Thread, list[int]]] = []

    def stop(number: int, _: FrameType | None) -> None:
        heard(number)
        raise Stopped(number)

    def heard(number: int) -> None:
        for _, numbers in senders:
            numbers.append(number)  # no lock: another signal may come while this one is handled

    def unraisable(found: Any) -> None:
        if isinstance(found.exc_value, Stopped):
            numbers: list[int] = []
            sender = threading.Thread(target=_send_again, args=(found.exc_value.number, numbers))
            senders.append((sender, numbers))
            sender.start()
        else:
            reported(found)

    reported, sys.unraisablehook = sys.unraisablehook, unraisable
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        heard(0)
        for sender, _ in senders:
            sender.join()
        sys.unraisablehook = reported
        for number, found in before.items():
            signal.signal(number, found)


def _unheard() -> dict[int, Any]:
    """The signals that nobody handles yet, with their usual handlers; none in other threads."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [getattr(signal, name) for name in STOPPED_BY if hasattr(signal, name)]
    found = {number: signal.getsignal(number) for number in numbers}
    # `nohup` has SIGHUP ignored, which is what its user wants.
    return {
        n: handler for n, handler in found.items() if handler in (signal.SIG_DFL, signal.default_int_handler)
    }


@contextlib.contextmanager
def undivided() -> Iterator[None]:
    """What must be done as a whole: signals that come meanwhile count at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    names = [name for name in STOPPED_BY if hasattr(signal, name)]
    before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names}
    before = {number: found for number, found in before.items() if callable(found)}
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, found in before.items():
            signal.signal(number, found)
    if came:
        signal.raise_signal(came[0])


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Who is stopped here is told that the same command goes on."""
    try:
        yield
    except STOPS as stopped:
        stopped.add_note("the same command goes on")
        raise


def parse(
    options: type | dict[str, type], arguments: Sequence[str] | None, description: str, default: Any = None
) -> Any:
    """The options of a command line, those of `default` where it names none; or of one of several."""
    import tyro  # so that its absence is said in a sentence
    from options.help import registry

    arguments = tidied(arguments)
    if arguments == ["--version"]:
        print(_versions())
        raise SystemExit(0)
    prog = None if sys.argv[0].endswith(("pytest", "__main__.py")) else pathlib.Path(sys.argv[0]).name
    shared = {"args": arguments, "description": description, "prog": prog, "registry": registry(options)}
    if isinstance(options, dict):
        return tyro.extras.subcommand_cli_from_dict(options, **shared)
    return tyro.cli(options, **shared, **({} if default is None else {"default": default}))


def tidied(arguments: Sequence[str] | None) -> list[str]:
    """The arguments, those of this process by default, with `~` in `--out` for the home folder.

    **Raises:** `ValueError` for an empty `--out`, as a variable that is not set leaves one.
    """
    found, last = [], ""
    for argument in sys.argv[1:] if arguments is None else arguments:
        if argument == "--out=" or (argument == "" and last == "--out"):
            raise ValueError("`out` is empty; name a folder, or leave the option out.")
        if argument.startswith("--out="):
            argument = f"--out={pathlib.Path(argument.removeprefix('--out=')).expanduser()}"
        elif last == "--out":
            argument = str(pathlib.Path(argument).expanduser())
        found.append(argument)
        last = argument
    return found


def _versions() -> str:
    names = ("dfc_jax", "jax", "equinox", "diffrax")
    numbers = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"{numbers}; Python {platform.python_version()}"
