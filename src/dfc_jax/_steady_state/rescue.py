"""A second scheme for the samples of a batch that a first one left over."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.states import Sample
from dfc_jax._numerics.arrays import BatchFlags
from dfc_jax._numerics.secant import in_any_run
from dfc_jax._steady_state.base import AbstractEquilibrium, Equilibrium


def rescue(
    loop: ClosedLoop, samples: Sample, found: Equilibrium, fallback: AbstractEquilibrium
) -> tuple[Equilibrium, BatchFlags]:
    """Try `fallback` on what did not converge: the steady states, and whose are the fallback's.

    It works on blocks of failed samples, so that it costs nothing where there are none and little where there
    are few. A sample that is not finite is not tried, and one that fails again stays as it was.
    """
    batch, outputs = samples.error.shape
    failed = ~found.converged & samples.finite
    size = min(batch, max(1, _BLOCK_UNKNOWNS // outputs))
    order, count = jnp.argsort(~failed), jnp.sum(failed)

    def solve_block(state: tuple[Int[Array, ""], Equilibrium, BatchFlags]) -> tuple:
        start, found, rescued = state
        # The barrier ties the samples to the turn: with one block for all, XLA would take the solve for
        # the same in every turn and do it before the loop, needed or not.
        start, everyone = jax.lax.optimization_barrier((start, samples))
        index = jax.lax.dynamic_slice(order, (start,), (size,))  # the last ones where fewer are left
        again = fallback(loop, jax.tree.map(lambda leaf: leaf[index], everyone))
        # Read by those concerned: written by their index, every leaf would be a loop to compile.
        place = jnp.arange(batch)[:, None] == index[None]
        own = jnp.argmax(place, axis=1)
        better = failed & jnp.any(place, axis=1) & again.converged[own]

        def merged(old: Array, new: Array) -> Array:
            return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new[own], old)

        return start + size, jax.tree.map(merged, found, again), rescued | better

    start = (jnp.asarray(0), found, jnp.zeros_like(failed))
    _, found, rescued = jax.lax.while_loop(lambda state: in_any_run(state[0] < count), solve_block, start)
    return found, rescued


# Failed samples times outputs that the fallback takes at a time: a Jacobian has as many tangents.
_BLOCK_UNKNOWNS = 320
