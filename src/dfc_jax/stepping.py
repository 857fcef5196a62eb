"""Implicit Euler steps: what one does to the layers of a sample, and who finds the control for it."""

import abc
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from dfc_jax.closed_loop import ClosedLoop, Deviation, LoopState, PerLayer, Sample
from dfc_jax.network import Layer


def after_step(
    layers: Sequence[Layer], voltages: PerLayer, base: PerLayer, apical: PerLayer, q: Float[Array, ""]
) -> Deviation:
    """The first layers, as many as `apical` has entries, at the end of a step of length h = q tau_v.

    Each follows from the layer below and from its apical input a_i at the end of the step,

        d_i = (d_i_base + q (c_i + a_i)) / (1 + q).

    `voltages` are those without control, `base` the deviations d_i_base at the beginning of the step.
    """
    voltage, basal, rate = [], [], []
    for i, arriving in enumerate(apical):
        basal.append(layers[i].linear(rate[-1]) if rate else jnp.zeros_like(arriving))
        voltage.append((base[i] + q * (basal[i] + arriving)) / (1 + q))
        rate.append(layers[i].activation.difference(voltages[i], voltage[i]))
    return Deviation(tuple(voltage), tuple(basal), tuple(rate))


class Stepped(eqx.Module):
    """A batch at the end of a step."""

    states: LoopState
    controls: Float[Array, "batch out"]
    deviations: Deviation
    memory: PyTree  # what the next step can use of this one

    @staticmethod
    def without_control(loop: ClosedLoop, samples: Sample, memory: PyTree) -> "Stepped":
        """Before the first step."""
        states = jax.vmap(loop.initial_state)(samples)
        still = Deviation(states.voltage, states.voltage, states.voltage)
        return Stepped(states, jnp.zeros_like(samples.error), still, memory)


class AbstractSteps(eqx.Module):
    """Implicit Euler steps of a batch. Their lengths are few and known beforehand."""

    lengths: eqx.AbstractVar[Float[Array, " segments"]]

    @abc.abstractmethod
    def rest(self) -> Stepped:
        """Before the first step."""

    @abc.abstractmethod
    def advance(self, before: Stepped, segment: Int[Array, ""]) -> Stepped:
        """One step of `lengths[segment]`."""
