"""What a method is: `(model, x, y, key=...) -> update, report` for a batch.

An update has the shape of the model's arrays and the sign and size of a gradient, averaged over the batch:
Optax subtracts it. It is one of the weights alone (`learned_weights`): zero for what else is an array of
floats, as an activation's slope, and None for what is none. A nudged method's update is divided by its
nudge, so a learning rate means the same for all.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.losses import AbstractLoss
from dfc_jax._dynamics.stability import loop_stability, LoopStability
from dfc_jax._dynamics.states import PerLayer, Sample
from dfc_jax._fields import check_parts, Part
from dfc_jax._network.layer import Layer
from dfc_jax._network.learned import no_change
from dfc_jax._network.network import Feedforward, Network
from dfc_jax._network.plasticity import forward_rule
from dfc_jax._numerics.arrays import BatchFlags, BatchInputs, BatchOutputs
from dfc_jax._numerics.finite import is_finite, zero_unless_finite
from dfc_jax._steady_state.base import Equilibrium


class Report(Part):
    """What happened to a batch, sample by sample. Without dynamics every sample that is finite converges."""

    loss: Float[Array, " batch"]
    output: BatchOutputs
    converged: BatchFlags
    residual: Float[Array, " batch"]  # of the steady state, relative to the target error
    iterations: Int[Array, " batch"]
    condition_three: BatchFlags  # see `Equilibrium`; where there is no loop, whether the sample is finite
    fallback: BatchFlags  # whether the steady state is that of the fallback scheme
    control: BatchOutputs  # u at the end; zero for methods without dynamics


class AbstractMethod(Part):
    """A rule that turns a batch into an update of the forward weights."""

    loss: eqx.AbstractVar[AbstractLoss]

    def __check_init__(self) -> None:
        check_parts(self)

    @abc.abstractmethod
    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
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

    def doubts(self, model: Network, x: BatchInputs, y: BatchOutputs) -> list[str]:
        """What is known to go wrong with this model and these samples (a handful is enough), in a sentence
        each. `fit` warns of it. Not for use under jit."""
        found = self.loop_stability(model, x, y)
        return [] if found is None else found.doubts

    def loop_stability(
        self, model: Network, x: BatchInputs, y: BatchOutputs, most: int = 500
    ) -> LoopStability | None:
        """Whether these samples' loops, of at most so many modes (outputs times layers and one), are stable,
        and what `doubts` says if not: `fit` looks after every epoch, of up to 100. None if there is no loop,
        or none to be judged."""
        loop = self.loop(model)
        return None if loop is None else loop_stability(loop, loop.samples(x, y), most)

    def own_updates(
        self, model: Network, x: BatchInputs, y: BatchOutputs, *, key: PRNGKeyArray | None = None
    ) -> Network:
        """The update of each sample as a batch of its own, along a first axis; noise is the same for all."""
        return jax.vmap(lambda one, label: self(model, one[None], label[None], key=key)[0])(x, y)


def shaped_like(model: Network, layers: tuple[Layer, ...]) -> Network:
    """An update of the layers alone, as the network that a method returns: nothing for the feedback."""
    return Network(layers, no_change(model.feedback))


def batch_report(
    loss: AbstractLoss,
    samples: Sample,
    y: BatchOutputs,
    found: Equilibrium,
    rescued: BatchFlags | None = None,
) -> Report:
    output = samples.feedforward.output
    return Report(
        jax.vmap(loss)(output, jnp.asarray(y, output.dtype)),
        output,
        found.converged,
        found.residual,
        found.iterations,
        found.condition_three,
        jnp.zeros(len(y), bool) if rescued is None else rescued,
        found.control,
    )


def instant_report(loss: AbstractLoss, output: BatchOutputs, y: BatchOutputs) -> Report:
    """The report of a method that solves no dynamics: nothing can fail to converge but what is not finite."""
    losses, still = jax.vmap(loss)(output, y), jnp.zeros_like(output)
    finite, none = jnp.isfinite(losses), jnp.zeros(len(y), int)
    return Report(losses, output, finite, still[:, 0], none, finite, jnp.zeros_like(finite), still)


def instant_update(
    loss: AbstractLoss, model: Network, state: Feedforward, teaching: PerLayer, y: BatchOutputs
) -> tuple[Network, Report]:
    """The forward rule in the feedforward states of a batch. What is not finite teaches nothing, and its
    output counts as NaN."""
    signals = state.inputs, teaching
    finite = jax.vmap(is_finite)(signals)
    update = forward_rule(model.layers, *jax.vmap(zero_unless_finite)(signals))
    output = jnp.where(finite[:, None], state.output, jnp.nan)
    return shaped_like(model, update), instant_report(loss, output, y)
