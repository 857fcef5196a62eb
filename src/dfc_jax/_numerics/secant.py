"""Broyden's method for a batch of independent systems, from given inverse Jacobians.

Good Broyden updates (Kelley, Iterative Methods for Linear and Nonlinear Equations, 1995, ch. 7): after a
step s from residual R to R' an inverse H of -dR/du becomes (I + c s^T) H with c = (s - H y) / (s . H y) and
y = R - R'.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from dfc_jax._numerics.arrays import BatchFlags, Flag, Scalar


def _factor(step: Float[Array, "*batch n"], fallen: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """c of the correction, given s and `fallen` = H y; 0 after a step that changed nothing."""
    overlap = jnp.sum(step * fallen, axis=-1, keepdims=True)
    return jnp.where(overlap != 0, (step - fallen) / overlap, 0)


class AbstractInverse(eqx.Module):
    """Approximate inverse Jacobians of a batch, corrected step by step."""

    @abc.abstractmethod
    def times(self, residual: Float[Array, "batch n"], turn: Int[Array, ""]) -> Float[Array, "batch n"]:
        """H R after `turn` corrections."""

    @abc.abstractmethod
    def corrected(
        self, factor: Float[Array, "batch n"], step: Float[Array, "batch n"], turn: Int[Array, ""]
    ) -> "AbstractInverse":
        """(I + c s^T) H as correction number `turn`, c being the `factor`."""

    @abc.abstractmethod
    def judged(
        self,
        judge: Callable[..., Flag],
        of_each: tuple[Float[Array, "batch n"], ...],
        otherwise: BatchFlags,
    ) -> BatchFlags:
        """`judge(H, *v)` of every sample with its own v; `otherwise` where samples have no matrices."""


class OwnInverses(AbstractInverse):
    """A matrix for every sample."""

    matrices: Float[Array, "batch n n"]

    def times(self, residual: Float[Array, "batch n"], turn: Int[Array, ""]) -> Float[Array, "batch n"]:
        del turn
        return jax.vmap(jnp.matmul)(self.matrices, residual)

    def corrected(
        self, factor: Float[Array, "batch n"], step: Float[Array, "batch n"], turn: Int[Array, ""]
    ) -> "OwnInverses":
        del turn
        correct = lambda H, c, s: H + jnp.outer(c, s @ H)
        return OwnInverses(jax.vmap(correct)(self.matrices, factor, step))

    def judged(
        self,
        judge: Callable[..., Flag],
        of_each: tuple[Float[Array, "batch n"], ...],
        otherwise: BatchFlags,
    ) -> BatchFlags:
        del otherwise
        return jax.vmap(judge)(self.matrices, *of_each)


class SharedInverse(AbstractInverse):
    """One matrix for all samples, and each sample's corrections kept as the vectors they are."""

    matrix: Float[Array, "n n"]
    factors: Float[Array, "memory batch n"]
    steps: Float[Array, "memory batch n"]

    @staticmethod
    def create(matrix: Float[Array, "n n"], batch: int, memory: int) -> "SharedInverse":
        """Without corrections yet, with room for `memory` of them."""
        none = jnp.zeros((memory, batch, len(matrix)), matrix.dtype)
        return SharedInverse(matrix, none, none)

    def times(self, residual: Float[Array, "batch n"], turn: Int[Array, ""]) -> Float[Array, "batch n"]:
        def correct(i: Int[Array, ""], vector: Float[Array, "batch n"]) -> Float[Array, "batch n"]:
            return vector + self.factors[i] * jnp.sum(self.steps[i] * vector, axis=1, keepdims=True)

        return jax.lax.fori_loop(0, turn, correct, residual @ self.matrix.T)

    def corrected(
        self, factor: Float[Array, "batch n"], step: Float[Array, "batch n"], turn: Int[Array, ""]
    ) -> "SharedInverse":
        return SharedInverse(self.matrix, self.factors.at[turn].set(factor), self.steps.at[turn].set(step))

    def judged(
        self,
        judge: Callable[..., Flag],
        of_each: tuple[Float[Array, "batch n"], ...],
        otherwise: BatchFlags,
    ) -> BatchFlags:
        del judge, of_each
        return otherwise


