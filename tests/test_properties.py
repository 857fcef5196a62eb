"""Right answers whatever the numbers, at the edges too (drawn by Hypothesis)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest
import scipy.special
from helpers import flat, Plain
from hypothesis import given, settings, strategies as st

import dfc_jax as dfc


@pytest.fixture(scope="module", autouse=True)
def as_users_call():
    """Without the suite's type checks, which would refuse NumPy's arrays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield


MODEL = dfc.mlp((4, 5, 3), key=jr.key(0))
X, Y = np.ones((2, 4)), np.eye(3)[:2]
extreme = st.sampled_from([0.0, 1e-200, 1e-12, 1.0, 30.0, 1e6, 1e150])
vectors = st.lists(st.tuples(extreme, st.floats(-1, 1)), min_size=1, max_size=6).map(
    lambda parts: np.array([scale * part for scale, part in parts])
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(output=vectors, seed=st.integers(0, 99))
def test_losses_are_right_for_logits_of_any_size(output: np.ndarray, seed: int) -> None:
    y = np.random.default_rng(seed).dirichlet(np.ones(len(output)))
    entropy, squares = dfc.CrossEntropy(), dfc.MeanSquaredError()
    logs = scipy.special.log_softmax(output)
    assert float(entropy(output, y)) == pytest.approx(-np.sum(y * logs), rel=1e-12)
    assert entropy.gradient(output, y) == pytest.approx(np.exp(logs) - y, abs=1e-14)
    with np.errstate(over="ignore"):
        assert float(squares(output, y)) == pytest.approx(np.mean((output - y) ** 2), rel=1e-12)
    assert squares.gradient(output, y) == pytest.approx(2 * (output - y) / len(y), rel=1e-14)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    activation=st.sampled_from([dfc.Tanh(), dfc.Sigmoid(), dfc.ReLU(), dfc.LeakyReLU(0.3), dfc.Linear()]),
    voltage=vectors,
    displacement=extreme,
)
def test_activations_stay_finite_and_monotone(activation, voltage: np.ndarray, displacement: float) -> None:
    rate, later = activation(voltage), activation(jnp.asarray(voltage + displacement))
    slope, change = activation.derivative(jnp.asarray(voltage)), activation.difference(voltage, displacement)
    assert np.all(np.isfinite(rate)) and np.all((slope >= 0) & (slope <= 1))
    assert np.all(change >= 0) and np.all(change <= displacement * (1 + 1e-12))
    rounding = 4e-16 * np.maximum(np.abs(rate), np.abs(later))
    assert np.all(np.abs(change - (later - rate)) <= rounding + 1e-12 * np.abs(change))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(limit=st.sampled_from([1e-30, 0.1, 1.0, 1e30]), scale=extreme, seed=st.integers(0, 99))
def test_clipped_updates_are_no_longer_than_the_limit(limit: float, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    update = jax.tree.map(lambda w: jnp.asarray(scale * rng.normal(size=w.shape)), MODEL)
    for clip, groups in (
        (dfc.clip_by_tensor_norm(limit), lambda u: jax.tree.leaves(u)),
        (dfc.clip_by_layer_norm(limit), lambda u: [flat(layer) for layer in u.layers]),
    ):
        clipped, _ = clip.update(update, clip.init(MODEL))
        for before, after in zip(groups(update), groups(clipped), strict=True):
            length = np.linalg.norm(before)
            assert np.linalg.norm(after) <= min(limit, length) * (1 + 1e-12)
            shorter = min(1.0, limit / length) if length > 0 else 1.0
            assert after == pytest.approx(shorter * np.asarray(before), rel=1e-9, abs=0)


@pytest.mark.script
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    feedback=st.sampled_from([dfc.ProductOfWeights(), dfc.RandomFeedback(), dfc.ExactFeedback()]),
    scale=st.sampled_from([1e-6, 1.0, 1e3]),
    seed=st.integers(0, 99),
)
def test_networks_and_their_measures(sizes: list[int], feedback, scale: float, seed: int) -> None:
    model = dfc.mlp(sizes, key=jr.key(seed), feedback=feedback)
    x = scale * np.random.default_rng(seed).normal(size=(3, sizes[0]))
    plain = Plain(dfc.mlp(sizes, key=jr.key(seed)))
    assert jax.vmap(model)(x) == pytest.approx(np.array([plain.settle(one)[1][-1] for one in x]), rel=1e-9)
    within = dfc.condition_two(model, x)
    assert np.all(within >= 0) and np.all(within <= 1 + 1e-9)
    angles = dfc.feedback_angles(model, x)
    assert np.all(angles >= 0) and np.all(angles <= 180)
    if isinstance(feedback, dfc.ExactFeedback):
        assert within == pytest.approx(1, abs=1e-6) and angles == pytest.approx(0, abs=1e-6)
    assert np.all(dfc.condition_one(model, x) >= 0)
    for factor, degrees in ((1e-9, 0.0), (1e9, 0.0), (-1.0, 180.0)):
        found = dfc.update_angles(model, jax.tree.map(lambda w, f=factor: f * w, model))
        assert float(found.network) == pytest.approx(degrees, abs=1e-6)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(samples=st.integers(1, 2100), outputs=st.integers(2, 4), seed=st.integers(0, 99))
def test_evaluation_is_the_mean_over_any_number_of_samples(samples: int, outputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = dfc.mlp((2, outputs), key=jr.key(seed))
    x, y = rng.normal(size=(samples, 2)), np.eye(outputs)[rng.integers(outputs, size=samples)]
    found = dfc.evaluate(model, dfc.CrossEntropy(), dfc.Split(x, y), classification=True)
    logits = x @ np.asarray(model.layers[0].transform.weight).T
    assert found["loss"] == pytest.approx(
        -np.mean(np.sum(y * scipy.special.log_softmax(logits, axis=1), axis=1)), abs=1e-12
    )
    assert found["accuracy"] == pytest.approx(np.mean(logits.argmax(axis=1) == y.argmax(axis=1)))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 4),
    samples=st.tuples(*[st.integers(1, 40)] * 3),
    seed=st.integers(0, 99),
)
def test_student_teacher_of_any_size(inputs: int, outputs: int, samples: tuple, seed: int) -> None:
    sizes = dict(zip(("train_samples", "validation_samples", "test_samples"), samples, strict=True))
    data = dfc.student_teacher(input_size=inputs, output_size=outputs, seed=seed, **sizes)
    for split, number in zip((data.train, data.validation, data.test), samples, strict=True):
        assert split.x.shape == (number, inputs) and split.y.shape == (number, outputs)
        assert np.all(np.isfinite(split.x)) and np.all(np.isfinite(split.y))


METHODS = [
    dfc.Backprop(),
    dfc.DFA(),
    dfc.DFC(),
    dfc.DFCSS(),
    dfc.DFCSSA(),
    dfc.StrongDFC(),
    dfc.LinearisedStrongDFC(),
    dfc.GaussNewton(),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_key_used_twice_gives_the_same_answer_twice(method: dfc.AbstractMethod) -> None:
    """No hidden state: the same key means the same noise, bit for bit, and another one other noise."""
    run = eqx.filter_jit(lambda key: method(MODEL, jnp.asarray(X), jnp.asarray(Y), key=key)[0])
    once, again, other = (flat(run(jr.key(seed))) for seed in (0, 0, 1))
    assert np.array_equal(once, again)
    assert np.array_equal(once, other) == (not isinstance(method, dfc.StrongDFC | dfc.LinearisedStrongDFC))
