"""Checkpoints of training: what they hold, and going on from the newest."""

import contextlib
import json
import os
import pathlib
from collections.abc import Generator
from typing import Any

import jax
import jax.random as jr
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jaxtyping import Array, Key, PyTree

from dfc_jax._checks import require
from dfc_jax._lock import Lock
from dfc_jax._runs import checkpoints, model_description
from dfc_jax._runs.history import of_this_version
from dfc_jax._runs.identity import difference
from dfc_jax._training.state import Run, some, State


def _snapshot(state: State, runs: list[Run]) -> PyTree:
    """What a checkpoint holds, the models first: those are read without the optimisers."""
    return [run.best_model for run in runs], [run.model for run in runs], state


@contextlib.contextmanager
def writing(folder: str | os.PathLike | None) -> Generator[None]:
    """Nothing else writes checkpoints to the folder in the meantime.

    **Raises:** as `Lock`, in all processes where there are several.
    """
    lock, problem = None, None
    if folder is not None and jax.process_index() == 0:
        try:
            lock = Lock(pathlib.Path(folder), "resume")
        except (ValueError, OSError) as error:
            problem = error
    several = folder is not None and jax.process_count() > 1
    if several and process_allgather(np.asarray(problem is not None)).any():
        problem = problem or ValueError(f"`resume` is {str(folder)!r}, where the first process cannot write.")
    if problem is not None:
        raise problem
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def save(
    folder: str | os.PathLike | None,
    epoch: int,
    state: State,
    runs: list[Run],
    rows: list[int],
    key: Key[Array, "*runs"],
    identity: dict[str, Any],
) -> None:
    """Write a checkpoint: `state` is of the runs whose positions are `rows`, `key` of all."""
    if folder is None or jax.process_index() > 0:
        return
    facts = {
        "epoch": epoch,
        "key": np.asarray(jr.key_data(key)).tolist(),
        "key_kind": str(jr.key_impl(key)),
        "identity": identity,
        "runs": [run.facts() for run in runs],
        "rows": rows,
        "model": model_description.describe(runs[0].model),
    }
    checkpoints.save(pathlib.Path(folder), epoch, _snapshot(state, runs), facts)


def resumed(
    state: State,
    runs: list[Run],
    key: Key[Array, "*runs"],
    identity: dict[str, Any],
    folder: str | os.PathLike | None,
    epochs: int,
) -> tuple[State, list[int], int | None]:
    """The state of the newest checkpoint, of which of the runs it is, and its epoch, `runs` brought up to it;
    no epoch if there is none.

    **Raises:** `ValueError` if it is of another run, or has finished more than `epochs`.
    """
    found = None if folder is None else checkpoints.newest(pathlib.Path(folder))
    everyone = list(range(len(runs)))
    if found is None:
        return state, everyone, None
    facts = found.facts
    if facts["key"] != np.asarray(jr.key_data(key)).tolist():
        kind, there = str(jr.key_impl(key)), facts.get("key_kind")
        kinds = "" if there in (None, kind) else f" (one of {there} there and of {kind} now)"
        raise ValueError(f"`key` is not that of the run in {str(folder)!r}{kinds}; resume with the same one.")
    held = f"`resume` is {str(folder)!r}, which holds another run"
    differs = difference(facts.get("identity", {}), json.loads(json.dumps(identity)))
    require(differs is None, f"{held}: {differs}. Give the same arguments, or name another folder.")
    problem = f"`epochs` is {epochs}, but {str(folder)!r} holds {facts['epoch']} already"
    require(epochs >= facts["epoch"], f"{problem}; ask for as many at least.")
    rows = facts.get("rows", everyone)
    like = state if rows == everyone else some(state, rows)
    best, last, state = found.tree(_snapshot(like, runs))
    for run, best_model, model, known in zip(runs, best, last, facts["runs"], strict=True):
        run.best_model, run.model = best_model, model
        for name, value in known.items():
            setattr(run, name, value)
        run.records = [of_this_version(record) for record in run.records]
    return state, rows, facts["epoch"]


def check_agreement(done: int | None) -> None:
    """Raise unless all processes, where there are several, go on from the same epoch."""
    if jax.process_count() > 1:
        found = process_allgather(np.asarray(-1 if done is None else done))
        problem = f"`resume` holds checkpoints up to the epochs {found.tolist()} for the processes (-1: none)"
        require(bool(np.all(found == found[0])), f"{problem}; it must be a folder that all of them share.")
