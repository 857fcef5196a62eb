"""Steady states of the closed loop: strategies with one result type, for one sample.

At rest v is a function of u alone, so the equilibrium is a root of n_L equations, whatever the width:

    F(u) = e(u) - a u = 0,   a the controller's steady-state leak, e(u) from one sweep through the layers.

Residuals are relative to the sample's own target error, |F| / |e^-|.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int

from dfc_jax._checks import check_number, require
from dfc_jax.closed_loop import ClosedLoop, Deviation, Sample
from dfc_jax.secant import shared_inverse_broyden
from dfc_jax.stability import eigenvalues_right_of_zero


# Beyond so many outputs a Jacobian for each sample costs more than the iterations it saves.
_DENSE_OUTPUTS = 64


class Equilibrium(eqx.Module):
    """A steady state of one sample, and how far it can be trusted."""

    control: Float[Array, " out"]  # u
    deviation: Deviation
    converged: Bool[Array, ""]
    residual: Float[Array, ""]  # |e - a u| / |e^-|
    iterations: Int[Array, ""]  # sweeps, root-finder steps or Diffrax steps
    stable: Bool[Array, ""]


class AbstractEquilibrium(eqx.Module):
    """A way to find the steady state of one sample."""

    @abc.abstractmethod
    def __call__(self, loop: ClosedLoop, sample: Sample) -> Equilibrium:
        """The steady state; what failed is said in the result, never raised."""


def controlled(loop: ClosedLoop, sample: Sample, control: Float[Array, " out"]) -> Deviation:
    """The network at rest under a constant control."""
    return loop.sweep(sample, loop.apical_input(sample, control))


def residual(
    loop: ClosedLoop, sample: Sample, control: Float[Array, " out"], deviation: Deviation
) -> Float[Array, " out"]:
    """F(u) = e - a u for a network at rest under u."""
    leak = loop.controller.steady_state_leak()
    return loop.error(sample, deviation.rate[-1]) - leak * control


def loop_gain(
    loop: ClosedLoop, sample: Sample, deviation: Deviation | None = None
) -> Float[Array, "out out"]:
    """-dF/du = E J Q + a I, in the feedforward state or in a controlled one. Condition 3 asks that its
    eigenvalues have positive real parts (NeurIPS paper, Prop. 5)."""
    gain = loop.gain(sample, None if deviation is None else deviation.voltage)
    return gain + loop.controller.steady_state_leak() * jnp.eye(gain.shape[0], dtype=gain.dtype)


def _reference_inverse(loop: ClosedLoop, sample: Sample) -> Float[Array, "out out"]:
    """The inverse of `loop_gain` for the zero input: under vmap it is computed once for the whole batch."""
    reference = loop.sample(jnp.zeros_like(sample.feedforward.inputs[0]), jnp.zeros_like(sample.error))
    return jnp.linalg.inv(loop_gain(loop, reference))


class Analytic(AbstractEquilibrium):
    """u = (E J Q + a I)^-1 e^-: linearised at the feedforward state, the DFC-SSA of the papers (Lemma 1).

    Exact for linear networks. `converged` says that the linear system is solved; `residual` is that of the
    nonlinear equation, so it measures the linearisation. With many outputs the system is solved as
    `Broyden` does it, to 1e-5 of |e^-|.
    """

    def __call__(self, loop: ClosedLoop, sample: Sample) -> Equilibrium:
        if sample.error.size > _DENSE_OUTPUTS:
            return self._many_outputs(loop, sample)
        gain = loop_gain(loop, sample)
        control = jnp.linalg.solve(gain, sample.error)
        one = jnp.asarray(1)
        return self._result(loop, sample, control, True, one, eigenvalues_right_of_zero(gain))

    def _many_outputs(self, loop: ClosedLoop, sample: Sample) -> Equilibrium:
        still = jnp.zeros_like(sample.error)
        full = lambda control: residual(loop, sample, control, controlled(loop, sample, control))
        _, linear = jax.linearize(full, still)
        found = shared_inverse_broyden(
            lambda control: sample.error + linear(control),
            sample.error,
            _reference_inverse(loop, sample),
            1e-5 * sample.scale,
            30,
        )
        solved = jnp.linalg.norm(found.residual) <= 1e-5 * sample.scale
        return self._result(loop, sample, found.root, solved, found.iterations, found.positive)

    def _result(
        self,
        loop: ClosedLoop,
        sample: Sample,
        control: Float[Array, " out"],
        solved: Bool[Array, ""] | bool,
        iterations: Int[Array, ""],
        stable: Bool[Array, ""],
    ) -> Equilibrium:
        deviation = controlled(loop, sample, control)
        error = jnp.linalg.norm(residual(loop, sample, control, deviation)) / sample.scale
        finite = jnp.all(jnp.isfinite(control)) & jnp.isfinite(error)
        return Equilibrium(control, deviation, finite & solved, error, iterations, stable)


class _BroydenState(eqx.Module):
    control: Float[Array, " out"]
    step: Float[Array, " out"]  # the step that led to `control`
    deviation: Deviation
    residual: Float[Array, " out"]
    inverse: Float[Array, "out out"]  # of -dF/du, by the secants so far
    iterations: Int[Array, ""]


class Broyden(AbstractEquilibrium):
    """Broyden's method from the linearised steady state, with each sample's own Jacobian: the default.

    One n_L x n_L Jacobian and inverse a sample, then a sweep through the layers each iteration: two or three
    for a nudged target, about ten for large errors. With more than 64 outputs every sample starts
    from one Jacobian, that of the zero input, which depends on no other sample of the batch.

    **Arguments:**

    - `rtol`: converged when |F| <= rtol * |e^-|. The default is near what float32 can resolve.
    - `max_iterations`: sweeps after which the sample counts as not converged.

    `stable` is Condition 3 for the final secant Jacobian, which costs no further derivative (`RootFind`
    evaluates the true one). With many outputs it says only that -dF/du was positive along every step.
    """

    rtol: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=3e-5)
    max_iterations: int = eqx.field(static=True, default=30)

    def __check_init__(self) -> None:
        check_tolerance(self.rtol, self.max_iterations)

    def __call__(self, loop: ClosedLoop, sample: Sample) -> Equilibrium:
        if sample.error.size > _DENSE_OUTPUTS:
            return self._many_outputs(loop, sample)
        inverse = jnp.linalg.inv(loop_gain(loop, sample))
        threshold = self.rtol * sample.scale
        first = self._advance(loop, sample, jnp.zeros_like(sample.error), inverse @ sample.error, inverse)

        def unfinished(state: _BroydenState) -> Bool[Array, ""]:
            size = jnp.linalg.norm(state.residual)
            return (size > threshold) & (state.iterations < self.max_iterations)

        def body(state: _BroydenState) -> _BroydenState:
            # Good Broyden update, H' = H + s' s^T H / |s|^2 with s' = H F |s|^2 / (s . (s - H F)).
            s = state.step
            proposal = state.inverse @ state.residual
            squared = s @ s
            step = proposal * (squared / (s @ (s - proposal)))
            inverse = state.inverse + jnp.outer(step, s @ state.inverse / squared)
            return self._advance(loop, sample, state.control, step, inverse, state.iterations)

        last = jax.lax.while_loop(unfinished, body, first)
        error = jnp.linalg.norm(last.residual)
        return Equilibrium(
            last.control,
            last.deviation,
            error <= threshold,
            error / sample.scale,
            last.iterations,
            eigenvalues_right_of_zero(last.inverse),
        )

    def _many_outputs(self, loop: ClosedLoop, sample: Sample) -> Equilibrium:
        full = lambda control: residual(loop, sample, control, controlled(loop, sample, control))
        threshold = self.rtol * sample.scale
        inverse = _reference_inverse(loop, sample)
        found = shared_inverse_broyden(full, sample.error, inverse, threshold, self.max_iterations)
        error = jnp.linalg.norm(found.residual)
        return Equilibrium(
            found.root,
            controlled(loop, sample, found.root),
            error <= threshold,
            error / sample.scale,
            found.iterations,
            found.positive,
        )

    def _advance(
        self,
        loop: ClosedLoop,
        sample: Sample,
        control: Float[Array, " out"],
        step: Float[Array, " out"],
        inverse: Float[Array, "out out"],
        iterations: Int[Array, ""] | int = 0,
    ) -> _BroydenState:
        moved = control + step
        deviation = controlled(loop, sample, moved)
        remaining = residual(loop, sample, moved, deviation)
        return _BroydenState(moved, step, deviation, remaining, inverse, jnp.asarray(iterations + 1))


class RootFind(AbstractEquilibrium):
    """Any Optimistix root finder on F(u) = 0: Newton's method by default, from u = 0.

    The unknown and the residual are in units of |e^-|, so that absolute tolerances are relative ones:
    `RootFind(optx.Newton(rtol=1e-8, atol=1e-8))`, `RootFind(optx.Dogleg(rtol=1e-6, atol=1e-6))`.
    Converged means that the root finder reports success. `stable` is Condition 3 at the root.
    """

    root_finder: optx.AbstractRootFinder = optx.Newton(rtol=3e-5, atol=3e-5)
    max_iterations: int = eqx.field(static=True, default=50)

    def __check_init__(self) -> None:
        check_tolerance(1.0, self.max_iterations)

    def __call__(self, loop: ClosedLoop, sample: Sample) -> Equilibrium:
        scale = sample.scale

        def scaled_residual(unknown: Float[Array, " out"], args: None) -> Float[Array, " out"]:
            del args
            control = scale * unknown
            return residual(loop, sample, control, controlled(loop, sample, control)) / scale

        solution = optx.root_find(
            scaled_residual,
            self.root_finder,
            jnp.zeros_like(sample.error),
            max_steps=self.max_iterations,
            throw=False,
        )
        control = scale * solution.value
        deviation = controlled(loop, sample, control)
        error = jnp.linalg.norm(residual(loop, sample, control, deviation)) / scale
        converged = (solution.result == optx.RESULTS.successful) & jnp.isfinite(error)
        stable = eigenvalues_right_of_zero(loop_gain(loop, sample, deviation))
        return Equilibrium(control, deviation, converged, error, solution.stats["num_steps"], stable)


def check_tolerance(rtol: Float[Array, ""] | float, max_iterations: int) -> None:
    """Raise `ValueError` unless both could end an iteration."""
    check_number("rtol", rtol, above=0)
    require(
        isinstance(max_iterations, int) and max_iterations >= 1,
        f"`max_iterations` is {max_iterations}; it must be an integer of at least 1.",
    )
