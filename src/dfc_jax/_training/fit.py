"""Training, and feedback pre-training alone: an epoch is one compiled scan with the data on the device."""

import math
import os
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Key, PRNGKeyArray

from dfc_jax._analysis.diagnostics import Diagnostics
from dfc_jax._checks import check_count, check_key, check_number, check_type, require, warn
from dfc_jax._data.dataset import Dataset
from dfc_jax._methods.base import AbstractMethod
from dfc_jax._network.network import Network
from dfc_jax._numerics.finite import all_finite
from dfc_jax._runs.history import History, Record
from dfc_jax._training.batches import Augmentation, Batches
from dfc_jax._training.devices import mesh_of, placed
from dfc_jax._training.epochs import Options, train
from dfc_jax._training.evaluation import check_loss
from dfc_jax._training.resuming import writing
from dfc_jax._training.sleep_epochs import DIVERGED, FeedbackLearning, pretrain


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
    on_epoch: Callable[[Record], None] | None = None,
    progress: bool = True,
    resume: str | os.PathLike | None = None,
    min_converged: float = 0.9,
) -> tuple[Network, History]:
    """Train `model` by `method` and return it with its history.

    Every epoch shuffles the training samples; those left over after the last full batch wait for the next
    epoch. The run stops when the loss or a weight is no longer finite; the model returned is then the last
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
    - `on_epoch`: called with every epoch's record as soon as it is there.
    - `progress`: whether to show a progress bar.
    - `resume`: a folder for checkpoints, one after feedback pre-training and after every epoch. Training goes
      on from the newest one there, to the very numbers of a run that was never interrupted. `on_epoch` hears
      of new epochs only; of one that was interrupted before its checkpoint was written, as where `on_epoch`
      raises, it hears again. `epochs` may be more than before, and what no number depends on may be another:
      `devices`, `diagnostics`, `on_epoch`, `progress`, `min_converged`. Every other argument must be the
      same, which is checked: with its numbers, but not what a function that a method or a network holds
      computes, nor differences as small as roundings, nor the optimiser after a change of JAX or Optax.
    - `min_converged`: when a smaller part of an epoch's samples converges, a warning says so and why, and
      `history.doubts` keeps it.

    **Raises:** `ValueError` if model, loss and data do not suit, an argument is out of range, or `resume`
    holds damaged checkpoints or those of another run, or is being written by another process; `OSError` if
    a checkpoint cannot be written.
    """
    check_key("key", key)
    _check_on_epoch(on_epoch)
    heard = None if on_epoch is None else lambda _, record: on_epoch(record)
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
        on_epoch=heard,
        progress=progress,
        resume=resume,
        min_converged=min_converged,
    )
    return found


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
    augment: Augmentation | None = None,
    devices: Sequence[jax.Device] | None = None,
    diagnostics: Diagnostics | None = None,
    on_epoch: Callable[[int, Record], None] | None = None,
    progress: bool = True,
    resume: str | os.PathLike | None = None,
    min_converged: float = 0.9,
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
    for key in keys:
        check_key("keys", key)
    for model in models:
        _check_fit(model, method, data, optimiser, epochs, batch_size, feedback_learning, min_converged)
    _check_batches(data, batch_size, augment, devices)
    check_type("diagnostics", diagnostics, Diagnostics, type(None))
    check_type("resume", resume, str, os.PathLike, type(None))
    _check_on_epoch(on_epoch)
    shapes = [eqx.filter_eval_shape(lambda m=model: m) for model in models]
    require(
        all(eqx.tree_equal(shapes[0], shape) is True for shape in shapes),
        "`models` are of several architectures; those of one call must differ in their weights only.",
    )
    options = Options(
        method=method,
        data=data,
        optimiser=optimiser,
        epochs=epochs,
        batch_size=batch_size,
        learning=feedback_learning,
        augment=augment,
        mesh=mesh_of(devices),
        diagnostics=diagnostics,
        on_epoch=on_epoch,
        progress=progress,
        resume=resume,
        min_converged=min_converged,
    )
    with writing(resume):
        if len(models) == 1:
            return train(models[0], _typed(keys[0]), list(models), options)
        arrays, rest = zip(*(eqx.partition(model, eqx.is_array) for model in models), strict=True)
        together = eqx.combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays), rest[0])
        return train(together, jnp.stack([_typed(key) for key in keys]), list(models), options)


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
    model.feedback.learnable("`learning`")
    _check_data(model, data, batch_size)
    for doubt in learning.phase.doubts():
        warn(doubt)
    batches = Batches(placed(data.train, None), batch_size)
    model = pretrain(False, model, model.feedback, learning, batches, _typed(key), progress)
    if not all_finite(model):
        warn(DIVERGED)
    return model


