"""Logits less their mean: what cross-entropy is blind to does not wander under DFC."""

import pathlib
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import few_digits, relative_error

import dfc_jax as dfc


SIZES = (64, 7, 10)
MAKE: dict[str, Callable[..., dfc.Network]] = {
    "mlp": lambda **options: dfc.mlp(SIZES, key=jr.key(0), **options),
    "convnet": lambda **options: dfc.convnet((1, 8, 8), (2, 3), (10,), key=jr.key(0), **options),
}


def batch() -> tuple[jax.Array, jax.Array]:
    data = few_digits().train
    return jnp.asarray(data.x[:12], float), jnp.asarray(data.y[:12], float)


def is_dense(part: object) -> bool:
    return isinstance(part, dfc.Dense)


def last_dense(model: dfc.Network) -> dfc.Dense:
    return next(filter(is_dense, jax.tree.leaves(model.layers[-1], is_leaf=is_dense)))


@pytest.mark.parametrize("kind", MAKE)
def test_probabilities_stay_and_logits_lose_their_mean(kind: str) -> None:
    (x, y), loss = batch(), dfc.CrossEntropy()
    plain, centred = MAKE[kind](), MAKE[kind](centred=True)
    weights = lambda model: jax.tree.leaves(eqx.filter(model.layers, eqx.is_inexact_array))
    assert all(np.array_equal(*pair) for pair in zip(weights(plain), weights(centred), strict=True))
    free, outputs = jax.vmap(plain)(x), jax.vmap(centred)(x)
    assert np.allclose(outputs, free - free.mean(axis=1, keepdims=True), atol=1e-12)
    assert np.abs(free.mean(axis=1)).max() > 1e-2
    assert np.allclose(jax.vmap(loss)(outputs, y), jax.vmap(loss)(free, y), atol=1e-12)
    updates = [weights(dfc.Backprop()(model, x, y)[0]) for model in (plain, centred)]
    assert relative_error(updates[1], updates[0]) < 1e-12


@pytest.mark.parametrize("kind", MAKE)
def test_an_update_moves_the_mean_of_the_logits_unless_they_are_centred(kind: str) -> None:
    """Backprop's never does; DFC's has a part along it, which no later update takes back."""
    x, y = batch()

    def along_ones(method: dfc.AbstractMethod, **options: bool) -> float:
        weight = np.asarray(last_dense(method(MAKE[kind](**options), x, y)[0]).weight)
        return float(np.linalg.norm(weight.mean(axis=0)) / np.linalg.norm(weight))

    assert along_ones(dfc.Backprop()) < 1e-12
    assert along_ones(dfc.DFCSSA()) > 1e-3
    assert along_ones(dfc.DFCSSA(), centred=True) < 1e-12


@pytest.mark.parametrize("kind", MAKE)
def test_along_the_mean_the_loop_has_the_gain_of_the_output_layer_alone(kind: str) -> None:
    """However large a mean the weights have."""
    (x, _), ones = batch(), np.ones(10) / np.sqrt(10)

    def gain(centred: bool) -> float:
        model = MAKE[kind](centred=centred)
        model = eqx.tree_at(lambda m: last_dense(m).weight, model, replace_fn=lambda weight: weight + 100)
        jacobian = model.jacobian(model.feedforward(x[0]).voltages)
        return sum(float(np.sum(np.tensordot(ones, np.asarray(rows), 1) ** 2)) for rows in jacobian)

    assert gain(centred=False) > 1e3 and gain(centred=True) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_layered_feedback_learns_with_it_and_the_model_is_saved(tmp_path: pathlib.Path) -> None:
    data, feedback = few_digits(), dfc.RandomLayeredFeedback()
    model = dfc.convnet((1, 8, 8), (4, 6), (10,), key=jr.key(0), centred=True, feedback=feedback)
    optimiser = optax.adamw(1e-2, weight_decay=0.5)
    mirror = optax.chain(optax.add_decayed_weights(1.0), optax.adam(1e-2))
    awake = {"pretraining_epochs": 10, "epochs_per_wake_epoch": 0, "wake": dfc.KolenPollack()}
    learning = dfc.FeedbackLearning(optimiser, dfc.WeightMirror(), mirror, **awake)
    options = {"epochs": 10, "key": jr.key(1), "batch_size": 32, "feedback_learning": learning}
    trained, history = dfc.fit(model, dfc.DFCSS(), data, optimiser, progress=False, **options)
    assert history.records[-1]["train_loss"] < 0.7 * history.records[0]["train_loss"]
    before, after = (
        np.mean(dfc.feedback_angles(m, jnp.asarray(data.train.x[:20]))) for m in (model, trained)
    )
    assert after < before / 2
    outputs = np.asarray(dfc.predict(trained, data.test.x))
    assert np.abs(outputs.mean(axis=1)).max() < 1e-5 < 1 < np.abs(outputs).max()
    dfc.save_model(tmp_path / "model", trained)
    assert np.array_equal(dfc.predict(dfc.load_model(tmp_path / "model"), data.test.x), outputs)
