"""Runs that may differ in more than numbers: which of them are one program, and one program after another."""

import dataclasses
import json
import os
import pathlib

import jax

from dfc_jax._checks import require
from dfc_jax._network.network import Network
from dfc_jax._runs.files import write_whole
from dfc_jax._runs.history import History
from dfc_jax._training.epochs import Options, train
from dfc_jax._training.recipes import alike, Given, recipes_of
from dfc_jax._training.state import Run


_LAYOUT = "programs.json"


def train_all(given: list[Given], at_once: int | None, options: Options) -> list[tuple[Network, History]]:
    """Train all runs, at most so many at once.

    **Raises:** `ValueError` if `options.resume` holds runs that were divided into other programs.
    """
    try:
        recipes = recipes_of(given)
    except KeyboardInterrupt:
        if jax.process_count() > 1:  # the others would wait for this one
            raise
        return [_not_reached(run) for run in given]
    programs = [
        group[start : start + (at_once or len(group))]
        for group in alike(given, recipes)
        for start in range(0, len(group), at_once or len(group))
    ]
    if options.resume is not None:
        _check_layout(pathlib.Path(options.resume), programs)
    found: dict[int, tuple[Network, History]] = {}
    for number, positions in enumerate(programs):
        of_these = options if len(programs) == 1 else _of_program(options, number, positions)
        members = [given[i] for i in positions], [recipes[i] for i in positions]
        results, interrupted = train(*members, of_these)
        found |= zip(positions, results, strict=True)
        if interrupted:
            break
    return [found[i] if i in found else _not_reached(run) for i, run in enumerate(given)]


def _check_layout(folder: pathlib.Path, programs: list[list[int]]) -> None:
    """Raise if the folder's runs are other programs, and note there which these are, if they are several."""
    file, now = folder / _LAYOUT, programs if len(programs) > 1 else None
    begun = any(folder.glob("program-*/*.checkpoint"))
    held = json.loads(file.read_text(encoding="utf-8")) if begun and file.exists() else None
    alone = any(folder.glob("*.checkpoint"))
    problem = f"`resume` is {os.fspath(folder)!r}, which holds these runs divided into other programs"
    fine = held == now if held is not None else now is None or not alone
    require(fine, f"{problem}; give the same models, methods and `at_once`, or name another folder.")
    if now is not None and held is None and jax.process_index() == 0:
        write_whole(file, (json.dumps(now) + "\n").encode())


def _of_program(options: Options, number: int, positions: list[int]) -> Options:
    """What is asked for of the runs at these positions, with a folder of their own."""
    on_epoch, resume = options.on_epoch, options.resume
    heard = on_epoch and (lambda i, record, model: on_epoch(positions[i], record, model))
    folder = None if resume is None else pathlib.Path(resume) / f"program-{number}"
    return dataclasses.replace(options, on_epoch=heard, resume=folder)


def _not_reached(run: Given) -> tuple[Network, History]:
    """What an interrupt leaves of a run whose program has not had its turn."""
    unchanged = Run(run.model, run.model)
    why = "interrupted before the turn of its program; the model is as it was given, whatever `resume` holds."
    unchanged.stop("interrupt", why)
    return unchanged.result()
