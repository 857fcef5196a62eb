"""What is shown when all is written: tables on standard output."""

import contextlib
import pathlib
from collections.abc import Iterator

from rich.console import Console


class Screen(Console):
    """Rich's console, plain, which leaves it to the script what a reader who has left means."""

    def __init__(self) -> None:
        super().__init__(markup=False, highlight=False)

    def on_broken_pipe(self) -> None:
        raise  # rich calls this while it handles the BrokenPipeError


@contextlib.contextmanager
def written(out: pathlib.Path) -> Iterator[None]:
    """Where nothing can be shown, it is said where it stands."""
    try:
        yield
    except OSError as error:
        error.add_note(f"the results are in {out}")
        raise
