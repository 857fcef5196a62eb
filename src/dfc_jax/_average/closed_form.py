"""The time average of a nudged trajectory without a trajectory."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from dfc_jax._average.base import AbstractAverage
from dfc_jax._checks import require
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.implicit_euler import stable_with_gains
from dfc_jax._dynamics.readout import IdentityReadout
from dfc_jax._dynamics.stability import distance_from_rest, has_few_modes
from dfc_jax._dynamics.states import PerLayer, Sample
from dfc_jax._dynamics.teaching import forward_change
from dfc_jax._fields import number
from dfc_jax._network.layer import Layer, swept_forward
from dfc_jax._numerics.arrays import BatchFlags, OutputVector, Scalar
from dfc_jax._numerics.compiled import compiled
from dfc_jax._steady_state.base import Equilibrium, own_jacobians_pay
from dfc_jax._steady_state.linear import linear_solver


# Beyond so many modes the powers that tell a stable loop take most of the time: with 100 an update was 8
# backprop updates, with 180 17 and with 340 94 (benchmarks/scaling.py, depths 8, 16 and 32).
_MODES = 100


class ClosedFormAverage(AbstractAverage):
    """The average over a trajectory of length T = `duration`, by integrating the linearised ODE.

    From rest to the steady state (u, d_i), the integral of tau_v dd_i/dt = -d_i + c_i + Q_i u is tau_v d_i,
    so on average a neuron's voltage exceeds its basal input by

        mean(d_i - c_i) = Q_i ubar - (tau_v / T) d_i,

    and likewise for the integral of the controller, with a = its leak and b u its charge at rest,

        (J Q + a I) ubar = e^- + (tau_v sum_i J_i d_i - b u) / T.

    The forward rule is then applied once, to the network at rest under these mean apical inputs. What is
    neglected falls off as exp(-T / slowest time constant), or grows with the square of the target error. For
    targets that compare the output itself (`Nudge`), whose error is linear in it, and only for `duration`s
    well above the loop's time constants (2 or 3 tau_u, as a rule).

    A sample whose loop is not stable (`loop_is_stable`) has no such average: it counts as not converged and
    contributes nothing. With more than 16 outputs, more than 100 modes (outputs times layers and one) or
    feature maps that would cost more than all the rest, and a sample contributes unless it is seen to
    violate Condition 3 (see `Equilibrium`); `loop_is_stable` and the method's `doubts`, of which `fit` warns,
    tell. The state in the report is the linearised steady state.
    """

    duration: Scalar = number("duration", 10.0, above=0)

    def doubts(self, loop: ClosedLoop, samples: Sample) -> list[str]:
        if not has_few_modes(loop, samples.error.shape[1]):
            return []
        distance = distance_from_rest(loop, samples, float(self.duration))
        short = np.isfinite(distance) & (distance > 0.1)
        if not np.any(short):
            return []
        return [
            f"`duration` is {float(self.duration):.3g}, too short for {np.mean(short):.0%} of the samples "
            f"tried: their controls are then still up to {np.max(distance[short]):.0%} from their steady "
            "state, which the closed form takes for reached. Use ImplicitAverage."
        ]

    @compiled
    def __call__(
        self, loop: ClosedLoop, samples: Sample, key: PRNGKeyArray | None = None
    ) -> tuple[tuple[Layer, ...], Equilibrium]:
        del key
        require(loop.noise is None, "`noise` is given; ClosedFormAverage has none, use PublishedAverage.")
        require(loop.tau_apical is None, "`tau_apical` is set; ClosedFormAverage has no apical compartment.")
        require(
            isinstance(loop.readout, IdentityReadout),
            f"`target` is {type(loop.target).__name__}, which compares the {type(loop.readout).__name__}; "
            "ClosedFormAverage needs one that compares the output itself, as Nudge. Use ImplicitAverage.",
        )
        stable, gains = _stable(loop, samples)
        solve = linear_solver(loop, samples, gains)
        steady = solve(samples.error)
        rest = jax.vmap(loop.controlled)(samples, steady.control)
        passed_on = jax.vmap(lambda sample, voltage: _passed_on(loop, sample, voltage))(samples, rest.voltage)
        lag = loop.tau_v * passed_on - loop.controller.charge() * steady.control
        average = solve(samples.error + lag / self.duration)
        late = loop.tau_v / self.duration
        drive = zip(jax.vmap(loop.apical_input)(samples, average.control), rest.voltage, strict=True)
        mean = jax.vmap(loop.sweep)(samples, tuple(q - late * d for q, d in drive))
        found = steady.as_equilibrium(loop, samples, rest)
        used = found.converged & average.solved & (found.condition_three if stable is None else stable)
        update = forward_change(loop, samples, mean, used.astype(samples.error.dtype))
        return update, eqx.tree_at(lambda f: f.converged, found, used)


def _stable(
    loop: ClosedLoop, samples: Sample
) -> tuple[BatchFlags | None, Float[Array, "batch out out"] | None]:
    """Whether the trajectories come to rest, and the matrices E J Q + a I; None where both would cost more
    than all the rest."""
    if not (own_jacobians_pay(samples) and has_few_modes(loop, samples.error.shape[1], _MODES)):
        return None, None
    of_layers = jax.vmap(loop.layer_gains)(samples)
    leak = loop.controller.steady_state_leak() * jnp.eye(samples.error.shape[1], dtype=samples.error.dtype)
    return jax.vmap(lambda own: stable_with_gains(loop, own))(of_layers), sum(of_layers) + leak[None]


def _passed_on(loop: ClosedLoop, sample: Sample, voltage: PerLayer) -> OutputVector:
    """sum_i J_i d_i."""
    slopes = loop.network.slopes(sample.feedforward.voltages)
    return swept_forward(loop.network.layers, slopes, voltage)
