"""Time averages of the forward rule along the controlled trajectory, for a whole batch in constant memory."""

import abc
import dataclasses
import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, Int, PyTree

from dfc_jax._checks import check_number, require, zero_unless_finite
from dfc_jax.closed_loop import ClosedLoop, Deviation, LoopState, PerLayer, Sample
from dfc_jax.equilibrium import controlled, Equilibrium, relative_residual
from dfc_jax.network import Layer
from dfc_jax.plasticity import forward_rule, presynaptic_rates, teaching_signal
from dfc_jax.published import PublishedEuler
from dfc_jax.secant import broyden_update


class AbstractAverage(eqx.Module):
    """A way to step through time that averages the forward rule on the fly."""

    @abc.abstractmethod
    def __call__(self, loop: ClosedLoop, samples: Sample) -> tuple[tuple[Layer, ...], Equilibrium]:
        """The time-averaged weight change, summed over the batch, and each sample's last state.

        A sample whose state is not finite contributes nothing from then on. Converged means that the
        control error has fallen below half of what it was, the published criterion (`epsilon_di`).
        """


class _Accumulator(eqx.Module):
    """A running time integral of the forward rule.

    The first layer's presynaptic rate is the input, which is constant, so its teaching signal is
    integrated and the largest matrix product of all is done once, at the end.
    """

    first_teaching: Float[Array, "batch ..."]
    later_layers: tuple[Layer, ...]

    @staticmethod
    def zero(loop: ClosedLoop, samples: Sample) -> "_Accumulator":
        later = jax.tree.map(jnp.zeros_like, loop.network.layers[1:])
        return _Accumulator(jnp.zeros_like(samples.feedforward.voltages[0]), later)

    def plus(self, weight: Float[Array, ""] | float, other: "_Accumulator") -> "_Accumulator":
        return jax.tree.map(lambda total, term: total + weight * term, self, other)

    def total(self, loop: ClosedLoop, samples: Sample) -> tuple[Layer, ...]:
        inputs = samples.feedforward.inputs[0]
        finite = jnp.where(jnp.isfinite(inputs), inputs, 0)  # a zero teaching signal times NaN is NaN
        return forward_rule(loop.network.layers[:1], [finite], [self.first_teaching]) + self.later_layers


def _instant_change(loop: ClosedLoop, samples: Sample, deviations: Deviation) -> _Accumulator:
    """The forward rule in one instant, summed over the batch."""

    def signals(sample: Sample, deviation: Deviation) -> tuple[PerLayer, PerLayer]:
        return zero_unless_finite(
            (presynaptic_rates(sample, deviation), teaching_signal(loop, sample, deviation))
        )

    presynaptic, teaching = jax.vmap(signals)(samples, deviations)
    later = forward_rule(loop.network.layers[1:], presynaptic[1:], teaching[1:])
    return _Accumulator(teaching[0], later)


def _last_state(
    loop: ClosedLoop,
    samples: Sample,
    control: Float[Array, "batch out"],
    deviation: Deviation,
    steps: Int[Array, ""] | int,
) -> Equilibrium:
    def one(sample: Sample, control: Float[Array, " out"], deviation: Deviation) -> Equilibrium:
        error = jnp.linalg.norm(loop.error(sample, deviation.rate[-1])) / sample.scale
        fallen = error < 0.5
        remaining = relative_residual(loop, sample, control, controlled(loop, sample, control))
        return Equilibrium(control, deviation, fallen, remaining, jnp.asarray(steps), fallen)

    return jax.vmap(one)(samples, control, deviation)


class PublishedAverage(AbstractAverage):
    """The published scheme, step for step: the mean over all its states, the first (zero) one included."""

    scheme: PublishedEuler = PublishedEuler()

    def __call__(self, loop: ClosedLoop, samples: Sample) -> tuple[tuple[Layer, ...], Equilibrium]:
        def step(carry: PyTree, _: None) -> tuple[PyTree, None]:
            states, total = carry
            states = jax.vmap(self.scheme.step, in_axes=(None, 0, 0))(loop, states, samples)
            change = _instant_change(loop, samples, states.deviation)
            return (states, total.plus(1 / self.scheme.states, change)), None

        first = jax.vmap(self.scheme.initial, in_axes=(None, 0))(loop, samples)
        steps = self.scheme.states - 1
        (last, total), _ = jax.lax.scan(step, (first, _Accumulator.zero(loop, samples)), None, length=steps)
        final = _last_state(loop, samples, last.control, last.deviation, steps)
        return total.total(loop, samples), final


