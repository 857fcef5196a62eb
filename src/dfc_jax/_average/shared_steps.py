"""Implicit Euler steps of many outputs, whose samples share one Jacobian."""

import jax
from jaxtyping import Array, Float, Int

from dfc_jax._average.implicit_steps import (
    AbstractSteps,
    AskedStep,
    ImplicitStep,
    MAX_STEP_ITERATIONS,
    STEP_RTOL,
    Stepped,
)
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.implicit_euler import implicit_inverse
from dfc_jax._dynamics.states import Deviation, LoopState, Sample
from dfc_jax._numerics.arrays import BatchFlags, BatchOutputs, OutputMatrix, OutputVector, Scalar
from dfc_jax._numerics.secant import OwnInverses, SharedInverse
from dfc_jax._numerics.small_matrices import inverse
from dfc_jax._steady_state.base import zero_input
from dfc_jax._steady_state.rescue import solve_left_over


_Found = tuple[BatchOutputs, Deviation, Float[Array, " batch"]]  # as `AskedStep.ended` takes it


class SharedSteps(AbstractSteps):
    """Every step by Broyden's method, from the last control and the Jacobian of the zero input.

    That one serves all samples, so that nothing of the size of a matrix is kept for each; samples that it
    leaves over are solved from their own. One whose step is not solved even so teaches nothing from then on,
    and does not converge.
    """

    loop: ClosedLoop
    samples: Sample
    lengths: Float[Array, " segments"]
    inverses: Float[Array, "segments out out"]  # one for each of `lengths`

    @staticmethod
    def create(loop: ClosedLoop, samples: Sample, lengths: Float[Array, " segments"]) -> "SharedSteps":
        gains = loop.layer_gains(zero_input(loop, samples))
        inverses = jax.vmap(implicit_inverse, in_axes=(None, None, 0))(loop, gains, lengths)
        return SharedSteps(loop=loop, samples=samples, lengths=lengths, inverses=inverses)

    def rest(self) -> Stepped:
        return Stepped.without_control(self.loop, self.samples, None)

    def advance(self, before: Stepped, segment: Int[Array, ""]) -> Stepped:
        h = self.lengths[segment]
        asked = AskedStep(self.samples, before.states, before.controls)
        shared = SharedInverse.create(self.inverses[segment], len(before.controls), MAX_STEP_ITERATIONS)
        solution = asked.by(self.loop, h, shared)
        found = solution.root, solution.point.payload, solution.point.error
        failed, outputs = before.not_solved(self.samples, found[-1]), before.controls.shape[1]
        found, _ = solve_left_over(failed, outputs, asked, found, lambda some: self._again(some, h))
        return asked.ended(self.loop, h, found, None)

    def _again(self, asked: AskedStep, h: Scalar) -> tuple[_Found, BatchFlags]:
        """From each sample's own Jacobian, and which of them that solved."""

        def remaining(control: OutputVector, sample: Sample, state: LoopState) -> OutputVector:
            step = ImplicitStep(self.loop, sample, state, h)
            return step.unbalanced(control, step.neurons(control))

        def own_inverse(control: OutputVector, sample: Sample, state: LoopState) -> OutputMatrix:
            return inverse(-jax.jacfwd(remaining)(control, sample, state))

        own = OwnInverses(jax.vmap(own_inverse)(asked.controls, asked.samples, asked.states))
        tried = asked.by(self.loop, h, own)
        return (tried.root, tried.point.payload, tried.point.error), tried.point.error <= STEP_RTOL
