"""Time averages of the forward rule along the controlled trajectory, for a whole batch in constant memory."""

import abc

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.states import Deviation, Sample
from dfc_jax._dynamics.teaching import forward_signals
from dfc_jax._fields import check_parts, Part
from dfc_jax._network.layer import Layer
from dfc_jax._network.learned import no_change
from dfc_jax._network.plasticity import forward_rule
from dfc_jax._numerics.arrays import Scalar
from dfc_jax._steady_state.base import Equilibrium


class AbstractAverage(Part):
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


class Accumulator(Part):
    """A running time integral of the forward rule (eq. 4), summed over a batch: for averages of one's own.

    The first layer's presynaptic rate is the input, which is constant, so its teaching signal is
    integrated and the largest matrix product of all is done once, at the end.

    **Arguments:**

    - `first_teaching`: the integral of the first layer's teaching signals, one row a sample.
    - `later_layers`: the integral of the change of every later layer, shaped like those layers.
    """

    first_teaching: Float[Array, "batch ..."]
    later_layers: tuple[Layer, ...]

    @staticmethod
    def zero(loop: ClosedLoop, samples: Sample) -> "Accumulator":
        """Nothing yet, for a batch of samples."""
        later = no_change(loop.network.layers[1:])
        return Accumulator(jnp.zeros_like(samples.feedforward.voltages[0]), later)

    def plus(self, weight: Scalar | float, other: "Accumulator") -> "Accumulator":
        """`self + weight * other`; for a mean over time, weights that add up to one."""
        return jax.tree.map(lambda total, term: total + weight * term, self, other)

    def total(self, loop: ClosedLoop, samples: Sample) -> tuple[Layer, ...]:
        """The change of all layers, shaped like `loop.network.layers`; a method divides and negates it."""
        inputs = samples.feedforward.inputs[0]
        finite = jnp.where(jnp.isfinite(inputs), inputs, 0)  # a zero teaching signal times NaN is NaN
        return forward_rule(loop.network.layers[:1], [finite], [self.first_teaching]) + self.later_layers


def instant_change(loop: ClosedLoop, samples: Sample, deviations: Deviation) -> Accumulator:
    """The forward rule (eq. 4) in one instant, summed over the batch: what an average adds up.

    `samples` and `deviations` have the batch along the first axis of every array. A sample whose state is
    not finite contributes nothing.
    """
    everyone = jnp.ones(len(samples.error), samples.error.dtype)
    presynaptic, teaching = forward_signals(loop, samples, deviations, everyone)
    later = forward_rule(loop.network.layers[1:], presynaptic[1:], teaching[1:])
    return Accumulator(teaching[0], later)
