"""The weight mirror: backward transforms learn from noise what the forward transforms do to it."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from dfc_jax._checks import check_key, check_type
from dfc_jax._methods.sleep import AbstractSleepPhase
from dfc_jax._network.feedback import AbstractFeedback
from dfc_jax._network.layer import linear_part, Transform
from dfc_jax._network.layered_feedback import LayeredFeedback, learnable_layers
from dfc_jax._network.learned import no_change
from dfc_jax._network.network import as_inputs, Network
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs
from dfc_jax._numerics.compiled import compiled


class WeightMirror(AbstractSleepPhase):
    """The weight mirror of Akrout et al. (NeurIPS 2019), a sleep phase for `LayeredFeedback`.

    White noise xi of the rates below a layer, in turn for every layer, moves its basal voltages by W_i xi.
    B_i learns the correlation of the two, each of its weights from its own two neurons:

        -mean over samples of (W_i xi) xi^T,

    shaped and signed like a gradient. Its mean is -W_i: where weights are shared, as in a convolution, or
    the noise is pooled on its way, the sum over positions is divided by the mean square that such a weight
    sees of it. Decay of the weights keeps B_i from growing: at a decay of one, `optax.chain(
    optax.add_decayed_weights(1.0), ...)`, it comes to rest at W_i.

    As the noise of every layer is its own, inputs and labels have no part in it but for their number.
    """

    learns: ClassVar[type[AbstractFeedback]] = LayeredFeedback

    @compiled
    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
        *,
        key: PRNGKeyArray,
    ) -> Network:
        del y
        check_type("model", model, Network)
        check_key("key", key)
        feedback = learnable_layers(model.feedback, model.layers, type(self).__name__)
        rates = jax.eval_shape(jax.vmap(model.feedforward), as_inputs(model, x)).inputs[1:]
        keys = jr.split(key, len(model.layers))[1:]
        parts = zip(model.layers[1:], feedback.transforms, rates, keys, strict=True)
        update = tuple(_mirrored(layer.transform, B, rate, k) for layer, B, rate, k in parts)
        return Network(no_change(model.layers), LayeredFeedback(update))


def _mirrored(
    forward: Transform, backward: Transform, rates: jax.ShapeDtypeStruct, key: PRNGKeyArray
) -> Transform:
    """The update of one layer's backward transform, for noise shaped like a batch of `rates`."""
    noise_key, *probe_keys = jr.split(key, 1 + len(jax.tree.leaves(backward)))
    noise = jr.normal(noise_key, rates.shape, rates.dtype)
    weights, rest = eqx.partition(backward, eqx.is_inexact_array)

    def moved(weights: Transform) -> Float[Array, "batch ..."]:
        transform = eqx.combine(weights, rest)
        return jax.vmap(lambda change: linear_part(transform, change))(noise)

    _, correlate = jax.vjp(moved, weights)
    leaves, structure = jax.tree.flatten(weights)
    signs = [jr.rademacher(k, w.shape, w.dtype) for w, k in zip(leaves, probe_keys, strict=False)]
    probe = jax.tree.unflatten(structure, signs)
    (seen,) = correlate(moved(probe))
    (found,) = correlate(jax.vmap(lambda change: linear_part(forward, change))(noise))
    return jax.tree.map(_per_square, found, probe, seen)


def _per_square(
    found: Float[Array, "*n"], probe: Float[Array, "*n"], seen: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """Minus what was `found`, over the mean square that a weight sees; zero of a bias, which sees nothing."""
    square = jnp.mean(probe * seen)
    return jnp.where(square > 0, -found / jnp.where(square > 0, square, 1), 0)
