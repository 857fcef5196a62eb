"""Feedback from layer to layer: the control is carried by one sweep from the output down.

    Q_i u = D_i B_{i+1}^T D_{i+1} ... B_L^T D_L u,   Q_L u = D_L u,

with D_i the slopes phi_i'(v_i) of the sample and B_i a transform of the kind of layer i's, of which the
linear part alone counts. A convolution's feedback shares its weights as the convolution does, and no matrix
of all neurons by all outputs is made.
"""

import abc
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from dfc_jax._checks import require
from dfc_jax._fields import flag
from dfc_jax._network.feedback import AbstractFeedback, AbstractFeedbackInit, learnable
from dfc_jax._network.layer import Layer, slopes_at, swept_back, Transform
from dfc_jax._numerics.arrays import OutputVector


_NO_SLOPES = "`matrices` sees no slopes, of which {} is made; take `every_matrix`."


class AbstractLayeredFeedback(AbstractFeedback):
    """Feedback that goes from layer to layer. What of a sample it depends on are the slopes of its layers."""

    @abc.abstractmethod
    def backward(self, layers: Sequence[Layer]) -> tuple[Transform, ...]:
        """B_2, ..., B_L: the transforms whose transposes carry the control down."""

    @property
    def needs_jacobian(self) -> bool:
        return True

    def kept(
        self, layers: Sequence[Layer], voltages: Sequence[Float[Array, "..."]]
    ) -> tuple[Float[Array, "..."], ...]:
        return slopes_at(layers, voltages)

    def carried(
        self, layers: Sequence[Layer], kept: PyTree, control: OutputVector
    ) -> tuple[Float[Array, "..."], ...]:
        return swept_back(self.backward(layers), kept, control)

    def every_matrix(self, layers: Sequence[Layer], kept: PyTree) -> tuple[Float[Array, "... out"], ...]:
        """As many sweeps as there are outputs."""
        controls = jnp.eye(kept[-1].size, dtype=kept[-1].dtype)
        return jax.vmap(lambda u: self.carried(layers, kept, u), out_axes=-1)(controls)


class ExactFeedback(AbstractLayeredFeedback, AbstractFeedbackInit):
    """Q_i = J_i^T of each sample at its feedforward state: no weights, nothing to learn.

    The ideal that learned feedback approaches: it satisfies Condition 2, Col(Q) = Row(J).
    """

    def init(
        self, layers: Sequence[Layer], shapes: Sequence[tuple[int, ...]], key: PRNGKeyArray
    ) -> "ExactFeedback":
        del layers, shapes, key
        return self

    def backward(self, layers: Sequence[Layer]) -> tuple[Transform, ...]:
        return tuple(layer.transform for layer in layers[1:])

    def matrices(
        self, jacobian: tuple[Float[Array, "out ..."], ...] | None
    ) -> tuple[Float[Array, "... out"], ...]:
        assert jacobian is not None  # as `needs_jacobian` says
        return tuple(jnp.moveaxis(rows, 0, -1) for rows in jacobian)


class LayeredFeedback(AbstractLayeredFeedback):
    """Backward transforms of their own, B_2, ..., B_L, one for each layer but the first: fixed or learned.

    Equal to the forward transforms they are `ExactFeedback()`; fixed and random, the feedback of feedback
    alignment (Lillicrap et al., 2016).
    """

    transforms: tuple[Transform, ...]

    def backward(self, layers: Sequence[Layer]) -> tuple[Transform, ...]:
        found, wanted = len(self.transforms), len(layers) - 1
        require(found == wanted, f"`transforms` are {found}; {len(layers)} layers need {wanted}.")
        return self.transforms

    def matrices(
        self, jacobian: tuple[Float[Array, "out ..."], ...] | None
    ) -> tuple[Float[Array, "... out"], ...]:
        raise ValueError(_NO_SLOPES.format(type(self).__name__))


