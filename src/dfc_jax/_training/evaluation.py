"""What a model says, and how good that is on a split of the data, for one model or several at once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, PyTree, Shaped

from dfc_jax._checks import check_type, require, shown
from dfc_jax._data.dataset import check_classes, Dataset, Split
from dfc_jax._dynamics.losses import AbstractLoss, CrossEntropy
from dfc_jax._network.network import as_batch, as_inputs, Network
from dfc_jax._numerics.arrays import Scalar
from dfc_jax._training.devices import divided, everywhere
from dfc_jax._training.several_runs import for_runs


Metric = Callable[[np.ndarray, np.ndarray], Any]  # (y, outputs) of a whole split: a number

_BLOCK = 1000  # samples; large feature maps of all would not fit


def evaluate(model: Network, loss: AbstractLoss, split: Split, *, classification: bool) -> dict[str, float]:
    """Mean loss of a split and, for classification, its accuracy (a fraction).

    **Raises:** `ValueError` if the split does not suit the model, or the loss neither of them.
    """
    check_type("model", model, Network)
    check_type("loss", loss, AbstractLoss)
    check_type("split", split, Split)
    check_type("classification", classification, bool)
    x, y = jnp.asarray(split.x), jnp.asarray(split.y)
    mean_loss, accuracy = evaluation(False, (model, None), loss, x, y, None)  # which checks the shapes first
    check_loss("loss", loss, y.shape[1], classification)
    if classification:
        check_classes("split.y", y)
    return {"loss": float(mean_loss)} | ({"accuracy": float(accuracy)} if classification else {})


def predict(
    model: Network, x: Float[ArrayLike, "samples ..."], classes: Sequence[Any] | None = None
) -> Float[Array, "samples out"] | Shaped[np.ndarray, " samples"]:
    """The outputs r_L of a batch without control (logits, for cross-entropy), or the classes they stand for.

    - `x`: inputs as the model takes them: `data.inputs(new)` prepares new ones as those of a data set.
    - `classes`: the label of each output, as `data.classes`; then the label of the largest is returned.

    >>> from dfc_jax import load, mlp
    >>> model, x = mlp((64, 5, 10), key=jax.random.key(0)), load("digits").test.x
    >>> predict(model, x).shape, predict(model, x, classes=range(10)).shape
    ((360, 10), (360,))

    **Raises:** `ValueError` if the model does not take these inputs, or has other than as many outputs.
    """
    outputs = _predict(model, jnp.asarray(x))
    if classes is None:
        return outputs
    named, number = np.asarray(classes), outputs.shape[1]
    require(
        named.shape == (number,), f"`classes` has shape {named.shape}; it must name the {number} outputs."
    )
    return named[np.argmax(outputs, axis=1)]


@eqx.filter_jit
def _predict(model: Network, x: Float[Array, "samples ..."]) -> Float[Array, "samples out"]:
    return _outputs(model, as_inputs(model, x), None)


def own_scores(metrics: Mapping[str, Metric], model: Network, split: Split) -> dict[str, float]:
    """What the metrics of the user's own say of a split.

    **Raises:** `ValueError` if one returns no number.
    """
    if not metrics:
        return {}
    y, outputs, scores = np.asarray(split.y), np.asarray(predict(model, split.x)), {}
    for name, metric in metrics.items():
        found = metric(y, outputs)
        array = np.asarray(found)
        fine = array.size == 1 and array.dtype.kind in "biuf"
        require(fine, f"`metrics[{name!r}]` returned {shown(found)}; it must return one number.")
        scores[name] = float(array.reshape(()))
    return scores


def check_loss(name: str, loss: AbstractLoss, outputs: int, classification: bool) -> None:
    """Raise unless `loss` judges so many outputs, of classes or of a regression."""
    if isinstance(loss, CrossEntropy):
        problem = f"`{name}` is CrossEntropy, which compares distributions over classes"
        require(
            classification, f"{problem}, but the targets are those of a regression: try MeanSquaredError."
        )
        require(outputs > 1, f"{problem}, but there is one output: give two, or try MeanSquaredError.")


@eqx.filter_jit
@for_runs
def evaluation(
    run: tuple[Network, PyTree],
    shared: AbstractLoss,
    x: Float[Array, "samples ..."],
    y: Float[Array, "samples out"],
    mesh: Mesh | None,
) -> tuple[Scalar, Scalar]:
    """A run is a model, and what of the loss is its own."""
    model, own = run
    loss = eqx.combine(own, shared)
    x, y = as_batch(model, x, y)
    outputs = _outputs(model, x, mesh)
    right = jnp.argmax(outputs, axis=1) == jnp.argmax(y, axis=1)
    scores = jnp.mean(jax.vmap(loss)(outputs, y)), jnp.mean(right.astype(outputs.dtype))
    return everywhere(scores, mesh)


def _outputs(
    model: Network, x: Float[Array, "samples ..."], mesh: Mesh | None
) -> Float[Array, "samples out"]:
    """Block by block, for large feature maps; the samples of a whole block are divided among the devices."""
    devices = 1 if mesh is None else mesh.size
    size = devices * max(1, _BLOCK // devices)
    blocks = len(x) // size
    outputs = [jax.vmap(model)(x[blocks * size :])]
    if blocks > 0:
        whole = x[: blocks * size].reshape(blocks, size, *x.shape[1:])
        found = jax.lax.map(lambda block: jax.vmap(model)(divided(block, mesh)), whole)
        outputs.insert(0, found.reshape(-1, *found.shape[2:]))
    return jnp.concatenate(outputs)


def evaluate_all(
    many: bool, model: Network, loss: tuple[PyTree, AbstractLoss], data: Dataset, mesh: Mesh | None
) -> dict[str, Float[Array, "*runs"]]:
    """Loss and, for classification, accuracy on validation and test samples, of one model or of `many`.

    `loss` is what of it each run has for itself, and what all have.
    """
    scores = {}
    for name in ("validation", "test"):
        split = getattr(data, name)
        mean_loss, accuracy = evaluation(many, (model, loss[0]), loss[1], split.x, split.y, mesh)
        scores[f"{name}_loss"] = mean_loss
        if data.classification:
            scores[f"{name}_accuracy"] = accuracy
    return scores
