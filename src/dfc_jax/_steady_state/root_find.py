"""Steady states by any root finder of Optimistix."""

import jax
import jax.numpy as jnp
import optimistix as optx

from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.states import Sample
from dfc_jax._fields import count
from dfc_jax._numerics.arrays import OutputVector
from dfc_jax._numerics.compiled import compiled
from dfc_jax._numerics.small_matrices import eigenvalues_right_of_zero
from dfc_jax._steady_state.base import AbstractEquilibrium, Equilibrium


class RootFind(AbstractEquilibrium):
    """Any Optimistix solver that finds roots, on F(u) = 0: Newton's method by default, from u = 0.

    The unknown and the residual are in units of |e^-|, so that absolute tolerances are relative ones:
    `RootFind(optx.Newton(rtol=1e-8, atol=1e-8))`, `RootFind(optx.Dogleg(rtol=1e-6, atol=1e-6))`.
    Converged means that the root finder reports success. `condition_three` is evaluated there.
    """

    root_finder: optx.AbstractRootFinder | optx.AbstractLeastSquaresSolver | optx.AbstractMinimiser = (
        optx.Newton(rtol=3e-5, atol=3e-5)
    )
    max_iterations: int = count("max_iterations", 50)

    @compiled
    def __call__(self, loop: ClosedLoop, samples: Sample) -> Equilibrium:
        return jax.vmap(self._one, in_axes=(None, 0))(loop, samples)

    def _one(self, loop: ClosedLoop, sample: Sample) -> Equilibrium:
        scale = sample.scale

        def scaled_residual(unknown: OutputVector, args: None) -> OutputVector:
            del args
            control = scale * unknown
            return loop.residual(sample, control, loop.controlled(sample, control)) / scale

        solution = optx.root_find(
            scaled_residual,
            self.root_finder,
            jnp.zeros_like(sample.error),
            max_steps=self.max_iterations,
            throw=False,
        )
        control = scale * solution.value
        deviation = loop.controlled(sample, control)
        error = loop.relative_residual(sample, control, deviation)
        converged = (solution.result == optx.RESULTS.successful) & jnp.isfinite(error)
        held = eigenvalues_right_of_zero(loop.gain(sample, deviation))
        return Equilibrium(control, deviation, converged, error, solution.stats["num_steps"], held)
