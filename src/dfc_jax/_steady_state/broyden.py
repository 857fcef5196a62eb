"""Steady states by secants: Broyden's method from the linearised steady state."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.states import Deviation, Sample
from dfc_jax._fields import count, number
from dfc_jax._numerics.arrays import BatchOutputs, OutputMatrix, OutputVector, Scalar
from dfc_jax._numerics.compiled import compiled
from dfc_jax._numerics.secant import AbstractInverse, OwnInverses, Point, solve
from dfc_jax._numerics.small_matrices import inverse
from dfc_jax._steady_state.base import AbstractEquilibrium, Equilibrium, own_jacobians_pay
from dfc_jax._steady_state.hidden_system import HiddenSystem
from dfc_jax._steady_state.linear import zero_input_inverse


class Broyden(AbstractEquilibrium):
    """Broyden's method from the linearised steady state, with each sample's own Jacobian: the default.

    One n_L x n_L Jacobian and inverse a sample, then a sweep through the layers each iteration: two or three
    for a nudged target, about ten for large errors and for strong feedback, whose equations for
    cross-entropy are solved in logarithms (`SoftmaxReadout`). With more than 16 outputs, or feature maps,
    every sample starts from one Jacobian, that of the zero input, which depends on no other sample of the
    batch; a linear output layer wider than the layer before it is then eliminated (`HiddenSystem`).

    **Arguments:**

    - `rtol`: converged when |F| <= rtol * |e^-|. The default is near what float32 can resolve.
    - `max_iterations`: sweeps after which the sample counts as not converged.

    `condition_three` is that of the final secant Jacobian, which costs no further derivative (`RootFind`
    evaluates the true one). With many outputs it says only that the Jacobian was positive along every step.
    """

    rtol: Scalar = number("rtol", 3e-5, above=0)
    max_iterations: int = count("max_iterations", 30)

    @compiled
    def __call__(self, loop: ClosedLoop, samples: Sample) -> Equilibrium:
        if not own_jacobians_pay(samples) and HiddenSystem.fits(loop, samples):
            return self._in_hidden(loop, samples)
        readout, leak = loop.readout, loop.controller.steady_state_leak()

        def at(sample: Sample, unknown: OutputVector) -> Point:
            control = loop.control_of(sample, unknown)
            deviation = loop.controlled(sample, control)
            remaining = loop.equations(sample, unknown, deviation.rate[-1])
            return Point(remaining, loop.relative_residual(sample, control, deviation), deviation)

        def room(sample: Sample, unknown: OutputVector, step: OutputVector) -> Array:
            return readout.room(sample.feedforward.output, sample.error, unknown, step, leak)

        origin = jax.vmap(lambda sample: _start(loop, sample))(samples)
        if origin is None:
            start = jax.vmap(lambda sample: _uncontrolled(loop, sample))(samples)
        else:
            start = jax.vmap(at)(samples, origin)
        found = solve(
            lambda unknown: jax.vmap(at)(samples, unknown),
            start,
            _inverses(loop, samples, origin, start.payload, self.max_iterations),
            self.rtol,
            self.max_iterations,
            lambda unknown, step: jax.vmap(room)(samples, unknown, step),
            origin,
        )
        error, deviation = found.point.error, found.point.payload
        judge = lambda inverse, *of_each: readout.condition_three(inverse, *of_each, leak)
        roots = samples.feedforward.output, samples.error, deviation.rate[-1]
        held = found.inverse.judged(judge, roots, otherwise=found.positive)
        control = jax.vmap(loop.control_of)(samples, found.root)
        return Equilibrium(control, deviation, error <= self.rtol, error, found.iterations, held)

    def _in_hidden(self, loop: ClosedLoop, samples: Sample) -> Equilibrium:
        """With the output layer eliminated."""
        system = HiddenSystem.create(loop, samples, samples.error)
        # A little below `rtol`: the residual is taken anew from the control, with rounding of its own.
        found = system.solve(system.nonlinear, 0.8 * self.rtol, self.max_iterations)
        control = system.control(found.root)
        deviation = jax.vmap(loop.controlled)(samples, control)
        error = jax.vmap(loop.relative_residual)(samples, control, deviation)
        return Equilibrium(control, deviation, error <= self.rtol, error, found.iterations, found.positive)


def _uncontrolled(loop: ClosedLoop, sample: Sample) -> Point:
    still = jnp.zeros_like(sample.error)
    remaining = loop.equations(sample, still, still)
    return Point(remaining, jnp.ones_like(sample.scale), Deviation.none(sample.feedforward.voltages))


def _inverses(
    loop: ClosedLoop, samples: Sample, origin: BatchOutputs | None, begun: Deviation, max_iterations: int
) -> AbstractInverse:
    """Of minus the equations' derivatives at the unknowns `origin`, 0 if None, and their state `begun`."""
    if not own_jacobians_pay(samples):
        gain = lambda sample: _uncontrolled_gain(loop, sample)
        return zero_input_inverse(loop, samples, gain, max_iterations)
    still = origin is None
    where = (jnp.zeros_like(samples.error), None) if still else (origin, begun)
    gains = jax.vmap(lambda *of_each: _equations_gain(loop, *of_each))(samples, *where)
    return OwnInverses(jax.vmap(inverse)(gains))


def _equations_gain(
    loop: ClosedLoop, sample: Sample, unknown: OutputVector, state: Deviation | None
) -> OutputMatrix:
    """Minus the equations' derivative by the unknowns; in the feedforward state if `state` is None."""
    change = jnp.zeros_like(sample.error) if state is None else state.rate[-1]
    gain = loop.output_gain(sample, None if state is None else state.voltage)

    def push(by: OutputVector) -> OutputVector:
        of_control = jax.jvp(lambda z: loop.control_of(sample, z), (unknown,), (by,))[1]
        at = lambda z, c: loop.equations(sample, z, c)
        return -jax.jvp(at, (unknown, change), (by, gain @ of_control))[1]

    return jax.vmap(push, in_axes=1, out_axes=1)(jnp.eye(len(gain), dtype=gain.dtype))


def _uncontrolled_gain(loop: ClosedLoop, sample: Sample) -> OutputMatrix:
    """As `_equations_gain`, where an iteration begins, with the neurons as they are without control."""
    unknown = _start(loop, sample)
    return _equations_gain(loop, sample, jnp.zeros_like(sample.error) if unknown is None else unknown, None)


def _start(loop: ClosedLoop, sample: Sample) -> OutputVector | None:
    """The unknowns from which an iteration begins; None for no control."""
    leak = loop.controller.steady_state_leak()
    return loop.readout.start(sample.feedforward.output, sample.error, leak)
