"""Steady states of the closed loop: strategies with one result type, for one sample.

At rest v is a function of u alone, so the equilibrium is a root of n_L equations, whatever the width:

    F(u) = e(u) - a u = 0,   a the controller's steady-state leak, e(u) from one sweep through the layers.

Residuals are relative to the sample's own target error, |F| / |e^-|.
"""

import abc

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int

from dfc_jax._checks import check_number, require
from dfc_jax.closed_loop import ClosedLoop, Deviation, LoopState, Sample
from dfc_jax.stability import eigenvalues_right_of_zero
from dfc_jax.trajectory import simulate


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


class Analytic(AbstractEquilibrium):
    """u = (E J Q + a I)^-1 e^-: linearised at the feedforward state, the DFC-SSA of the papers (Lemma 1).

    Exact for linear networks. `converged` says only that the control is finite; `residual` is that of the
    nonlinear equation, so it measures the linearisation.
    """

    def __call__(self, loop: ClosedLoop, sample: Sample) -> Equilibrium:
        gain = loop_gain(loop, sample)
        control = jnp.linalg.solve(gain, sample.error)
        deviation = controlled(loop, sample, control)
        error = jnp.linalg.norm(residual(loop, sample, control, deviation)) / sample.scale
        finite = jnp.all(jnp.isfinite(control)) & jnp.isfinite(error)
        return Equilibrium(control, deviation, finite, error, jnp.asarray(1), eigenvalues_right_of_zero(gain))


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
    for a nudged target, about ten for large errors.

    **Arguments:**

    - `rtol`: converged when |F| <= rtol * |e^-|. The default is near what float32 can resolve.
    - `max_iterations`: sweeps after which the sample counts as not converged.

    `stable` is Condition 3 for the final secant Jacobian, which costs no further derivative;
    `Newton` evaluates the true one.
    """

    rtol: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=3e-5)
    max_iterations: int = eqx.field(static=True, default=20)

    def __check_init__(self) -> None:
        _check_tolerance(self.rtol, self.max_iterations)

    def __call__(self, loop: ClosedLoop, sample: Sample) -> Equilibrium:
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
        _check_tolerance(1.0, self.max_iterations)

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


class Simulated(AbstractEquilibrium):
    """The dynamics themselves, solved by Diffrax until they rest.

    The event fires when no time derivative exceeds `rtol * |e^-|` (voltages per tau_v, the integral per
    tau_u). Converged means that it fired before `t1`; what it has reached is stable by construction.

    **Arguments:**

    - `solver`, `t1`, `dt0`: as in `simulate`.
    - `rtol`: see above. The step sizes are chosen for a tolerance 30 times smaller: equal ones would leave
      the solver's own error hovering above the event's threshold.
    - `dtmax`: the longest step. Near rest an explicit solver would lengthen its step to the edge of
      stability and jitter there without ever firing the event.
    - `max_steps`: steps after which the sample counts as not converged.
    """

    solver: diffrax.AbstractSolver = diffrax.Tsit5()
    rtol: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1e-4)
    t1: float = eqx.field(static=True, default=200.0)
    dt0: float = eqx.field(static=True, default=0.02)
    dtmax: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.2)
    max_steps: int = eqx.field(static=True, default=20_000)

    def __check_init__(self) -> None:
        _check_tolerance(self.rtol, self.max_steps)
        check_number("dtmax", self.dtmax, above=0)

    def __call__(self, loop: ClosedLoop, sample: Sample) -> Equilibrium:
        def at_rest(t: Float[Array, ""], state: LoopState, args: Sample, **_: object) -> Bool[Array, ""]:
            rates = loop.vector_field(t, state, args)
            fastest = jnp.max(jnp.abs(rates.integral))
            for rate in (*rates.voltage, *(rates.apical or ())):
                fastest = jnp.maximum(fastest, loop.tau_v * jnp.max(jnp.abs(rate)))
            return fastest <= self.rtol * args.scale

        tolerance = self.rtol / 30
        solution = simulate(
            loop,
            sample,
            t1=self.t1,
            dt0=self.dt0,
            solver=self.solver,
            stepsize_controller=diffrax.PIDController(
                rtol=tolerance, atol=tolerance, pcoeff=0.3, icoeff=0.3, dtmax=self.dtmax
            ),
            event=diffrax.Event(at_rest),
            max_steps=self.max_steps,
        )
        state = jax.tree.map(lambda leaf: leaf[-1], solution.ys)
        control = loop.control(state, sample)
        remaining = residual(loop, sample, control, controlled(loop, sample, control))
        error = jnp.linalg.norm(remaining) / sample.scale
        fired = (solution.result == diffrax.RESULTS.event_occurred) & jnp.isfinite(error)
        deviation = loop.deviation(state, sample)
        return Equilibrium(control, deviation, fired, error, solution.stats["num_steps"], fired)


def _check_tolerance(rtol: Float[Array, ""] | float, max_iterations: int) -> None:
    check_number("rtol", rtol, above=0)
    require(
        isinstance(max_iterations, int) and max_iterations >= 1,
        f"`max_iterations` is {max_iterations}; it must be an integer of at least 1.",
    )
