"""A second scheme for the samples of a batch that a first one left over."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.states import Sample
from dfc_jax._numerics.arrays import BatchFlags
from dfc_jax._numerics.choose import choose
from dfc_jax._numerics.secant import in_any_run
from dfc_jax._steady_state.base import AbstractEquilibrium, Equilibrium


# Trees with the samples along the first axis.
_Asked = TypeVar("_Asked")
_Found = TypeVar("_Found")


def found_or_rescued(
    loop: ClosedLoop,
    samples: Sample,
    equilibrium: AbstractEquilibrium,
    fallback: AbstractEquilibrium | None,
) -> tuple[Equilibrium, BatchFlags | None]:
    """The steady states by `equilibrium`, and whose are those of what `fallback` solves in its place."""
    found = equilibrium(loop, samples)
    other = None if fallback is None else equilibrium.rescued_by(fallback)
    return (found, None) if other is None else rescue(loop, samples, found, other)


def rescue(
    loop: ClosedLoop, samples: Sample, found: Equilibrium, fallback: AbstractEquilibrium
) -> tuple[Equilibrium, BatchFlags]:
    """Try `fallback` on what did not converge: the steady states, and whose are the fallback's.

    A sample that is not finite is not tried, and one that fails again stays as it was.
    """

    def again(samples: Sample) -> tuple[Equilibrium, BatchFlags]:
        tried = fallback(loop, samples)
        return tried, tried.converged

    failed = ~found.converged & samples.finite
    return solve_left_over(failed, samples.error.shape[1], samples, found, again)


def solve_left_over(
    failed: BatchFlags,
    outputs: int,
    asked: _Asked,
    found: _Found,
    again: Callable[[_Asked], tuple[_Found, BatchFlags]],
) -> tuple[_Found, BatchFlags]:
    """What was `found`, and for the samples that `failed` what `again` finds, and whose that is.

    `again` takes a part of `asked` and says what of it is solved. It works on blocks of
    failed samples, so that it costs nothing where there are none and little where there are few.
    """
    batch = len(failed)
    size = block_size(batch, outputs)
    order, count = jnp.argsort(~failed), jnp.sum(failed)

    def solve_block(state: tuple[Int[Array, ""], _Found, BatchFlags]) -> tuple:
        start, found, replaced = state
        # The barrier ties the samples to the turn: with one block for all, XLA would take the solve for
        # the same in every turn and do it before the loop, needed or not.
        start, everyone = jax.lax.optimization_barrier((start, asked))
        index = jax.lax.dynamic_slice(order, (start,), (size,))  # the last ones where fewer are left
        new, solved = again(jax.tree.map(lambda leaf: leaf[index], everyone))
        # Read by those concerned: written by their index, every leaf would be a loop to compile.
        place = jnp.arange(batch)[:, None] == index[None]
        own = jnp.argmax(place, axis=1)
        better = failed & jnp.any(place, axis=1) & solved[own]
        new = jax.tree.map(lambda leaf: leaf[own], new)
        return start + size, choose(better, new, found), replaced | better

    start = (jnp.asarray(0), found, jnp.zeros_like(failed))
    _, found, replaced = jax.lax.while_loop(lambda state: in_any_run(state[0] < count), solve_block, start)
    return found, replaced


def block_size(batch: int, outputs: int) -> int:
    """How many samples are solved at a time."""
    return min(batch, max(1, _BLOCK_UNKNOWNS // outputs))


# Failed samples times outputs that are solved at a time: a Jacobian has as many tangents.
_BLOCK_UNKNOWNS = 320
