"""Clips of updates, as the published codes clip theirs, for an Optax chain."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from dfc_jax._checks import check_number
from dfc_jax._network.layer import Layer
from dfc_jax._network.layered_feedback import LayeredFeedback
from dfc_jax._numerics.arrays import Scalar


def clip_by_tensor_norm(max_norm: float) -> optax.GradientTransformation:
    """Scale every tensor (each weight and each bias by itself) to an L2 norm of at most `max_norm`."""
    check_number("max_norm", max_norm, above=0)

    def clip(tensor: Array) -> Array:
        return tensor * _shrinkage(jnp.linalg.norm(tensor), float(max_norm))

    return optax.stateless(lambda updates, params: jax.tree.map(clip, updates))


def clip_by_layer_norm(max_norm: float) -> optax.GradientTransformation:
    """Scale every layer (its weights and biases together) to an L2 norm of at most `max_norm`.

    Every backward transform of `LayeredFeedback` counts as a layer, too.
    """
    check_number("max_norm", max_norm, above=0)

    def clip(layer: PyTree) -> PyTree:
        if isinstance(layer, LayeredFeedback):
            return LayeredFeedback(tuple(clip(transform) for transform in layer.transforms))
        shrinkage = _shrinkage(optax.tree.norm(layer), float(max_norm))
        return jax.tree.map(lambda tensor: tensor * shrinkage, layer)

    is_layer = lambda part: isinstance(part, Layer | LayeredFeedback)
    return optax.stateless(lambda updates, params: jax.tree.map(clip, updates, is_leaf=is_layer))


def _shrinkage(norm: Scalar, max_norm: float) -> Scalar:
    return jnp.where(norm > max_norm, max_norm / norm, 1)
