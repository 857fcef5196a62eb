"""Feedback learning: the sleep phase, in which noise alone drives the network."""

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from dfc_jax._checks import check_number, check_type, require
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.controller import AbstractController, PIController
from dfc_jax._dynamics.losses import AbstractLoss, CrossEntropy
from dfc_jax._dynamics.noise import AbstractNoise, check_compartment, LEAST_SIGMA, WhiteNoise
from dfc_jax._dynamics.published import PublishedEuler, PublishedState
from dfc_jax._dynamics.small_noise import SmallNoise
from dfc_jax._dynamics.states import PerLayer
from dfc_jax._dynamics.targets import AbstractTarget, Rest
from dfc_jax._dynamics.teaching import feedback_change
from dfc_jax._fields import check_parts, default, number, Part
from dfc_jax._network.feedback import AbstractFeedback, FeedbackWeights, learnable
from dfc_jax._network.learned import no_change
from dfc_jax._network.network import Network
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs, Scalar
from dfc_jax._numerics.compiled import compiled


class AbstractSleepPhase(Part):
    """An update of the feedback weights, `(model, x, y, key=...) -> update`."""

    learns: ClassVar[type[AbstractFeedback]] = FeedbackWeights  # what kind of feedback this phase is for

    def __check_init__(self) -> None:
        check_parts(self)

    @abc.abstractmethod
    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
        *,
        key: PRNGKeyArray,
    ) -> Network:
        """The update, shaped and signed like a gradient and zero in its forward weights."""

    def doubts(self) -> list[str]:
        """What is known to go wrong with this phase, in a sentence each; `fit` warns of it."""
        return []


class AbstractNoisePhase(AbstractSleepPhase):
    """A sleep phase in which a controller at rest answers the noise of a published scheme."""

    controller: AbstractController = default(PIController, k_p=0.1, alpha=0.25)
    noise: AbstractNoise = default(WhiteNoise, 0.01)
    tau_v: Scalar = number("tau_v", 0.01, above=0)
    tau_apical: Scalar | None = number("tau_apical", 0.3, above=0, optional=True)
    scheme: PublishedEuler = default(PublishedEuler, dt=0.002, states=50, proactive=False)
    target: AbstractTarget = Rest()
    loss: AbstractLoss = CrossEntropy()

    def __check_init__(self) -> None:
        check_parts(self)  # the base class's turn comes later, and the next line needs a noise
        check_number("noise.sigma", self.noise.sigma, above=LEAST_SIGMA)
        check_compartment(self.noise, self.tau_apical)

    def _loop(self, model: Network) -> ClosedLoop:
        """The closed loop of this phase, for a model whose feedback can learn."""
        check_type("model", model, Network)
        learnable(model.feedback, self.learns, type(self).__name__)
        return ClosedLoop(
            model, self.controller, self.target, self.loss, self.tau_v, self.tau_apical, self.noise
        )

    def _normalised(self, model: Network, total: PerLayer, batch: int) -> Network:
        """The update from the sum of v_fb u^T over steps and samples; zero for a layer without noise."""
        pairs = (self.scheme.states - 1) * batch
        scales = (jnp.where(s > 0, 1 / (s**2 * pairs), 0) for s in self.noise.sigmas(len(total)))
        update = tuple(scale * Q for Q, scale in zip(total, scales, strict=True))
        return Network(no_change(model.layers), FeedbackWeights(update))


class AbstractSmallNoisePhase(AbstractNoisePhase):
    """One that takes the scheme to first order in the noise, around the feedforward state."""

    def __check_init__(self) -> None:
        require(
            isinstance(self.target, Rest),
            f"`target` is {type(self.target).__name__}; {type(self).__name__} needs Rest, use SleepPhase.",
        )

    def _small_noise(self, model: Network) -> SmallNoise:
        """The scheme of this phase, for a model whose feedback can learn."""
        return SmallNoise(self._loop(model), self.scheme)


class SleepPhase(AbstractNoisePhase):
    """The update of the feedback weights, `(model, x, y, key=...) -> update`.

    The controller holds the output at its feedforward value against noise in every layer; correlating the
    apical voltages with the control that answers them turns Q towards J^T (J J^T + gamma I)^-1 (Theorem 6
    and eq. 12 of the NeurIPS paper). The update of layer i is

        mean over steps and samples of v_fb_i[t] u[t+1]^T / sigma_i^2,

    shaped and signed like a gradient. Division by the noise's variance makes its size independent of sigma;
    the published code divides by max(sigma, 0.01)^2. Decay of Q, the beta of eq. 12, is the optimiser's
    weight decay, as in the published code.

    **Arguments:**

    - `controller`, `noise`, `tau_v`, `tau_apical`: of the closed loop in this phase.
    - `scheme`: the discretisation. The defaults are the paper's toy experiments'.
    - `target`: `Rest()`; Strong-DFC pre-trains with `Clamp()`.
    """

    @compiled
    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
        *,
        key: PRNGKeyArray,
    ) -> Network:
        """The update, shaped like `model` and zero in its forward weights.

        A sample whose state is not finite contributes nothing.
        """
        loop = self._loop(model)
        samples = loop.samples(x, y)

        def add(total: PerLayer, before: PublishedState, after: PublishedState) -> PerLayer:
            change = feedback_change(before.apical, after.control)  # the published code pairs these
            return jax.tree.map(jnp.add, total, change)

        zeros = jax.tree.map(jnp.zeros_like, loop.feedback(samples))
        _, total = self.scheme.fold(loop, samples, add, zeros, key=key)
        return self._normalised(model, total, len(x))
