"""Steady states by secants: the linearised one of DFC-SSA, and Broyden's method from there."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dfc_jax.balance import AbstractBalance
from dfc_jax.closed_loop import ClosedLoop, Deviation, Sample
from dfc_jax.equilibrium import (
    AbstractEquilibrium,
    check_tolerance,
    controlled,
    Equilibrium,
    loop_gain,
    relative_residual,
    residual,
)
from dfc_jax.secant import AbstractInverse, broyden, OwnInverses, Point, SecantSolution, SharedInverse
from dfc_jax.small_matrices import eigenvalues_right_of_zero, inverse


# Beyond so many outputs a Jacobian for each sample costs more than the iterations it saves: the two cost the
# same at about 12 for DFC-SS and 16 for DFC-SSA (benchmarks/scaling.py), and the own one is the more robust.
_DENSE_OUTPUTS = 16


class Analytic(AbstractEquilibrium):
    """u = (E J Q + a I)^-1 e^-: linearised at the feedforward state, the DFC-SSA of the papers (Lemma 1).

    Exact for linear networks. `converged` says that the linear system is solved; `residual` is that of the
    nonlinear equation, so it measures the linearisation. With more than 16 outputs the system is solved
    by Broyden's method from the Jacobian of the zero input, to 1e-5 of |e^-|.
    """

    def __call__(self, loop: ClosedLoop, samples: Sample) -> Equilibrium:
        if samples.error.shape[1] > _DENSE_OUTPUTS:
            return self._iterated(loop, samples)
        control, stable = jax.vmap(_linearised, in_axes=(None, 0))(loop, samples)
        return self._result(loop, samples, control, True, jnp.ones(len(control), int), stable)

    def _iterated(self, loop: ClosedLoop, samples: Sample) -> Equilibrium:
        of_all = lambda f, *rest: jax.vmap(f, in_axes=(None, 0, *[0] * len(rest)))(loop, samples, *rest)
        full = lambda control: of_all(residual, control, of_all(controlled, control))
        _, linear = jax.linearize(full, jnp.zeros_like(samples.error))
        scales = jax.vmap(lambda sample: sample.scale)(samples)

        def evaluate(control: Float[Array, "batch out"]) -> Point:
            remaining = samples.error + linear(control)
            return Point(remaining, jnp.linalg.norm(remaining, axis=1) / scales, None)

        rtol, most = 1e-5, 30
        whole = lambda control, step: jnp.ones_like(scales)
        start = Point(samples.error, jnp.ones_like(scales), None)
        found = broyden(
            evaluate, whole, start, _zero_input_inverse(loop, samples, loop_gain, most), rtol, most
        )
        solved = found.point.error <= rtol
        return self._result(loop, samples, found.root, solved, found.iterations, found.positive)

    def _result(
        self,
        loop: ClosedLoop,
        samples: Sample,
        control: Float[Array, "batch out"],
        solved: Bool[Array, " batch"] | bool,
        iterations: Array,
        stable: Bool[Array, " batch"],
    ) -> Equilibrium:
        of_all = jax.vmap(controlled, in_axes=(None, 0, 0))
        deviation = of_all(loop, samples, control)
        error = jax.vmap(relative_residual, in_axes=(None, 0, 0, 0))(loop, samples, control, deviation)
        finite = jnp.all(jnp.isfinite(control), axis=1) & jnp.isfinite(error)
        return Equilibrium(control, deviation, finite & solved, error, iterations, stable)


def _linearised(loop: ClosedLoop, sample: Sample) -> tuple[Float[Array, " out"], Bool[Array, ""]]:
    gain = loop_gain(loop, sample)
    return linear_solution(gain, inverse(gain), sample.error), eigenvalues_right_of_zero(gain)


def linear_solution(
    matrix: Float[Array, "n n"], inverted: Float[Array, "n n"], vector: Float[Array, " n"]
) -> Float[Array, " n"]:
    """The solution of a linear system by its approximate inverse and one step of iterative refinement."""
    found = inverted @ vector
    return found + inverted @ (vector - matrix @ found)


class Broyden(AbstractEquilibrium):
    """Broyden's method from the linearised steady state, with each sample's own Jacobian: the default.

    One n_L x n_L Jacobian and inverse a sample, then a sweep through the layers each iteration: two or three
    for a nudged target, about ten for large errors and for strong feedback, whose equations for
    cross-entropy are solved in logarithms (`SoftmaxBalance`). With more than 16 outputs every sample starts
    from one Jacobian, that of the zero input, which depends on no other sample of the batch.

    **Arguments:**

    - `rtol`: converged when |F| <= rtol * |e^-|. The default is near what float32 can resolve.
    - `max_iterations`: sweeps after which the sample counts as not converged.

    `stable` is Condition 3 for the final secant Jacobian, which costs no further derivative (`RootFind`
    evaluates the true one). With many outputs it says only that the Jacobian was positive along every step.
    """

    rtol: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=3e-5)
    max_iterations: int = eqx.field(static=True, default=30)

    def __check_init__(self) -> None:
        check_tolerance(self.rtol, self.max_iterations)

    def __call__(self, loop: ClosedLoop, samples: Sample) -> Equilibrium:
        balance = loop.target.balance(loop.loss)
        leak = loop.controller.steady_state_leak()

        def at(sample: Sample, control: Float[Array, " out"]) -> Point:
            deviation = controlled(loop, sample, control)
            remaining = _balance(balance, loop, sample, control, deviation.rate[-1])
            return Point(remaining, relative_residual(loop, sample, control, deviation), deviation)

        def room(sample: Sample, control: Float[Array, " out"], step: Float[Array, " out"]) -> Array:
            return balance.room(sample.feedforward.output, sample.error, control, step, leak)

        found = broyden(
            lambda control: jax.vmap(at)(samples, control),
            lambda control, step: jax.vmap(room)(samples, control, step),
            jax.vmap(lambda sample: _start(balance, loop, sample))(samples),
            _inverses(balance, loop, samples, self.max_iterations),
            self.rtol,
            self.max_iterations,
        )
        error, deviation = found.point.error, found.point.payload
        stable = _stable(balance, loop, samples, found)
        return Equilibrium(found.root, deviation, error <= self.rtol, error, found.iterations, stable)


def _balance(
    balance: AbstractBalance,
    loop: ClosedLoop,
    sample: Sample,
    control: Float[Array, " out"],
    change: Float[Array, " out"],
) -> Float[Array, " out"]:
    remaining = loop.error(sample, change)
    leak = loop.controller.steady_state_leak()
    return balance(sample.feedforward.output, sample.error, change, remaining, control, leak)


def _start(balance: AbstractBalance, loop: ClosedLoop, sample: Sample) -> Point:
    """Without control."""
    still = jnp.zeros_like(sample.error)
    rest = loop.initial_state(sample).voltage
    remaining = _balance(balance, loop, sample, still, still)
    return Point(remaining, jnp.ones_like(sample.scale), Deviation(rest, rest, rest))


def _balance_gain(balance: AbstractBalance, loop: ClosedLoop, sample: Sample) -> Float[Array, "out out"]:
    """-dR/du in the feedforward state."""
    still = jnp.zeros_like(sample.error)
    at = lambda control, change: _balance(balance, loop, sample, control, change)
    push = lambda control, change: -jax.jvp(at, (still, still), (control, change))[1]
    gain = loop.output_gain(sample)
    return jax.vmap(push, in_axes=1, out_axes=1)(jnp.eye(len(gain), dtype=gain.dtype), gain)


def _inverses(
    balance: AbstractBalance, loop: ClosedLoop, samples: Sample, max_iterations: int
) -> AbstractInverse:
    gain = lambda loop, sample: _balance_gain(balance, loop, sample)
    if samples.error.shape[1] > _DENSE_OUTPUTS:
        return _zero_input_inverse(loop, samples, gain, max_iterations)
    return OwnInverses(jax.vmap(lambda sample: inverse(gain(loop, sample)))(samples))


def _zero_input_inverse(loop: ClosedLoop, samples: Sample, gain, max_iterations: int) -> SharedInverse:
    """From the Jacobian of the zero input, computed once for the whole batch."""
    batch, outputs = samples.error.shape
    nothing = jnp.zeros_like(samples.feedforward.inputs[0][0])
    sample = loop.sample(nothing, jnp.zeros(outputs, samples.error.dtype))
    return SharedInverse.create(jnp.linalg.inv(gain(loop, sample)), batch, max_iterations)


def _stable(
    balance: AbstractBalance, loop: ClosedLoop, samples: Sample, found: SecantSolution
) -> Bool[Array, " batch"]:
    """Condition 3 by the secants."""
    if not isinstance(found.inverse, OwnInverses):
        return found.positive
    outputs = samples.feedforward.output + found.point.payload.rate[-1]
    return jax.vmap(balance.stable)(found.inverse.matrices, outputs)
