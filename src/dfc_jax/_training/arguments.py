"""What a training run can be given: early checks, in one sentence each."""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from dfc_jax._checks import check_count, check_number, check_type, require
from dfc_jax._data.dataset import Dataset
from dfc_jax._methods.base import AbstractMethod
from dfc_jax._network.feedback import FeedbackWeights, learnable
from dfc_jax._network.network import Network
from dfc_jax._training.batches import Augmentation
from dfc_jax._training.evaluation import check_loss, Metric, own_scores
from dfc_jax._training.sleep_epochs import FeedbackLearning


def check_fit(
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
        check_learning("feedback_learning", learning, model)
        problem = f"`feedback_learning` has {type(learning.wake).__name__} for the wake phase"
        both = learning.wake is not None and method.learns_feedback
        require(not both, f"{problem}; {type(method).__name__} has a rule of its own for it.")
    check_data(model, data, batch_size)
    check_loss("method.loss", method.loss, data.output_size, data.classification)
    check_labels(method, data.classification)


def check_labels(method: AbstractMethod, classification: bool) -> None:
    """Raise `ValueError` if labels of classes are to be softened where the targets are a regression's."""
    part, name = (method.target, "method.target") if hasattr(method, "target") else (method, "method")
    value = getattr(part, "class_value", 1.0)
    problem = f"`{name}.class_value` is {float(value):g}, which softens the labels of classes"
    fine = classification or float(value) == 1
    require(
        fine, f"{problem}; the targets of `data` are those of a regression: take 1, which leaves them so."
    )


def check_learning(name: str, learning: FeedbackLearning, model: Network) -> None:
    """Raise `ValueError` unless the model's feedback is of the kind that is learned."""
    rules = [learning.phase] if learning.sleeps or learning.wake is None else []
    for rule in (*rules, *([] if learning.wake is None else [learning.wake])):
        learnable(model.feedback, rule.learns, f"{type(rule).__name__} of `{name}`")
    if learning.freeze_output:
        learnable(model.feedback, FeedbackWeights, f"`{name}.freeze_output`")


def check_on_epoch(on_epoch: Callable | None) -> None:
    require(on_epoch is None or callable(on_epoch), f"`on_epoch` is {on_epoch!r}; it must be a function.")


def check_data(model: Network, data: Dataset, batch_size: int) -> None:
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


def check_batches(
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


def check_choice(
    best: str | None,
    patience: int | None,
    metrics: Mapping[str, Metric] | None,
    model: Network,
    data: Dataset,
) -> tuple[str, Mapping[str, Metric]]:
    """What the best epoch is chosen by, and the metrics of the user's own, tried on the untrained model."""
    if patience is not None:
        check_count("patience", patience)
    check_type("metrics", metrics, Mapping, type(None))
    own = metrics or {}
    for name, metric in own.items():
        fine = isinstance(name, str) and name.isidentifier() and name not in ("loss", "accuracy")
        require(fine, f"`metrics` names {name!r}; it must be an identifier other than 'loss' and 'accuracy'.")
        require(callable(metric), f"`metrics[{name!r}]` is {metric!r}; it must be a function (y, outputs).")
    own_scores(own, model, data.validation)
    known = ["loss", *(["accuracy"] if data.classification else []), *own]
    choices = [f"validation_{name}" for name in known]
    if best is None:
        return choices[1 if data.classification else 0], own
    require(
        best in choices, f"`best` is {best!r}; it must be one of {', '.join(map(repr, choices))}, or None."
    )
    return best, own
