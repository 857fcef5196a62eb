"""What is shown when all is written: tables on standard output."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table


class Screen(Console):
    """Rich's console, plain, which leaves it to the script what a reader who has left means."""

    def __init__(self) -> None:
        super().__init__(markup=False, highlight=False)

    def table(self, table: Table) -> None:
        """Print it; where it has no room, wider than the screen, for rich would leave columns empty."""
        anywhere = self.options.update(max_width=sys.maxsize)
        self.width = max(self.width, self.measure(table, options=anywhere).minimum)
        self.print(table)

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
