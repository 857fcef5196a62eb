"""The two local rules, for a whole batch: one matrix product a layer, never a weight gradient a sample."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dfc_jax.closed_loop import ClosedLoop, Deviation, PerLayer, Sample
from dfc_jax.network import Layer


def teaching_signal(loop: ClosedLoop, sample: Sample, deviation: Deviation) -> PerLayer:
    """What the apical input did: phi_i(v_i) - phi_i(v_ff_i), or what else `loop.teaching` says."""
    state = zip(
        loop.network.layers, sample.feedforward.voltages, deviation.voltage, deviation.basal, strict=True
    )
    return tuple(loop.teaching(layer.activation, v + c, d - c) for layer, v, d, c in state)


def presynaptic_rates(sample: Sample, deviation: Deviation) -> PerLayer:
    """r_{i-1} of every layer in the controlled state; the first is the input itself."""
    later = zip(sample.feedforward.inputs[1:], deviation.rate[:-1], strict=True)
    return (sample.feedforward.inputs[0], *(r + rho for r, rho in later))


def forward_rule(
    layers: Sequence[Layer],
    presynaptic: Sequence[Float[Array, "batch ..."]],
    teaching: Sequence[Float[Array, "batch ..."]],
) -> tuple[Layer, ...]:
    """The weight change of every layer, summed over the batch: the VJP of its transform at r_{i-1}.

    For a dense layer dW_i = sum_b teaching_i r_{i-1}^T and db_i = sum_b teaching_i. Each weight sees only
    its own presynaptic rate and postsynaptic neuron (NeurIPS paper, eq. 4).
    """
    return tuple(_layer_change(l, r, t) for l, r, t in zip(layers, presynaptic, teaching, strict=True))


def _layer_change(
    layer: Layer, presynaptic: Float[Array, "batch ..."], teaching: Float[Array, "batch ..."]
) -> Layer:
    weights, rest = eqx.partition(layer.transform, eqx.is_inexact_array)
    _, pull = jax.vjp(lambda w: jax.vmap(eqx.combine(w, rest))(presynaptic), weights)
    return eqx.tree_at(lambda l: l.transform, layer, eqx.combine(pull(teaching)[0], rest))


def feedback_rule(
    apical: Sequence[Float[Array, "batch ..."]], control: Float[Array, "batch out"]
) -> tuple[Float[Array, "... out"], ...]:
    """sum_b v_fb_i u^T of every layer: minus the change of Q_i without its decay (NeurIPS paper, eq. 12)."""
    return tuple(jnp.tensordot(a, control, axes=(0, 0)) for a in apical)
