"""Single-phase Strong-DFC to first order in its noise, in as many dimensions a layer as outputs."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from dfc_jax._dynamics.controller import AbstractController, PIController
from dfc_jax._dynamics.losses import AbstractLoss, CrossEntropy
from dfc_jax._dynamics.noise import FilteredNoise
from dfc_jax._dynamics.published import PublishedEuler
from dfc_jax._dynamics.small_noise import SmallNoise
from dfc_jax._dynamics.targets import AbstractTarget, Clamp
from dfc_jax._fields import default, number
from dfc_jax._methods.base import batch_report, Report
from dfc_jax._methods.dfc import DFCSS
from dfc_jax._methods.noise_draws import paired_sums
from dfc_jax._methods.single_phase import AbstractSinglePhase
from dfc_jax._network.feedback import FeedbackWeights, learnable
from dfc_jax._network.network import Network
from dfc_jax._network.plasticity import AbstractTeachingSignal, RateDifference
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs, Scalar
from dfc_jax._numerics.compiled import compiled
from dfc_jax._steady_state.base import AbstractEquilibrium
from dfc_jax._steady_state.broyden import Broyden
from dfc_jax._steady_state.pseudo_transient import PseudoTransient


class LinearisedStrongDFC(AbstractSinglePhase):
    """Single-phase Strong-DFC for small noise and few outputs, several times faster than `StrongDFC`.

    The forward weights learn from the steady state itself, as those of `DFCSS(target=Clamp(0.99))`; the
    feedback weights from a draw of what small noise does around it, u_fast being the answer to the noise.
    The update of the feedback weights has the mean and the covariance of that of `StrongDFC()`, but for terms
    of the order of the noise; the forward update has neither its noise nor the bias that large noise gives
    it. A key gives another draw than there. Memory grows with the square of the number of outputs.

    **Arguments:**

    - `controller`, `target`, `loss`, `noise`, `tau_v`: of the closed loop.
    - `tau_filter`: time constant of the low-pass that splits the control.
    - `scheme`: the discretisation, and how long the noise is answered.
    - `equilibrium`, `fallback`: how the steady state is found, as for `DFCSS`; a sample without one is left
      out.
    - `teaching`: what the forward weights learn from, rates or voltages.
    """

    controller: AbstractController = default(PIController)
    target: AbstractTarget = default(Clamp, 0.99)
    loss: AbstractLoss = CrossEntropy()
    noise: FilteredNoise = default(FilteredNoise, 0.005, tau=0.05, sigma_output=0.03)
    tau_v: Scalar = number("tau_v", 0.02, above=0)
    tau_filter: Scalar = number("tau_filter", 0.25, above=0)
    scheme: PublishedEuler = default(PublishedEuler, dt=0.004, states=128)
    equilibrium: AbstractEquilibrium = default(Broyden)
    fallback: AbstractEquilibrium | None = default(PseudoTransient)
    teaching: AbstractTeachingSignal = RateDifference()

    @compiled
    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Network, Report]:
        if key is None:
            raise ValueError("`key` is None; LinearisedStrongDFC draws its noise from a key.")
        loop, two_phases = self.loop(model), self._two_phases()
        learnable(model.feedback, FeedbackWeights, type(self).__name__)
        samples = loop.samples(x, y)
        found, rescued = two_phases.equilibria(loop, samples)
        layers = two_phases.update_at(model, loop, samples, found).layers
        rest = found.converged, found.deviation, found.control
        sums = paired_sums(SmallNoise(loop, self.scheme), samples, *rest, key, self._fast)
        factors = self.feedback_factors(len(sums), len(y))
        feedback = FeedbackWeights(tuple(factor * Q for factor, Q in zip(factors, sums, strict=True)))
        return Network(layers, feedback), batch_report(self.loss, samples, y, found, rescued)

    def _two_phases(self) -> DFCSS:
        """The method whose forward update this is."""
        return DFCSS(
            controller=self.controller,
            target=self.target,
            loss=self.loss,
            equilibrium=self.equilibrium,
            fallback=self.fallback,
            teaching=self.teaching,
        )

    def _fast(self, control: Float[Array, "steps out batch"]) -> Float[Array, "steps out batch"]:
        """u_fast, of deviations of the control that begin at 0, as u_slow does."""
        share = self.scheme.dt / self.tau_filter

        def step(slow: Array, control: Array) -> tuple[Array, Array]:
            slow = slow + share * (control - slow)
            return slow, control - slow

        return jax.lax.scan(step, jnp.zeros_like(control[0]), control)[1]
