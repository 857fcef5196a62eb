"""Training: an epoch is one compiled scan with the data on the device."""

import math
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree
from tqdm import tqdm

from dfc_jax._checks import all_finite, check_number, require
from dfc_jax._epochs import shuffled_batches
from dfc_jax.data import Dataset, Split
from dfc_jax.feedback import FeedbackWeights
from dfc_jax.feedback_learning import FeedbackLearning, pretrain, sleep
from dfc_jax.losses import AbstractLoss
from dfc_jax.methods import AbstractMethod
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


def clip_by_tensor_norm(max_norm: float) -> optax.GradientTransformation:
    """Scale every tensor (each weight and each bias by itself) to an L2 norm of at most `max_norm`."""
    check_number("max_norm", max_norm, above=0)

    def clip(tensor: Array) -> Array:
        norm = jnp.linalg.norm(tensor)
        return tensor * jnp.where(norm > max_norm, max_norm / norm, 1)

    return optax.stateless(lambda updates, params: jax.tree.map(clip, updates))


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
    on_epoch: Callable[[Record], None] | None = None,
    progress: bool = True,
) -> tuple[Network, History]:
    """Train `model` by `method` and return it with its history.

    Every epoch shuffles the training samples; those left over after the last full batch wait for the next
    epoch. The run stops when the loss or a weight is no longer finite; the model returned is then the last
    good one and `history.stopped` says why.

    **Arguments:**

    - `optimiser`: of the forward weights.
    - `feedback_learning`: None keeps the feedback as it is.
    - `on_epoch`: called with every epoch's record as soon as it is there.
    - `progress`: whether to show a progress bar.

    **Raises:** `ValueError` if sizes of model and data differ, or an argument is out of range.
    """
    _check_fit(model, data, epochs, batch_size, feedback_learning)
    train = jax.tree.map(jnp.asarray, data.train)
    pretraining_key, key = jr.split(key)
    weights_state = optimiser.init(model.layers)
    feedback_state = None
    if feedback_learning is not None:
        model = pretrain(model, feedback_learning, train, pretraining_key, batch_size, progress)
        feedback_state = feedback_learning.optimiser.init(model.feedback)

    records: list[Record] = []
    best_epoch, best_model, stopped = 0, model, None
    bar = tqdm(range(1, epochs + 1), desc=type(method).__name__, unit="epoch", disable=not progress)
    for epoch in bar:
        start, epoch_key = time.perf_counter(), jr.fold_in(key, epoch)
        candidate = model
        if feedback_learning is not None:
            candidate, feedback_state = sleep(
                candidate, feedback_state, feedback_learning, train, jr.fold_in(epoch_key, 0), batch_size
            )
        candidate, weights_state, totals = _wake_epoch(
            candidate, weights_state, method, optimiser, train, epoch_key, batch_size
        )
        if not all_finite((candidate, totals)):
            stopped = f"epoch {epoch}: the loss or a weight is no longer finite; the model is that before it."
            break
        model = candidate
        record = {"epoch": epoch, **{name: float(value) for name, value in totals.items()}}
        record |= _evaluate_all(model, method.loss, data)
        record["seconds"] = time.perf_counter() - start
        records.append(record)
        if best_epoch == 0 or _score(record) > _score(records[best_epoch - 1]):
            best_epoch, best_model = epoch, model
        if on_epoch is not None:
            on_epoch(record)
        bar.set_postfix_str(_line(record))
    return model, History(records, best_epoch, best_model, stopped)


def evaluate(model: Network, loss: AbstractLoss, split: Split, *, classification: bool) -> dict[str, float]:
    """Mean loss of a split and, for classification, its accuracy (a fraction)."""
    mean_loss, accuracy = _evaluate(model, loss, jnp.asarray(split.x), jnp.asarray(split.y))
    return {"loss": float(mean_loss)} | ({"accuracy": float(accuracy)} if classification else {})


@eqx.filter_jit
def _evaluate(
    model: Network, loss: AbstractLoss, x: Float[Array, "samples ..."], y: Float[Array, "samples out"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    outputs = jax.lax.map(model, x, batch_size=1000)
    right = jnp.argmax(outputs, axis=1) == jnp.argmax(y, axis=1)
    return jnp.mean(jax.vmap(loss)(outputs, y)), jnp.mean(right.astype(outputs.dtype))


@eqx.filter_jit
def _wake_epoch(
    model: Network,
    state: PyTree,
    method: AbstractMethod,
    optimiser: optax.GradientTransformation,
    train: Split,
    key: PRNGKeyArray,
    batch_size: int,
) -> tuple[Network, PyTree, dict[str, Float[Array, ""]]]:
    """One epoch of forward learning: the model, the optimiser's state and mean metrics."""

    def step(carry: PyTree, batch: tuple[Array, PRNGKeyArray]) -> tuple[PyTree, dict[str, Array]]:
        model, state = carry
        indices, step_key = batch
        update, report = method(model, train.x[indices], train.y[indices], key=step_key)
        change, state = optimiser.update(update.layers, state, model.layers)
        model = Network(optax.apply_updates(model.layers, change), model.feedback)
        metrics = {
            "train_loss": jnp.mean(report.loss),
            "converged": jnp.mean(report.converged.astype(report.loss.dtype)),
            "stable": jnp.mean(report.stable.astype(report.loss.dtype)),
            "iterations": jnp.mean(report.iterations.astype(report.loss.dtype)),
        }
        return (model, state), metrics

    (model, state), metrics = jax.lax.scan(
        step, (model, state), shuffled_batches(key, len(train), batch_size)
    )
    return model, state, jax.tree.map(jnp.mean, metrics)


def _evaluate_all(model: Network, loss: AbstractLoss, data: Dataset) -> Record:
    record: Record = {}
    for name in ("validation", "test"):
        scores = evaluate(model, loss, getattr(data, name), classification=data.classification)
        record |= {f"{name}_{metric}": value for metric, value in scores.items()}
    return record


def _score(record: Record) -> float:
    """What the best epoch has most of, on the validation samples."""
    return record.get("validation_accuracy", -record["validation_loss"])


def _line(record: Record) -> str:
    names = ("train_loss", "validation_accuracy", "validation_loss", "converged")
    return ", ".join(f"{name.replace('_', ' ')} {record[name]:.4g}" for name in names if name in record)


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
