"""The methods: each is `(model, x, y, key=...) -> update, report` for a batch.

An update has the shape of the model and the sign and size of a gradient, averaged over the batch: Optax
subtracts it. A nudged method's update is divided by its nudge, so a learning rate means the same for all.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from dfc_jax._fields import check_parts, default, flag, number
from dfc_jax.averaging import AbstractAverage
from dfc_jax.broyden import Analytic, Broyden
from dfc_jax.closed_loop import ClosedLoop, Deviation, Sample
from dfc_jax.controller import AbstractController, PIController
from dfc_jax.equilibrium import AbstractEquilibrium, Equilibrium
from dfc_jax.fallback import PseudoTransient, rescue
from dfc_jax.implicit import ImplicitAverage
from dfc_jax.losses import AbstractLoss, CrossEntropy
from dfc_jax.network import check_batch, Layer, Network
from dfc_jax.noise import FilteredNoise
from dfc_jax.plasticity import forward_rule, presynaptic_rates, teaching_signal
from dfc_jax.targets import AbstractTarget, Nudge
from dfc_jax.teaching import AbstractTeachingSignal, RateDifference


class Report(eqx.Module):
    """What happened to a batch, sample by sample. For methods without dynamics every sample converges."""

    loss: Float[Array, " batch"]
    output: Float[Array, "batch out"]
    converged: Bool[Array, " batch"]
    residual: Float[Array, " batch"]  # of the steady state, relative to the target error
    iterations: Int[Array, " batch"]
    stable: Bool[Array, " batch"]
    fallback: Bool[Array, " batch"]  # whether the steady state is that of the fallback scheme
    control: Float[Array, "batch out"]  # u at the end; zero for methods without dynamics


class AbstractMethod(eqx.Module):
    """A rule that turns a batch into an update of the forward weights."""

    loss: eqx.AbstractVar[AbstractLoss]

    def __check_init__(self) -> None:
        check_parts(self)

    @abc.abstractmethod
    def __call__(
        self,
        model: Network,
        x: Float[Array, "batch ..."],
        y: Float[Array, "batch out"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Network, Report]:
        """The update, shaped like `model`, and a report. `key` is for methods with noise.

        The update is zero in the feedback weights unless `learns_feedback`.
        """

    @property
    def learns_feedback(self) -> bool:
        """Whether the update is one of the feedback weights, too, which then need no sleep phase."""
        return False

    def loop(self, model: Network) -> ClosedLoop | None:
        """The closed loop of network and controller; None for methods that have none."""
        del model
        return None

    def doubts(self, model: Network, x: Float[Array, "batch ..."], y: Float[Array, "batch out"]) -> list[str]:
        """What is known to go wrong with this model and these samples (a handful is enough), in a sentence
        each. `fit` warns of it. Not for use under jit."""
        del model, x, y
        return []


class _SteadyStateMethod(AbstractMethod):
    """The update of a steady state (eq. 4 at rest): shared by DFC-SS and DFC-SSA."""

    controller: eqx.AbstractVar[AbstractController]
    target: eqx.AbstractVar[AbstractTarget]
    teaching: eqx.AbstractVar[AbstractTeachingSignal]

    def loop(self, model: Network) -> ClosedLoop:
        return ClosedLoop(model, self.controller, self.target, self.loss, teaching=self.teaching)

    @abc.abstractmethod
    def _equilibrium(
        self, loop: ClosedLoop, samples: Sample
    ) -> tuple[Equilibrium, Bool[Array, " batch"] | None]:
        """The steady states, and which of them a fallback scheme has found, if there is one."""

    @abc.abstractmethod
    def _contributes(self, equilibrium: Equilibrium) -> Bool[Array, " batch"]: ...

    def __call__(
        self,
        model: Network,
        x: Float[Array, "batch ..."],
        y: Float[Array, "batch out"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Network, Report]:
        del key
        check_batch(model, x, y)
        loop = self.loop(model)
        samples = jax.vmap(loop.sample)(x, y)
        found, rescued = self._equilibrium(loop, samples)
        finite = jax.vmap(lambda sample: sample.finite)(samples)
        found = eqx.tree_at(lambda f: f.converged, found, found.converged & finite)
        weight = jnp.where(self._contributes(found) & finite, -1 / (len(y) * self.target.step()), 0)
        signals = jax.vmap(_signals, in_axes=(None, 0, 0, 0))
        presynaptic, teaching = signals(loop, samples, found.deviation, weight)
        update = forward_rule(model.layers, presynaptic, teaching)
        return shaped_like(model, update), batch_report(self.loss, samples, y, found, rescued)


class DFCSS(_SteadyStateMethod):
    """DFC-SS: the update of the steady state.

    **Arguments:**

    - `controller`, `target`, `loss`: of the closed loop.
    - `equilibrium`: how the steady state is found: `Broyden()`, `RootFind(...)`, `Simulated(...)`.
    - `fallback`: how it is found for the samples of which `equilibrium` failed to; None leaves them out.
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

    def _equilibrium(
        self, loop: ClosedLoop, samples: Sample
    ) -> tuple[Equilibrium, Bool[Array, " batch"] | None]:
        found = self.equilibrium(loop, samples)
        return (found, None) if self.fallback is None else rescue(loop, samples, found, self.fallback)

    def doubts(self, model: Network, x: Float[Array, "batch ..."], y: Float[Array, "batch out"]) -> list[str]:
        check_batch(model, x, y)
        loop = self.loop(model)
        return self.equilibrium.doubts(loop, jax.vmap(loop.sample)(x, y))

    def _contributes(self, equilibrium: Equilibrium) -> Bool[Array, " batch"]:
        return jnp.isfinite(equilibrium.residual) if self.include_unconverged else equilibrium.converged


