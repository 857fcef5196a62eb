"""The time average of the published scheme, step for step."""

from jaxtyping import PRNGKeyArray

from dfc_jax._average.base import AbstractAverage, Accumulator, instant_change
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.published import PublishedEuler, PublishedState
from dfc_jax._dynamics.stability import scheme_doubts
from dfc_jax._dynamics.states import Sample
from dfc_jax._fields import default
from dfc_jax._network.layer import Layer
from dfc_jax._numerics.compiled import compiled
from dfc_jax._steady_state.base import Equilibrium, last_state


class PublishedAverage(AbstractAverage):
    """The published scheme, step for step: the mean over all its states, the first (zero) one included.

    The one average for loops with noise, which is then drawn from `key`.
    """

    scheme: PublishedEuler = default(PublishedEuler)

    @compiled
    def __call__(
        self, loop: ClosedLoop, samples: Sample, key: PRNGKeyArray | None = None
    ) -> tuple[tuple[Layer, ...], Equilibrium]:
        share = 1 / self.scheme.states

        def add(total: Accumulator, _: PublishedState, after: PublishedState) -> Accumulator:
            return total.plus(share, instant_change(loop, samples, after.deviation))

        last, total = self.scheme.fold(loop, samples, add, Accumulator.zero(loop, samples), key=key)
        final = last_state(loop, samples, last.control, last.deviation, self.scheme.states - 1)
        return total.total(loop, samples), final

    def doubts(self, loop: ClosedLoop, samples: Sample) -> list[str]:
        return scheme_doubts(loop, samples, self.scheme)
