"""Steady states by pseudo-transient continuation, slow and hard to defeat."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.states import Deviation, Sample
from dfc_jax._fields import count, number
from dfc_jax._numerics.arrays import Flag, OutputMatrix, OutputVector, Scalar
from dfc_jax._numerics.compiled import compiled
from dfc_jax._numerics.one_by_one import inverse_by_qr
from dfc_jax._numerics.small_matrices import eigenvalues_right_of_zero
from dfc_jax._steady_state.base import AbstractEquilibrium, Equilibrium


class PseudoTransient(AbstractEquilibrium):
    """Linearly implicit Euler on du/ds = F(u), its steps growing as F falls: slow and hard to defeat.

    Each step solves (1/h + E J Q + a I) s = F(u) with the Jacobian of the present state. It is taken only
    if |F| falls, and h grows as |F| falls; a step refused divides h by 4 (Kelley & Keyes, SIAM J. Numer.
    Anal. 35, 1998). An iteration costs a Jacobian, with ten outputs about a whole backprop gradient.

    **Arguments:**

    - `rtol`: converged when |F| <= rtol * |e^-|.
    - `max_iterations`: steps, refused ones included, after which the sample counts as not converged.
    """

    rtol: Scalar = number("rtol", 3e-5, above=0)
    max_iterations: int = count("max_iterations", 60)

    @compiled
    def __call__(self, loop: ClosedLoop, samples: Sample) -> Equilibrium:
        return jax.vmap(self._one, in_axes=(None, 0))(loop, samples)

    def _one(self, loop: ClosedLoop, sample: Sample) -> Equilibrium:
        def unfinished(state: _State) -> Flag:
            return (state.error > self.rtol) & (state.iterations < self.max_iterations)

        def step(state: _State) -> _State:
            shifted = state.gain + jnp.eye(len(state.gain), dtype=state.gain.dtype) / state.length
            control = state.control + inverse_by_qr(shifted) @ state.remaining
            deviation = loop.controlled(sample, control)
            remaining = loop.residual(sample, control, deviation)
            error = jnp.linalg.norm(remaining) / sample.scale
            better = error < state.error
            length = state.length * jnp.where(better, 2 * state.error / error, 0.25)
            gain = loop.gain(sample, deviation)
            trial = _State(control, deviation, remaining, error, gain, length, state.iterations)
            kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), trial, state)
            return eqx.tree_at(lambda s: (s.length, s.iterations), kept, (length, state.iterations + 1))

        gain = loop.gain(sample)
        start = _State(
            jnp.zeros_like(sample.error),
            Deviation.none(sample.feedforward.voltages),
            sample.error,
            jnp.ones_like(sample.scale),
            gain,
            jnp.sqrt(jnp.asarray(len(gain), gain.dtype)) / jnp.linalg.norm(gain),
            jnp.asarray(0),
        )
        last = jax.lax.while_loop(unfinished, step, start)
        # By QR here as well: this scheme is compiled with every method, and runs for few samples or none.
        held = eigenvalues_right_of_zero(last.gain, inverse_by_qr)
        converged = last.error <= self.rtol
        return Equilibrium(last.control, last.deviation, converged, last.error, last.iterations, held)


class _State(eqx.Module):
    control: OutputVector
    deviation: Deviation
    remaining: OutputVector  # F
    error: Scalar  # |F| / |e^-|
    gain: OutputMatrix  # -dF/du
    length: Scalar  # h
    iterations: Int[Array, ""]
