"""The two local rules and what neurons learn from, for a whole batch: one matrix product a layer."""

import abc
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dfc_jax._fields import Part
from dfc_jax._network.activations import AbstractActivation
from dfc_jax._network.layer import Layer
from dfc_jax._network.learned import no_change, split_weights
from dfc_jax._numerics.arrays import BatchOutputs


def forward_rule(
    layers: Sequence[Layer],
    presynaptic: Sequence[Float[Array, "batch ..."]],
    teaching: Sequence[Float[Array, "batch ..."]],
) -> tuple[Layer, ...]:
    """The weight change of every layer, summed over the batch: the VJP of its transform at r_{i-1}.

    For a dense layer dW_i = sum_b teaching_i r_{i-1}^T and db_i = sum_b teaching_i. Each weight sees only
    its own presynaptic rate and postsynaptic neuron (NeurIPS paper, eq. 4). What is not learned, as an
    activation's arrays, changes by zero; what is no array of floats has None in its place.
    """
    return tuple(_layer_change(l, r, t) for l, r, t in zip(layers, presynaptic, teaching, strict=True))


def _layer_change(
    layer: Layer, presynaptic: Float[Array, "batch ..."], teaching: Float[Array, "batch ..."]
) -> Layer:
    weights, rest = split_weights(layer)
    _, pull = jax.vjp(lambda w: jax.vmap(eqx.combine(w, rest).transform)(presynaptic), weights)
    return eqx.combine(pull(teaching)[0], no_change(layer))


def feedback_rule(
    apical: Sequence[Float[Array, "batch ..."]], control: BatchOutputs
) -> tuple[Float[Array, "... out"], ...]:
    """sum_b v_fb_i u^T of every layer: minus the change of Q_i without its decay (NeurIPS paper, eq. 12)."""
    return tuple(jnp.tensordot(a, control, axes=(0, 0)) for a in apical)


class AbstractTeachingSignal(Part):
    """The postsynaptic factor of the forward rule, one for each neuron of a layer."""

    @abc.abstractmethod
    def __call__(
        self, activation: AbstractActivation, basal: Float[Array, "*n"], displacement: Float[Array, "*n"]
    ) -> Float[Array, "*n"]:
        """From the basal voltages v_ff and the `displacement` v - v_ff of the somatic ones."""


class RateDifference(AbstractTeachingSignal):
    """phi(v) - phi(v_ff), the rule of the papers (NeurIPS paper, eq. 4)."""

    def __call__(
        self, activation: AbstractActivation, basal: Float[Array, "*n"], displacement: Float[Array, "*n"]
    ) -> Float[Array, "*n"]:
        return activation.difference(basal, displacement)


class VoltageDifference(AbstractTeachingSignal):
    """v - v_ff, the rule of the papers' theorems and of their Figures S2 to S4 (`voltage_difference`)."""

    def __call__(
        self, activation: AbstractActivation, basal: Float[Array, "*n"], displacement: Float[Array, "*n"]
    ) -> Float[Array, "*n"]:
        del activation, basal
        return displacement
