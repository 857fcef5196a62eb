"""The feedback path: weights Q_i that carry the control u to the apical compartment of layer i.

Q_i has the shape of layer i followed by the number of outputs, so that the same contraction serves dense
layers and feature maps.
"""

import abc
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from dfc_jax._fields import number, Part


class AbstractFeedback(Part):
    """Where a sample's feedback weights come from. One of your own needs `matrices` and `needs_jacobian`."""

    @abc.abstractmethod
    def matrices(
        self, jacobian: tuple[Float[Array, "out ..."], ...] | None
    ) -> tuple[Float[Array, "... out"], ...]:
        """Q_i of every layer, for a sample with the given feedforward Jacobian (None unless asked for)."""

    @property
    @abc.abstractmethod
    def needs_jacobian(self) -> bool:
        """Whether `matrices` depends on the sample through its Jacobian."""

    def learnable(self, who: str) -> tuple[Float[Array, "... out"], ...]:
        """The weights, for `who` learns them. **Raises:** `ValueError` unless these are `FeedbackWeights`."""
        raise ValueError(f"`model.feedback` is {type(self).__name__}; {who} needs FeedbackWeights.")


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

    def learnable(self, who: str) -> tuple[Float[Array, "... out"], ...]:
        del who
        return self.weights


class AbstractFeedbackInit(Part):
    """How the feedback of a new network starts."""

    @abc.abstractmethod
    def init(
        self, layers: Sequence[eqx.Module], shapes: Sequence[tuple[int, ...]], key: PRNGKeyArray
    ) -> AbstractFeedback:
        """The feedback for these layers, whose voltages have these shapes."""


class ProductOfWeights(AbstractFeedbackInit):
    """Q_i = (W_L ... W_{i+1})^T, Q_L = I: the published `weight_product`, the papers' fixed feedback."""

    def init(
        self, layers: Sequence[eqx.Module], shapes: Sequence[tuple[int, ...]], key: PRNGKeyArray
    ) -> FeedbackWeights:
        del key
        rows = jnp.eye(*shapes[-1], dtype=_dtype(layers))
        feedback = [rows]
        for layer, shape in zip(layers[:0:-1], shapes[-2::-1], strict=True):
            # Layers, whose module imports this one.
            linear = layer.linear  # ty: ignore[missing-attribute]
            _, pull = jax.vjp(linear, jnp.zeros(shape, rows.dtype))
            rows = jax.vmap(lambda row, pull=pull: pull(row)[0])(rows)
            feedback.append(jnp.moveaxis(rows, 0, -1))
        return FeedbackWeights(tuple(reversed(feedback)))


class RandomFeedback(AbstractFeedbackInit):
    """Normal Q_i for the hidden layers, Q_L = I: where the papers start to learn feedback.

    `std` is the standard deviation; None means Xavier's sqrt(2 / (n_i + n_L)) for each layer.
    """

    std: float | None = number("std", None, minimum=0, static=True)

    def init(
        self, layers: Sequence[eqx.Module], shapes: Sequence[tuple[int, ...]], key: PRNGKeyArray
    ) -> FeedbackWeights:
        (outputs,), hidden = shapes[-1], shapes[:-1]
        own = lambda shape: math.sqrt(2 / (math.prod(shape) + outputs)) if self.std is None else self.std
        keys = jr.split(key, len(layers))
        random = [
            own(shape) * jr.normal(k, (*shape, outputs), _dtype(layers))
            for shape, k in zip(hidden, keys, strict=False)
        ]
        return FeedbackWeights((*random, jnp.eye(outputs, dtype=_dtype(layers))))


def _dtype(layers: Sequence[eqx.Module]) -> DTypeLike:
    """The type of the layers' arrays, or JAX's own if they have none."""
    arrays = jax.tree.leaves(eqx.filter(list(layers), eqx.is_inexact_array))
    return jnp.result_type(*arrays) if arrays else jnp.result_type(float)


class ExactFeedback(AbstractFeedback, AbstractFeedbackInit):
    """Q_i = J_i^T of each sample at its feedforward state: no weights, nothing to learn.

    The ideal that learned feedback approaches: it satisfies Condition 2, Col(Q) = Row(J).
    """

    def init(
        self, layers: Sequence[eqx.Module], shapes: Sequence[tuple[int, ...]], key: PRNGKeyArray
    ) -> "ExactFeedback":
        del layers, shapes, key
        return self

    def matrices(
        self, jacobian: tuple[Float[Array, "out ..."], ...] | None
    ) -> tuple[Float[Array, "... out"], ...]:
        assert jacobian is not None  # as `needs_jacobian` says
        return tuple(jnp.moveaxis(rows, 0, -1) for rows in jacobian)

    @property
    def needs_jacobian(self) -> bool:
        return True
