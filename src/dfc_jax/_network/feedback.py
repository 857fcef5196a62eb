"""The feedback path: weights Q_i that carry the control u to the apical compartment of layer i.

Q_i has the shape of layer i followed by the number of outputs, so that the same contraction serves dense
layers and feature maps. What goes from layer to layer instead is in `layered_feedback`.
"""

import abc
import math
from collections.abc import Sequence
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray, PyTree

from dfc_jax._fields import number, Part
from dfc_jax._network.layer import jacobian_at, Layer
from dfc_jax._numerics.arrays import OutputVector


class AbstractFeedback(Part):
    """What carries the control to the layers. One of your own needs `matrices` and `needs_jacobian`.

    The rest follows from these two, or, for feedback whose Q_i are better never made, takes their place: of a
    sample `kept` is computed once, and `carried` from it as often as the control changes.
    """

    @abc.abstractmethod
    def matrices(
        self, jacobian: tuple[Float[Array, "out ..."], ...] | None
    ) -> tuple[Float[Array, "... out"], ...]:
        """Q_i of every layer, for a sample with the given feedforward Jacobian (None unless asked for)."""

    @property
    @abc.abstractmethod
    def needs_jacobian(self) -> bool:
        """Whether Q depends on the sample, which `matrices` sees through its Jacobian."""

    def kept(self, layers: Sequence[Layer], voltages: Sequence[Float[Array, "..."]]) -> PyTree:
        """What the feedback depends on of a sample whose feedforward voltages these are; None of nothing."""
        return self.matrices(jacobian_at(layers, voltages)) if self.needs_jacobian else None

    def carried(
        self, layers: Sequence[Layer], kept: PyTree, control: OutputVector
    ) -> tuple[Float[Array, "..."], ...]:
        """Q_i u of every layer, for a sample of which `kept` is what the method of this name returns."""
        matrices = self.every_matrix(layers, kept)
        return tuple(jnp.tensordot(control, Q, axes=(0, -1)) for Q in matrices)

    def every_matrix(self, layers: Sequence[Layer], kept: PyTree) -> tuple[Float[Array, "... out"], ...]:
        """Q_i of every layer, for the few who need more of it than what it carries."""
        del layers
        return self.matrices(None) if kept is None else kept


Kind = TypeVar("Kind", bound=AbstractFeedback)


def learnable(feedback: AbstractFeedback, kind: type[Kind], who: str) -> Kind:
    """`feedback`, for `who` learns it. **Raises:** `ValueError` unless it is of the `kind` that it learns."""
    if not isinstance(feedback, kind):
        raise ValueError(f"`model.feedback` is {type(feedback).__name__}; {who} needs {kind.__name__}.")
    return feedback


class FeedbackWeights(AbstractFeedback):
    """Feedback weights proper, the same for every sample: fixed or learned, as the training decides."""

    weights: tuple[Float[Array, "... out"], ...]

    def matrices(
        self, jacobian: tuple[Float[Array, "out ..."], ...] | None
    ) -> tuple[Float[Array, "... out"], ...]:
        del jacobian
        return self.weights

    @property
    def needs_jacobian(self) -> bool:
        return False


class AbstractFeedbackInit(Part):
    """How the feedback of a new network starts."""

    @abc.abstractmethod
    def init(
        self, layers: Sequence[Layer], shapes: Sequence[tuple[int, ...]], key: PRNGKeyArray
    ) -> AbstractFeedback:
        """The feedback for these layers, whose voltages have these shapes."""


class ProductOfWeights(AbstractFeedbackInit):
    """Q_i = (W_L ... W_{i+1})^T, Q_L = I: the published `weight_product`, the papers' fixed feedback."""

    def init(
        self, layers: Sequence[Layer], shapes: Sequence[tuple[int, ...]], key: PRNGKeyArray
    ) -> FeedbackWeights:
        del key
        rows = jnp.eye(*shapes[-1], dtype=dtype_of(layers))
        feedback = [rows]
        for layer, shape in zip(layers[:0:-1], shapes[-2::-1], strict=True):
            _, pull = jax.vjp(layer.linear, jnp.zeros(shape, rows.dtype))
            rows = jax.vmap(lambda row, pull=pull: pull(row)[0])(rows)
            feedback.append(jnp.moveaxis(rows, 0, -1))
        return FeedbackWeights(tuple(reversed(feedback)))


class RandomFeedback(AbstractFeedbackInit):
    """Normal Q_i for the hidden layers, Q_L = I: where the papers start to learn feedback.

    `std` is the standard deviation; None means Xavier's sqrt(2 / (n_i + n_L)) for each layer.
    """

    std: float | None = number("std", None, minimum=0, static=True)

    def init(
        self, layers: Sequence[Layer], shapes: Sequence[tuple[int, ...]], key: PRNGKeyArray
    ) -> FeedbackWeights:
        (outputs,), hidden = shapes[-1], shapes[:-1]
        own = lambda shape: math.sqrt(2 / (math.prod(shape) + outputs)) if self.std is None else self.std
        keys = jr.split(key, len(layers))
        random = [
            own(shape) * jr.normal(k, (*shape, outputs), dtype_of(layers))
            for shape, k in zip(hidden, keys, strict=False)
        ]
        return FeedbackWeights((*random, jnp.eye(outputs, dtype=dtype_of(layers))))


def dtype_of(layers: Sequence[Layer]) -> DTypeLike:
    """The type of the layers' arrays, or JAX's own if they have none."""
    arrays = jax.tree.leaves(eqx.filter(list(layers), eqx.is_inexact_array))
    return jnp.result_type(*arrays) if arrays else jnp.result_type(float)