class Point(eqx.Module):
    """What is known at one control, of one sample or of a batch along the first axis."""

    residual: Float[Array, "... n"]  # R, of the equations that are iterated
    error: Float[Array, "..."]  # what must fall below the tolerance
    payload: PyTree  # what else is wanted there in the end


class SecantSolution(eqx.Module):
    """Where the iteration ended."""

    root: Float[Array, "batch n"]
    point: Point
    iterations: Int[Array, " batch"]
    inverse: AbstractInverse
    positive: BatchFlags  # whether -dR/du was positive along every step taken


@jax.custom_batching.custom_vmap
def in_any_run(flag: Flag) -> Flag:
    """The flag of a loop's condition; under `vmap` (several training runs, say) whether any of them has it.

    With a condition for each run, `vmap` would copy everything that the loop carries in every turn. Use it
    where more turns than a run needs change nothing.
    """
    return flag


@in_any_run.def_vmap
def _(size: int, batched: list[bool], flags: Bool[Array, " runs"]) -> tuple[Flag, bool]:
    del size, batched
    return jnp.any(flags), False


class _State(eqx.Module):
    root: Float[Array, "batch n"]
    point: Point
    direction: Float[Array, "batch n"]  # H R
    step: Float[Array, "batch n"]  # the part of it that is taken next
    inverse: AbstractInverse
    turn: Int[Array, ""]
    iterations: Int[Array, " batch"]
    positive: BatchFlags


def solve(
    evaluate: Callable[[Float[Array, "batch n"]], Point],
    start: Point,
    inverse: AbstractInverse,
    rtol: Scalar | float,
    max_iterations: int,
    room: Callable[[Float[Array, "batch n"], Float[Array, "batch n"]], Float[Array, " batch"]] | None = None,
    origin: Float[Array, "batch n"] | None = None,
) -> SecantSolution:
    """Roots of R from u = `origin`, 0 if None, where everything is as in `start`, by at least one step.

    A sample rests once its error is at most `rtol`, or no longer finite; its steps are zero from then on, so
    that it does not depend on the others. `room(u, s)` is the part of a step s that may be taken, all of
    it if None.
    """

    def scaled(direction: Array, root: Array, active: Array) -> Array:
        taken = direction if room is None else room(root, direction)[:, None] * direction
        return jnp.where(active[:, None], taken, 0)

    def unfinished(state: _State) -> Flag:
        return in_any_run(jnp.any(state.point.error > rtol)) & (state.turn < max_iterations)

    def turn(state: _State) -> _State:
        step, root = state.step, state.root + state.step
        moving = (state.point.error > rtol) | (state.turn == 0)
        point = evaluate(root)
        arrived = state.inverse.times(point.residual, state.turn)
        fallen = state.direction - arrived  # H y
        factor = _factor(step, fallen)
        direction = arrived + factor * jnp.sum(step * arrived, axis=1, keepdims=True)
        along = jnp.sum(step * (state.point.residual - point.residual), axis=1)
        return _State(
            root,
            point,
            direction,
            scaled(direction, root, point.error > rtol),
            state.inverse.corrected(factor, step, state.turn),
            state.turn + 1,
            state.iterations + moving.astype(state.iterations.dtype),
            state.positive & (~moving | (along > 0)),
        )

    batch = len(start.residual)
    root = jnp.zeros_like(start.residual) if origin is None else origin
    everyone = jnp.ones(batch, bool)
    direction = inverse.times(start.residual, jnp.asarray(0))
    first = scaled(direction, root, everyone)
    none = jnp.zeros(batch, int)
    begun = turn(_State(root, start, direction, first, inverse, jnp.asarray(0), none, everyone))
    last = jax.lax.while_loop(unfinished, turn, begun)
    return SecantSolution(last.root, last.point, last.iterations, last.inverse, last.positive)
