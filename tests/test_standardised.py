"""Networks whose signals keep their size."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import relative_error

import dfc_jax as dfc


IMAGE = (2, 8, 8)
X = 3 + 2 * jr.normal(jr.key(0), (64, 2 * 8 * 8))


def make(centred: bool = False) -> dfc.Network:
    return dfc.convnet(IMAGE, (4, 5), (6, 3), key=jr.key(1), activation=dfc.LeakyReLU(0.1), centred=centred)


@pytest.mark.parametrize("centred", [False, True])
def test_voltages_have_mean_0_and_deviation_1_and_outputs_a_mean_square_of_1(centred: bool) -> None:
    model = dfc.standardised(make(centred), X, dfc.ProductOfWeights(), key=jr.key(2))
    state = jax.vmap(model.feedforward)(X)
    for voltage in state.voltages[:-1]:
        by_feature = np.asarray(voltage).reshape(-1, voltage.shape[-1])
        np.testing.assert_allclose(by_feature.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(by_feature.std(axis=0), 1, rtol=1e-12)
    assert np.mean(np.asarray(state.output) ** 2) == pytest.approx(1, rel=1e-12)


def test_it_is_a_normalisation_folded_into_the_weights() -> None:
    """Layer by layer, in NumPy's terms: the voltages of the weights that were, less their mean, over their
    deviation; in the precision of the weights."""
    before = make()
    model = dfc.standardised(before, X, dfc.ProductOfWeights(), key=jr.key(2))
    rates = X
    for old, new in zip(before.layers[:-1], model.layers[:-1], strict=True):
        voltages = np.asarray(jax.vmap(old.transform)(rates))
        axes = tuple(range(voltages.ndim - 1))
        wanted = (voltages - voltages.mean(axes, keepdims=True)) / voltages.std(axes, keepdims=True)
        np.testing.assert_allclose(jax.vmap(new.transform)(rates), wanted, atol=1e-12)
        rates = jax.vmap(new.activation)(jnp.asarray(wanted))
    ratio = np.asarray(model.layers[-1].transform.parts[-1].weight)
    ratio = ratio / np.asarray(before.layers[-1].transform.parts[-1].weight)
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-12)  # one factor for all outputs


def test_the_feedback_is_that_of_the_new_weights() -> None:
    model = dfc.standardised(make(), X, dfc.ProductOfWeights(), key=jr.key(2))
    shapes = [Q.shape[:-1] for Q in model.feedback.weights]
    wanted = dfc.ProductOfWeights().init(model.layers, shapes, jr.key(3))
    assert relative_error(model.feedback, wanted) == 0
    layered = dfc.standardised(make(), X, dfc.CopyOfWeights(), key=jr.key(2))
    assert isinstance(layered.feedback, dfc.LayeredFeedback)


def test_hidden_layers_have_a_part_in_the_gain() -> None:
    """With Xavier's weights J Q - I is a small part of what it is here."""
    small, fair = make(), dfc.standardised(make(), X, dfc.ProductOfWeights(), key=jr.key(2))
    parts = []
    for model in (small, fair):
        loop = dfc.DFCSS().loop(model)
        samples = loop.samples(X[:4], jnp.eye(3)[jnp.arange(4) % 3])
        hidden = jax.vmap(loop.output_gain)(samples) - jnp.eye(3)[None]
        parts.append(float(jnp.mean(jnp.trace(hidden, axis1=1, axis2=2))))
    assert 0 < 3 * parts[0] < parts[1]


def test_a_neuron_that_never_moves_stays_as_it_is() -> None:
    model = dfc.mlp((3, 4, 2), key=jr.key(0))
    still = jnp.ones((5, 3))
    found = dfc.standardised(model, still, dfc.ProductOfWeights(), key=jr.key(2))
    first = found.layers[0].transform
    assert relative_error(first.weight, model.layers[0].transform.weight) == 0
    np.testing.assert_allclose(jax.vmap(first)(still), 0, atol=1e-12)


def test_what_cannot_be_standardised_is_said() -> None:
    with pytest.raises(ValueError, match="`x` holds 1 samples; one has no standard deviation"):
        dfc.standardised(make(), X[:1], dfc.ProductOfWeights(), key=jr.key(2))
    last = dfc.Layer(
        dfc.Chain((dfc.mlp((3, 2), key=jr.key(0)).layers[0].transform, dfc.Flatten())), dfc.Linear()
    )
    model = dfc.Network((last,), dfc.ProductOfWeights().init([last], [(2,)], jr.key(0)))
    with pytest.raises(ValueError, match="has a Flatten at the end of layer 1; it must be a Dense or a Conv"):
        dfc.standardised(model, jnp.ones((4, 3)), dfc.ProductOfWeights(), key=jr.key(2))
