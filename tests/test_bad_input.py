"""Wrong input gets one sentence that names the argument; right input at the edges gets right answers."""

import json
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import flat, learn, Plain, relative_error
from hypothesis import given, settings, strategies as st

import dfc_jax as dfc


pytestmark = pytest.mark.slow

BATCHES = {
    "integers": "`x` holds int32 values; make them float32 or float64",
    "integer labels": "`y` holds int32 values; make them float32 or float64",
    "half precision": "`x` holds float16 values; make them float32 or float64",
    "half-precision model": "`model` holds bfloat16 weights; make them float32 or float64",
    "class numbers": "`y` (2,); they must be (batch, inputs) and (batch, outputs)",
    "no batch": "`x` has shape (4,) and `y` (3,); they must be",
    "lists": "]]; it must be an array",
    "empty batch": "`x` has shape (0, 4) and `y` (0, 3); they must be",
    "unequal batches": "`x` has shape (2, 4) and `y` (1, 3); they must be",
    "too many inputs": "`x` has shape (7,), which this network does not take",
    "too many outputs": "`y` has 4 outputs a sample; those of `model` have the shape (3,)",
}
OTHERS = {
    "mlp: one size": "`sizes` is (4,); it must name at least",
    "mlp: width 0": "`sizes` is 0; it must be a whole number of at least 1",
    "mlp: width 2.5": "`sizes` is 2.5; it must be a whole number",
    "SleepPhase: no key": "`key` is None",
    "LinearisedSleepPhase: no key": "`key` is None",
    "LinearisedStrongDFC: two keys": "it must be one random key, such as jax.random.key(0)",
    "StrongDFC: a number for a key": "`key` is 0; it must be one random key",
    "WeightMirror: no key": "`key` is None; it must be one random key",
    "mlp: width True": "`sizes` is True; it must be a whole number",
    "mlp: activations": "`activation` has 2 entries; the network has 1 hidden layers",
    "Nudge: 0": "`nudge` is 0.0; it must be a finite number greater than 0",
    "Nudge: NaN": "`nudge` is nan; it must be a finite number",
    "Clamp: 2": "`class_value` is 2.0; it must be a finite number greater than 0 and at most 1",
    "PIController: alpha": "`alpha` is -1.0; it must be",
    "PIController: k_p": "`k_p` is inf; it must be a finite number",
    "Broyden: rtol": "`rtol` is 0.0; it must be",
    "Broyden: iterations": "`max_iterations` is 0; it must be",
    "PublishedEuler: dt": "`dt` is -0.1",
    "PublishedEuler: states": "`states` is 1; it must be",
    "ImplicitAverage: duration": "`duration` is 0.0; it must be",
    "WhiteNoise: sigma": "`sigma` is -1.0; it must be",
    "FilteredNoise: tau": "`tau` is 0.0; it must be",
    "LeakyReLU: slope": "`slope` is 2.0; it must be a finite number at least 0 and at most 1",
    "Split: NaN": "`x` has 24 NaN or infinite entries",
    "Split: integers": "`x` holds int64 values; make them floats",
    "Split: lengths": "`x` has 5 samples and `y` has 6",
    "Dataset: label out of range": "`train.y` has 6 rows that are no distribution over the classes",
    "fit: epochs": "`epochs` is 0; it must be",
    "fit: batch": "`batch_size` is 7; the data have only 6 training samples",
    "fit: inputs": "`model` does not take the inputs of `data`, of shape (4,)",
    "fit: outputs": "`model` has 9 outputs; `data` has targets of size 3",
    "fit: exact feedback": "`model.feedback` is ExactFeedback; SleepPhase of `feedback_learning` needs",
    "fit_many: keys": "`keys` are 0 and `models` 1",
    "DFC: noise": "`noise` is given; ImplicitAverage has none",
    "DFC: no key": "`key` is None; a loop with noise",
    "DFA: exact feedback": "`model.feedback` is ExactFeedback",
    "simulate: t1": "`t1` is 0.0; it must be",
    "load: unknown": "`name` is 'mnits'; it must be one of",
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    script = pathlib.Path(__file__).with_name("bad_input.py")
    done = subprocess.run([sys.executable, str(script)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_every_method_refuses_every_wrong_batch(outcomes: dict[str, str]) -> None:
    tried = {name: said for name, said in outcomes.items() if ", " in name}
    assert len(tried) == 13 * len(BATCHES)
    for name, said in tried.items():
        assert said.startswith("ValueError: ") and BATCHES[name.partition(", ")[0]] in said, name


def test_every_wrong_argument_is_named(outcomes: dict[str, str], record_property) -> None:
    record_property("wrong batches and arguments of methods tried", len(outcomes))
    tried = {name: said for name, said in outcomes.items() if ", " not in name}
    assert tried.keys() == OTHERS.keys()
    for name, sentence in OTHERS.items():
        assert tried[name].startswith("ValueError: ") and sentence in tried[name], name


SIZES = [(1, 1, 1), (2, 1, 3), (3, 4, 1, 2)]
ACTIVATIONS = [dfc.Tanh(), dfc.ReLU()]


@pytest.mark.script
@np.errstate(over="ignore")  # of the reference: cosh of a huge voltage
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    sizes=st.sampled_from(SIZES),
    activation=st.sampled_from(ACTIVATIONS),
    batch=st.sampled_from([1, 3]),
    strided=st.booleans(),
    input_scale=st.sampled_from([0.0, 1e-12, 1.0, 1e6]),
    target_scale=st.sampled_from([0.0, 1e-12, 1.0, 1e6]),
    seed=st.integers(0, 1000),
)
def test_edges_get_right_answers(sizes, activation, batch, strided, input_scale, target_scale, seed) -> None:
    """One sample, one output, one neuron, huge and tiny numbers: the analytic steady state is exact, DFC-SS
    solves its equation or says that it does not, and no update is anything but finite."""
    rng = np.random.default_rng(seed)
    model = dfc.mlp(sizes, key=jr.key(seed), activation=activation)
    x, y = (
        input_scale * rng.normal(size=(sizes[0], batch)).T,
        target_scale * rng.normal(size=(batch, sizes[-1])),
    )
    x, y = (x, y) if strided else (np.ascontiguousarray(x), y)
    loss = dfc.MeanSquaredError()
    linear = dfc.DFCSSA(target=dfc.Nudge(0.1), loss=loss)
    update, report = learn(linear, model, jnp.asarray(x), jnp.asarray(y))
    plain = Plain(model)
    wanted = []
    for a, b in zip(x, y, strict=True):
        voltages, rates = plain.settle(a)
        error = -0.1 * 2 * (rates[-1] - b) / b.size
        wanted.append(np.linalg.solve(plain.gain(voltages) + 1e-3 * np.eye(b.size), error))
    assert np.all(np.isfinite(flat(update)))
    assert relative_error(report.control, np.array(wanted)) < 1e-7

    update, report = learn(dfc.DFCSS(target=dfc.Nudge(0.1), loss=loss), model, jnp.asarray(x), jnp.asarray(y))
    assert np.all(np.isfinite(flat(update)))
    assert np.all(report.converged == (report.residual <= 3e-5))
    for a, b, u, converged in zip(
        x, y, np.asarray(report.control), np.asarray(report.converged), strict=True
    ):
        start, rates = plain.settle(a)[1][-1], plain.settle(a, u)[1][-1]
        error = -0.1 * 2 * (start - b) / b.size
        left = np.linalg.norm(error - (rates - start) - 1e-3 * u)
        assert not converged or left <= 1e-4 * np.linalg.norm(error) + 1e-9 * np.linalg.norm(start)


@pytest.mark.parametrize(
    "method",
    [dfc.DFC(), dfc.DFCSS(), dfc.DFCSSA(), dfc.StrongDFC()],
    ids=lambda method: type(method).__name__,
)
def test_a_huge_number_in_one_sample_leaves_the_update_finite(method: dfc.AbstractMethod) -> None:
    """What is not finite at all is in `test_not_finite.py`."""
    model = dfc.mlp((4, 5, 3), key=jr.key(0))
    x, y = jr.normal(jr.key(1), (3, 4)), jnp.eye(3)
    update, _ = learn(method, model, x.at[2].set(1e300), y, jr.key(2))
    assert np.all(np.isfinite(flat(update)))
