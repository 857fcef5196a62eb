"""Training: an epoch is one compiled scan with the data on the device."""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Key, PRNGKeyArray, PyTree
from tqdm import tqdm

from dfc_jax._checks import all_finite, require
from dfc_jax._epochs import fold_in
from dfc_jax._wake import wake_epoch, wake_epochs
from dfc_jax.data import Dataset
from dfc_jax.evaluation import evaluate_all
from dfc_jax.feedback import FeedbackWeights
from dfc_jax.feedback_learning import FeedbackLearning, initial_state, pretrain, sleep
from dfc_jax.methods import AbstractMethod
from dfc_jax.monitoring import Diagnostics
from dfc_jax.network import Network


Record = dict[str, Any]  # the metrics of one epoch, ready for JSON


class History(eqx.Module):
    """The records of a training run, one an epoch."""

    records: list[Record]
    best_epoch: int  # the one with the best validation accuracy (or loss, for regression); 0 if none
    best_model: Network  # the model after that epoch
    stopped: str | None  # why training ended early, if it did

    @property
    def best(self) -> Record:
        """The record of the best epoch."""
        return next(r for r in self.records if r["epoch"] == self.best_epoch)


def fit(
    model: Network,
    method: AbstractMethod,
    data: Dataset,
    optimiser: optax.GradientTransformation,
    *,
    epochs: int,
    key: PRNGKeyArray,
    batch_size: int = 128,
    feedback_learning: FeedbackLearning | None = None,
    diagnostics: Diagnostics | None = None,
    on_epoch: Callable[[Record], None] | None = None,
    progress: bool = True,
) -> tuple[Network, History]:
    """Train `model` by `method` and return it with its history.

    Every epoch shuffles the training samples; those left over after the last full batch wait for the next
    epoch. The run stops when the loss or a weight is no longer finite; the model returned is then the last
    good one and `history.stopped` says why. Warns of what is known to go wrong with the method's solver.

    **Arguments:**

    - `optimiser`: of the forward weights.
    - `feedback_learning`: None keeps the feedback as it is.
    - `diagnostics`: what else the records hold, of the first validation samples.
    - `on_epoch`: called with every epoch's record as soon as it is there.
    - `progress`: whether to show a progress bar.

    **Raises:** `ValueError` if sizes of model and data differ, or an argument is out of range.
    """
    _check_fit(model, data, epochs, batch_size, feedback_learning)
    heard = None if on_epoch is None else lambda _, record: on_epoch(record)
    options = (method, data, optimiser, epochs, batch_size, feedback_learning, diagnostics, heard, progress)
    return _train(model, _typed(key), [model], *options)[0]


def fit_many(
    models: Sequence[Network],
    method: AbstractMethod,
    data: Dataset,
    optimiser: optax.GradientTransformation,
    *,
    epochs: int,
    keys: Sequence[PRNGKeyArray],
    batch_size: int = 128,
    feedback_learning: FeedbackLearning | None = None,
    diagnostics: Diagnostics | None = None,
    on_epoch: Callable[[int, Record], None] | None = None,
    progress: bool = True,
) -> list[tuple[Network, History]]:
    """Train several models of one architecture, seeds of an experiment say, as one vmapped program.

    Model k with key k goes through what `fit` would do with them, in the same order and with the same noise;
    only the rounding of matrix products differs, which training amplifies as it does any rounding. A model
    that is no longer finite stops alone. A record's "seconds" are the model's share of the time.

    **Arguments:** as of `fit`, with as many `keys` as `models`; `on_epoch` is called with the position of
    the model and its record.

    **Raises:** as `fit`, and `ValueError` if the numbers or the architectures differ.
    """
    require(
        len(models) == len(keys) >= 1,
        f"`keys` are {len(keys)} and `models` {len(models)}; there must be as many, at least one.",
    )
    for model in models:
        _check_fit(model, data, epochs, batch_size, feedback_learning)
    shapes = [eqx.filter_eval_shape(lambda m=model: m) for model in models]
    require(
        all(eqx.tree_equal(shapes[0], shape) is True for shape in shapes),
        "`models` are of several architectures; those of one call must differ in their weights only.",
    )
    options = (
        method,
        data,
        optimiser,
        epochs,
        batch_size,
        feedback_learning,
        diagnostics,
        on_epoch,
        progress,
    )
    if len(models) == 1:
        return _train(models[0], _typed(keys[0]), list(models), *options)
    arrays, rest = zip(*(eqx.partition(model, eqx.is_array) for model in models), strict=True)
    together = eqx.combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays), rest[0])
    return _train(together, jnp.stack([_typed(key) for key in keys]), list(models), *options)


def _typed(key: PRNGKeyArray) -> Key[Array, ""]:
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jr.wrap_key_data(key)


@dataclasses.dataclass
class _Run:
    """What is known of one run so far."""

    model: Network  # the last good one
    best_model: Network
    records: list[Record] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    stopped: str | None = None

    def add(self, record: Record, model: Network) -> None:
        self.model = model
        self.records.append(record)
        if self.best_epoch == 0 or _score(record) > _score(self.records[self.best_epoch - 1]):
            self.best_epoch, self.best_model = record["epoch"], model

    def result(self) -> tuple[Network, History]:
        return self.model, History(self.records, self.best_epoch, self.best_model, self.stopped)


