"""What carries the control to the hidden layers in the rows of `feedback.py`, and how it is learnt."""

import dataclasses
from collections.abc import Callable

import optax

import dfc_jax as dfc


Learning = Callable[[optax.GradientTransformation], dfc.FeedbackLearning]

RATE = 1e-3  # of Adam, for feedback weights that learn in sleep
ASLEEP = 0.1  # sleep epochs before every wake epoch, after one before the first
# Comes to rest at the forward weights.
MIRRORED = optax.chain(optax.add_decayed_weights(1.0), optax.adam(RATE))
DECAYED = optax.chain(optax.add_decayed_weights(1e-2), optax.adam(RATE))


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of feedback."""

    label: str
    start: dfc.AbstractFeedbackInit
    learning: Learning | None = None
    """From the optimiser of the forward weights; None where the feedback does not learn."""
    direct: bool = False
    """Whether it goes from the output to every neuron."""


def _sleep(optimiser: optax.GradientTransformation) -> dfc.FeedbackLearning:
    del optimiser
    return dfc.FeedbackLearning(
        DECAYED, dfc.ExpectedSleepPhase(), pretraining_epochs=1, epochs_per_wake_epoch=ASLEEP
    )


def _direct_kolen_pollack(optimiser: optax.GradientTransformation) -> dfc.FeedbackLearning:
    return dfc.FeedbackLearning(
        optimiser,
        pretraining_epochs=0,
        epochs_per_wake_epoch=0,
        freeze_output=True,
        wake=dfc.DirectKolenPollack(),
    )


def _kolen_pollack(optimiser: optax.GradientTransformation) -> dfc.FeedbackLearning:
    return dfc.FeedbackLearning(
        optimiser,
        dfc.WeightMirror(),
        pretraining_epochs=0,
        epochs_per_wake_epoch=0,
        wake=dfc.KolenPollack(),
    )


def _mirror(optimiser: optax.GradientTransformation) -> dfc.FeedbackLearning:
    del optimiser
    return dfc.FeedbackLearning(
        MIRRORED, dfc.WeightMirror(), pretraining_epochs=1, epochs_per_wake_epoch=ASLEEP
    )


def _mirror_then_kolen_pollack(optimiser: optax.GradientTransformation) -> dfc.FeedbackLearning:
    return dfc.FeedbackLearning(
        optimiser,
        dfc.WeightMirror(),
        MIRRORED,
        pretraining_epochs=1,
        epochs_per_wake_epoch=0,
        wake=dfc.KolenPollack(),
    )


def _redrawn(optimiser: optax.GradientTransformation) -> dfc.FeedbackLearning:
    del optimiser
    return dfc.FeedbackLearning(
        optax.sgd(1.0), pretraining_epochs=0, epochs_per_wake_epoch=0, wake=dfc.RedrawnMagnitudes()
    )


ROWS = {
    "direct-initial": Row("direct, product of the initial weights", dfc.ProductOfWeights(), direct=True),
    "direct-sleep": Row("direct, sleep", dfc.RandomFeedback(), _sleep, direct=True),
    "direct-kolen-pollack": Row(
        "direct, Kolen-Pollack", dfc.RandomFeedback(), _direct_kolen_pollack, direct=True
    ),
    "layered-random": Row("layered, random", dfc.RandomLayeredFeedback()),
    "layered-initial": Row("layered, initial weights", dfc.CopyOfWeights()),
    "layered-signs": Row("layered, signs of the weights", dfc.SignSymmetry()),
    "layered-random-signs": Row("layered, signs of the weights, sizes random", dfc.SignSymmetry(random=True)),
    "layered-redrawn-signs": Row(
        "layered, signs of the weights, sizes drawn for every batch", dfc.SignSymmetry(random=True), _redrawn
    ),
    "layered-kolen-pollack": Row("layered, Kolen-Pollack", dfc.RandomLayeredFeedback(), _kolen_pollack),
    "layered-mirror": Row("layered, weight mirror", dfc.RandomLayeredFeedback(), _mirror),
    "layered-mirror-kolen-pollack": Row(
        "layered, weight mirror, then Kolen-Pollack", dfc.RandomLayeredFeedback(), _mirror_then_kolen_pollack
    ),
    "exact": Row("exact: the transposed Jacobian", dfc.ExactFeedback()),
}
