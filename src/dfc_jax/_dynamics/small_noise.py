"""The published scheme to first order in its noise, in as many dimensions a layer as outputs."""

from functools import reduce
from operator import add

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.published import PublishedEuler
from dfc_jax._dynamics.states import Deviation, PerLayer, Sample
from dfc_jax._fields import Part
from dfc_jax._numerics.arrays import OutputMatrix, Scalar
from dfc_jax._numerics.finite import zero_unless_finite


COLUMNS = 32  # of matrices that are summed one by one: with more, programs become long


class SmallNoise(Part):
    """The deviations d_i that noise makes from a state of rest, while they are small.

    Multiplied by J_i = dr_L/dv_i they close in n_L dimensions a layer, whatever its width:

        z_i = J_i d_i,   z_i' = z_i + dt / tau_v (z_(i-1) + J_i Q_i l + J_i N_i - z_i),   e = -E z_L,

    where l is the control as the apical compartments see it, N_i their noise, N_i' = g N_i + kappa_i xi_i
    with independent standard normal xi_i, and E the derivative of the readout by the output.

    **Arguments:**

    - `loop`: a closed loop with noise.
    - `scheme`: its discretisation.
    """

    loop: ClosedLoop
    scheme: PublishedEuler

    def products(
        self, sample: Sample, deviation: Deviation
    ) -> tuple[PerLayer, Float[Array, "layers out out"], Float[Array, "layers out out"], OutputMatrix]:
        """J_i, J_i Q_i, J_i J_i^T and E of one sample in a state of rest; zeros if it is not finite."""
        voltages = jax.tree.map(jnp.add, sample.feedforward.voltages, deviation.voltage)
        identity, change = jnp.eye(len(sample.error), dtype=sample.error.dtype), deviation.rate[-1]
        found = self.loop.network.jacobian(voltages), self.loop.error_gain(sample, identity, change)
        rows = [J.reshape(len(J), -1) for J in found[0]]
        inputs = [Q.reshape(-1, Q.shape[-1]) for Q in self.loop.feedback(sample)]
        gains = jnp.stack([J @ Q for J, Q in zip(rows, inputs, strict=True)])
        grams = jnp.stack([J @ J.T for J in rows])
        *products, _ = zero_unless_finite((found[0], gains, grams, found[1], sample.error))
        return tuple(products)

    def noise_steps(self) -> tuple[Scalar, Float[Array, " layers"]]:
        """g and the kappa of each layer."""
        loop, dt = self.loop, self.scheme.dt
        assert loop.noise is not None
        tau = loop.tau_apical
        if loop.noise.filtered:
            tau = loop.noise.tau  # ty: ignore[missing-attribute]  # filtered noise has one
        assert tau is not None  # the loop asks for `tau_apical` under white noise
        sigmas = loop.noise.sigmas(len(loop.network.layers))
        return 1 - dt / tau, jnp.stack(sigmas) * jnp.sqrt(dt) / tau

    def seen(
        self, held: Float[Array, "..."], new: Float[Array, "..."], before: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """What compartments hold after `held`: the control, a step late unless proactive, low-passed."""
        drive = new if self.scheme.proactive else before
        if self.loop.tau_apical is None:
            return drive
        return held + self.scheme.dt / self.loop.tau_apical * (drive - held)

    def answer(
        self,
        gains: Float[Array, "layers out out batch"],
        readouts: Float[Array, "out out batch"],
        kicks: Float[Array, "steps layers out batch"],
    ) -> tuple[Float[Array, "steps out batch"], Float[Array, "steps out batch"]]:
        """l and u of a batch after every step from rest under noise; zeros for samples not finite throughout.

        Samples are the last axis of everything, which vmap would make the first one of what a loop carries:
        five times slower.

        **Arguments:**

        - `gains`: J_i Q_i. `readouts`: E.
        - `kicks`: kappa_i J_i xi_i of every step.
        """
        controller, dt, follow = self.loop.controller, self.scheme.dt, self.scheme.dt / self.loop.tau_v
        integral_rate = jax.vmap(controller.integral_rate, -1, -1)
        control_of = jax.vmap(controller.control, -1, -1)
        decay, _ = self.noise_steps()

        def step(state: PyTree, kick: Float[Array, "layers out batch"]) -> tuple[PyTree, PyTree]:
            z, noise, integral, before, held = state
            error = -_times(readouts, z[-1])
            integral = integral + dt * integral_rate(integral, before, error)
            control = control_of(integral, error)
            held = self.seen(held, control, before)
            noise = decay * noise + kick
            driven, below = [], jnp.zeros_like(error)
            for old, drive in zip(z, _times(gains, held) + noise, strict=True):
                driven.append(old + follow * (below + drive - old))
                below = driven[-1] if self.scheme.instant_transmission else old
            return (jnp.stack(driven), noise, integral, control, held), (held, control)

        zeros, zero = jnp.zeros_like(kicks[0]), jnp.zeros_like(kicks[0, 0])
        _, answer = jax.lax.scan(step, (zeros, zeros, zero, zero, zero), kicks)
        return jax.vmap(zero_unless_finite, -1, -1)(answer)


def _times(
    matrices: Float[Array, "*more out out batch"], vectors: Float[Array, "out batch"]
) -> Float[Array, "*more out batch"]:
    """M v of every sample."""
    if len(vectors) > COLUMNS:
        return jnp.einsum("...ijb,jb->...ib", matrices, vectors)
    # One column after another: summing over an axis of so few takes eight times as long.
    numbers = vectors.reshape(len(vectors), *[1] * (matrices.ndim - 2), -1)
    return reduce(add, (matrices[..., j, :] * number for j, number in enumerate(numbers)))
