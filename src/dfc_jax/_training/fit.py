"""Training, and feedback pre-training alone: an epoch is one compiled scan with the data on the device."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Key, PRNGKeyArray

from dfc_jax._analysis.diagnostics import Diagnostics
from dfc_jax._checks import check_count, check_key, check_type, require, warn
from dfc_jax._data.dataset import Dataset
from dfc_jax._methods.base import AbstractMethod
from dfc_jax._network.network import Network
from dfc_jax._numerics.finite import all_finite
from dfc_jax._runs.history import History, Record
from dfc_jax._training.arguments import (
    check_batches,
    check_choice,
    check_data,
    check_fit,
    check_learning,
    check_on_epoch,
)
from dfc_jax._training.batches import Augmentation, Batches
from dfc_jax._training.devices import mesh_of, placed
from dfc_jax._training.evaluation import Metric
from dfc_jax._training.optimisers import initial_state
from dfc_jax._training.programs import train_all
from dfc_jax._training.recipes import Given
from dfc_jax._training.resuming import writing
from dfc_jax._training.sleep_epochs import DIVERGED, FeedbackLearning, learner_of, pretrain
from dfc_jax._training.start import OnEpoch, Options


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
    augment: Augmentation | None = None,
    devices: Sequence[jax.Device] | None = None,
    diagnostics: Diagnostics | None = None,
    best: str | None = None,
    patience: int | None = None,
    metrics: Mapping[str, Metric] | None = None,
    on_epoch: Callable[[Record, Network], bool | None] | None = None,
    progress: bool = True,
    resume: str | os.PathLike | None = None,
    min_converged: float = 0.9,
) -> tuple[Network, History]:
    """Train `model` by `method` and return it with its history.

    Every epoch shuffles the training samples; those left over after the last full batch are a smaller one,
    which makes compiling take twice as long. The run stops when the loss or a weight is no longer finite, at
    a Ctrl-C (of a single process), or as `patience` and `on_epoch` say; the model returned is then the last
    good one and `history.stopped` says why. Warns of what is known to go wrong with the method's solver.

    **Arguments:**

    - `optimiser`: of the forward weights. One that asks for the loss as `value` is given the batch's mean.
      Calls whose optimisers, hyperparameters and augmentations differ in numbers alone share one program.
    - `feedback_learning`: None keeps the feedback as it is.
    - `augment`: a function `(x, key=...) -> x` of one sample, as `CropAndFlip`, that changes the inputs of
      every batch, of sleep epochs too.
    - `devices`: those among which every batch is divided, `jax.devices()` say; the default one alone if None.
      With those of several processes (`jax.distributed`) each process makes the same call and gets the same
      result; the first alone writes checkpoints, to a folder that all of them can read.
    - `diagnostics`: what else the records hold, of the first validation samples.
    - `best`: what `history.best` and `patience` go by: "validation_accuracy" (default for classification),
      "validation_loss" (for regression), or "validation_NAME" of one of the `metrics`, of which more is
      better. Of equally good epochs the one with the smaller validation loss, then the first, is the best.
    - `patience`: so many epochs without a better one stop the run; None waits for `epochs`.
    - `metrics`: functions `(y, outputs) -> number` by name, of NumPy arrays of all samples of a split (the
      outputs logits for cross-entropy); records hold them as `validation_NAME` and `test_NAME`.
    - `on_epoch`: called with every epoch's record and model as soon as they are there; what returns True
      stops the run (of several processes each must say the same).
    - `progress`: whether to show a progress bar.
    - `resume`: a folder for checkpoints, one after feedback pre-training and after every epoch. Training goes
      on from the newest one there, to the very numbers of a run that was never interrupted. `on_epoch` hears
      of new epochs only; of one that was interrupted before its checkpoint was written, as where `on_epoch`
      raises, it hears again. A run that stopped by itself stays stopped, an interrupted one goes on. `epochs`
      may be more than before, and what no number depends on may be another: `devices`, `diagnostics`,
      `metrics`, `on_epoch`, `progress`, `min_converged`. Every other argument must be the same, which is
      checked: with its numbers, but not what a function that a method or a network holds computes, nor
      differences as small as roundings, nor the optimiser after a change of JAX or Optax.
    - `min_converged`: when a smaller part of an epoch's samples converges, a warning says so and why, and
      `history.doubts` keeps it.

    **Raises:** `ValueError` if model, loss and data do not suit, an argument is out of range, or `resume`
    holds damaged checkpoints or those of another run, or is being written by another process; `OSError` if
    a checkpoint cannot be written.
    """
    check_key("key", key)
    check_on_epoch(on_epoch)
    heard = None if on_epoch is None else lambda _, record, model: on_epoch(record, model)
    (found,) = fit_many(
        [model],
        method,
        data,
        optimiser,
        epochs=epochs,
        keys=[key],
        batch_size=batch_size,
        feedback_learning=feedback_learning,
        augment=augment,
        devices=devices,
        diagnostics=diagnostics,
        best=best,
        patience=patience,
        metrics=metrics,
        on_epoch=heard,
        progress=progress,
        resume=resume,
        min_converged=min_converged,
    )
    return found


def fit_many(
    models: Sequence[Network],
    method: AbstractMethod | Sequence[AbstractMethod],
    data: Dataset,
    optimiser: optax.GradientTransformation | Sequence[optax.GradientTransformation],
    *,
    epochs: int,
    keys: Sequence[PRNGKeyArray],
    batch_size: int = 128,
    feedback_learning: FeedbackLearning | Sequence[FeedbackLearning | None] | None = None,
    augment: Augmentation | None = None,
    devices: Sequence[jax.Device] | None = None,
    diagnostics: Diagnostics | None = None,
    best: str | None = None,
    patience: int | None = None,
    metrics: Mapping[str, Metric] | None = None,
    on_epoch: OnEpoch | None = None,
    progress: bool = True,
    resume: str | os.PathLike | None = None,
    min_converged: float = 0.9,
    at_once: int | None = None,
) -> list[tuple[Network, History]]:
    """Train several models, the seeds of an experiment or a grid of hyperparameters, as one vmapped program.

    Model k with key k goes through what `fit` would do with them, in the same order and with the same noise;
    only the rounding of matrix products differs, which training amplifies as it does any rounding. A model
    that is no longer finite stops alone; when half of those that are computed have stopped, the others go on
    without them, by a program compiled anew, unless weights times training samples of those that stopped are
    fewer than 1e9. A record's "seconds" are the model's share of the time.

    `method`, `optimiser` and `feedback_learning` are those of all models, or one for each: then models whose
    methods, optimisers and architectures differ in nothing but numbers (nudge, gains, rates, decay, noise)
    are one program, and one such program after another is trained.

    **Arguments:** as of `fit`, with as many `keys` as `models`; `on_epoch` is called with the position of
    the model, its record and the model, which alone it may stop. Where there are several programs, `resume`
    holds a folder of each, and they stay what they are when it goes on.

    - `at_once`: the most models of a program. By default as many as fit by what the compiler plans, into
      what the device has left or, of a CPU, into the memory of the machine; all of them where the device does
      not say, and where there are several processes.

    **Raises:** as `fit`, and `ValueError` if there are other numbers of models, keys or what each has.
    """
    given = _given(models, keys, method, optimiser, feedback_learning)
    if at_once is not None:
        check_count("at_once", at_once)
    for run in given:
        numbers = epochs, batch_size, run.learning, min_converged
        check_fit(run.model, run.method, data, run.optimiser, *numbers)
    check_batches(data, batch_size, augment, devices)
    best, own = check_choice(best, patience, metrics, models[0], data)
    check_type("diagnostics", diagnostics, Diagnostics, type(None))
    check_type("resume", resume, str, os.PathLike, type(None))
    check_on_epoch(on_epoch)
    options = Options(
        data=data,
        epochs=epochs,
        batch_size=batch_size,
        augment=augment,
        mesh=mesh_of(devices),
        diagnostics=diagnostics,
        best=best,
        patience=patience,
        metrics=own,
        on_epoch=on_epoch,
        progress=progress,
        resume=resume,
        min_converged=min_converged,
    )
    with writing(resume):
        return train_all(given, at_once, options)


def _given(
    models: Sequence[Network],
    keys: Sequence[PRNGKeyArray],
    method: AbstractMethod | Sequence[AbstractMethod],
    optimiser: optax.GradientTransformation | Sequence[optax.GradientTransformation],
    learning: FeedbackLearning | Sequence[FeedbackLearning | None] | None,
) -> list[Given]:
    """The runs one by one."""
    number = len(models)
    require(
        len(keys) == number >= 1,
        f"`keys` are {len(keys)} and `models` {number}; there must be as many, at least one.",
    )
    for key in keys:
        check_key("keys", key)

    def of_each(name: str, part: Any) -> Sequence[Any]:
        if not isinstance(part, list | tuple) or isinstance(part, optax.GradientTransformation):
            return [part] * number
        problem = f"`{name}` are {len(part)} and `models` {number}"
        require(len(part) == number, f"{problem}; give one for all, or as many.")
        return part

    methods = of_each("method", method)
    optimisers, learnings = of_each("optimiser", optimiser), of_each("feedback_learning", learning)
    typed = map(_typed, keys)
    return [Given(*run) for run in zip(models, typed, methods, optimisers, learnings, strict=True)]


def pretrain_feedback(
    model: Network,
    learning: FeedbackLearning,
    data: Dataset,
    *,
    key: PRNGKeyArray,
    batch_size: int = 128,
    progress: bool = True,
) -> Network:
    """The model after feedback pre-training alone, which `fit` does by itself before its first epoch.

    Its forward weights stay as they are. Warns of what is known to go wrong with the sleep phase, and if a
    weight is no longer finite.

    **Arguments:**

    - `learning`: how: the `phase`, `pretraining_epochs` and `pretraining_optimiser`.
    - `progress`: whether to show a progress bar.

    **Raises:** `ValueError` if sizes of model and data differ, an argument is out of range, or the model's
    feedback cannot learn.
    """
    check_type("learning", learning, FeedbackLearning)
    check_key("key", key)
    check_type("model", model, Network)
    check_learning("learning", learning, model)
    check_data(model, data, batch_size)
    for doubt in learning.phase.doubts():
        warn(doubt)
    batches = Batches(placed(data.train, None), batch_size)
    learner = learner_of(learning, learning.to_pretrain, model.feedback)
    state = initial_state(model.feedback, learning.to_pretrain)
    learnt = state, (None, learner), learning.pretraining_epochs
    model = pretrain(False, model, *learnt, batches, _typed(key), progress)
    if not all_finite(model):
        warn(DIVERGED)
    return model


def _typed(key: PRNGKeyArray) -> Key[Array, ""]:
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jr.wrap_key_data(key)
