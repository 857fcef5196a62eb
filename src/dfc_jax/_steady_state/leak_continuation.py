"""Steady states under optimal control by continuation in the leak, slow and hard to defeat.

With an infinite leak there is no control; from there the leak falls to its value step by step, each steady
state being the start of the next. One is found by Newton's method: with K the derivative of J(v)^T u by eps
(all that bends in the network) and R = J(v)^T u - eps,

    d = (I - K)^-1 R,   T = J (I - K)^-1 J^T,   e(r_L + J d + T du) = a (u + du),
    deps = d + (I - K)^-1 J^T du,

by conjugate gradients, for K is the Hessian of u . r_L, and the readout's equation solved exactly.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.controller import PIController
from dfc_jax._dynamics.states import Sample
from dfc_jax._fields import count, number
from dfc_jax._numerics.arrays import Flag, Scalar
from dfc_jax._numerics.compiled import compiled
from dfc_jax._numerics.conjugate_gradients import conjugate_gradients
from dfc_jax._numerics.trees import minus
from dfc_jax._steady_state.base import Equilibrium
from dfc_jax._steady_state.optimal_control import (
    AbstractOptimalControl,
    approximate_gram,
    feedback_at,
    response,
    rest_and_residual,
    RestPoint,
)


class LeakContinuation(AbstractOptimalControl):
    """The steady states of `OptimalControl` that a falling leak leads to, if that way does not end.

    The first factor by which the leak falls is 4; it grows where Newton's method converges and shrinks where
    it does not. Where two stationary points meet and vanish the way ends, and the sample does not converge.

    **Arguments:**

    - `rtol`: the residual at which a sample has converged; on the way 1e-2 will do.
    - `max_iterations`: Newton steps after which it counts as not converged.
    """

    rtol: Scalar = number("rtol", 1e-5, above=0)
    max_iterations: int = count("max_iterations", 60)

    @compiled
    def __call__(self, loop: ClosedLoop, samples: Sample) -> Equilibrium:
        self._check(loop)
        return jax.vmap(self._one, in_axes=(None, 0))(loop, samples)

    def _one(self, loop: ClosedLoop, sample: Sample) -> Equilibrium:
        leak = jnp.asarray(loop.controller.steady_state_leak(), sample.error.dtype)
        voltages = sample.feedforward.voltages
        gram = approximate_gram(loop, sample, loop.network.pulled_back(voltages, voltages, sample.error))
        size = jnp.trace(gram) / len(gram)

        def unfinished(state: _State) -> Flag:
            return ~state.arrived & (state.iterations < self.max_iterations)

        def step(state: _State) -> _State:
            point = _newton(loop, sample, state.point, state.leak, self.rtol)
            error = _error(loop, sample, point, state.leak)
            final = state.leak <= leak
            good = error <= jnp.where(final, self.rtol, _ON_THE_WAY)
            failed = ~good & ((state.tries + 1 >= _TRIES) | ~(error < 3 * state.error))
            factor = jnp.where(good, jnp.minimum(state.factor**1.5, _LARGEST_FACTOR), state.factor)
            factor = jnp.where(failed, jnp.sqrt(state.factor), factor)
            lower = state.leak / factor
            lower = jnp.where(lower < jnp.maximum(leak, 1e-7 * size), leak, lower)
            between = jnp.maximum(state.safe_leak / factor, leak)
            either = lambda flag, one, other: jax.tree.map(lambda a, b: jnp.where(flag, a, b), one, other)
            return _State(
                either(failed, state.safe, point),
                either(good, point, state.safe),
                jnp.where(good, jnp.where(final, leak, lower), jnp.where(failed, between, state.leak)),
                jnp.where(good, state.leak, state.safe_leak),
                factor,
                jnp.where(good & final, error, jnp.where(good | failed, jnp.inf, error)),
                jnp.where(good | failed, 0, state.tries + 1),
                good & final,
                state.iterations + 1,
            )

        still = jnp.zeros_like(sample.error), jax.tree.map(jnp.zeros_like, sample.feedforward.voltages)
        high = jnp.maximum(leak, size)
        factor, unknown = jnp.asarray(4, high.dtype), jnp.asarray(jnp.inf, high.dtype)
        none, no = jnp.asarray(0), jnp.asarray(False)
        first = _State(still, still, high, factor * high, factor, unknown, none, no, none)
        last = jax.lax.while_loop(unfinished, step, first)
        control, apical = last.safe
        deviation, error = rest_and_residual(loop, sample, control, apical)
        converged = error <= self.rtol
        return Equilibrium(control, deviation, converged, error, last.iterations, jnp.isfinite(error))


class _State(eqx.Module):
    point: RestPoint
    safe: RestPoint  # the last steady state on the way
    leak: Scalar  # that is tried
    safe_leak: Scalar
    factor: Scalar
    error: Scalar  # of the try before
    tries: Int[Array, ""]
    arrived: Flag
    iterations: Int[Array, ""]


_ON_THE_WAY, _TRIES, _LARGEST_FACTOR = 1e-2, 8, 16.0


def _with_leak(loop: ClosedLoop, leak: Scalar) -> ClosedLoop:
    return eqx.tree_at(lambda l: l.controller, loop, PIController(jnp.zeros_like(leak), leak))


def _error(loop: ClosedLoop, sample: Sample, point: RestPoint, leak: Scalar) -> Scalar:
    """The residual of a point at another leak."""
    return rest_and_residual(_with_leak(loop, leak), sample, *point)[1]


def _newton(loop: ClosedLoop, sample: Sample, point: RestPoint, leak: Scalar, rtol: Scalar) -> RestPoint:
    """One step from a point; see the module."""
    control, apical = point
    pull = lambda apical, control: feedback_at(loop, sample, loop.sweep(sample, apical), control)
    output = lambda apical: loop.sweep(sample, apical).rate[-1]
    pulled, bend = jax.linearize(lambda a: pull(a, control), apical)
    change, push = jax.linearize(output, apical)
    solve = lambda right: conjugate_gradients(lambda p: minus(p, bend(p)), right, 1e-4, 40)
    rights = jax.vmap(lambda unit: pull(apical, unit))(jnp.eye(len(control), dtype=control.dtype))
    rights = jax.tree.map(lambda own, by: jnp.concatenate([own[None], by]), minus(pulled, apical), rights)
    solved = jax.vmap(solve)(rights)
    own, columns = (jax.tree.map(lambda part, i=i: part[i], solved) for i in (0, slice(1, None)))
    gram = jax.vmap(push)(columns).T
    new = response(_with_leak(loop, leak), sample, change + push(own), control, gram, 0.3 * rtol)
    by_control = jax.tree.map(lambda column: jnp.tensordot(new - control, column, axes=1), columns)
    return new, jax.tree.map(lambda *parts: sum(parts), apical, own, by_control)
