"""The time average of the published scheme, step for step."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from dfc_jax._average.base import AbstractAverage, Accumulator, instant_change
from dfc_jax._checks import require
from dfc_jax._dynamics.closed_loop import ClosedLoop, Sample
from dfc_jax._dynamics.published import PublishedEuler, sample_keys
from dfc_jax._dynamics.stability import scheme_doubts
from dfc_jax._fields import default
from dfc_jax._network.network import Layer
from dfc_jax._steady_state.base import Equilibrium, last_state


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
        return scheme_doubts(loop, samples, self.scheme)