def learnable_layers(feedback: AbstractFeedback, layers: Sequence[Layer], who: str) -> LayeredFeedback:
    """`feedback`, for `who` learns it. **Raises:** `ValueError` if its transforms are not as the layers'."""
    found = learnable(feedback, LayeredFeedback, who)
    arrays = lambda transforms: eqx.filter_eval_shape(lambda: eqx.filter(transforms, eqx.is_inexact_array))
    alike = eqx.tree_equal(arrays(found.backward(layers)), arrays(tuple(l.transform for l in layers[1:])))
    require(alike is True, f"`model.feedback` has other transforms than the layers; {who} needs their kind.")
    return found


class SignSymmetricFeedback(AbstractLayeredFeedback):
    """B_i = |M_i| sign(W_i): the signs that the forward weights have, and `magnitudes` of its own.

    Sign symmetry (Liao, Leibo and Poggio, 2016; Moskovitz, Litwin-Kumar and Abbott, 2018): no learning.
    """

    magnitudes: tuple[Transform, ...]

    def backward(self, layers: Sequence[Layer]) -> tuple[Transform, ...]:
        forward = tuple(layer.transform for layer in layers[1:])
        magnitudes, rest = eqx.partition(self.magnitudes, eqx.is_inexact_array)
        signed = lambda M, W: jnp.abs(M) * jnp.sign(W)
        return eqx.combine(jax.tree.map(signed, magnitudes, eqx.filter(forward, eqx.is_inexact_array)), rest)

    def matrices(
        self, jacobian: tuple[Float[Array, "out ..."], ...] | None
    ) -> tuple[Float[Array, "... out"], ...]:
        raise ValueError(_NO_SLOPES.format(type(self).__name__))


class CopyOfWeights(AbstractFeedbackInit):
    """`LayeredFeedback` that starts as the forward transforms: exact until these learn."""

    def init(
        self, layers: Sequence[Layer], shapes: Sequence[tuple[int, ...]], key: PRNGKeyArray
    ) -> LayeredFeedback:
        del shapes, key
        return LayeredFeedback(tuple(layer.transform for layer in layers[1:]))


class RandomLayeredFeedback(AbstractFeedbackInit):
    """`LayeredFeedback` that starts as normal numbers, of the root mean square of the forward weights."""

    def init(
        self, layers: Sequence[Layer], shapes: Sequence[tuple[int, ...]], key: PRNGKeyArray
    ) -> LayeredFeedback:
        del shapes
        return LayeredFeedback(random_transforms(layers, key))


class SignSymmetry(AbstractFeedbackInit):
    """`SignSymmetricFeedback` of the root mean square of the forward weights.

    - `random`: whether each magnitude is drawn, as the absolute value of a normal number ("frSF"), or all of
      a layer are alike ("uSF"). `RedrawnMagnitudes` draws them anew for every batch ("brSF").
    """

    random: bool = flag("random", False)

    def init(
        self, layers: Sequence[Layer], shapes: Sequence[tuple[int, ...]], key: PRNGKeyArray
    ) -> SignSymmetricFeedback:
        del shapes
        if self.random:
            return SignSymmetricFeedback(random_transforms(layers, key))
        transforms = tuple(layer.transform for layer in layers[1:])
        alike = lambda leaf: jnp.full_like(leaf, _root_mean_square(leaf))
        weights, rest = eqx.partition(transforms, eqx.is_inexact_array)
        return SignSymmetricFeedback(eqx.combine(jax.tree.map(alike, weights), rest))


def random_transforms(layers: Sequence[Layer], key: PRNGKeyArray) -> tuple[Transform, ...]:
    """Transforms like those of all layers but the first, with normal numbers of the same root mean square."""
    weights, rest = eqx.partition(tuple(layer.transform for layer in layers[1:]), eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(weights)
    keys = jr.split(key, max(len(leaves), 1))
    draw = lambda leaf, k: _root_mean_square(leaf) * jr.normal(k, leaf.shape, leaf.dtype)
    random = [draw(leaf, k) for leaf, k in zip(leaves, keys, strict=False)]
    return eqx.combine(jax.tree.unflatten(structure, random), rest)


def _root_mean_square(weights: Float[Array, "*n"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.mean(weights**2))
