"""Learning from optimal control: the least-control principle and predictive coding are one equilibrium.

For a leak a both settle where the energy

    E(v) = 1/2 sum_i |eps_i|^2 + l(r_L, y) / a,   eps_i = v_i - W_i r_{i-1} - b_i,   r_i = phi_i(v_i),

is stationary in v, l being half the squared distance to the target, or the cross-entropy. From the output
down, dE/dv_i = 0 says eps_L = phi_L'(v_L) u with a u = -dl/dr_L, and eps_i = phi_i'(v_i) W_{i+1}^T eps_{i+1}:
together eps_i = J_i(v)^T u with J_i = dr_L/dv_i, the controlled network with Q = J(v)^T at rest
(`OptimalControl`). By the envelope theorem the gradient of the least E by the weights is the partial one,

    dE/dW_i = -eps_i r_{i-1}^T,   dE/db_i = -eps_i,

local, and with the names of Deep Feedback Control the update of `VoltageDifference` in the controlled state.
"""

import equinox as eqx
import jax.numpy as jnp

from dfc_jax._checks import check_number, check_type
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.controller import PIController
from dfc_jax._dynamics.losses import AbstractLoss, CrossEntropy
from dfc_jax._dynamics.readout import IdentityReadout
from dfc_jax._dynamics.states import Sample
from dfc_jax._dynamics.targets import Clamp
from dfc_jax._fields import default, number
from dfc_jax._methods.dfc import SteadyStateMethod
from dfc_jax._network.layered_feedback import ExactFeedback
from dfc_jax._network.network import Network
from dfc_jax._network.plasticity import VoltageDifference
from dfc_jax._numerics.arrays import BatchFlags, BatchInputs, BatchOutputs, Scalar
from dfc_jax._steady_state.base import Equilibrium
from dfc_jax._steady_state.leak_continuation import LeakContinuation
from dfc_jax._steady_state.optimal_control import AbstractOptimalControl, OptimalControl
from dfc_jax._steady_state.rescue import found_or_rescued


class OptimalControlMethod(SteadyStateMethod):
    """The update of `VoltageDifference` under optimal control; the model's own feedback plays no part."""

    alpha: eqx.AbstractVar[Scalar]
    equilibrium: eqx.AbstractVar[AbstractOptimalControl]
    fallback: eqx.AbstractVar[AbstractOptimalControl | None]

    def __check_init__(self) -> None:
        if isinstance(self.loss, AbstractLoss) and not isinstance(self.loss.readout, IdentityReadout):
            check_number("alpha", self.alpha, above=0)

    def _loop(self, model: Network, target: Clamp) -> ClosedLoop:
        check_type("model", model, Network)
        controller = PIController(jnp.asarray(0.0), self.alpha)
        network = Network(model.layers, ExactFeedback())
        return ClosedLoop(network, controller, target, self.loss, teaching=VoltageDifference())

    def doubts(self, model: Network, x: BatchInputs, y: BatchOutputs) -> list[str]:
        loop = self.loop(model)
        return self.equilibrium.doubts(loop, loop.samples(x, y))

    def loop_stability(self, model: Network, x: BatchInputs, y: BatchOutputs, most: int = 500) -> None:
        """None: the equilibrium is not found by the loop's dynamics."""
        del model, x, y, most

    def equilibria(self, loop: ClosedLoop, samples: Sample) -> tuple[Equilibrium, BatchFlags | None]:
        return found_or_rescued(loop, samples, self.equilibrium, self.fallback)

    def _contributes(self, equilibrium: Equilibrium) -> BatchFlags:
        return equilibrium.converged


class LeastControl(OptimalControlMethod):
    """The least-control principle: the least control that makes the output optimal teaches the weights.

    Meulemans, Zucchet, Kobayashi, von Oswald and Sacramento, The least-control principle for local learning
    at equilibrium (NeurIPS 2022), its dynamic inversion at rest: psi_i = eps_i, alpha u = -dl/dr_L. The
    update is the gradient, by the weights, of the least energy E of `PredictiveCoding`; as alpha vanishes
    what is left of E is the control, sum_i |eps_i|^2 / 2.

    **Arguments:**

    - `alpha`: the leak of the controller, above 0 with cross-entropy. Their MNIST runs have 0.1.
    - `loss`: what the output is to minimise, cross-entropy or, for `MeanSquaredError()`, |y - r_L|^2 / 2.
    - `class_value`: of one-hot targets, as in `Clamp`.
    - `equilibrium`, `fallback`: how the steady state is found, and how for the samples it leaves over.

    >>> import jax
    >>> from dfc_jax import mlp
    >>> model = mlp((4, 5, 3), key=jax.random.key(0))
    >>> update, report = LeastControl()(model, jnp.ones((2, 4)), jnp.eye(3)[:2])
    >>> report.converged.tolist()
    [True, True]

    **Raises:** `ValueError` for an `alpha` of 0 with a loss whose readout is not the output itself.
    """

    alpha: Scalar = number("alpha", 0.1, minimum=0)
    loss: AbstractLoss = CrossEntropy()
    class_value: Scalar = number("class_value", 1.0, above=0, maximum=1)
    equilibrium: AbstractOptimalControl = default(OptimalControl)
    fallback: AbstractOptimalControl | None = default(LeakContinuation)

    def loop(self, model: Network) -> ClosedLoop:
        return self._loop(model, Clamp(self.class_value))


class PredictiveCoding(OptimalControlMethod):
    """Predictive coding at the minimum of its energy, exactly: the prospective configuration.

    Whittington and Bogacz, Neural Computation 29 (2017); Song et al., Nature Neuroscience 27 (2024). With
    eps_i = v_i - W_i r_{i-1} - b_i the energy is

        E = 1/2 sum_{i=1..L} |eps_i|^2 + |y - r_L|^2 / (2 alpha),   or its last term cross-entropy / alpha,

    and the update the gradient of its minimum by the weights. For a linear output layer and squared
    error eps_L can be eliminated, which leaves an output of the variance 1 + `alpha`: `alpha` 0 is the
    network with clamped output and unit precisions that other libraries have.

    **Arguments:**

    - `alpha`: the variance of the target about the output, above 0 with cross-entropy.
    - `loss`: `CrossEntropy()`, or `MeanSquaredError()` for the squared error above.
    - `equilibrium`, `fallback`: how the minimum is found, and how for the samples that this leaves over.

    >>> import jax
    >>> from dfc_jax import MeanSquaredError, mlp
    >>> model = mlp((4, 5, 3), key=jax.random.key(0))
    >>> method = PredictiveCoding(alpha=0, loss=MeanSquaredError())
    >>> update, report = method(model, jnp.ones((2, 4)), jnp.eye(3)[:2])
    >>> report.converged.tolist()
    [True, True]

    **Raises:** `ValueError` for an `alpha` of 0 with a loss whose readout is not the output itself.
    """

    alpha: Scalar = number("alpha", 1.0, minimum=0)
    loss: AbstractLoss = CrossEntropy()
    equilibrium: AbstractOptimalControl = default(OptimalControl)
    fallback: AbstractOptimalControl | None = default(LeakContinuation)

    def loop(self, model: Network) -> ClosedLoop:
        return self._loop(model, Clamp(jnp.asarray(1.0)))
