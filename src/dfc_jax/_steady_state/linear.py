"""The steady state linearised in the feedforward state: DFC-SSA (Lemma 1)."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.states import Deviation, Sample
from dfc_jax._numerics.arrays import BatchFlags, BatchOutputs, OutputMatrix
from dfc_jax._numerics.compiled import compiled
from dfc_jax._numerics.one_by_one import inverse_by_lu
from dfc_jax._numerics.secant import Point, SharedInverse, solve
from dfc_jax._numerics.small_matrices import eigenvalues_right_of_zero, inverse
from dfc_jax._steady_state.base import AbstractEquilibrium, Equilibrium, own_jacobians_pay
from dfc_jax._steady_state.hidden_system import HiddenSystem
from dfc_jax._steady_state.rescue import solve_left_over


class Analytic(AbstractEquilibrium):
    """u = (E J Q + a I)^-1 e^-: linearised at the feedforward state, the DFC-SSA of the papers (Lemma 1).

    Exact for linear networks. `converged` says that the linear system is solved, which one that is singular
    (strong feedback through softmax without a leak) never is; `residual` is that of the nonlinear equation,
    so it measures the linearisation; `condition_three` is that of the feedforward state. See `linear_solver`.
    """

    @compiled
    def __call__(self, loop: ClosedLoop, samples: Sample) -> Equilibrium:
        solution = linear_solver(loop, samples)(samples.error)
        deviation = jax.vmap(loop.controlled)(samples, solution.control)
        return solution.as_equilibrium(loop, samples, deviation)


class LinearSolution(eqx.Module):
    """Solutions u of (E J Q + a I) u = b, linearised at the feedforward states, of one sample or a batch."""

    control: Float[Array, "*batch out"]
    solved: Bool[Array, "*batch"]
    iterations: Int[Array, "*batch"]
    condition_three: Bool[Array, "*batch"]

    def as_equilibrium(self, loop: ClosedLoop, samples: Sample, deviation: Deviation) -> Equilibrium:
        """These controls as steady states, whose residual is that of the nonlinear equation."""
        error = jax.vmap(loop.relative_residual)(samples, self.control, deviation)
        solved = self.solved & jnp.all(jnp.isfinite(self.control), axis=1) & jnp.isfinite(error)
        return Equilibrium(self.control, deviation, solved, error, self.iterations, self.condition_three)


def linear_solver(
    loop: ClosedLoop, samples: Sample, gains: Float[Array, "batch out out"] | None = None
) -> Callable[[BatchOutputs], LinearSolution]:
    """Solves (E J Q + a I) u = b for every sample and any b.

    By each sample's own inverse, from the matrices `gains` where they are known. Otherwise, with more than 16
    outputs or feature maps, by Broyden's method from the Jacobian of the zero input, to 1e-5 of |b| in
    float32 and 1e-10 in float64, where `condition_three` says only that the matrix was positive along every
    step; what that leaves over by its own inverse after all.

    A matrix that is singular to the precision of the numbers solves nothing: `solved` is False.
    """
    if gains is None and not own_jacobians_pay(samples):
        iterated = _iterated_in_hidden if HiddenSystem.fits(loop, samples) else _iterated
        return lambda right: _completed(loop, samples, right, iterated(loop, samples, right))
    gains = jax.vmap(loop.gain)(samples) if gains is None else gains
    inverses = jax.vmap(inverse)(gains)
    return lambda right: jax.vmap(_by_inverse)(gains, inverses, right)


def _by_inverse(
    gain: OutputMatrix, inverted: Float[Array, "n n"], right: Float[Array, " n"]
) -> LinearSolution:
    """The solution for one sample, and whether it is one."""
    control = linear_solution(gain, inverted, right)
    norm = jnp.linalg.norm(right)
    remaining = jnp.linalg.norm(right - gain @ control) / jnp.where(norm > 0, norm, 1)
    # A small residual alone may hide any vector that a singular A maps to zero.
    condition = jnp.linalg.norm(gain) * jnp.linalg.norm(inverted)
    regular = condition * jnp.finfo(right.dtype).eps < 1
    solved = regular & (remaining <= jnp.sqrt(jnp.finfo(right.dtype).eps))
    return LinearSolution(control, solved, jnp.asarray(1), eigenvalues_right_of_zero(gain))


def _completed(
    loop: ClosedLoop, samples: Sample, right: BatchOutputs, found: LinearSolution
) -> LinearSolution:
    """With what an iteration has left over solved directly."""

    def again(asked: tuple[Sample, BatchOutputs]) -> tuple[LinearSolution, BatchFlags]:
        gains = jax.vmap(loop.gain)(asked[0])
        solution = jax.vmap(_by_inverse)(gains, jax.vmap(inverse)(gains), asked[1])
        return solution, solution.solved

    failed = ~found.solved & jnp.all(jnp.isfinite(right), axis=1)
    complete, direct = solve_left_over(failed, right.shape[1], (samples, right), found, again)
    return eqx.tree_at(lambda s: s.iterations, complete, found.iterations + direct.astype(int))


_LINEAR_ITERATIONS = 30


def _linear_rtol(right: BatchOutputs) -> float:
    """Of the iterated linear systems."""
    return 1e-5 if right.dtype == jnp.float32 else 1e-10


def _iterated_in_hidden(loop: ClosedLoop, samples: Sample, right: BatchOutputs) -> LinearSolution:
    system = HiddenSystem.create(loop, samples, right)
    found = system.solve(system.linearised(), _linear_rtol(right), _LINEAR_ITERATIONS)
    solved = found.point.error <= _linear_rtol(right)
    return LinearSolution(system.control(found.root), solved, found.iterations, found.positive)


def _iterated(loop: ClosedLoop, samples: Sample, right: BatchOutputs) -> LinearSolution:
    slopes = jax.vmap(loop.network.slopes)(samples.feedforward.voltages)
    norms = jnp.linalg.norm(right, axis=1)
    scales = jnp.where(norms > 0, norms, 1)

    def evaluate(control: BatchOutputs) -> Point:
        remaining = right - jax.vmap(loop.gain_along)(samples, slopes, control)
        return Point(remaining, jnp.linalg.norm(remaining, axis=1) / scales, None)

    start = Point(right, jnp.ones_like(scales), None)
    inverses = zero_input_inverse(loop, samples, loop.gain, _LINEAR_ITERATIONS)
    rtol = _linear_rtol(right)
    found = solve(evaluate, start, inverses, rtol, _LINEAR_ITERATIONS)
    return LinearSolution(found.root, found.point.error <= rtol, found.iterations, found.positive)


def linear_solution(
    matrix: Float[Array, "n n"], inverted: Float[Array, "n n"], vector: Float[Array, " n"]
) -> Float[Array, " n"]:
    """The solution of a linear system by its approximate inverse and one step of iterative refinement."""
    found = inverted @ vector
    return found + inverted @ (vector - matrix @ found)


def zero_input_inverse(
    loop: ClosedLoop,
    samples: Sample,
    gain: Callable[[Sample], OutputMatrix],
    max_iterations: int,
) -> SharedInverse:
    """From the Jacobian of the zero input, of the first class, computed once for the whole batch."""
    batch, outputs = samples.error.shape
    nothing = jnp.zeros_like(samples.feedforward.inputs[0][0])
    sample = loop.sample(nothing, jnp.eye(1, outputs, dtype=samples.error.dtype)[0])
    return SharedInverse.create(inverse_by_lu(gain(sample)), batch, max_iterations)
