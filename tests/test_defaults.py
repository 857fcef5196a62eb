"""One set of defaults: what the command line builds without options is what the library builds."""

import dataclasses
import re
from typing import get_args

import equinox as eqx
import jax
import numpy as np
import pytest
from options.config import Config, Method
from options.groups import Feedback, Optimal, Strong
from options.objects import make_feedback_learning, make_method, make_model
from options.ready import of_method

import dfc_jax as dfc


CLASSES = {
    "bp": dfc.Backprop,
    "dfa": dfc.DFA,
    "dfc": dfc.DFC,
    "dfc-ss": dfc.DFCSS,
    "dfc-ssa": dfc.DFCSSA,
    "strong-dfc": dfc.StrongDFC,
    "strong-dfc-2phase": lambda: dfc.DFCSS(target=dfc.StrongDFC().target),
    "least-control": dfc.LeastControl,
    "predictive-coding": dfc.PredictiveCoding,
    "mn": dfc.MinimumNorm,
    "gn": dfc.GaussNewton,
}


@pytest.mark.parametrize("name", get_args(Method))
def test_every_method_is_the_librarys_by_default(name: Method) -> None:
    assert eqx.tree_equal(make_method(of_method(Config(), name), name, dfc.CrossEntropy()), CLASSES[name]())


def test_a_leak_of_zero_is_refused_by_the_name_of_its_option() -> None:
    config = Config(method=("predictive-coding",), optimal=Optimal(alpha=0.0))
    with pytest.raises(ValueError, match=r"`optimal.alpha` is 0; for cross-entropy, .* it must exceed 0"):
        make_method(config, "predictive-coding", dfc.CrossEntropy())
    made = make_method(config, "predictive-coding", dfc.MeanSquaredError())
    assert eqx.tree_equal(made, dfc.PredictiveCoding(0.0, dfc.MeanSquaredError()))


@pytest.mark.parametrize(
    ("method", "update", "phase"),
    [
        ("dfc-ss", "simulated", dfc.SleepPhase),
        ("dfc", "expected", dfc.ExpectedSleepPhase),
        ("dfc-ssa", "linearised", dfc.LinearisedSleepPhase),
        ("strong-dfc", None, dfc.HighPassPhase),
    ],
)
def test_feedback_learning_is_the_librarys_by_default(method, update, phase) -> None:
    config = Config(method=(method,))
    learning = dataclasses.replace(config.feedback_learning, update=update)
    config = dataclasses.replace(config, feedback_learning=learning).resolved()
    made = make_feedback_learning(config, method, dfc.CrossEntropy(), 1)
    asleep = {} if method != "strong-dfc" else {"epochs_per_wake_epoch": 0}
    wanted = dfc.FeedbackLearning(made.optimiser, phase(), made.pretraining_optimiser, **asleep)
    assert eqx.tree_equal(made, wanted)


def test_the_single_phase_is_linearised_awake_and_in_pre_training() -> None:
    config = Config(method=("strong-dfc",), strong=Strong(update="linearised")).checked().resolved()
    loss = dfc.CrossEntropy()
    assert eqx.tree_equal(make_method(config, "strong-dfc", loss), dfc.LinearisedStrongDFC())
    phase = make_feedback_learning(config, "strong-dfc", loss, 1).phase
    assert isinstance(phase.dynamics, dfc.LinearisedStrongDFC) and isinstance(phase.dynamics.target, dfc.Rest)
    simulated = make_feedback_learning(Config().resolved(), "strong-dfc", loss, 1).phase.dynamics
    for name in ("controller", "noise", "tau_v", "tau_filter", "scheme"):
        assert eqx.tree_equal(getattr(phase.dynamics, name), getattr(simulated, name))


LAYERED = {
    ("learned", "kolen-pollack"): (dfc.RandomLayeredFeedback, dfc.KolenPollack, (10, 0)),
    ("learned", "weight-mirror"): (dfc.RandomLayeredFeedback, None, (10, 1)),
    ("fixed", None): (dfc.CopyOfWeights, None, None),
    ("signs", None): (dfc.SignSymmetry, None, None),
}


