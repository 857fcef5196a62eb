"""Runs that may differ in more than numbers: which of them are one program, and one program after another."""

import dataclasses
import itertools
import os
import pathlib

import jax

from dfc_jax._checks import require
from dfc_jax._data.dataset import Dataset
from dfc_jax._network.network import Network
from dfc_jax._runs.history import History
from dfc_jax._runs.programs import note_programs, place, programs_in
from dfc_jax._training.devices import placed
from dfc_jax._training.epochs import train
from dfc_jax._training.memory import most_at_once
from dfc_jax._training.recipes import alike, Given, Recipe, recipes_of
from dfc_jax._training.start import Options
from dfc_jax._training.state import Run


def train_all(given: list[Given], at_once: int | None, options: Options) -> list[tuple[Network, History]]:
    """Train all runs, at most so many at once; by default as many as fit, or as in the folder.

    **Raises:** `ValueError` if `options.resume` holds runs that were divided into other programs.
    """
    try:
        recipes = recipes_of(given)
        data = placed(options.data, options.mesh)  # once for all programs
        programs = _divided(given, recipes, at_once, data, options)
    except KeyboardInterrupt:
        if jax.process_count() > 1:  # the others would wait for this one
            raise
        return [_not_reached(run) for run in given]
    found: dict[int, tuple[Network, History]] = {}
    for number, positions in enumerate(programs):
        of_these = options if len(programs) == 1 else _of_program(options, number, positions)
        members = [given[i] for i in positions], [recipes[i] for i in positions]
        results, interrupted = train(*members, data, of_these)
        found |= zip(positions, results, strict=True)
        if interrupted:
            break
    return [found[i] if i in found else _not_reached(run) for i, run in enumerate(given)]


def _divided(
    given: list[Given], recipes: list[Recipe], at_once: int | None, data: Dataset, options: Options
) -> list[list[int]]:
    """The positions of the runs of each program, noted in the folder where there are several."""
    groups = alike(given, recipes)
    folder = None if options.resume is None else pathlib.Path(options.resume)
    if folder is not None and (begun := programs_in(folder)):
        everyone = list(range(len(given)))
        held = [everyone if program.positions is None else program.positions for program in begun]
        asked = held if at_once is None else _chunks(groups, [at_once] * len(groups))
        within = all(any(set(runs) <= set(group) for group in groups) for runs in held)
        fine = asked == held and within and sorted(itertools.chain(*held)) == everyone
        problem = f"`resume` is {os.fspath(folder)!r}, which holds these runs divided into other programs"
        require(fine, f"{problem}; give the same models, methods and `at_once`, or name another folder.")
        return held
    members = lambda group: ([given[i] for i in group], [recipes[i] for i in group])
    most = lambda group: most_at_once(*members(group), data, options) if at_once is None else at_once
    programs = _chunks(groups, [most(group) for group in groups])
    if folder is not None and jax.process_index() == 0:
        note_programs(folder, programs)
    return programs


def _chunks(groups: list[list[int]], sizes: list[int]) -> list[list[int]]:
    return [
        group[start : start + size]
        for group, size in zip(groups, sizes, strict=True)
        for start in range(0, len(group), size)
    ]


def _of_program(options: Options, number: int, positions: list[int]) -> Options:
    """What is asked for of the runs at these positions, with a folder of their own."""
    on_epoch, resume = options.on_epoch, options.resume
    heard = on_epoch and (lambda i, record, model: on_epoch(positions[i], record, model))
    folder = None if resume is None else place(pathlib.Path(resume), number)
    return dataclasses.replace(options, on_epoch=heard, resume=folder)


def _not_reached(run: Given) -> tuple[Network, History]:
    """What an interrupt leaves of a run whose program has not had its turn."""
    unchanged = Run(run.model, run.model)
    why = "interrupted before the turn of its program; the model is as it was given, whatever `resume` holds."
    unchanged.stop("interrupt", why)
    return unchanged.result()
