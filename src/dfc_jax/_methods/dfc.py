"""The methods of Deep Feedback Control: `DFC`, `DFCSS` and `DFCSSA`."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from dfc_jax._average.base import AbstractAverage
from dfc_jax._average.implicit import ImplicitAverage
from dfc_jax._checks import check_type
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.controller import AbstractController, PIController
from dfc_jax._dynamics.losses import AbstractLoss, CrossEntropy
from dfc_jax._dynamics.noise import FilteredNoise
from dfc_jax._dynamics.states import Sample
from dfc_jax._dynamics.targets import AbstractTarget, Nudge
from dfc_jax._dynamics.teaching import forward_change
from dfc_jax._fields import default, flag, number
from dfc_jax._methods.base import AbstractMethod, batch_report, Report, shaped_like
from dfc_jax._network.network import Network
from dfc_jax._network.plasticity import AbstractTeachingSignal, RateDifference
from dfc_jax._numerics.arrays import BatchFlags, BatchInputs, BatchOutputs, Scalar
from dfc_jax._numerics.compiled import compiled
from dfc_jax._steady_state.base import AbstractEquilibrium, Equilibrium
from dfc_jax._steady_state.broyden import Broyden
from dfc_jax._steady_state.linear import Analytic
from dfc_jax._steady_state.pseudo_transient import PseudoTransient
from dfc_jax._steady_state.rescue import found_or_rescued


class SteadyStateMethod(AbstractMethod):
    """The update of a steady state (eq. 4 at rest): shared by all methods that learn from one."""

    @abc.abstractmethod
    def loop(self, model: Network) -> ClosedLoop: ...

    @abc.abstractmethod
    def equilibria(self, loop: ClosedLoop, samples: Sample) -> tuple[Equilibrium, BatchFlags | None]:
        """The steady states, and which of them a fallback scheme has found, if there is one."""

    @abc.abstractmethod
    def _contributes(self, equilibrium: Equilibrium) -> BatchFlags: ...

    @compiled
    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Network, Report]:
        del key
        loop = self.loop(model)
        samples = loop.samples(x, y)
        found, rescued = self.equilibria(loop, samples)
        report = batch_report(self.loss, samples, y, found, rescued)
        return self.update_at(model, loop, samples, found), report

    def update_at(self, model: Network, loop: ClosedLoop, samples: Sample, found: Equilibrium) -> Network:
        """The update of a batch whose steady states are `found`."""
        scale = -1 / (len(samples.error) * loop.target.unit())
        weights = jnp.where(self._contributes(found), scale, 0)
        return shaped_like(model, forward_change(loop, samples, found.deviation, weights))

    def own_updates_at(
        self, model: Network, loop: ClosedLoop, samples: Sample, found: Equilibrium
    ) -> Network:
        """`own_updates` of a batch whose steady states are `found`."""

        def one(sample: Sample, found: Equilibrium) -> Network:
            alone = jax.tree.map(lambda leaf: leaf[None], (sample, found))
            return self.update_at(model, loop, *alone)

        return jax.vmap(one)(samples, found)

    @compiled
    def own_updates(
        self, model: Network, x: BatchInputs, y: BatchOutputs, *, key: PRNGKeyArray | None = None
    ) -> Network:
        del key
        loop = self.loop(model)
        samples = loop.samples(x, y)
        return self.own_updates_at(model, loop, samples, self.equilibria(loop, samples)[0])


class _ControllerMethod(SteadyStateMethod):
    """With a controller, a target and a teaching signal of the user's choice."""

    controller: eqx.AbstractVar[AbstractController]
    target: eqx.AbstractVar[AbstractTarget]
    teaching: eqx.AbstractVar[AbstractTeachingSignal]

    def loop(self, model: Network) -> ClosedLoop:
        check_type("model", model, Network)
        return ClosedLoop(model, self.controller, self.target, self.loss, teaching=self.teaching)


