"""Feedback weights that learn while the forward weights do, from the same batch: no noise and no sleep."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from dfc_jax._dynamics.losses import AbstractLoss
from dfc_jax._fields import Part
from dfc_jax._network.feedback import AbstractFeedback, FeedbackWeights, learnable
from dfc_jax._network.layered_feedback import (
    LayeredFeedback,
    learnable_layers,
    random_transforms,
    SignSymmetricFeedback,
)
from dfc_jax._network.network import as_batch, Network
from dfc_jax._network.plasticity import feedback_rule
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs
from dfc_jax._numerics.compiled import compiled
from dfc_jax._numerics.finite import zero_unless_finite


class AbstractWakeRule(Part):
    """A rule for the feedback weights in the wake phase, `(model, x, y, update, loss, key=...) -> update`."""

    learns: ClassVar[type[AbstractFeedback]]  # what kind of feedback this rule is for

    @abc.abstractmethod
    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
        update: Network,
        loss: AbstractLoss,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Network:
        """`update`, a method's for the forward weights in this batch, with one of the feedback weights, too.

        Shaped and signed like a gradient, averaged over the batch. `key` is for rules that draw.
        """


class KolenPollack(AbstractWakeRule):
    """B_i of `LayeredFeedback` learns by the update of W_i, the product of what its two neurons have.

    The forward rule of W_i multiplies the teaching signal of the neuron above by the rate of the one below.
    Both are there, too, at the synapse of the opposite direction, which takes the same product. Under equal
    optimisers with equal decay W_i - B_i then decays, whatever the updates are (Kolen and Pollack, 1994;
    Akrout et al., 2019): with a rate eta and decoupled weight decay beta by 1 - eta beta a step. Give
    `FeedbackLearning` the optimiser of the forward weights, `optax.adamw` or `optax.sgd` behind
    `optax.add_decayed_weights`.
    """

    learns: ClassVar[type[AbstractFeedback]] = LayeredFeedback

    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
        update: Network,
        loss: AbstractLoss,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Network:
        del x, y, loss, key
        learnable_layers(model.feedback, model.layers, "KolenPollack")
        return Network(update.layers, LayeredFeedback(tuple(l.transform for l in update.layers[1:])))


class DirectKolenPollack(AbstractWakeRule):
    """Direct feedback learns by r_i (dl/dr_L)^T, the mean over the batch, as if it led back from the output.

    For the last hidden layer that is the transposed gradient of W_L, so that Q_{L-1} approaches W_L^T under
    equal decay; the hidden layers before take the same product with rates of their own (Webster, Choi and
    Ahn, 2021). Q_L, which leads from the output to itself, does not learn: keep it from the optimiser's decay
    by `freeze_output=True` of `FeedbackLearning`. Rates and output are those without control.
    """

    learns: ClassVar[type[AbstractFeedback]] = FeedbackWeights

    @compiled
    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
        update: Network,
        loss: AbstractLoss,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Network:
        del key
        weights = learnable(model.feedback, FeedbackWeights, "DirectKolenPollack").weights
        x, y = as_batch(model, x, y)
        state = jax.vmap(model.feedforward)(x)
        signals = state.inputs[1:], jax.vmap(loss.gradient)(state.output, y) / len(y)
        rates, gradient = jax.vmap(zero_unless_finite)(signals)
        hidden = feedback_rule(rates, gradient)
        return Network(update.layers, FeedbackWeights((*hidden, jnp.zeros_like(weights[-1]))))


class RedrawnMagnitudes(AbstractWakeRule):
    """The magnitudes of `SignSymmetry(random=True)` are drawn anew for every batch ("brSF"): no learning.

    They are absolute values of normal numbers, of the root mean square that the forward weights have then
    (Moskovitz, Litwin-Kumar and Abbott, 2018). Give `FeedbackLearning` the optimiser `optax.sgd(1.0)`, whose
    step puts them in the place of those before.

    **Raises:** `ValueError` without a key, or for feedback of another kind.
    """

    learns: ClassVar[type[AbstractFeedback]] = SignSymmetricFeedback

    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
        update: Network,
        loss: AbstractLoss,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Network:
        del x, y, loss
        held = learnable(model.feedback, SignSymmetricFeedback, "RedrawnMagnitudes").magnitudes
        if key is None:
            raise ValueError("`key` is None; RedrawnMagnitudes draws from a key.")
        before, rest = eqx.partition(held, eqx.is_inexact_array)
        drawn = eqx.filter(random_transforms(model.layers, key), eqx.is_inexact_array)
        difference = jax.tree.map(jnp.subtract, before, drawn)
        return Network(update.layers, SignSymmetricFeedback(eqx.combine(difference, rest)))