def _train(
    model: Network,
    key: Key[Array, "*runs"],
    initial: list[Network],
    method: AbstractMethod,
    data: Dataset,
    optimiser: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    learning: FeedbackLearning | None,
    diagnostics: Diagnostics | None,
    on_epoch: Callable[[int, Record], None] | None,
    progress: bool,
) -> list[tuple[Network, History]]:
    """Train one model, or several along the first axis if there are several keys."""
    runs = [_Run(start, start) for start in initial]
    handful = jnp.asarray(data.train.x[:8]), jnp.asarray(data.train.y[:8])
    for doubt in method.doubts(initial[0], *handful):
        warnings.warn(doubt, stacklevel=3)
    train = jax.tree.map(jnp.asarray, data.train)
    alone = key.ndim == 0
    pretraining_key, key = jnp.moveaxis(jr.split(key) if alone else jax.vmap(jr.split)(key), -1, 0)
    weights_state = optimiser.init(model.layers) if alone else eqx.filter_vmap(optimiser.init)(model.layers)
    feedback_state = None
    if learning is not None:
        model = pretrain(model, learning, train, pretraining_key, batch_size, progress)
        feedback_state = initial_state(learning, model, key)
        for run, found in zip(runs, _each(model, key), strict=True):
            if all_finite(found):
                run.model = run.best_model = found
            else:
                run.stopped = "feedback pre-training: a weight is no longer finite; lower its learning rate "
                run.stopped += "or its step `dt`."

    bar = tqdm(range(1, epochs + 1), desc=type(method).__name__, unit="epoch", disable=not progress)
    wake = wake_epoch if alone else wake_epochs
    for epoch in bar:
        if all(run.stopped for run in runs):
            break
        start, epoch_key = time.perf_counter(), fold_in(key, epoch)
        if learning is not None:
            sleep_key = fold_in(epoch_key, 0)
            model, feedback_state = sleep(model, feedback_state, learning, train, sleep_key, batch_size)
        states = weights_state, feedback_state
        model, (weights_state, feedback_state), totals = wake(
            model, states, method, optimiser, learning, train, epoch_key, batch_size
        )
        metrics = totals | evaluate_all(model, method.loss, data, key)
        found = list(zip(runs, _each(model, key), _each(metrics, key), strict=True))
        seconds = (time.perf_counter() - start) / len(runs)
        for i, (run, candidate, values) in enumerate(found):
            if run.stopped:
                continue
            if not all_finite((candidate, {name: values[name] for name in totals})):
                run.stopped = (
                    f"epoch {epoch}: the loss or a weight is no longer finite; the model is that before it."
                )
                continue
            numbers = {name: float(value) for name, value in values.items()}
            if diagnostics is not None and epoch % diagnostics.every == 0:
                numbers |= diagnostics(candidate, method, data.validation)
            run.add({"epoch": epoch} | numbers | {"seconds": seconds}, candidate)
            if on_epoch is not None:
                on_epoch(i, run.records[-1])
        bar.set_postfix_str(_line([run.records[-1] for run in runs if run.records and not run.stopped]))
    return [run.result() for run in runs]


def _each(tree: PyTree, key: Key[Array, "*runs"]) -> list[PyTree]:
    """The runs of a tree, one by one."""
    if key.ndim == 0:
        return [tree]
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return [eqx.combine(jax.tree.map(lambda leaf, i=i: leaf[i], arrays), rest) for i in range(len(key))]


def _score(record: Record) -> float:
    """What the best epoch has most of, on the validation samples."""
    return record.get("validation_accuracy", -record["validation_loss"])


def _line(records: list[Record]) -> str:
    """Means over the runs."""
    names = ("train_loss", "validation_accuracy", "validation_loss", "converged")
    shown = (name for name in names if records and name in records[0])
    means = {name: math.fsum(record[name] for record in records) / len(records) for name in shown}
    return ", ".join(f"{name.replace('_', ' ')} {mean:.4g}" for name, mean in means.items())


def _check_count(name: str, value: int, minimum: int) -> None:
    require(
        isinstance(value, int) and value >= minimum,
        f"`{name}` is {value!r}; it must be a whole number of at least {minimum}.",
    )


def _check_fit(
    model: Network, data: Dataset, epochs: int, batch_size: int, learning: FeedbackLearning | None
) -> None:
    _check_count("epochs", epochs, 1)
    _check_count("batch_size", batch_size, 1)
    samples = len(data.train)
    require(
        batch_size <= samples, f"`batch_size` is {batch_size}; the data have only {samples} training samples."
    )
    require(
        learning is None or isinstance(model.feedback, FeedbackWeights),
        f"`feedback_learning` is given, but `model.feedback` is {type(model.feedback).__name__}; "
        "only FeedbackWeights can learn.",
    )
    try:
        outputs = math.prod(jax.eval_shape(model, jnp.asarray(data.train.x[0])).shape)
    except TypeError as error:
        shape = data.train.x.shape[1:]
        raise ValueError(f"`model` does not take the inputs of `data`, of shape {shape}: {error}") from error
    require(
        outputs == data.output_size,
        f"`model` has {outputs} outputs; `data` has targets of size {data.output_size}.",
    )
