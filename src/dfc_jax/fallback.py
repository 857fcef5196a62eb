"""Pseudo-transient continuation, and its use for those samples of a batch that another scheme left over."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dfc_jax._fields import count, number
from dfc_jax.closed_loop import ClosedLoop, Deviation, Sample
from dfc_jax.equilibrium import (
    AbstractEquilibrium,
    controlled,
    Equilibrium,
    loop_gain,
    relative_residual,
    residual,
)
from dfc_jax.secant import in_any_run
from dfc_jax.small_matrices import eigenvalues_right_of_zero, inverse


class PseudoTransient(AbstractEquilibrium):
    """Linearly implicit Euler on du/ds = F(u), its steps growing as F falls: slow and hard to defeat.

    Each step solves (1/h + E J Q + a I) s = F(u) with the Jacobian of the present state. It is taken only
    if |F| falls, and h grows as |F| falls; a step refused divides h by 4 (Kelley & Keyes, SIAM J. Numer.
    Anal. 35, 1998). An iteration costs a Jacobian, with ten outputs about a whole backprop gradient.

    **Arguments:**

    - `rtol`: converged when |F| <= rtol * |e^-|.
    - `max_iterations`: steps, refused ones included, after which the sample counts as not converged.
    """

    rtol: Float[Array, ""] = number("rtol", 3e-5, above=0)
    max_iterations: int = count("max_iterations", 60)

    def __call__(self, loop: ClosedLoop, samples: Sample) -> Equilibrium:
        return jax.vmap(self._one, in_axes=(None, 0))(loop, samples)

    def _one(self, loop: ClosedLoop, sample: Sample) -> Equilibrium:
        def unfinished(state: _State) -> Bool[Array, ""]:
            return (state.error > self.rtol) & (state.iterations < self.max_iterations)

        def step(state: _State) -> _State:
            gain = loop_gain(loop, sample, state.deviation)
            shifted = gain + jnp.eye(len(gain), dtype=gain.dtype) / state.length
            control = state.control + inverse(shifted) @ state.remaining
            trial = _at(loop, sample, control, state)
            better = trial.error < state.error
            length = state.length * jnp.where(better, 2 * state.error / trial.error, 0.25)
            kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), trial, state)
            return eqx.tree_at(lambda s: (s.length, s.iterations), kept, (length, state.iterations + 1))

        gain = loop_gain(loop, sample)
        start = _State(
            jnp.zeros_like(sample.error),
            _still(loop, sample),
            sample.error,
            jnp.ones_like(sample.scale),
            jnp.sqrt(jnp.asarray(len(gain), gain.dtype)) / jnp.linalg.norm(gain),
            jnp.asarray(0),
        )
        last = jax.lax.while_loop(unfinished, step, start)
        stable = eigenvalues_right_of_zero(loop_gain(loop, sample, last.deviation))
        converged = last.error <= self.rtol
        return Equilibrium(last.control, last.deviation, converged, last.error, last.iterations, stable)


class _State(eqx.Module):
    control: Float[Array, " out"]
    deviation: Deviation
    remaining: Float[Array, " out"]  # F
    error: Float[Array, ""]  # |F| / |e^-|
    length: Float[Array, ""]  # h
    iterations: Int[Array, ""]


def _still(loop: ClosedLoop, sample: Sample) -> Deviation:
    rest = loop.initial_state(sample).voltage
    return Deviation(rest, rest, rest)


def _at(loop: ClosedLoop, sample: Sample, control: Float[Array, " out"], before: _State) -> _State:
    deviation = controlled(loop, sample, control)
    remaining = residual(loop, sample, control, deviation)
    error = relative_residual(loop, sample, control, deviation)
    return _State(control, deviation, remaining, error, before.length, before.iterations)


def rescue(
    loop: ClosedLoop, samples: Sample, found: Equilibrium, fallback: AbstractEquilibrium
) -> tuple[Equilibrium, Bool[Array, " batch"]]:
    """Try `fallback` on what did not converge: the steady states, and whose are the fallback's.

    It works on blocks of failed samples, so that it costs nothing where there are none and little where there
    are few. A sample that is not finite is not tried, and one that fails again stays as it was.
    """
    batch, outputs = samples.error.shape
    failed = ~found.converged & jax.vmap(lambda sample: sample.finite)(samples)
    size = min(batch, max(1, _BLOCK_UNKNOWNS // outputs))
    order, count = jnp.argsort(~failed), jnp.sum(failed)

    def solve_block(state: tuple[Int[Array, ""], Equilibrium, Bool[Array, " batch"]]) -> tuple:
        start, found, rescued = state
        # The barrier ties the samples to the turn: with one block for all, XLA would take the solve for
        # the same in every turn and do it before the loop, needed or not.
        start, everyone = jax.lax.optimization_barrier((start, samples))
        index = jax.lax.dynamic_slice(order, (start,), (size,))
        again = fallback(loop, jax.tree.map(lambda leaf: leaf[index], everyone))
        better = again.converged & failed[index]

        def merged(old: Array, new: Array) -> Array:
            chosen = jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old[index])
            return old.at[index].set(chosen)

        rescued = rescued.at[index].set(rescued[index] | better)
        return start + size, jax.tree.map(merged, found, again), rescued

    start = (jnp.asarray(0), found, jnp.zeros_like(failed))
    _, found, rescued = jax.lax.while_loop(lambda state: in_any_run(state[0] < count), solve_block, start)
    return found, rescued


# Failed samples times outputs that the fallback takes at a time: a Jacobian has as many tangents.
_BLOCK_UNKNOWNS = 320
