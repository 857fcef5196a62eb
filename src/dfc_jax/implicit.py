"""Implicit Euler steps of the closed loop, each a system of n_L unknowns instead of one over all neurons."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dfc_jax._checks import require
from dfc_jax._fields import number
from dfc_jax.averaging import AbstractAverage, Accumulator, instant_change, last_state
from dfc_jax.closed_loop import ClosedLoop, Deviation, LoopState, Sample
from dfc_jax.equilibrium import Equilibrium
from dfc_jax.network import Layer
from dfc_jax.secant import broyden_update
from dfc_jax.small_matrices import inverse
from dfc_jax.stepping import AbstractSteps, after_step, Stepped
from dfc_jax.wide_implicit import WideSteps
from dfc_jax.wide_outputs import HiddenSystem


_Carry = tuple[Stepped, Accumulator]


class ImplicitStep(eqx.Module):
    """The state y = y_base + h f(y) of one sample, f being its dynamics.

    With q = h / tau_v, each layer's voltage follows from the control u alone,

        d_i = (d_i_base + q (c_i + Q_i u)) / (1 + q),

    so that only u = a u_int_base + b e(u) is left to solve, with the controller's implicit gains (a, b).
    """

    loop: ClosedLoop
    sample: Sample
    base: LoopState
    h: Float[Array, ""]

    def neurons(self, control: Float[Array, " out"]) -> Deviation:
        """The network under a control."""
        layers, voltages = self.loop.network.layers, self.sample.feedforward.voltages
        apical = self.loop.apical_input(self.sample, control)
        return after_step(layers, voltages, self.base.voltage, apical, self.h / self.loop.tau_v)

    def unbalanced(self, control: Float[Array, " out"], deviation: Deviation) -> Float[Array, " out"]:
        """a u_int_base + b e(u) - u, zero for the control that is sought."""
        a, b = self.loop.controller.implicit_gains(self.h)
        return a * self.base.integral + b * self.loop.error(self.sample, deviation.rate[-1]) - control

    def state(self, control: Float[Array, " out"], deviation: Deviation) -> LoopState:
        """The state of the dynamics that belongs to a control."""
        error = self.loop.error(self.sample, deviation.rate[-1])
        integral = self.loop.controller.integral(control, error)
        return LoopState(deviation.voltage, integral, None, None)


def implicit_inverse(
    loop: ClosedLoop, layer_gains: tuple[Float[Array, "out out"], ...], h: Float[Array, ""]
) -> Float[Array, "out out"]:
    """The inverse of I + b sum_i theta^(L-i+1) E J_i Q_i, theta = q / (1 + q): minus the Jacobian of
    `ImplicitStep.unbalanced` where `layer_gains` are those of E J_i Q_i."""
    _, b = loop.controller.implicit_gains(h)
    theta = h / (h + loop.tau_v)
    damped = sum(theta ** (len(layer_gains) - i) * gain for i, gain in enumerate(layer_gains))
    return inverse(jnp.eye(len(damped), dtype=damped.dtype) + b * damped)


class OwnSteps(AbstractSteps):
    """One step of Broyden's method for a step in time, from the last control and, at first, the Jacobian of
    the feedforward state: an inverse for every sample and every length, corrected along the trajectory."""

    loop: ClosedLoop
    samples: Sample
    lengths: Float[Array, " segments"]

    def rest(self) -> Stepped:
        gains = jax.vmap(self.loop.layer_gains)(self.samples)
        of_batch = jax.vmap(implicit_inverse, in_axes=(None, 0, None))
        inverses = jax.vmap(of_batch, in_axes=(None, None, 0))(self.loop, gains, self.lengths)
        return Stepped.without_control(self.loop, self.samples, inverses)

    def advance(self, before: Stepped, segment: Int[Array, ""]) -> Stepped:
        of_batch = jax.vmap(_advanced, in_axes=(None, 0, 0, 0, 0, None))
        inverses, h = before.memory, self.lengths[segment]
        *after, corrected = of_batch(
            self.loop, self.samples, before.states, before.controls, inverses[segment], h
        )
        return Stepped(*after, inverses.at[segment].set(corrected))


class ImplicitAverage(AbstractAverage):
    """Implicit Euler over growing steps (see `ImplicitStep`).

    A step is a system of n_L unknowns for every sample (`OwnSteps`) or, where a linear output layer is wider
    than the layer before it, of as many as that layer has neurons (`WideSteps`). Right-rectangle sums of
    implicit Euler obey the integral identities of the linear ODE, so for small targets the average hardly
    depends on the steps. Larger ones (a nudge of 0.1, say) need short steps while the control overshoots at
    the start, and growing ones do it.

    **Arguments:**

    - `duration`: the length T of the trajectory, in units of tau_u.
    - `segments`: (steps, part of T) pairs: how many equal steps cover which part of the trajectory. The
      parts add up to 1. The default spends a quarter of its 24 steps on the first 4 % of the time.
    """

    duration: Float[Array, ""] = number("duration", 10.0, above=0)
    segments: tuple[tuple[int, float], ...] = eqx.field(
        static=True, default=((6, 0.04), (8, 0.16), (10, 0.8))
    )

    def __check_init__(self) -> None:
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

    def __call__(
        self, loop: ClosedLoop, samples: Sample, key: PRNGKeyArray | None = None
    ) -> tuple[tuple[Layer, ...], Equilibrium]:
        del key
        require(loop.noise is None, "`noise` is given; ImplicitAverage has none, use PublishedAverage.")
        require(loop.tau_apical is None, "`tau_apical` is set; ImplicitAverage has no apical compartment.")
        dtype = samples.error.dtype
        duration = self.duration.astype(dtype)
        lengths = duration * jnp.asarray([part / n for n, part in self.segments], dtype)
        segment = jnp.asarray([i for i, (n, _) in enumerate(self.segments) for _ in range(n)])
        create = WideSteps.create if HiddenSystem.fits(loop, samples) else OwnSteps
        steps = create(loop, samples, lengths)

        def step(carry: _Carry, index: Array) -> tuple[_Carry, None]:
            before, total = carry
            after = steps.advance(before, index)
            change = instant_change(loop, samples, after.deviations)
            return (after, total.plus(lengths[index] / duration, change)), None

        start = steps.rest(), Accumulator.zero(loop, samples)
        (last, total), _ = jax.lax.scan(step, start, segment)
        final = last_state(loop, samples, last.controls, last.deviations, len(segment))
        return total.total(loop, samples), final


def _advanced(
    loop: ClosedLoop,
    sample: Sample,
    state: LoopState,
    before: Float[Array, " out"],
    inverted: Float[Array, "out out"],
    h: Float[Array, ""],
) -> tuple[LoopState, Float[Array, " out"], Deviation, Float[Array, "out out"]]:
    """One implicit Euler step of one sample from the control `before`.

    Returns the new state, control and deviation, and the inverse Jacobian corrected by what the step showed.
    """
    step = ImplicitStep(loop, sample, state, h)
    moved = inverted @ step.unbalanced(before, step.neurons(before))
    control = before + moved
    deviation = step.neurons(control)
    fallen = moved - inverted @ step.unbalanced(control, deviation)
    corrected = broyden_update(inverted, moved, fallen)
    return step.state(control, deviation), control, deviation, corrected
