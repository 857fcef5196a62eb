"""Draws of the sleep phase's update in as many dimensions a layer as outputs."""

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from dfc_jax._dynamics.states import Deviation
from dfc_jax._methods.noise_draws import paired_sums
from dfc_jax._methods.sleep import AbstractSmallNoisePhase
from dfc_jax._network.network import Network
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs
from dfc_jax._numerics.compiled import compiled


class LinearisedSleepPhase(AbstractSmallNoisePhase):
    """A draw of the update as `SleepPhase` draws it, for small noise and few outputs, several times faster.

    `SleepPhase` draws a normal number for every neuron and step, which is most of its cost. Here the noise is
    drawn as far as the control sees it, n_L numbers a layer and step, the scheme is simulated with them to
    first order in the noise, and what the control does not see is added as the one sum over steps by which it
    enters the update,

        sum_t N_i[t] u[t+1]^T = kappa_i sum_s xi_i[s] w[s]^T,     w[s] = u[s+2] + g w[s+1].

    Mean and covariance of the update are those of `SleepPhase` but for terms of the order of the noise; a
    key gives another draw than there. All arguments are those of `SleepPhase`; the target must be `Rest()`.
    Memory grows with the square of the number of outputs.
    """

    @compiled
    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
        *,
        key: PRNGKeyArray,
    ) -> Network:
        """The update, shaped like `model` and zero in its forward weights.

        A sample whose state is not finite contributes nothing.
        """
        small = self._small_noise(model)
        samples = small.loop.samples(x, y)
        still = Deviation.none(samples.feedforward.voltages), jnp.zeros_like(samples.error)
        # v_fb of the step before is paired with u, as in the published code.
        total = paired_sums(small, samples, samples.finite, *still, key, late=True)
        return self._normalised(model, total, len(x))
