"""The methods without a controller, with which DFC is compared."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from dfc_jax._checks import require
from dfc_jax._dynamics.losses import AbstractLoss, CrossEntropy
from dfc_jax._dynamics.states import PerLayer
from dfc_jax._methods.base import AbstractMethod, instant_report, instant_update, Report, shaped_like
from dfc_jax._network.layer import Layer
from dfc_jax._network.layered_feedback import AbstractLayeredFeedback
from dfc_jax._network.learned import no_change, split_weights
from dfc_jax._network.network import as_batch, Network
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs, OutputVector
from dfc_jax._numerics.compiled import one_program
from dfc_jax._numerics.finite import is_finite, zero_unless_finite


class Backprop(AbstractMethod):
    """The gradient of the mean loss; a sample that is not finite counts in the mean and adds nothing."""

    loss: AbstractLoss = CrossEntropy()

    @one_program
    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Network, Report]:
        del key
        x, y = as_batch(model, x, y)
        harmless, finite = jax.vmap(zero_unless_finite)(x), jax.vmap(is_finite)(x)
        layers, rest = split_weights(model.layers)

        def outputs(weights: tuple[Layer, ...]) -> BatchOutputs:
            return jax.vmap(Network(eqx.combine(weights, rest), model.feedback))(harmless)

        output, pull = jax.vjp(outputs, layers)
        output = jnp.where(finite[:, None], output, jnp.nan)
        by_output = jax.vmap(self.loss.gradient)(output, y) / len(y)
        (gradient,) = pull(jax.vmap(zero_unless_finite)(by_output))
        return shaped_like(model, eqx.combine(gradient, no_change(rest))), instant_report(
            self.loss, output, y
        )


class DFA(AbstractMethod):
    """Direct feedback alignment: every layer is taught by phi_i'(v_i^-) Q_i dl/dr_L (Nokland, 2016).

    Uses the model's own feedback weights; start them with `RandomFeedback()`, as the papers do.
    """

    loss: AbstractLoss = CrossEntropy()

    @one_program
    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Network, Report]:
        del key
        x, y = as_batch(model, x, y)
        require(
            not model.feedback.needs_jacobian,
            f"`model.feedback` is {type(model.feedback).__name__}, which depends on the sample; direct "
            "feedback alignment needs feedback that is fixed, as FeedbackWeights. What goes from layer to "
            "layer is for FeedbackAlignment.",
        )
        state = jax.vmap(model.feedforward)(x)
        gradient = jax.vmap(self.loss.gradient)(state.output, y) / len(y)
        arriving = (jnp.tensordot(gradient, Q, axes=(1, -1)) for Q in model.feedback.matrices(None))
        teaching = tuple(s * a for s, a in zip(model.slopes(state.voltages), arriving, strict=True))
        return instant_update(self.loss, model, state, teaching, y)


class FeedbackAlignment(AbstractMethod):
    """Feedback alignment: every layer is taught by what layered feedback makes of the error, Q_i dl/dr_L.

    Fixed and random feedback, `LayeredFeedback`, is that of Lillicrap et al. (2016); with
    `SignSymmetricFeedback` it is sign symmetry (Liao, Leibo and Poggio, 2016), with feedback that learns in a
    `WeightMirror` phase or by `KolenPollack` that of Akrout et al. (2019). With `ExactFeedback()` it is
    backpropagation. So DFC, whose control comes down the same way, can be told from its feedback.
    """

    loss: AbstractLoss = CrossEntropy()

    @one_program
    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Network, Report]:
        del key
        x, y = as_batch(model, x, y)
        feedback, layers = model.feedback, model.layers
        require(
            isinstance(feedback, AbstractLayeredFeedback),
            f"`model.feedback` is {type(feedback).__name__}; feedback alignment needs what goes from layer "
            "to layer, as LayeredFeedback. What goes to every neuron is for DFA.",
        )
        state = jax.vmap(model.feedforward)(x)
        gradient = jax.vmap(self.loss.gradient)(state.output, y) / len(y)

        def carried(voltages: PerLayer, error: OutputVector) -> PerLayer:
            return feedback.carried(layers, feedback.kept(layers, voltages), error)

        return instant_update(self.loss, model, state, jax.vmap(carried)(state.voltages, gradient), y)
