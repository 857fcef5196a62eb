"""Which settings a sweep tries: a list that is known beforehand, or what Optuna asks for next."""

import pathlib
from collections.abc import Iterator

from sweeping.description import Sweep
from sweeping.space import Setting
from sweeping.study import asked, impossible, settings_asked_for
from sweeping.turn import claim, place, Turn


def begun(sweep: Sweep, out: pathlib.Path) -> list[tuple[pathlib.Path, Setting]]:
    """The folders of all settings that are known so far."""
    if sweep.search == "optuna":
        return settings_asked_for(sweep, out)
    return [(place(out, number), setting) for number, setting in enumerate(sweep.listed)]


def finished(out: pathlib.Path) -> int:
    """How many runs have come to their end."""
    return len(list(out.glob("*/summary.json")))


def left_out(sweep: Sweep, out: pathlib.Path) -> int:
    """How many settings could not be, and have no run; those of a list all can."""
    return impossible(sweep, out) if sweep.search == "optuna" else 0


def planned(sweep: Sweep) -> int:
    """How many settings there are at the end, those included that cannot be."""
    return (sweep.trials or 0) if sweep.search == "optuna" else len(sweep.listed)


def number_of_runs(sweep: Sweep, out: pathlib.Path) -> int:
    """How many runs the sweep has at its end, as far as that is known."""
    return planned(sweep) - left_out(sweep, out)


def turns(sweep: Sweep, out: pathlib.Path) -> Iterator[Turn]:
    """What is left for this worker to train, one after another; other workers take others."""
    if sweep.search == "optuna":
        yield from asked(sweep, out)
        return
    for number, setting in enumerate(sweep.listed):
        folder = place(out, number)
        if (lock := claim(folder)) is not None:
            try:
                yield Turn(folder, setting)
            finally:
                lock.release()
