"""Draws of the sleep phase's update in as many dimensions a layer as outputs."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from dfc_jax._dynamics.published import sample_keys
from dfc_jax._methods.noise_draws import NoiseDraws
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
        jacobians, gains, grams = jax.vmap(small.products)(samples, samples.feedforward.voltages)
        draws = NoiseDraws.draw(sample_keys(key, len(x)), jacobians, grams, self.scheme.states - 1)
        decay, kappas = small.noise_steps()
        kicks = jnp.transpose(kappas[None, :, None, None] * draws.seen(), (2, 1, 3, 0))
        identity = jnp.eye(len(kicks[0, 0]), dtype=kicks.dtype)
        answer = jax.vmap(small.answer, in_axes=(-1, None, -1), out_axes=-1)
        held, control = answer(jnp.moveaxis(gains, 0, -1), identity, kicks)
        # v_fb of the step before is paired with u, as in the published code.
        held = jnp.concatenate([jnp.zeros_like(held[:1]), held[:-1]])
        unseen = draws.summed(jnp.moveaxis(_weights(decay, control), -1, 0))
        D = jnp.einsum("kpb,kqb->pq", held, control)
        total = (
            kappa * noise.reshape(Q.shape) + jnp.tensordot(Q, D, axes=(-1, 0))
            for kappa, noise, Q in zip(kappas, unseen, small.loop.feedback(samples), strict=True)
        )
        return self._normalised(model, tuple(total), len(x))


def _weights(
    decay: Float[Array, ""], control: Float[Array, "steps out batch"]
) -> Float[Array, "steps out batch"]:
    """w[s]: how the noise of a step enters the sum of N_i[t] u[t+1]^T."""

    def before(later: Array, control: Array) -> tuple[Array, Array]:
        return control + decay * later, later

    return jax.lax.scan(before, jnp.zeros_like(control[0]), control, reverse=True)[1]