class DFCSSA(_SteadyStateMethod):
    """DFC-SSA: the update of the linearised steady state, which needs no iteration."""

    controller: AbstractController = default(PIController)
    target: AbstractTarget = default(Nudge)
    loss: AbstractLoss = CrossEntropy()
    teaching: AbstractTeachingSignal = RateDifference()

    def _equilibrium(self, loop: ClosedLoop, samples: Sample) -> tuple[Equilibrium, None]:
        return Analytic()(loop, samples), None

    def _contributes(self, equilibrium: Equilibrium) -> Bool[Array, " batch"]:
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
    tau_v: Float[Array, ""] = number("tau_v", 0.2, above=0)
    average: AbstractAverage = default(ImplicitAverage)
    noise: FilteredNoise | None = None
    teaching: AbstractTeachingSignal = RateDifference()

    def loop(self, model: Network) -> ClosedLoop:
        parts = self.controller, self.target, self.loss, self.tau_v
        return ClosedLoop(model, *parts, noise=self.noise, teaching=self.teaching)

    def __call__(
        self,
        model: Network,
        x: Float[Array, "batch ..."],
        y: Float[Array, "batch out"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Network, Report]:
        check_batch(model, x, y)
        loop = self.loop(model)
        samples = jax.vmap(loop.sample)(x, y)
        change, final = self.average(loop, samples, key)
        update = jax.tree.map(lambda w: -w / (len(y) * self.target.step()), change)
        return shaped_like(model, update), batch_report(self.loss, samples, y, final)

    def doubts(self, model: Network, x: Float[Array, "batch ..."], y: Float[Array, "batch out"]) -> list[str]:
        check_batch(model, x, y)
        loop = self.loop(model)
        return self.average.doubts(loop, jax.vmap(loop.sample)(x, y))


def _signals(
    loop: ClosedLoop, sample: Sample, deviation: Deviation, weight: Float[Array, ""]
) -> tuple[tuple[Float[Array, "..."], ...], tuple[Float[Array, "..."], ...]]:
    """Presynaptic rates and weighted teaching signals; zeros, even instead of NaN, if the weight is zero."""
    presynaptic = presynaptic_rates(sample, deviation)
    teaching = tuple(weight * signal for signal in teaching_signal(loop, sample, deviation))
    return jax.tree.map(lambda leaf: jnp.where(weight == 0, 0, leaf), (presynaptic, teaching))


def shaped_like(model: Network, layers: tuple[Layer, ...]) -> Network:
    """An update of the layers alone, as the network that a method returns: nothing for the feedback."""
    return Network(layers, jax.tree.map(jnp.zeros_like, model.feedback))


def batch_report(
    loss: AbstractLoss,
    samples: Sample,
    y: Float[Array, "batch out"],
    found: Equilibrium,
    rescued: Bool[Array, " batch"] | None = None,
) -> Report:
    output = samples.feedforward.output
    return Report(
        jax.vmap(loss)(output, y),
        output,
        found.converged,
        found.residual,
        found.iterations,
        found.stable,
        jnp.zeros(len(y), bool) if rescued is None else rescued,
        found.control,
    )


def instant_report(
    loss: AbstractLoss, output: Float[Array, "batch out"], y: Float[Array, "batch out"]
) -> Report:
    """The report of a method that solves no dynamics, so that nothing can fail to converge."""
    batch = len(y)
    yes, none = jnp.ones(batch, bool), jnp.zeros(batch, int)
    still = jnp.zeros_like(output)
    return Report(jax.vmap(loss)(output, y), output, yes, still[:, 0], none, yes, ~yes, still)
