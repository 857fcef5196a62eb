"""What the ways to compute single-phase Strong-DFC share."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from dfc_jax._checks import check_number, check_type
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.controller import AbstractController
from dfc_jax._dynamics.noise import FilteredNoise, LEAST_SIGMA
from dfc_jax._dynamics.published import PublishedEuler
from dfc_jax._dynamics.stability import scheme_doubts
from dfc_jax._dynamics.targets import AbstractTarget
from dfc_jax._fields import check_parts
from dfc_jax._methods.base import AbstractMethod
from dfc_jax._network.network import Network
from dfc_jax._network.plasticity import AbstractTeachingSignal
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs, Scalar


class AbstractSinglePhase(AbstractMethod):
    """A method whose forward and feedback weights learn at once, from a control that noise moves."""

    controller: eqx.AbstractVar[AbstractController]
    target: eqx.AbstractVar[AbstractTarget]
    noise: eqx.AbstractVar[FilteredNoise]
    tau_v: eqx.AbstractVar[Scalar]
    tau_filter: eqx.AbstractVar[Scalar]
    scheme: eqx.AbstractVar[PublishedEuler]
    teaching: eqx.AbstractVar[AbstractTeachingSignal]

    def __check_init__(self) -> None:
        check_parts(self)  # the base class's turn comes later, and the next line needs a noise
        check_number("noise.sigma", self.noise.sigma, above=LEAST_SIGMA)

    @property
    def learns_feedback(self) -> bool:
        return True

    def loop(self, model: Network) -> ClosedLoop:
        check_type("model", model, Network)
        parts = self.controller, self.target, self.loss, self.tau_v
        return ClosedLoop(model, *parts, noise=self.noise, teaching=self.teaching)

    def doubts(self, model: Network, x: BatchInputs, y: BatchOutputs) -> list[str]:
        loop = self.loop(model)
        steps = scheme_doubts(loop, loop.samples(x, y), self.scheme)
        return [*self.time_scale_doubts(), *super().doubts(model, x, y), *steps]

    def time_scale_doubts(self) -> list[str]:
        """Where dt << tau_v, tau_noise << tau_filter << tau_u = 1 is broken, and what that does.

        "Much less" is taken for at most half: the published settings just keep to that.
        """
        dt, tau_v = ("dt", self.scheme.dt), ("tau_v", self.tau_v)
        tau_noise, tau_filter = ("noise.tau", self.noise.tau), ("tau_filter", self.tau_filter)
        orders = (
            (dt, tau_v, "Euler's steps distort the voltages"),
            (dt, tau_noise, "Euler's steps distort the noise"),
            (tau_v, tau_filter, "the answer to the noise counts as slow control"),
            (tau_noise, tau_filter, "the answer to the noise counts as slow control"),
            (tau_filter, ("tau_u", 1.0), "the control of the target counts as an answer to the noise"),
        )
        return [
            f"`{low}` is {float(a):.3g} and {high} {float(b):.3g}: {low} must be much smaller, for {harm}."
            for (low, a), (high, b), harm in orders
            if np.float32(a) > np.float32(b) / 2
        ]

    def feedback_factors(self, layers: int, batch: int) -> list[Scalar]:
        """What turns the sum of v_fb u_fast^T over steps and samples into an update; 0 without noise."""
        lag, pairs = 1 + self.tau_v / self.noise.tau, (self.scheme.states - 1) * batch
        sigmas = self.noise.sigmas(layers)
        return [jnp.where(s > 0, lag ** (layers - 1 - i) / (s**2 * pairs), 0) for i, s in enumerate(sigmas)]
