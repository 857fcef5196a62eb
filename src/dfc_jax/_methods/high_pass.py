"""The feedback half of single-phase Strong-DFC alone."""

from jaxtyping import PRNGKeyArray

from dfc_jax._dynamics.controller import PIController
from dfc_jax._dynamics.published import PublishedEuler
from dfc_jax._dynamics.targets import Rest
from dfc_jax._fields import default
from dfc_jax._methods.single_phase import AbstractSinglePhase
from dfc_jax._methods.sleep import AbstractSleepPhase
from dfc_jax._methods.strong_dfc import StrongDFC
from dfc_jax._network.learned import no_change
from dfc_jax._network.network import Network
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs
from dfc_jax._numerics.compiled import one_program


def _at_rest() -> StrongDFC:
    """The dynamics of `SleepPhase()`, with the noise and the filter of `StrongDFC()`."""
    # The fields make arrays of numbers.
    controller = PIController(k_p=0.1, alpha=0.25)  # ty: ignore[invalid-argument-type]
    scheme = PublishedEuler(dt=0.002, states=50)  # ty: ignore[invalid-argument-type]
    return StrongDFC(controller=controller, target=Rest(), tau_v=0.01, scheme=scheme, start=None)  # ty: ignore[invalid-argument-type]


class HighPassPhase(AbstractSleepPhase):
    """The feedback half of `StrongDFC` alone: how its feedback weights are pre-trained.

    By default the output is held at its feedforward value, as in `SleepPhase()`, whose controller, `tau_v`
    and number of states it has.
    """

    dynamics: AbstractSinglePhase = default(_at_rest)

    @one_program
    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
        *,
        key: PRNGKeyArray,
    ) -> Network:
        update, _ = self.dynamics(model, x, y, key=key)
        return Network(no_change(model.layers), update.feedback)

    def doubts(self) -> list[str]:
        return [f"Feedback pre-training: {doubt}" for doubt in self.dynamics.time_scale_doubts()]
