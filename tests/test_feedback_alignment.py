"""Feedback alignment against backprop, and against its formula in NumPy."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import relative_error

import dfc_jax as dfc


X, Y = jr.normal(jr.key(1), (5, 6)), jnp.eye(3)[jnp.arange(5) % 3]


def dense(**options: object) -> dfc.Network:
    return dfc.mlp((6, 5, 4, 3), key=jr.key(0), **options)


@pytest.mark.parametrize("loss", [dfc.CrossEntropy(), dfc.MeanSquaredError()])
def test_with_exact_feedback_it_is_backprop(loss: dfc.AbstractLoss) -> None:
    images = jr.normal(jr.key(2), (5, 64))
    for model, x in (
        (dense(feedback=dfc.ExactFeedback()), X),
        (dfc.convnet((1, 8, 8), (2, 3), (3,), key=jr.key(0), feedback=dfc.CopyOfWeights()), images),
    ):
        found, report = dfc.FeedbackAlignment(loss)(model, x, Y)
        wanted, expected = dfc.Backprop(loss)(model, x, Y)
        assert relative_error(found.layers, wanted.layers) < 1e-12
        assert np.allclose(report.loss, expected.loss)


def test_random_feedback_teaches_by_its_formula() -> None:
    model = dense(feedback=dfc.RandomLayeredFeedback())
    update, _ = dfc.FeedbackAlignment()(model, X, Y)
    weights = [np.asarray(layer.transform.weight) for layer in model.layers]
    B2, B3 = (np.asarray(transform.weight) for transform in model.feedback.transforms)
    first = np.tanh(np.asarray(X) @ weights[0].T)
    second = np.tanh(first @ weights[1].T)
    logits = second @ weights[2].T
    error = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) - np.asarray(Y)
    above = (1 - second**2) * (error @ B3)
    below = (1 - first**2) * (above @ B2)
    for layer, signal, rate in zip(
        update.layers, (below, above, error), (np.asarray(X), first, second), strict=True
    ):
        assert np.allclose(layer.transform.weight, signal.T @ rate / len(X), atol=1e-12)
        assert np.allclose(layer.transform.bias, signal.mean(axis=0), atol=1e-12)


def test_in_training_the_forward_weights_turn_towards_feedback_that_never_changes(as_users_run) -> None:
    """What gave it its name (Lillicrap et al., 2016): the first layer's updates turn to the gradient, for
    the weights above learn to be the feedback's transposes."""
    data = dfc.load("digits")
    model = dfc.mlp((64, 32, 32, 10), key=jr.key(0), feedback=dfc.RandomLayeredFeedback())
    options = {"epochs": 10, "key": jr.key(1), "progress": False}
    trained, history = dfc.fit(model, dfc.FeedbackAlignment(), data, optax.adam(1e-2), **options)

    def angle(model: dfc.Network) -> float:
        x, y = data.train.x[:200], data.train.y[:200]
        updates = (method(model, x, y)[0] for method in (dfc.FeedbackAlignment(), dfc.Backprop()))
        first, second = (np.ravel(update.layers[0].transform.weight) for update in updates)
        return np.degrees(np.arccos(first @ second / np.linalg.norm(first) / np.linalg.norm(second)))

    assert angle(trained) < angle(model) - 10
    assert all(map(np.array_equal, *map(jax.tree.leaves, (model.feedback, trained.feedback))))
    assert history.records[-1]["train_loss"] < 0.5 * history.records[0]["train_loss"]


def test_a_sample_that_is_not_finite_teaches_nothing() -> None:
    model = dense(feedback=dfc.RandomLayeredFeedback())
    update, report = dfc.FeedbackAlignment()(model, X.at[2].set(jnp.nan), Y)
    others = jnp.asarray([0, 1, 3, 4])
    wanted, _ = dfc.FeedbackAlignment()(model, X[others], Y[others])
    assert relative_error(jax.tree.map(lambda leaf: 5 / 4 * leaf, update.layers), wanted.layers) < 1e-12
    assert np.isnan(report.loss[2]) and np.isfinite(report.loss[others]).all()


def test_direct_feedback_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`model\.feedback` is FeedbackWeights; .* is for DFA"):
        dfc.FeedbackAlignment()(dense(), X, Y)
