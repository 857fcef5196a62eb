"""The root finder that lets Diffrax's implicit solvers step a batch."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, PyTree

from dfc_jax._average.base import Accumulator
from dfc_jax._average.implicit_steps import ImplicitStep
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.implicit_euler import implicit_inverse
from dfc_jax._dynamics.states import LoopState, Sample
from dfc_jax._fields import count, number
from dfc_jax._numerics.arrays import Flag, OutputVector, Scalar
from dfc_jax._numerics.finite import zero_unless_finite
from dfc_jax._numerics.secant import OwnInverses, Point, solve


_of_each = jax.vmap(lambda factor, state: jax.tree.map(lambda leaf: factor * leaf, state))


class _Averaged(eqx.Module):
    """The state of the ODE: that of every sample, in units of its target error, and the running integral.

    `clock` and `probe` are what a root finder learns the step from (see `ControlRootFinder`): dclock/dt = 1,
    and dprobe/dt = -probe, which stays zero, so that adding probe * states to the rates changes nothing.
    """

    states: LoopState
    total: Accumulator
    clock: Scalar
    probe: Scalar


class ControlRootFinder(optx.AbstractRootFinder):
    """The root finder for Diffrax's implicit solvers: n_L unknowns a sample instead of all neurons.

        DiffraxAverage(diffrax.Kvaerno3(root_finder=ControlRootFinder()))

    Given a stage's equation y = y_base + h f(y), it eliminates the neurons (`ImplicitStep`) and finds each
    sample's control by Broyden's method, with the Jacobian of the feedforward state. Diffrax's own choice, a
    dense Newton's method over all neurons of all samples, is out of reach here.

    Solvers write their equation in an unknown z of their own, F(z) = z - s f(y_base + (h / s) z) up to the
    sign. What s, h and y are shows in F itself: a clock in the state gives s, and dF/dz for the state's
    `probe` is 1 + h in the probe and -h y in the states.

    **Arguments:**

    - `rtol`: each sample's equation is solved to this part of its target error.
    - `max_iterations`: of Broyden's method. If a sample is not done by then the step has failed: an adaptive
      step-size controller tries a shorter one, otherwise the solve ends there.
    """

    rtol: float = number("rtol", 1e-5, above=0, static=True)
    max_iterations: int = count("max_iterations", 20)

    @property
    def atol(self) -> float:
        return self.rtol

    @property
    def norm(self) -> Callable[[PyTree], Scalar]:
        return optx.max_norm

    def of(self, loop: ClosedLoop, samples: Sample) -> "_BatchRootFinder":
        """The same for the dynamics of one batch."""
        scales = samples.scale
        layer_gains = jax.vmap(loop.layer_gains)(samples)
        return _BatchRootFinder(  # ty: ignore[missing-argument]  # the properties below
            options=self, loop=loop, samples=samples, scales=scales, layer_gains=layer_gains
        )

    def init(self, *args: object) -> None:
        raise ValueError(
            "`root_finder` is a ControlRootFinder; it knows the dynamics of `DiffraxAverage` only, "
            "`simulate` takes any other."
        )

    step = terminate = postprocess = init


class _BatchRootFinder(optx.AbstractRootFinder):
    options: ControlRootFinder
    loop: ClosedLoop
    samples: Sample
    scales: Float[Array, " batch"]
    layer_gains: tuple[Float[Array, "batch out out"], ...]  # E J_i Q_i in the feedforward state

    rtol = property(lambda self: self.options.rtol)
    atol = property(lambda self: self.options.atol)
    norm = property(lambda self: self.options.norm)

    def init(self, fn, y, args, options, f_struct, aux_struct, tags) -> tuple[Flag, optx.RESULTS]:
        del fn, y, args, options, f_struct, aux_struct, tags
        return jnp.asarray(False), optx.RESULTS.successful

    def step(self, fn, y: _Averaged, args, options, state, tags) -> tuple[_Averaged, PyTree, None]:
        """Solve everything: one step is enough."""
        del options, state, tags
        equation = lambda unknown: fn(unknown, args)[0]
        s, h, sign, stages = _what_is_asked(equation, y)

        def implicit() -> tuple[LoopState, Flag]:
            bases = jax.tree.map(lambda stage, z: stage - h / s * z, stages, y.states)
            bases = _of_each(self.scales, bases)
            found, solved = self._solve(bases, h)
            moved = jax.tree.map(lambda new, base: s / h * (new - base), found, bases)
            return jax.vmap(zero_unless_finite)(_of_each(1 / self.scales, moved)), solved

        # Solvers with an explicit first stage ask for that, too, as an equation, with h = 0.
        states, solved = jax.lax.cond(h > 0, implicit, lambda: (y.states, jnp.asarray(True)))
        y = eqx.tree_at(lambda z: z.states, y, states)
        explicit = jax.tree.map(lambda z, remaining: z - sign * remaining, y, equation(y))
        # The integrals depend on the states alone, so they are explicit in any case.
        states = jax.tree.map(lambda new, z: jnp.where(h > 0, z, new), explicit.states, states)
        result = optx.RESULTS.where(solved, optx.RESULTS.successful, optx.RESULTS.nonlinear_divergence)
        return eqx.tree_at(lambda z: z.states, explicit, states), (jnp.asarray(True), result), None

    def _solve(self, bases: LoopState, h: Scalar) -> tuple[LoopState, Flag]:
        """The states, and whether every sample whose input is finite has converged."""
        loop, samples = self.loop, self.samples
        before = jax.vmap(loop.control)(bases, samples)

        def at(sample: Sample, base: LoopState, control: OutputVector) -> Point:
            step = ImplicitStep(loop, sample, base, h)
            deviation = step.neurons(control)
            residual = step.unbalanced(control, deviation)
            return Point(residual, jnp.linalg.norm(residual) / sample.scale, step.state(control, deviation))

        evaluate = lambda change: jax.vmap(at)(samples, bases, before + change)
        inverses = jax.vmap(implicit_inverse, in_axes=(None, 0, None))(loop, self.layer_gains, h)
        start, limit = evaluate(jnp.zeros_like(before)), self.options.max_iterations
        found = solve(evaluate, start, OwnInverses(inverses), self.rtol, limit)
        usable = samples.finite
        return found.point.payload, jnp.all((found.point.error <= self.rtol) | ~usable)

    def terminate(self, fn, y, args, options, state, tags) -> tuple[Flag, optx.RESULTS]:
        del fn, y, args, options, tags
        return state

    def postprocess(self, fn, y, aux, args, options, state, tags, result) -> tuple[PyTree, None, dict]:
        del fn, args, options, state, tags, result
        return y, aux, {}


def _what_is_asked(
    equation: Callable[[_Averaged], _Averaged], y: _Averaged
) -> tuple[Scalar, Scalar, Scalar, LoopState]:
    """(s, h, sign, y_base + (h / s) z) of an equation F(z) = sign (z - s f(y_base + (h / s) z))."""
    y = eqx.tree_at(lambda z: (z.clock, z.probe), y, (jnp.zeros_like(y.clock), jnp.zeros_like(y.probe)))
    probed = lambda probe: equation(eqx.tree_at(lambda z: z.probe, y, probe))
    value, slope = jax.jvp(probed, (y.probe,), (jnp.ones_like(y.probe),))
    sign = jnp.sign(slope.probe)
    h = jnp.abs(slope.probe) - 1
    stages = jax.tree.map(lambda leaf: -sign / h * leaf, slope.states)
    return -sign * value.clock, h, sign, stages
