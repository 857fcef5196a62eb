"""The weight mirror: its mean, its rest, its locality."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import cast, make_batch, make_network, relative_error
from small_runs import regression

import dfc_jax as dfc


X, Y = make_batch(jr.key(1), 64)
PIXELS = jr.normal(jr.key(2), (64, 128))
mirror = eqx.filter_jit(dfc.WeightMirror())


def convolutional() -> dfc.Network:
    feedback = dfc.RandomLayeredFeedback()
    return dfc.convnet((2, 8, 8), (6, 5), (4, 3), key=jr.key(0), feedback=feedback)


def arrays(transforms, which: int) -> list:
    """The weights (0) or the biases (1) of dense layers and convolutions."""
    return [jax.tree.leaves(eqx.filter(part, eqx.is_inexact_array))[which] for part in transforms]


@pytest.mark.parametrize("convolutions", [False, True])
def test_its_mean_is_minus_the_forward_weights(convolutions):
    dense = make_network(jr.key(0), feedback=dfc.RandomLayeredFeedback())
    model, x = (convolutional(), PIXELS) if convolutions else (dense, X)
    draws = jax.lax.map(lambda key: mirror(model, x, Y, key=key).feedback, jr.split(jr.key(3), 300))
    forward = arrays((layer.transform for layer in model.layers[1:]), 0)
    for found, W in zip(arrays(draws.transforms, 0), forward, strict=True):
        error, spread = jnp.mean(found, 0) + W, jnp.std(found, 0) / np.sqrt(300)
        if W.ndim == 2:  # where no weight is shared the mean is exact, and so are the errors' sizes
            assert np.max(np.abs(error / spread)) < 5 and np.mean((error / spread) ** 2) < 2
        assert np.linalg.norm(error) < 0.25 * np.linalg.norm(W)  # the edges of maps see less noise
    assert not any(np.any(bias) for bias in arrays(draws.transforms, 1))


def test_a_synapse_learns_from_its_two_neurons():
    """An update of B_i does not depend on any other layer, nor on B, the samples and the labels; B_i's is the
    correlation of noise with what W_i makes of it, so linear in W_i, row by row."""
    model = make_network(jr.key(0), feedback=dfc.RandomLayeredFeedback())
    found = mirror(model, X, Y, key=jr.key(4)).feedback.transforms
    other = make_network(jr.key(5), feedback=dfc.RandomLayeredFeedback())
    mixed = dfc.Network((other.layers[0], model.layers[1], other.layers[2]), other.feedback)
    again = mirror(mixed, 2 * X, -Y, key=jr.key(4)).feedback.transforms
    assert relative_error(again[0].weight, found[0].weight) < 1e-13
    assert relative_error(again[1].weight, found[1].weight) > 0.1
    row = eqx.tree_at(lambda m: m.layers[1].transform.weight, model, replace_fn=lambda W: W.at[2].set(0.0))
    silent = mirror(row, X, Y, key=jr.key(4)).feedback.transforms[0].weight
    kept = np.array([0, 1, 3, 4])
    assert not np.any(silent[2]) and relative_error(silent[kept], found[0].weight[kept]) < 1e-13


@pytest.mark.usefixtures("standard_promotion")
def test_pretraining_leads_to_the_forward_weights():
    """At a decay of one: to W_i, but for the noise of the last batches."""
    model = cast(dfc.mlp((6, 16, 12, 3), key=jr.key(0), feedback=dfc.RandomLayeredFeedback()), np.float32)
    optimiser = optax.chain(optax.add_decayed_weights(1.0), optax.sgd(0.02))
    learning = dfc.FeedbackLearning(optimiser, dfc.WeightMirror(), pretraining_epochs=40)
    found = dfc.pretrain_feedback(
        model, learning, regression(320), key=jr.key(0), batch_size=32, progress=False
    )
    for layer, B in zip(found.layers[1:], found.feedback.transforms, strict=True):
        assert relative_error(B.weight, layer.transform.weight) < 0.15
        assert B.weight.dtype == np.float32 and not np.any(B.bias)
    assert eqx.tree_equal(found.layers, model.layers)


def test_direct_feedback_is_refused():
    model = make_network(jr.key(0))
    with pytest.raises(ValueError, match=r"^`model.feedback` is FeedbackWeights; WeightMirror needs Layered"):
        dfc.WeightMirror()(model, X, Y, key=jr.key(0))