class ImplicitAverage(AbstractAverage):
    """Implicit Euler over growing steps, each a system of n_L unknowns instead of one over all neurons.

    With q = h / tau_v, each layer's new voltage follows from the new control u alone,

        d_i' = (d_i + q (c_i' + Q_i u)) / (1 + q),

    so a step solves u = a u_int + b e'(u) with the controller's implicit gains (a, b). One step of Broyden's
    method does it, from the last control and, at first, the Jacobian of the feedforward state, I + b E sum_i
    theta^(L-i+1) J_i Q_i, theta = q / (1 + q).
    Right-rectangle sums of implicit Euler obey the integral identities of the linear ODE, so for small
    targets the average hardly depends on the steps. Larger ones (a nudge of 0.1, say) need short steps
    while the control overshoots at the start, and growing ones do it.

    **Arguments:**

    - `duration`: the length T of the trajectory, in units of tau_u.
    - `segments`: (steps, part of T) pairs: how many equal steps cover which part of the trajectory. The
      parts add up to 1. The default spends a third of its 24 steps on the first 4 % of the time.
    """

    duration: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=10.0)
    segments: tuple[tuple[int, float], ...] = eqx.field(static=True, default=((8, 0.04), (8, 0.16), (8, 0.8)))

    def __check_init__(self) -> None:
        check_number("duration", self.duration, above=0)
        for count, part in self.segments:
            require(
                isinstance(count, int) and count >= 1 and part > 0,
                f"`segments` holds ({count}, {part}); steps must be whole, parts of the time above 0.",
            )
        total = sum(part for _, part in self.segments)
        require(
            math.isclose(total, 1),
            f"`segments` covers {total} of the trajectory; its parts must add up to 1.",
        )

    def __call__(self, loop: ClosedLoop, samples: Sample) -> tuple[tuple[Layer, ...], Equilibrium]:
        require(loop.tau_apical is None, "`tau_apical` is set; ImplicitAverage has no apical compartment.")
        dtype = samples.error.dtype
        duration = self.duration.astype(dtype)
        lengths = duration * jnp.asarray([part / n for n, part in self.segments], dtype)
        segment = jnp.asarray([i for i, (n, _) in enumerate(self.segments) for _ in range(n)])
        inverses = jax.vmap(lambda h: jax.vmap(_implicit_inverse, in_axes=(None, 0, None))(loop, samples, h))(
            lengths
        )
        advance = jax.vmap(_implicit_step, in_axes=(None, 0, 0, 0, 0, None))

        def step(carry: PyTree, index: Array) -> tuple[PyTree, None]:
            states, controls, _, inverses, total = carry
            h = lengths[index]
            states, controls, deviations, corrected = advance(
                loop, samples, states, controls, inverses[index], h
            )
            change = _instant_change(loop, samples, deviations)
            inverses = inverses.at[index].set(corrected)
            return (states, controls, deviations, inverses, total.plus(h / duration, change)), None

        first = jax.vmap(loop.initial_state)(samples)
        rest = Deviation(first.voltage, first.voltage, first.voltage)
        start = (first, jnp.zeros_like(samples.error), rest, inverses, _Accumulator.zero(loop, samples))
        (_, controls, deviations, _, total), _ = jax.lax.scan(step, start, segment)
        final = _last_state(loop, samples, controls, deviations, len(segment))
        return total.total(loop, samples), final


def _implicit_inverse(loop: ClosedLoop, sample: Sample, h: Float[Array, ""]) -> Float[Array, "out out"]:
    """The inverse Jacobian of an implicit step in the feedforward state."""
    _, b = loop.controller.implicit_gains(h)
    theta = h / (h + loop.tau_v)
    gains = loop.layer_gains(sample)
    damped = sum(theta ** (len(gains) - i) * gain for i, gain in enumerate(gains))
    return jnp.linalg.inv(jnp.eye(len(sample.error), dtype=damped.dtype) + b * damped)


