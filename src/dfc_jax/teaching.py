"""What a neuron learns from: the effect of its apical input on its rate, or on its voltage."""

import abc

import equinox as eqx
from jaxtyping import Array, Float

from dfc_jax.activations import AbstractActivation


class AbstractTeachingSignal(eqx.Module):
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
