"""The loop over epochs, for one training run or for several as one program."""

import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree
from tqdm import tqdm

from dfc_jax._analysis.diagnostics import Diagnostics
from dfc_jax._analysis.failures import reasons_for_failure
from dfc_jax._checks import require, warn
from dfc_jax._data.dataset import Dataset
from dfc_jax._methods.base import AbstractMethod
from dfc_jax._network.network import Network
from dfc_jax._numerics.finite import all_finite
from dfc_jax._runs import checkpoints, model_description
from dfc_jax._runs.history import History, Record
from dfc_jax._training.batches import Augmentation, Batches
from dfc_jax._training.devices import placed
from dfc_jax._training.evaluation import evaluate_all
from dfc_jax._training.several_runs import fold_in, initial_state, split
from dfc_jax._training.sleep_epochs import DIVERGED, FeedbackLearning, pretrain, sleep
from dfc_jax._training.wake import wake_epoch


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments of `fit_many` that the runs share."""

    method: AbstractMethod
    data: Dataset
    optimiser: optax.GradientTransformation
    epochs: int
    batch_size: int
    learning: FeedbackLearning | None
    augment: Augmentation | None
    mesh: Mesh | None
    diagnostics: Diagnostics | None
    on_epoch: Callable[[int, Record], None] | None
    progress: bool
    resume: str | os.PathLike | None
    min_converged: float


@dataclasses.dataclass
class _Run:
    """What is known of one run so far."""

    model: Network  # the last good one
    best_model: Network
    records: list[Record] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    stopped: str | None = None
    doubts: list[str] = dataclasses.field(default_factory=list)

    def add(self, record: Record, model: Network) -> None:
        self.model = model
        self.records.append(record)
        if self.best_epoch == 0 or _score(record) > _score(self.records[self.best_epoch - 1]):
            self.best_epoch, self.best_model = record["epoch"], model

    def facts(self) -> dict[str, Any]:
        """All but the models, ready for JSON."""
        names = ("records", "best_epoch", "stopped", "doubts")
        return {name: getattr(self, name) for name in names}

    def result(self) -> tuple[Network, History]:
        history = History(self.records, self.best_epoch, self.best_model, self.stopped, self.doubts)
        return self.model, history


class _State(eqx.Module):
    """What the next epoch starts from; of several runs along the first axis."""

    model: Network
    weights_state: PyTree
    feedback_state: PyTree


def train(
    model: Network, key: Key[Array, "*runs"], initial: list[Network], options: Options
) -> list[tuple[Network, History]]:
    """Train one model, or several along the first axis of `model` and `key`, which start as `initial`."""
    method, learning = options.method, options.learning
    runs, many = [_Run(start, start) for start in initial], len(initial) > 1
    handful = jnp.asarray(options.data.train.x[:8]), jnp.asarray(options.data.train.y[:8])
    asleep = [] if learning is None else learning.phase.doubts()
    for doubt in (*method.doubts(initial[0], *handful), *asleep):
        warn(doubt)
    data = placed(options.data, options.mesh)
    batches = Batches(data.train, options.batch_size, options.augment, options.mesh)
    pretraining_key, key = split(many, key)
    feedback_state = None if learning is None else initial_state(many, model.feedback, learning.optimiser)
    state = _State(model, initial_state(many, model.layers, options.optimiser), feedback_state)
    state, done = _resumed(state, runs, key, options.resume)
    _check_agreement(done)
    state, key, pretraining_key = placed((state, key, pretraining_key), options.mesh)
    if done is None:
        if learning is not None:
            pretrained = pretrain(many, state.model, learning, batches, pretraining_key, options.progress)
            state = eqx.tree_at(lambda s: s.model, state, pretrained)
            _note_pretraining(runs, _each(pretrained, len(runs)))
        done = 0
        _save(options.resume, done, state, runs, key)

    name, hidden = type(method).__name__, not options.progress
    bar = tqdm(range(done + 1, options.epochs + 1), desc=name, unit="epoch", disable=hidden)
    for epoch in bar:
        if all(run.stopped for run in runs):
            break
        if epoch == done + 1:
            bar.set_postfix_str("compiling")
        start = time.perf_counter()
        state, totals = _epoch(many, state, batches, fold_in(many, key, epoch), options)
        metrics = totals | evaluate_all(many, state.model, method.loss, data, options.mesh)
        found = list(zip(runs, _each(state.model, len(runs)), _each(metrics, len(runs)), strict=True))
        seconds = (time.perf_counter() - start) / len(runs)
        for i, (run, candidate, values) in enumerate(found):
            if run.stopped:
                continue
            if not all_finite((candidate, {name: values[name] for name in totals})):
                run.stopped = (
                    f"epoch {epoch}: the loss or a weight is no longer finite; the model is that before it."
                )
                continue
            run.add(_record(epoch, values, seconds, candidate, options), candidate)
            _doubt(run, handful, options)
            if options.on_epoch is not None:
                options.on_epoch(i, run.records[-1])
        _save(options.resume, epoch, state, runs, key)
        bar.set_postfix_str(_line([run for run in runs if run.records and not run.stopped]))
    return [run.result() for run in runs]


def _epoch(
    many: bool, state: _State, batches: Batches, key: Key[Array, "*runs"], options: Options
) -> tuple[_State, dict[str, Array]]:
    """Sleep, if feedback is learned in sleep phases, and a wake epoch."""
    model, feedback_state, learning = state.model, state.feedback_state, options.learning
    if learning is not None and learning.epochs_per_wake_epoch > 0:
        sleep_key, key = split(many, key)
        model, feedback_state = sleep(many, model, feedback_state, learning, batches, sleep_key)
    run = model, (state.weights_state, feedback_state), key
    model, states, totals = wake_epoch(many, run, options.method, options.optimiser, learning, batches)
    return _State(model, *states), totals


def _record(epoch: int, values: dict[str, Array], seconds: float, model: Network, options: Options) -> Record:
    numbers = {name: float(value) for name, value in values.items()}
    diagnostics = options.diagnostics
    if diagnostics is not None and epoch % diagnostics.every == 0:
        numbers |= diagnostics(model, options.method, options.data.validation)
    return {"epoch": epoch} | numbers | {"seconds": seconds}


def _doubt(run: _Run, handful: tuple[Array, Array], options: Options) -> None:
    """Note, and warn, that too few samples have converged, and why; once a run."""
    share, epoch = run.records[-1]["converged"], run.records[-1]["epoch"]
    if run.doubts or share >= options.min_converged:
        return
    reasons = reasons_for_failure(options.method, run.model, *handful)
    unknown = "No cause was found in a handful of samples: look at the residuals in the method's report."
    run.doubts += [f"Only {share:.1%} of the samples converged in epoch {epoch}.", *(reasons or [unknown])]
    warn(" ".join(run.doubts))


def _note_pretraining(runs: list[_Run], models: list[Network]) -> None:
    for run, model in zip(runs, models, strict=True):
        if all_finite(model):
            run.model = run.best_model = model
        else:
            run.stopped = DIVERGED


def _snapshot(state: _State, runs: list[_Run]) -> PyTree:
    """What a checkpoint holds, the models first: those are read without the optimisers."""
    return [run.best_model for run in runs], [run.model for run in runs], state


def _save(
    folder: str | os.PathLike | None, epoch: int, state: _State, runs: list[_Run], key: Key[Array, "*runs"]
) -> None:
    if folder is None or jax.process_index() > 0:
        return
    facts = {
        "epoch": epoch,
        "key": np.asarray(jr.key_data(key)).tolist(),
        "runs": [run.facts() for run in runs],
        "model": model_description.describe(runs[0].model),
    }
    checkpoints.save(pathlib.Path(folder), epoch, _snapshot(state, runs), facts)


def _resumed(
    state: _State, runs: list[_Run], key: Key[Array, "*runs"], folder: str | os.PathLike | None
) -> tuple[_State, int | None]:
    """The state of the newest checkpoint and its epoch, `runs` brought up to it; None if there is none."""
    found = None if folder is None else checkpoints.newest(pathlib.Path(folder), _snapshot(state, runs))
    if found is None:
        return state, None
    (best, last, state), facts = found
    if facts["key"] != np.asarray(jr.key_data(key)).tolist():
        raise ValueError(f"`key` is not that of the run in {str(folder)!r}; resume with the same one.")
    for run, best_model, model, known in zip(runs, best, last, facts["runs"], strict=True):
        run.best_model, run.model = best_model, model
        for name, value in known.items():
            setattr(run, name, value)
    return state, facts["epoch"]


def _check_agreement(done: int | None) -> None:
    """Raise unless all processes, where there are several, go on from the same epoch."""
    if jax.process_count() > 1:
        found = process_allgather(np.asarray(-1 if done is None else done))
        problem = f"`resume` holds checkpoints up to the epochs {found.tolist()} for the processes (-1: none)"
        require(bool(np.all(found == found[0])), f"{problem}; it must be a folder that all of them share.")


def _each(tree: PyTree, number: int) -> list[PyTree]:
    """The runs of a tree, one by one, each on one device."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    if any(len(leaf.sharding.device_set) > 1 for leaf in jax.tree.leaves(arrays)):
        arrays = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), arrays)
    if number == 1:
        return [eqx.combine(arrays, rest)]
    return [eqx.combine(jax.tree.map(lambda leaf, i=i: leaf[i], arrays), rest) for i in range(number)]


def _score(record: Record) -> float:
    """What the best epoch has most of, on the validation samples."""
    return record.get("validation_accuracy", -record["validation_loss"])


def _line(runs: list[_Run]) -> str:
    """Means over the runs, and whether they can be trusted."""
    records = [run.records[-1] for run in runs]
    names = ("train_loss", "validation_accuracy", "validation_loss", "converged")
    shown = (name for name in names if records and name in records[0])
    means = {name: math.fsum(record[name] for record in records) / len(records) for name in shown}
    line = ", ".join(f"{name.replace('_', ' ')} {mean:.4g}" for name, mean in means.items())
    return line + (" (too few)" if any(run.doubts for run in runs) else "")
