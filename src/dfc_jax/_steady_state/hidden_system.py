"""Steady states where a linear output layer is wider than the layer before it.

The equation of the output layer, e^- - W z - Q_L u = a u with z the change of the last hidden rates, gives

    u(z) = (Q_L + a I)^-1 (e^- - W z),

so that z is all that is left to solve: as many unknowns as the last hidden layer has neurons,

    R(z) = rho_{L-1}(u(z)) - z = 0,   with   F(u(z)) = -W R(z).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.readout import IdentityReadout
from dfc_jax._dynamics.states import at_rest, PerLayer, Sample
from dfc_jax._network.activations import Linear
from dfc_jax._network.feedback import FeedbackWeights
from dfc_jax._network.layer import slopes_at, swept_forward
from dfc_jax._numerics.arrays import BatchOutputs, Scalar
from dfc_jax._numerics.one_by_one import inverse_by_lu, solve_linear
from dfc_jax._numerics.secant import Point, SecantSolution, SharedInverse, solve
from dfc_jax._steady_state.base import zero_input


class HiddenSystem(eqx.Module):
    """R(z) for a batch and a right-hand side e^-. Rates are flat here, whatever the shape of the layer."""

    loop: ClosedLoop
    samples: Sample
    weight: Float[Array, "hidden out"]  # W^T
    control_of_rate: Float[Array, "hidden out"]  # ((Q_L + a I)^-1 W)^T
    control_at_rest: BatchOutputs  # u(0)
    scales: Float[Array, " batch"]  # |e^-|

    @staticmethod
    def fits(loop: ClosedLoop, samples: Sample) -> bool:
        """Whether the output layer can be eliminated, and leaves fewer unknowns."""
        hidden = samples.feedforward.inputs[-1][0].size
        return (
            len(loop.network.layers) > 1
            and isinstance(loop.network.layers[-1].activation, Linear)
            and isinstance(loop.readout, IdentityReadout)
            and isinstance(loop.network.feedback, FeedbackWeights)
            and samples.error.shape[1] > hidden
        )

    @staticmethod
    def create(loop: ClosedLoop, samples: Sample, right: BatchOutputs) -> "HiddenSystem":
        """The system with `right` in place of e^-."""
        weight = output_weight(loop, samples)
        own = loop.feedback(samples)[-1]
        matrix = own + loop.controller.steady_state_leak() * jnp.eye(len(own), dtype=own.dtype)
        solved = solve_rows(matrix, jnp.concatenate([weight, right]))
        norms = jnp.linalg.norm(right, axis=1)
        scales = jnp.where(norms > 0, norms, 1)
        return HiddenSystem(loop, samples, weight, solved[: len(weight)], solved[len(weight) :], scales)

    def control(self, z: Float[Array, "batch hidden"]) -> BatchOutputs:
        """u(z)."""
        return self.control_at_rest - z @ self.control_of_rate

    def solve(
        self,
        respond: Callable[[PerLayer], Float[Array, "batch ..."]],
        rtol: Scalar | float,
        max_iterations: int,
    ) -> SecantSolution:
        """z by Broyden's method, from the Jacobian of the zero input.

        `respond` maps the hidden layers' apical inputs to their last rates: `nonlinear` or `linearised`.
        """
        offset, coupling = (apical_of(self.loop, u) for u in (self.control_at_rest, self.control_of_rate))

        def evaluate(z: Float[Array, "batch hidden"]) -> Point:
            rate = respond(
                tuple(a - jnp.tensordot(z, c, axes=1) for a, c in zip(offset, coupling, strict=True))
            )
            remaining = rate.reshape(z.shape) - z
            return Point(remaining, jnp.linalg.norm(remaining @ self.weight, axis=1) / self.scales, None)

        start = jnp.zeros((len(self.scales), len(self.weight)), self.weight.dtype)
        inverse = SharedInverse.create(self._zero_input_inverse(coupling), len(start), max_iterations)
        return solve(evaluate, evaluate(start), inverse, rtol, max_iterations)

    def nonlinear(self, apical: PerLayer) -> Float[Array, "batch ..."]:
        """The last hidden rates under these apical inputs."""
        return jax.vmap(self._hidden)(self.samples, apical)

    def linearised(self) -> Callable[[PerLayer], Float[Array, "batch ..."]]:
        """The same to first order around the feedforward states."""
        layers = self.loop.network.layers[:-1]
        slopes = jax.vmap(lambda v: slopes_at(layers, v))(self.samples.feedforward.voltages[:-1])
        return lambda apical: jax.vmap(lambda s, a: swept_forward(layers, s, a))(slopes, apical)

    def _hidden(self, sample: Sample, apical: PerLayer) -> Float[Array, "..."]:
        layers, voltages = self.loop.network.layers[:-1], sample.feedforward.voltages[:-1]
        return at_rest(layers, voltages, apical).rate[-1]

    def _zero_input_inverse(self, coupling: PerLayer) -> Float[Array, "hidden hidden"]:
        """The inverse of minus the Jacobian of R for the zero input."""
        sample = zero_input(self.loop, self.samples)

        def remaining(z: Float[Array, " hidden"]) -> Float[Array, " hidden"]:
            rate = self._hidden(sample, tuple(-jnp.tensordot(z, c, axes=1) for c in coupling))
            return rate.ravel() - z

        return inverse_by_lu(-jax.jacfwd(remaining)(jnp.zeros_like(self.weight[:, 0])))


def output_weight(loop: ClosedLoop, samples: Sample) -> Float[Array, "hidden out"]:
    """W^T of the output layer, whatever its transform and the shape of what it takes."""
    inputs = samples.feedforward.inputs[-1][0]
    basis = jnp.eye(inputs.size, dtype=inputs.dtype).reshape(-1, *inputs.shape)
    return jax.vmap(loop.network.layers[-1].linear)(basis)


def apical_of(loop: ClosedLoop, controls: Float[Array, "n out"]) -> PerLayer:
    """Q_i u of the hidden layers for several controls."""
    hidden = loop.network.feedback.matrices(None)[:-1]  # of FeedbackWeights, as `fits` asks
    return tuple(jnp.tensordot(controls, Q, axes=(1, -1)) for Q in hidden)


def solve_rows(matrix: Float[Array, "n n"], rows: Float[Array, "rows n"]) -> Float[Array, "rows n"]:
    """A^-1 r for every row r.

    Q_L is the identity at first, and for good where it is fixed or frozen: then A is diagonal, and there is
    nothing to factorise, which would take most of the time of a training step.
    """
    diagonal = jnp.diagonal(matrix)
    full = jnp.any(matrix != jnp.diag(diagonal))

    def factorise(state: tuple[Array, Array]) -> tuple[Array, Array]:
        # Without the barrier XLA moves the solution out of the loop and computes it always.
        held, right, _ = jax.lax.optimization_barrier((matrix, rows, state))
        return solve_linear(held, right.T).T, jnp.zeros_like(full)

    # A loop of at most one turn: under vmap, unlike a conditional, it is skipped if no matrix needs it.
    return jax.lax.while_loop(lambda state: state[1], factorise, (rows / diagonal[None], full))[0]