def _typed(key: PRNGKeyArray) -> Key[Array, ""]:
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jr.wrap_key_data(key)


def _check_fit(
    model: Network,
    method: AbstractMethod,
    data: Dataset,
    optimiser: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    learning: FeedbackLearning | None,
    min_converged: float,
) -> None:
    check_type("method", method, AbstractMethod)
    check_type("optimiser", optimiser, optax.GradientTransformation)
    check_count("epochs", epochs)
    check_number("min_converged", min_converged, minimum=0, maximum=1)
    check_type("model", model, Network)
    check_type("feedback_learning", learning, FeedbackLearning, type(None))
    if learning is not None:
        model.feedback.learnable("`feedback_learning`")
    _check_data(model, data, batch_size)
    check_loss("method.loss", method.loss, data.output_size, data.classification)


def _check_on_epoch(on_epoch: Callable | None) -> None:
    require(on_epoch is None or callable(on_epoch), f"`on_epoch` is {on_epoch!r}; it must be a function.")


def _check_data(model: Network, data: Dataset, batch_size: int) -> None:
    check_type("data", data, Dataset)
    check_count("batch_size", batch_size)
    samples = len(data.train)
    require(
        batch_size <= samples, f"`batch_size` is {batch_size}; the data have only {samples} training samples."
    )
    try:
        outputs = math.prod(jax.eval_shape(model, jnp.asarray(data.train.x[0])).shape)
    except ValueError as error:
        shape = data.train.x.shape[1:]
        raise ValueError(f"`model` does not take the inputs of `data`, of shape {shape}: {error}") from error
    require(
        outputs == data.output_size,
        f"`model` has {outputs} outputs; `data` has targets of size {data.output_size}.",
    )


def _check_batches(
    data: Dataset, batch_size: int, augment: Augmentation | None, devices: Sequence[jax.Device] | None
) -> None:
    check_type("devices", devices, Sequence, type(None))
    number = 1 if devices is None else len(devices)
    different = number if devices is None else len(set(devices))
    problem = f"`devices` names {number} devices, {different} of them different"
    require(number == different > 0, f"{problem}; name each once, at least one, or None for the default.")
    problem = f"`batch_size` is {batch_size}, which {number} `devices` cannot share evenly"
    require(batch_size % number == 0, f"{problem}; make it a multiple of {number}.")
    if augment is None:
        return
    require(callable(augment), f"`augment` is {augment!r}; it must be a function of an input and a key.")
    sample = jax.eval_shape(jnp.asarray, data.train.x[0])
    try:
        found = jax.eval_shape(lambda x: jnp.asarray(augment(x, key=jr.key(0))), sample)
    except (TypeError, ValueError) as error:
        problem = f"`augment` does not take the inputs of `data`, of shape {sample.shape}"
        raise ValueError(f"{problem}: {error}") from error
    fine = (found.shape, found.dtype) == (sample.shape, sample.dtype)
    problem = f"`augment` returns the shape {found.shape} and {found.dtype}"
    require(fine, f"{problem}; it must keep the input's, {sample.shape} and {sample.dtype}.")
