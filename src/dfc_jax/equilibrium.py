"""Steady states of the closed loop: strategies with one result type, for a batch of independent samples.

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

from dfc_jax._fields import check_parts, count
from dfc_jax.closed_loop import ClosedLoop, Deviation, Sample
from dfc_jax.small_matrices import eigenvalues_right_of_zero


class Equilibrium(eqx.Module):
    """Steady states, of one sample or of a batch along the first axis, and how far each can be trusted."""

    control: Float[Array, "... out"]  # u
    deviation: Deviation
    converged: Bool[Array, "..."]
    residual: Float[Array, "..."]  # |e - a u| / |e^-|
    iterations: Int[Array, "..."]  # sweeps, root-finder steps or Diffrax steps
    stable: Bool[Array, "..."]


class AbstractEquilibrium(eqx.Module):
    """A way to find steady states."""

    def __check_init__(self) -> None:
        check_parts(self)

    @abc.abstractmethod
    def __call__(self, loop: ClosedLoop, samples: Sample) -> Equilibrium:
        """The steady states; what failed is said in the result, never raised."""

    def doubts(self, loop: ClosedLoop, samples: Sample) -> list[str]:
        """What is known to go wrong with these samples, in a sentence each; not for use under jit."""
        del loop, samples
        return []


def controlled(loop: ClosedLoop, sample: Sample, control: Float[Array, " out"]) -> Deviation:
    """The network at rest under a constant control."""
    return loop.sweep(sample, loop.apical_input(sample, control))


def residual(
    loop: ClosedLoop, sample: Sample, control: Float[Array, " out"], deviation: Deviation
) -> Float[Array, " out"]:
    """F(u) = e - a u for a network at rest under u."""
    leak = loop.controller.steady_state_leak()
    return loop.error(sample, deviation.rate[-1]) - leak * control


def relative_residual(
    loop: ClosedLoop, sample: Sample, control: Float[Array, " out"], deviation: Deviation
) -> Float[Array, ""]:
    """|F(u)| / |e^-| for a network at rest under u."""
    return jnp.linalg.norm(residual(loop, sample, control, deviation)) / sample.scale


def loop_gain(
    loop: ClosedLoop, sample: Sample, deviation: Deviation | None = None
) -> Float[Array, "out out"]:
    """-dF/du = E J Q + a I, in the feedforward state or in a controlled one. Condition 3 asks that its
    eigenvalues have positive real parts (NeurIPS paper, Prop. 5)."""
    if deviation is None:
        voltage, change = None, jnp.zeros_like(sample.error)
    else:
        voltage, change = deviation.voltage, deviation.rate[-1]
    gain = loop.error_gain(sample, loop.output_gain(sample, voltage), change)
    return gain + loop.controller.steady_state_leak() * jnp.eye(gain.shape[0], dtype=gain.dtype)


class RootFind(AbstractEquilibrium):
    """Any Optimistix root finder on F(u) = 0: Newton's method by default, from u = 0.

    The unknown and the residual are in units of |e^-|, so that absolute tolerances are relative ones:
    `RootFind(optx.Newton(rtol=1e-8, atol=1e-8))`, `RootFind(optx.Dogleg(rtol=1e-6, atol=1e-6))`.
    Converged means that the root finder reports success. `stable` is Condition 3 at the root.
    """

    root_finder: optx.AbstractRootFinder = optx.Newton(rtol=3e-5, atol=3e-5)
    max_iterations: int = count("max_iterations", 50)

    def __call__(self, loop: ClosedLoop, samples: Sample) -> Equilibrium:
        return jax.vmap(self._one, in_axes=(None, 0))(loop, samples)

    def _one(self, loop: ClosedLoop, sample: Sample) -> Equilibrium:
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
        error = relative_residual(loop, sample, control, deviation)
        converged = (solution.result == optx.RESULTS.successful) & jnp.isfinite(error)
        stable = eigenvalues_right_of_zero(loop_gain(loop, sample, deviation))
        return Equilibrium(control, deviation, converged, error, solution.stats["num_steps"], stable)
