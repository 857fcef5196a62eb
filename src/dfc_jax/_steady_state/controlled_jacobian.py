"""The idealised feedback of Strong-DFC: Q = J^T, the Jacobian being that of the controlled state itself."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dfc_jax._checks import require
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.states import Sample
from dfc_jax._fields import count, default, number
from dfc_jax._numerics.arrays import Flag, Scalar
from dfc_jax._numerics.choose import choose
from dfc_jax._numerics.compiled import compiled
from dfc_jax._numerics.secant import in_any_run
from dfc_jax._numerics.trees import relative_distance
from dfc_jax._steady_state.base import AbstractEquilibrium, Equilibrium
from dfc_jax._steady_state.broyden import Broyden


class ControlledJacobian(AbstractEquilibrium):
    """Steady states whose feedback is the transposed Jacobian there: for a model with `ExactFeedback()`, or
    with other feedback that depends on the state, as `LayeredFeedback`.

    `ExactFeedback` alone takes the Jacobian of the feedforward state, from which strong feedback leads far
    away. Here Q = J(v)^T and v, at rest under Q, are found in turn until the displacements Q u change by no
    more than `rtol` of their size. That rest is the one of the published dynamics with `use_jacobian_as_fb`,
    which recompute Q in every step. Of `LayeredFeedback` it takes the slopes of the controlled state.

    **Arguments:**

    - `equilibrium`: how a steady state is found for a Q that is given.
    - `rtol`: see above.
    - `max_iterations`: turns after which a sample counts as not converged.
    """

    equilibrium: AbstractEquilibrium = default(Broyden)
    rtol: Scalar = number("rtol", 1e-4, above=0)
    max_iterations: int = count("max_iterations", 100)

    @compiled
    def __call__(self, loop: ClosedLoop, samples: Sample) -> Equilibrium:
        feedback = loop.network.feedback
        require(
            feedback.needs_jacobian,
            f"`model.feedback` is {type(feedback).__name__}, which is the same in every state; "
            "ControlledJacobian is for feedback that depends on the state, as ExactFeedback.",
        )
        drives = jax.vmap(ClosedLoop.apical_input, in_axes=(None, 0, 0))

        def unfinished(state: _Turn) -> Flag:
            return in_any_run(jnp.any(state.change > self.rtol)) & (state.turn < self.max_iterations)

        def turn(state: _Turn) -> _Turn:
            moved = _halfway(state.samples, with_feedback_of(loop, state.samples, state.found))
            found = self.equilibrium(loop, moved)
            before = drives(loop, state.samples, state.found.control)
            after = drives(loop, moved, found.control)
            change = jax.vmap(relative_distance)(before, after)
            # What has settled rests, so that no sample depends on its companions.
            moving = state.change > self.rtol
            last = choose(moving, (moved, found, change), (state.samples, state.found, state.change))
            return _Turn(*last, state.turn + 1)

        first = self.equilibrium(loop, samples)
        start = _Turn(samples, first, jnp.full_like(first.residual, jnp.inf), jnp.asarray(0))
        last = jax.lax.while_loop(unfinished, turn, start)
        settled = last.found.converged & (last.change <= self.rtol)
        return eqx.tree_at(lambda f: f.converged, last.found, settled)

    def rescued_by(self, fallback: AbstractEquilibrium) -> "ControlledJacobian":
        return eqx.tree_at(lambda strategy: strategy.equilibrium, self, fallback)

    def samples_at_rest(self, loop: ClosedLoop, samples: Sample, found: Equilibrium) -> Sample:
        return with_feedback_of(loop, samples, found)


class _Turn(eqx.Module):
    samples: Sample
    found: Equilibrium
    change: Float[Array, " batch"]
    turn: Int[Array, ""]


def _halfway(old: Sample, new: Sample) -> Sample:
    """The new samples with the mean of both feedbacks, which damps the turns."""
    mean = jax.tree.map(lambda before, after: (before + after) / 2, old.feedback, new.feedback)
    return eqx.tree_at(lambda s: s.feedback, new, mean)


def with_feedback_of(loop: ClosedLoop, samples: Sample, found: Equilibrium) -> Sample:
    """The samples with the feedback of the controlled states `found`."""

    def one(sample: Sample, found: Equilibrium) -> Sample:
        base = sample.feedforward.voltages
        voltages = tuple(v + d for v, d in zip(base, found.deviation.voltage, strict=True))
        there = loop.network.feedback.kept(loop.network.layers, voltages)
        return eqx.tree_at(lambda s: s.feedback, sample, there, is_leaf=lambda part: part is None)

    return jax.vmap(one)(samples, found)
