"""Time averages of the forward rule along the controlled trajectory, for a whole batch in constant memory."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from dfc_jax._checks import require, zero_unless_finite
from dfc_jax._fields import check_parts, default
from dfc_jax.closed_loop import ClosedLoop, Deviation, PerLayer, Sample
from dfc_jax.equilibrium import controlled, Equilibrium, relative_residual
from dfc_jax.linearised import euler_step_bound, published_growth
from dfc_jax.network import Layer
from dfc_jax.plasticity import forward_rule, presynaptic_rates, teaching_signal
from dfc_jax.published import PublishedEuler, sample_keys


class AbstractAverage(eqx.Module):
    """A way to step through time that averages the forward rule on the fly."""

    def __check_init__(self) -> None:
        check_parts(self)

    @abc.abstractmethod
    def __call__(
        self, loop: ClosedLoop, samples: Sample, key: PRNGKeyArray | None = None
    ) -> tuple[tuple[Layer, ...], Equilibrium]:
        """The time-averaged weight change, summed over the batch, and each sample's last state.

        `key` is for a loop with noise, which only `PublishedAverage` steps through.

        A sample whose state is not finite contributes nothing from then on. Converged means that the
        control error has fallen below half of what it was, the published criterion (`epsilon_di`).
        """

    def doubts(self, loop: ClosedLoop, samples: Sample) -> list[str]:
        """What is known to go wrong with these samples, in a sentence each; not for use under jit."""
        del loop, samples
        return []


class Accumulator(eqx.Module):
    """A running time integral of the forward rule.

    The first layer's presynaptic rate is the input, which is constant, so its teaching signal is
    integrated and the largest matrix product of all is done once, at the end.
    """

    first_teaching: Float[Array, "batch ..."]
    later_layers: tuple[Layer, ...]

    @staticmethod
    def zero(loop: ClosedLoop, samples: Sample) -> "Accumulator":
        later = jax.tree.map(jnp.zeros_like, loop.network.layers[1:])
        return Accumulator(jnp.zeros_like(samples.feedforward.voltages[0]), later)

    def plus(self, weight: Float[Array, ""] | float, other: "Accumulator") -> "Accumulator":
        return jax.tree.map(lambda total, term: total + weight * term, self, other)

    def total(self, loop: ClosedLoop, samples: Sample) -> tuple[Layer, ...]:
        inputs = samples.feedforward.inputs[0]
        finite = jnp.where(jnp.isfinite(inputs), inputs, 0)  # a zero teaching signal times NaN is NaN
        return forward_rule(loop.network.layers[:1], [finite], [self.first_teaching]) + self.later_layers


def instant_change(loop: ClosedLoop, samples: Sample, deviations: Deviation) -> Accumulator:
    """The forward rule in one instant, summed over the batch."""

    def signals(sample: Sample, deviation: Deviation) -> tuple[PerLayer, PerLayer]:
        return zero_unless_finite(
            (presynaptic_rates(sample, deviation), teaching_signal(loop, sample, deviation))
        )

    presynaptic, teaching = jax.vmap(signals)(samples, deviations)
    later = forward_rule(loop.network.layers[1:], presynaptic[1:], teaching[1:])
    return Accumulator(teaching[0], later)


def last_state(
    loop: ClosedLoop,
    samples: Sample,
    control: Float[Array, "batch out"],
    deviation: Deviation,
    steps: Int[Array, ""] | int,
) -> Equilibrium:
    def one(sample: Sample, control: Float[Array, " out"], deviation: Deviation) -> Equilibrium:
        error = jnp.linalg.norm(loop.error(sample, deviation.rate[-1])) / sample.scale
        fallen = error < 0.5
        remaining = relative_residual(loop, sample, control, controlled(loop, sample, control))
        return Equilibrium(control, deviation, fallen, remaining, jnp.asarray(steps), fallen)

    return jax.vmap(one)(samples, control, deviation)


class PublishedAverage(AbstractAverage):
    """The published scheme, step for step: the mean over all its states, the first (zero) one included.

    The one average for loops with noise, which is then drawn from `key`.
    """

    scheme: PublishedEuler = default(PublishedEuler)

    def __call__(
        self, loop: ClosedLoop, samples: Sample, key: PRNGKeyArray | None = None
    ) -> tuple[tuple[Layer, ...], Equilibrium]:
        require(
            loop.noise is None or key is not None, "`key` is None; a loop with noise draws it from a key."
        )
        keys = None if loop.noise is None else sample_keys(key, len(samples.error))
        of_all = lambda step, *more: jax.vmap(step, in_axes=(None, 0, 0, *more))

        def step(carry: PyTree, t: Int[Array, ""]) -> tuple[PyTree, None]:
            states, total = carry
            if keys is None:
                states = of_all(self.scheme.step)(loop, states, samples)
            else:
                states = of_all(self.scheme.noisy_step, 0, None)(loop, states, samples, keys, t)
            change = instant_change(loop, samples, states.deviation)
            return (states, total.plus(1 / self.scheme.states, change)), None

        first = jax.vmap(self.scheme.initial, in_axes=(None, 0))(loop, samples)
        start = first, Accumulator.zero(loop, samples)
        steps = self.scheme.states - 1
        (last, total), _ = jax.lax.scan(step, start, jnp.arange(steps))
        final = last_state(loop, samples, last.control, last.deviation, steps)
        return total.total(loop, samples), final

    def doubts(self, loop: ClosedLoop, samples: Sample) -> list[str]:
        bound = euler_step_bound(loop, samples)
        growth = published_growth(loop, samples, self.scheme)
        diverging = (bound > 0) & (growth > 1)  # the loop itself is stable
        if not np.any(diverging):
            return []
        return [
            f"`scheme.dt` is {float(self.scheme.dt):.3g}, too long for {np.mean(diverging):.0%} of the "
            f"samples tried: the published scheme diverges, by up to {np.max(growth[diverging]):.3g} times a "
            f"step. Forward Euler is stable below {np.min(bound[diverging]):.2g} here; training lowers that."
        ]
