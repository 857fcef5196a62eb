"""A setting's turn: its folder, and that it is one worker's."""

import dataclasses
import pathlib
from collections.abc import Callable

from sweeping.space import Setting

from dfc_jax._lock import Lock, lock_of_process


@dataclasses.dataclass(frozen=True)
class Turn:
    """A setting, whose folder is this worker's while it trains."""

    folder: pathlib.Path
    setting: Setting
    pruned: Callable[[int, float], bool] | None = None
    """Hears of every epoch's score; whether training is to stop."""


def place(out: pathlib.Path, number: int) -> pathlib.Path:
    """The folder of a run."""
    return out / f"{number:03d}"


def claim(folder: pathlib.Path) -> Lock | None:
    """The lock of a run's folder; None if the run is finished, or another worker's."""
    if finished(folder):
        return None
    try:
        lock = lock_of_process(folder, "out")
    except ValueError:
        return None
    if finished(folder):  # in the meantime
        lock.release()
        return None
    return lock


def finished(folder: pathlib.Path) -> bool:
    """Whether the folder holds a run that has come to its end."""
    return (folder / "summary.json").exists()
