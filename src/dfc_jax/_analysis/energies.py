"""The energies whose minimum a steady state under optimal control is, sample by sample."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.readout import SoftmaxReadout
from dfc_jax._dynamics.states import Deviation, Sample
from dfc_jax._numerics.arrays import Scalar
from dfc_jax._numerics.compiled import compiled
from dfc_jax._steady_state.base import Equilibrium


def control_energy(found: Equilibrium) -> Float[Array, " batch"]:
    """sum_i |eps_i|^2 / 2 of every sample: what least control makes as small as it can."""
    return jax.vmap(_control_energy)(found.deviation)


def _control_energy(deviation: Deviation) -> Scalar:
    pairs = zip(deviation.voltage, deviation.basal, strict=True)
    return sum((jnp.sum((d - c) ** 2) for d, c in pairs), jnp.zeros((), deviation.voltage[0].dtype)) / 2


@compiled
def predictive_coding_energy(loop: ClosedLoop, samples: Sample, found: Equilibrium) -> Float[Array, " batch"]:
    """E = sum_i |eps_i|^2 / 2 + l / a of every sample at the states `found`, a being the loop's leak.

    l is the cross-entropy of the target where the readout is a softmax, and half its squared distance from
    the readout otherwise. Without a leak the target is met, and E is the control energy.
    """
    leak = loop.controller.steady_state_leak()

    def one(sample: Sample, deviation: Deviation) -> Scalar:
        output = sample.feedforward.output + deviation.rate[-1]
        error = loop.output_error(sample, deviation.rate[-1])
        if isinstance(loop.readout, SoftmaxReadout):
            loss = loop.loss(output, error + jax.nn.softmax(output))
        else:
            loss = jnp.sum(error**2) / 2
        penalty = jnp.where(leak > 0, loss / jnp.where(leak > 0, leak, 1), 0)
        return _control_energy(deviation) + penalty

    return jax.vmap(one)(samples, found.deviation)
