"""The programs that runs were divided into: each keeps checkpoints of its own below their folder."""

import json
import pathlib
from typing import Any, NamedTuple

from dfc_jax._checks import require
from dfc_jax._runs import checkpoints
from dfc_jax._runs.files import delete, write_whole


_FILE = "programs.json"


class Program(NamedTuple):
    """Which of the runs a program trains, None for all, and where its checkpoints are."""

    positions: list[int] | None
    folder: pathlib.Path


def place(folder: pathlib.Path, number: int) -> pathlib.Path:
    """The checkpoints' of one of several programs."""
    return folder / f"program-{number}"


def programs_in(folder: pathlib.Path) -> list[Program]:
    """Those that have begun, or of which others have; none where there are no checkpoints.

    **Raises:** `ValueError` if there are checkpoints of several, and what says of which runs is no such file.
    """
    if any(folder.glob("*.checkpoint")):
        return [Program(None, folder)]
    begun = {path.parent for path in folder.glob("program-*/*.checkpoint")}
    if not begun:
        return []
    file = folder / _FILE
    problem = f"{str(folder)!r} holds checkpoints of several programs, but no {_FILE} that says of which runs"
    require(file.exists(), f"{problem}: restore it, or name another folder.")
    programs = [Program(runs, place(folder, i)) for i, runs in enumerate(_read(file))]
    untold = sorted(path.name for path in begun - {program.folder for program in programs})
    require(not untold, f"{str(file)!r} is damaged: it does not say which runs are in {', '.join(untold)}.")
    return programs


def note_programs(folder: pathlib.Path, positions: list[list[int]]) -> None:
    """Write which runs each program trains, if there are several; before the first of them begins."""
    if len(positions) > 1:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / _FILE, (json.dumps(positions) + "\n").encode())
    else:
        delete(folder / _FILE)


def newest(folder: pathlib.Path) -> list[tuple[list[int] | None, checkpoints.Checkpoint]]:
    """The newest checkpoint of every program that has one, and which of the runs it trains.

    **Raises:** as `programs_in` and `checkpoints.newest`.
    """
    found = [(program.positions, checkpoints.newest(program.folder)) for program in programs_in(folder)]
    return [(positions, checkpoint) for positions, checkpoint in found if checkpoint is not None]


def _read(file: pathlib.Path) -> list[list[int]]:
    try:
        held = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(file)!r} is damaged: {error}. Restore it, or name another folder.") from error
    require(_divides(held), f"{str(file)!r} is damaged: it does not divide runs into programs.")
    return held


def _divides(held: Any) -> bool:
    """Whether these are lists of positions, each from 0 on once."""
    if not isinstance(held, list) or not held or not all(isinstance(runs, list) and runs for runs in held):
        return False
    positions = [position for runs in held for position in runs]
    return all(type(position) is int for position in positions) and sorted(positions) == list(
        range(len(positions))
    )