class DFCSS(_ControllerMethod):
    """DFC-SS: the update of the steady state.

    **Arguments:**

    - `controller`, `target`, `loss`: of the closed loop.
    - `equilibrium`: how the steady state is found: `Broyden()`, `RootFind(...)`, `Simulated(...)`.
    - `fallback`: how it is found, in the same sense, for the samples of which `equilibrium` failed to; None
      leaves them out.
    - `include_unconverged`: whether samples whose steady state was not found contribute. They are counted
      in the report either way; a sample that is not finite never contributes.
    - `teaching`: what the weights learn from, rates or voltages.

    >>> from dfc_jax import mlp
    >>> model = mlp((4, 5, 3), key=jax.random.key(0))
    >>> update, report = DFCSS()(model, jnp.ones((2, 4)), jnp.eye(3)[:2])
    >>> update.layers[0].transform.weight.shape, report.converged.tolist()
    ((5, 4), [True, True])
    """

    controller: AbstractController = default(PIController)
    target: AbstractTarget = default(Nudge)
    loss: AbstractLoss = CrossEntropy()
    equilibrium: AbstractEquilibrium = default(Broyden)
    fallback: AbstractEquilibrium | None = default(PseudoTransient)
    include_unconverged: bool = flag("include_unconverged", False)
    teaching: AbstractTeachingSignal = RateDifference()

    def equilibria(self, loop: ClosedLoop, samples: Sample) -> tuple[Equilibrium, BatchFlags | None]:
        return found_or_rescued(loop, samples, self.equilibrium, self.fallback)

    def doubts(self, model: Network, x: BatchInputs, y: BatchOutputs) -> list[str]:
        loop = self.loop(model)
        found = self.equilibrium.doubts(loop, loop.samples(x, y))
        return [*super().doubts(model, x, y), *found]

    def _contributes(self, equilibrium: Equilibrium) -> BatchFlags:
        return jnp.isfinite(equilibrium.residual) if self.include_unconverged else equilibrium.converged


class DFCSSA(_ControllerMethod):
    """DFC-SSA: the update of the linearised steady state, a linear system for each sample (`Analytic`)."""

    controller: AbstractController = default(PIController)
    target: AbstractTarget = default(Nudge)
    loss: AbstractLoss = CrossEntropy()
    teaching: AbstractTeachingSignal = RateDifference()

    def equilibria(self, loop: ClosedLoop, samples: Sample) -> tuple[Equilibrium, None]:
        return Analytic()(loop, samples), None

    def _contributes(self, equilibrium: Equilibrium) -> BatchFlags:
        return equilibrium.converged


class DFC(AbstractMethod):
    """DFC: the forward rule averaged over the controlled trajectory, accumulated and never stored.

    **Arguments:**

    - `controller`, `target`, `loss`, `tau_v`, `noise`: of the closed loop.
    - `average`: how time is stepped: `ImplicitAverage()` (fast), `PublishedAverage(PublishedEuler(...))`
      (the published code, step for step; the one for `noise`, which needs a `key`) or `DiffraxAverage(...)`
      (any Diffrax solver).
    - `teaching`: what the weights learn from, rates or voltages.
    """

    controller: AbstractController = default(PIController)
    target: AbstractTarget = default(Nudge)
    loss: AbstractLoss = CrossEntropy()
    tau_v: Scalar = number("tau_v", 0.2, above=0)
    average: AbstractAverage = default(ImplicitAverage)
    noise: FilteredNoise | None = None
    teaching: AbstractTeachingSignal = RateDifference()

    def loop(self, model: Network) -> ClosedLoop:
        check_type("model", model, Network)
        parts = self.controller, self.target, self.loss, self.tau_v
        return ClosedLoop(model, *parts, noise=self.noise, teaching=self.teaching)

    @compiled
    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Network, Report]:
        loop = self.loop(model)
        samples = loop.samples(x, y)
        change, final = self.average(loop, samples, key)
        update = jax.tree.map(lambda w: -w / (len(y) * self.target.unit()), change)
        return shaped_like(model, update), batch_report(self.loss, samples, y, final)

    def doubts(self, model: Network, x: BatchInputs, y: BatchOutputs) -> list[str]:
        loop = self.loop(model)
        found = self.average.doubts(loop, loop.samples(x, y))
        return [*super().doubts(model, x, y), *found]
