"""Progress bars, on a standard error that may be gone."""

import contextlib
import sys
from typing import Any

from tqdm import tqdm


class _Screen:
    """A stream; what it does not take is not shown, for no work should end for that."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def progress_bar(*arguments: Any, progress: bool, **options: Any) -> tqdm:
    """tqdm's on standard error, if `progress` says so and there is one."""
    shown = progress and sys.stderr is not None
    # tqdm asks no stream but standard error itself how wide it is, unless it is to go on asking.
    return tqdm(*arguments, disable=not shown, file=_Screen(sys.stderr), dynamic_ncols=True, **options)
