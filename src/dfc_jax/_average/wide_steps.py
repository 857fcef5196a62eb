"""Implicit Euler steps where a linear output layer is wider than the layer before it.

In a step of length h = q tau_v the output layer, d_L = (1 - theta) d_L_base + theta (W z + Q_L u) with
theta = q / (1 + q) and z the change of the last hidden rates at its end, is linear in z and u. The control
u = a u_int_base + b (e^- - d_L), with the controller's implicit gains (a, b), is therefore

    u(z) = (I + b theta Q_L)^-1 (a u_int_base + b (e^- - (1 - theta) d_L_base) - b theta W z),

whose matrix depends on h alone, and z is all that is left to solve, as for a steady state (`HiddenSystem`):

    R(z) = rho_{L-1}(u(z)) - z = 0,   where u(z) misses the equation of the control by b theta W R(z).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dfc_jax._average.implicit_steps import (
    AbstractSteps,
    after_step,
    MAX_STEP_ITERATIONS,
    STEP_RTOL,
    Stepped,
)
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.states import Deviation, LoopState, PerLayer, Sample
from dfc_jax._numerics.arrays import BatchFlags, OutputMatrix, OutputVector, Scalar
from dfc_jax._numerics.one_by_one import inverse_by_lu
from dfc_jax._numerics.secant import AbstractInverse, OwnInverses, Point, SecantSolution, SharedInverse, solve
from dfc_jax._numerics.small_matrices import inverse
from dfc_jax._steady_state.base import zero_input
from dfc_jax._steady_state.hidden_system import apical_of, output_weight, solve_rows
from dfc_jax._steady_state.rescue import solve_left_over


class StepLength(eqx.Module):
    """What all steps of one length have in common, for all samples."""

    h: Scalar
    gains: tuple[Scalar, Scalar]  # (a, b)
    theta: Scalar
    inverse: OutputMatrix  # (I + b theta Q_L)^-1, transposed
    control_of_rate: Float[Array, "hidden out"]  # ((I + b theta Q_L)^-1 b theta W)^T
    coupling: PerLayer  # Q_i of that, for the hidden layers
    secant: Float[Array, "hidden hidden"]  # the inverse of minus the Jacobian of R for the zero input

    @staticmethod
    def create(loop: ClosedLoop, zero: Sample, weight: Float[Array, "hidden out"], h: Scalar) -> "StepLength":
        """For steps of length `h`, given W^T as `weight` and the sample of the `zero` input."""
        a, b = loop.controller.implicit_gains(h)
        theta = h / (h + loop.tau_v)
        identity = jnp.eye(weight.shape[1], dtype=weight.dtype)
        matrix = identity + b * theta * loop.feedback(zero)[-1]
        solved = solve_rows(matrix, jnp.concatenate([b * theta * weight, identity]))
        control_of_rate, inverse = solved[: len(weight)], solved[len(weight) :]
        coupling = apical_of(loop, control_of_rate)
        at_rest = loop.initial_state(zero)

        def remaining(z: Float[Array, " hidden"]) -> Float[Array, " hidden"]:
            apical = tuple(-jnp.tensordot(z, c, axes=1) for c in coupling)
            return _after(loop, zero, at_rest, apical, h).rate[-1].ravel() - z

        jacobian = jax.jacfwd(remaining)(jnp.zeros_like(weight[:, 0]))
        return StepLength(h, (a, b), theta, inverse, control_of_rate, coupling, inverse_by_lu(-jacobian))


class _Asked(eqx.Module):
    """What a step of one sample is solved for, or of a batch along the first axis."""

    sample: Sample
    state: LoopState  # at its beginning
    apical: PerLayer  # Q_i u(0) of the hidden layers
    start: Float[Array, "*batch hidden"]  # the z before
    scale: Float[Array, "*batch"]


class WideSteps(AbstractSteps):
    """Every step by Broyden's method in z, from the z before and the Jacobian of the zero input.

    That one serves all samples, so that nothing of the size of a matrix is kept for each; samples that it
    leaves over are solved from their own. One whose step is not solved even so gets a control that is not a
    number: it teaches nothing from then on, and does not converge.
    """

    loop: ClosedLoop
    samples: Sample
    lengths: Float[Array, " segments"]
    scales: Float[Array, " batch"]  # |e^-|
    gram: Float[Array, "hidden hidden"]  # W^T W
    by_length: StepLength  # one for each of `lengths`

    @staticmethod
    def create(loop: ClosedLoop, samples: Sample, lengths: Float[Array, " segments"]) -> "WideSteps":
        weight = output_weight(loop, samples)
        zero = zero_input(loop, samples)
        by_length = jax.vmap(StepLength.create, in_axes=(None, None, None, 0))(loop, zero, weight, lengths)
        scales = samples.scale
        return WideSteps(
            loop=loop,
            samples=samples,
            lengths=lengths,
            scales=scales,
            gram=weight @ weight.T,
            by_length=by_length,
        )

    def rest(self) -> Stepped:
        still = jnp.zeros((len(self.scales), len(self.gram)), self.gram.dtype)
        return Stepped.without_control(self.loop, self.samples, still)

    def advance(self, before: Stepped, segment: Int[Array, ""]) -> Stepped:
        length = jax.tree.map(lambda leaf: leaf[segment], self.by_length)
        (a, b), state = length.gains, before.states
        waiting = a * state.integral + b * (self.samples.error - (1 - length.theta) * state.voltage[-1])
        offset = waiting @ length.inverse  # u(0)
        apical = apical_of(self.loop, offset)
        change, solved = self._solve(length, before, apical)
        z = before.memory + change
        control = jnp.where(solved[:, None], offset - z @ length.control_of_rate, jnp.nan)
        hidden = self._after(length, state, _at(apical, length.coupling, z))
        of_batch = jax.vmap(_ended, in_axes=(None, 0, 0, 0, 0, None))
        after, deviation = of_batch(self.loop, self.samples, state, control, hidden, length.gains)
        return Stepped(after, control, deviation, z)

    def _solve(
        self, length: StepLength, before: Stepped, apical: PerLayer
    ) -> tuple[Float[Array, "batch hidden"], BatchFlags]:
        """The change of z in a step, given the hidden layers' `apical` inputs Q_i u(0), and whether it is
        that."""
        asked = _Asked(self.samples, before.states, apical, before.memory, self.scales)
        shared = SharedInverse.create(length.secant, len(before.memory), MAX_STEP_ITERATIONS)
        found = self._iterated(length, asked, shared)

        def again(some: _Asked) -> tuple[tuple[Array, Array], BatchFlags]:
            jacobian = jax.vmap(jax.jacfwd(self._remaining, argnums=2), in_axes=(None, 0, 0))
            own = OwnInverses(jax.vmap(inverse)(-jacobian(length, some, some.start)))
            tried = self._iterated(length, some, own)
            return (tried.root, tried.point.error), tried.point.error <= STEP_RTOL

        root, error = found.root, found.point.error
        failed = before.not_solved(self.samples, error)
        (root, error), _ = solve_left_over(failed, len(self.gram), asked, (root, error), again)
        return root, error <= STEP_RTOL

    def _iterated(self, length: StepLength, asked: _Asked, inverse: AbstractInverse) -> SecantSolution:
        def evaluate(change: Float[Array, "batch hidden"]) -> Point:
            remaining = jax.vmap(self._remaining, in_axes=(None, 0, 0))(length, asked, asked.start + change)
            square = jnp.sum(remaining * (remaining @ self.gram), axis=1)  # |W R|^2
            missed = length.theta * jnp.sqrt(jnp.maximum(square, 0))  # rounding may make it negative
            return Point(remaining, missed / asked.scale, None)

        start = evaluate(jnp.zeros_like(asked.start))
        return solve(evaluate, start, inverse, STEP_RTOL, MAX_STEP_ITERATIONS)

    def _remaining(
        self, length: StepLength, asked: _Asked, z: Float[Array, " hidden"]
    ) -> Float[Array, " hidden"]:
        """R(z) of one sample."""
        apical = tuple(
            a - jnp.tensordot(z, c, axes=1) for a, c in zip(asked.apical, length.coupling, strict=True)
        )
        return _after(self.loop, asked.sample, asked.state, apical, length.h).rate[-1].ravel() - z

    def _after(self, length: StepLength, states: LoopState, apical: PerLayer) -> Deviation:
        of_batch = jax.vmap(_after, in_axes=(None, 0, 0, 0, None))
        return of_batch(self.loop, self.samples, states, apical, length.h)


def _after(loop: ClosedLoop, sample: Sample, base: LoopState, apical: PerLayer, h: Scalar) -> Deviation:
    voltages = sample.feedforward.voltages
    return after_step(loop.network.layers, voltages, base.voltage, apical, h / loop.tau_v)


def _ended(
    loop: ClosedLoop,
    sample: Sample,
    base: LoopState,
    control: OutputVector,
    hidden: Deviation,
    gains: tuple[Scalar, Scalar],
) -> tuple[LoopState, Deviation]:
    """The whole state of one sample after a step, from its control and its hidden layers."""
    a, b = gains
    error = (control - a * base.integral) / b  # and so the output, without the product Q_L u
    output = sample.error - error
    basal = loop.network.layers[-1].linear(hidden.rate[-1])
    deviation = Deviation((*hidden.voltage, output), (*hidden.basal, basal), (*hidden.rate, output))
    integral = loop.controller.integral(control, error)
    return LoopState(deviation.voltage, integral, None, None), deviation


def _at(apical: PerLayer, coupling: PerLayer, z: Float[Array, "batch hidden"]) -> PerLayer:
    """Q_i u(z) of the hidden layers, given Q_i u(0)."""
    return tuple(a - jnp.tensordot(z, c, axes=1) for a, c in zip(apical, coupling, strict=True))
