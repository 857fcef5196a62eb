"""One set of defaults: what the command line builds without options is what the library builds."""

import dataclasses
from typing import get_args

import equinox as eqx
import pytest
from options.config import Config, Method
from options.groups import Optimal
from options.objects import make_feedback_learning, make_method

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
    assert eqx.tree_equal(make_method(Config(method=(name,)), name, dfc.CrossEntropy()), CLASSES[name]())


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
        ("strong-dfc", None, dfc.HighPassPhase),
    ],
)
def test_feedback_learning_is_the_librarys_by_default(method, update, phase) -> None:
    config = Config(method=(method,))
    learning = dataclasses.replace(config.feedback_learning, update=update)
    config = dataclasses.replace(config, feedback_learning=learning).resolved()
    made = make_feedback_learning(config, method, dfc.CrossEntropy())
    asleep = {} if method != "strong-dfc" else {"epochs_per_wake_epoch": 0}
    wanted = dfc.FeedbackLearning(made.optimiser, phase(), made.pretraining_optimiser, **asleep)
    assert eqx.tree_equal(made, wanted)