def _implicit_step(
    loop: ClosedLoop,
    sample: Sample,
    state: LoopState,
    before: Float[Array, " out"],
    inverse: Float[Array, "out out"],
    h: Float[Array, ""],
) -> tuple[LoopState, Float[Array, " out"], Deviation, Float[Array, "out out"]]:
    """One implicit Euler step of one sample from the control `before`.

    Returns the new state, control and deviation, and the inverse Jacobian corrected by what the step showed.
    """
    a, b = loop.controller.implicit_gains(h)
    q = h / loop.tau_v

    def neurons(control: Float[Array, " out"]) -> Deviation:
        voltage, basal, rate = [], [], []
        apical = loop.apical_input(sample, control)
        for i, layer in enumerate(loop.network.layers):
            basal.append(layer.linear(rate[-1]) if rate else jnp.zeros_like(apical[0]))
            voltage.append((state.voltage[i] + q * (basal[i] + apical[i])) / (1 + q))
            rate.append(layer.activation.difference(sample.feedforward.voltages[i], voltage[i]))
        return Deviation(tuple(voltage), tuple(basal), tuple(rate))

    def unbalanced(control: Float[Array, " out"], deviation: Deviation) -> Float[Array, " out"]:
        return a * state.integral + b * loop.error(sample, deviation.rate[-1]) - control

    missing = unbalanced(before, neurons(before))
    moved = inverse @ missing
    control = before + moved
    deviation = neurons(control)
    fallen = moved - inverse @ unbalanced(control, deviation)
    integral = control - loop.controller.control(
        jnp.zeros_like(control), loop.error(sample, deviation.rate[-1])
    )
    state = LoopState(deviation.voltage, integral, None, None)
    return state, control, deviation, broyden_update(inverse, moved, fallen)


class DiffraxAverage(AbstractAverage):
    """The ODE by any Diffrax solver, the batch as one system, with the average as part of its state.

    The steps are shared by the batch, but a `PIDController` sees every sample's error in units of that
    sample's own tolerance (its worst sample decides), and never the average.

    **Arguments:** `solver`, `stepsize_controller`, `t1`, `dt0`, `max_steps` as in `simulate`.
    """

    solver: diffrax.AbstractSolver = diffrax.Tsit5()
    stepsize_controller: diffrax.AbstractStepSizeController = diffrax.PIDController(rtol=1e-4, atol=1e-4)
    t1: float = eqx.field(static=True, default=10.0)
    dt0: float = eqx.field(static=True, default=0.02)
    max_steps: int = eqx.field(static=True, default=4096)

    def __check_init__(self) -> None:
        check_number("t1", self.t1, above=0)
        check_number("dt0", self.dt0, above=0)
        fixed = isinstance(self.stepsize_controller, diffrax.ConstantStepSize)
        needed = math.ceil(self.t1 / self.dt0) + 1 if fixed else 1
        require(
            self.max_steps >= needed, f"`max_steps` is {self.max_steps}; t1 / dt0 needs at least {needed}."
        )

    def __call__(self, loop: ClosedLoop, samples: Sample) -> tuple[tuple[Layer, ...], Equilibrium]:
        scales = jax.vmap(lambda sample: sample.scale)(samples)
        times = jax.vmap(lambda factor, state: jax.tree.map(lambda leaf: factor * leaf, state))

        def vector_field(t: Float[Array, ""], y: PyTree, args: Sample) -> PyTree:
            states = times(scales, y[0])
            rates = jax.vmap(loop.vector_field, in_axes=(None, 0, 0))(t, states, args)
            rates = jax.vmap(zero_unless_finite)(rates)  # or one sample's NaN would stop all of them
            deviations = jax.vmap(loop.deviation)(states, args)
            return times(1 / scales, rates), _instant_change(loop, args, deviations)

        first = jax.vmap(loop.initial_state)(samples)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(vector_field),
            self.solver,
            t0=0.0,
            t1=self.t1,
            dt0=self.dt0,
            y0=(first, _Accumulator.zero(loop, samples)),
            args=samples,
            stepsize_controller=_worst_sample(self.stepsize_controller),
            max_steps=self.max_steps,
            adjoint=diffrax.ForwardMode(),  # nothing is differentiated in reverse
            throw=False,
        )
        scaled, total = jax.tree.map(lambda leaf: leaf[-1], solution.ys)
        last = times(scales, scaled)
        control = jax.vmap(loop.control)(last, samples)
        deviation = jax.vmap(loop.deviation)(last, samples)
        final = _last_state(loop, samples, control, deviation, solution.stats["num_steps"])
        reached = final.converged & (solution.result == diffrax.RESULTS.successful)
        final = eqx.tree_at(lambda f: f.converged, final, reached)
        mean = jax.tree.map(lambda leaf: leaf / self.t1, total)
        return mean.total(loop, samples), final


def _worst_sample(controller: diffrax.AbstractStepSizeController) -> diffrax.AbstractStepSizeController:
    """The same step-size controller, its error norm the largest over samples of each one's RMS."""
    if not isinstance(controller, diffrax.PIDController):
        return controller

    def norm(y: PyTree) -> Float[Array, ""]:
        states, _ = y
        return jnp.max(jax.vmap(optx.rms_norm)(states))

    return dataclasses.replace(controller, norm=norm)