@pytest.mark.parametrize(("feedback", "update"), LAYERED)
def test_layered_feedback_is_made_and_learned_as_it_is_asked_for(feedback, update) -> None:
    start, rule, epochs = LAYERED[feedback, update]
    # By default Kolen-Pollack learns layered feedback.
    given = Feedback(update=None if update == "kolen-pollack" else update)
    config = Config(method=("dfc-ss", "dfa"), feedback=feedback, layered=True, feedback_learning=given)
    config = dataclasses.replace(config.checked().resolved(), hidden=(5,), dataset="mnist")
    data = dfc.Dataset.from_arrays(*np.split(np.random.default_rng(0).normal(size=(40, 7)), [4], 1))
    sizes = data.input_size, 5, data.output_size
    key = jax.random.fold_in(jax.random.key(0), 0)
    assert eqx.tree_equal(make_model(config, "dfc-ss", data, 0), dfc.mlp(sizes, key=key, feedback=start()))
    direct = make_model(config, "dfa", data, 0).feedback
    assert isinstance(direct, dfc.FeedbackWeights)
    if epochs is not None:
        made = make_feedback_learning(config, "dfc-ss", dfc.CrossEntropy(), 1)
        assert type(made.wake) is (type(None) if rule is None else rule)
        assert (made.pretraining_epochs, made.epochs_per_wake_epoch) == epochs
        assert isinstance(made.phase, dfc.WeightMirror) and not made.freeze_output
        # At this decay the mirror, which comes before Kolen-Pollack, too, rests at the forward weights.
        assert config.feedback_learning.weight_decay == 1.0


def test_direct_kolen_pollack_keeps_the_output_weights_and_never_sleeps() -> None:
    config = Config(feedback_learning=Feedback(update="kolen-pollack")).checked().resolved()
    made = make_feedback_learning(config, "dfc-ss", dfc.CrossEntropy(), 1)
    assert isinstance(made.wake, dfc.DirectKolenPollack) and made.freeze_output and not made.sleeps


REFUSED = {
    "`layered` is given, but `feedback` is exact": {"layered": True, "feedback": "exact"},
    "`layered` is False, but `feedback` is signs": {"layered": False, "feedback": "signs"},
    "`feedback` is signs; strong-dfc needs feedback weights": {
        "feedback": "signs",
        "method": ("strong-dfc",),
    },
    "`feedback` is signs; direct feedback alignment uses": {"feedback": "signs", "method": ("dfa",)},
    "`feedback` is signs; bp has none": {"feedback": "signs", "method": ("bp",)},
    "`layered` is given; strong-dfc learns": {"layered": True, "method": ("strong-dfc",)},
    "`layered` is given, which bp does not read": {"layered": True, "method": ("bp",)},
    "is simulated, which learns weights to every neuron": {
        "layered": True,
        "feedback_learning": Feedback(update="simulated"),
    },
    "is weight-mirror, which learns the weights of --layered": {
        "feedback_learning": Feedback(update="weight-mirror")
    },
    "is kolen-pollack; strong-dfc has a rule of its own": {
        "method": ("strong-dfc",),
        "feedback_learning": Feedback(update="kolen-pollack"),
    },
    "`feedback_learning.update` is given, which strong-dfc does not read": {
        "method": ("strong-dfc",),
        "feedback_learning": Feedback(update="linearised"),
    },
    "`strong.update` is linearised, but `strong.start` feedforward": {
        "method": ("strong-dfc",),
        "strong": Strong(update="linearised", start="feedforward"),
    },
    "`feedback_learning.lr` is given, which kolen-pollack does not read": {
        "layered": True,
        "feedback_learning": Feedback(lr=0.1),
    },
    "`feedback_learning.update` is expected, which learns weights to every neuron": {
        "dataset": "cifar10",
        "layered": True,
        "feedback_learning": Feedback(update="expected"),
    },
    "`feedback_learning.sigma` is given, which weight-mirror does not read": {
        "layered": True,
        "feedback_learning": Feedback(update="weight-mirror", sigma=0.1),
    },
    "`feedback_learning.sleep_epochs` is given, which kolen-pollack does not read": {
        "feedback_learning": Feedback(update="kolen-pollack", sleep_epochs=1)
    },
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_feedback_that_cannot_be_learned_so_is_refused(sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Config(**REFUSED[sentence]).checked()
