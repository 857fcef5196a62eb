"""Steady states of the closed loop: strategies with one result type, for a batch of independent samples.

At rest v is a function of u alone, so the equilibrium is a root of n_L equations, whatever the width:

    F(u) = e(u) - a u = 0,   a the controller's steady-state leak, e(u) from one sweep through the layers.

Residuals are relative to the sample's own target error, |F| / |e^-|.
"""

import abc

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.states import Deviation, Sample
from dfc_jax._fields import check_parts, Part
from dfc_jax._numerics.arrays import BatchFlags, BatchOutputs, Flag, OutputVector, Scalar
from dfc_jax._numerics.small_matrices import eigenvalues_right_of_zero


class Equilibrium(Part):
    """Steady states, of one sample or of a batch along the first axis, and how far each can be trusted.

    `condition_three`: the real parts of the eigenvalues of E J Q + a I are positive, for `Broyden` of its own
    estimate. That is the stability of the loop for k_p = 0 and tau_v -> 0 only; whether the loop with its
    gain and its lags is stable, `loop_is_stable` and `loop_eigenvalues` say, and the method's `doubts`. With
    more than 16 outputs, or feature maps, only directions are looked at: the matrix was positive along every
    step of `Broyden` and `Analytic`, or along the control that was simulated (`Simulated`, averages over
    time).
    """

    control: Float[Array, "... out"]  # u
    deviation: Deviation
    converged: Bool[Array, "..."]
    residual: Float[Array, "..."]  # |e - a u| / |e^-|
    iterations: Int[Array, "..."]  # sweeps, root-finder steps or Diffrax steps
    condition_three: Bool[Array, "..."]  # not the stability of the whole loop


class AbstractEquilibrium(Part):
    """A way to find steady states."""

    def __check_init__(self) -> None:
        check_parts(self)

    @abc.abstractmethod
    def __call__(self, loop: ClosedLoop, samples: Sample) -> Equilibrium:
        """The steady states; what failed is said in the result, never raised."""

    def rescued_by(self, fallback: "AbstractEquilibrium") -> "AbstractEquilibrium | None":
        """What solves the same equations by means of `fallback`, for the samples that this strategy leaves
        over; None if nothing may. A strategy whose equations are not those of `loop` says here whose."""
        return fallback

    def samples_at_rest(self, loop: ClosedLoop, samples: Sample, found: Equilibrium) -> Sample:
        """The samples with the feedback that holds in the steady states `found`: by default their own."""
        del loop, found
        return samples

    def doubts(self, loop: ClosedLoop, samples: Sample) -> list[str]:
        """What is known to go wrong with these samples, in a sentence each; not for use under jit."""
        del loop, samples
        return []


def last_state(
    loop: ClosedLoop,
    samples: Sample,
    control: BatchOutputs,
    deviation: Deviation,
    steps: Int[Array, ""] | int,
) -> Equilibrium:
    """What an average reports: the states of a batch in which its trajectories have ended.

    Converged means that the control error has fallen below half of what it was without control, the
    published criterion (`epsilon_di`). The residual is that of a network at rest under `control`.

    **Arguments:**

    - `control`, `deviation`: the last u and the last state of every sample.
    - `steps`: how many steps were taken.
    """

    def error(sample: Sample, deviation: Deviation) -> Scalar:
        return jnp.linalg.norm(loop.output_error(sample, deviation.rate[-1])) / sample.scale

    def remaining(sample: Sample, control: OutputVector) -> Scalar:
        return loop.relative_residual(sample, control, loop.controlled(sample, control))

    residual = jax.vmap(remaining)(samples, control)
    fallen = (jax.vmap(error)(samples, deviation) < 0.5) & jnp.isfinite(residual)
    iterations = jnp.broadcast_to(jnp.asarray(steps), fallen.shape)
    held = condition_three(loop, samples, control, deviation)
    return Equilibrium(control, deviation, fallen, residual, iterations, held)


def condition_three(
    loop: ClosedLoop, samples: Sample, control: BatchOutputs, deviation: Deviation
) -> BatchFlags:
    """Whether Condition 3 holds in states of a batch that were simulated; see `Equilibrium`."""

    def holds(sample: Sample, deviation: Deviation) -> Flag:
        return eigenvalues_right_of_zero(loop.gain(sample, deviation))

    def along(sample: Sample, control: OutputVector, deviation: Deviation) -> Flag:
        return control @ (sample.error - loop.residual(sample, control, deviation)) >= 0

    finite = jnp.all(jnp.isfinite(control), axis=1)
    if own_jacobians_pay(samples):
        return finite & jax.vmap(holds)(samples, deviation)
    return finite & jax.vmap(along)(samples, control, deviation)


# Beyond so many outputs a Jacobian for each sample costs more than the iterations it saves: the two cost the
# same at about 12 for DFC-SS and 16 for DFC-SSA (benchmarks/scaling.py), and the own one is the more robust.
_DENSE_OUTPUTS = 16


def zero_input(loop: ClosedLoop, samples: Sample) -> Sample:
    """A sample like these, whose Jacobian may serve them all: it depends on none of them, so that none
    depends on the others."""
    return loop.sample(jnp.zeros_like(samples.feedforward.inputs[0][0]), jnp.zeros_like(samples.error[0]))


def own_jacobians_pay(samples: Sample) -> bool:
    """Few outputs, and no feature maps, through which n_L tangents cost as many convolutions each."""
    maps = any(voltage.ndim > 2 for voltage in samples.feedforward.voltages)
    return samples.error.shape[1] <= _DENSE_OUTPUTS and not maps
