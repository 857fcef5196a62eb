"""The network: forward pass, Jacobian, feedback weights and the layers' local rule."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import make_batch, make_network, Plain, relative_error
from jaxtyping import Array, Float, PyTree

import dfc_jax as dfc


MIXES = [
    (dfc.Tanh(), dfc.Linear(), dfc.Tanh()),
    (dfc.ReLU(), dfc.Sigmoid(), dfc.LeakyReLU(0.2)),
    (dfc.Sigmoid(), dfc.Tanh(), dfc.ReLU()),
]
every_mix = pytest.mark.parametrize("mix", MIXES, ids=lambda mix: "-".join(type(a).__name__ for a in mix))


@every_mix
def test_feedforward_pass(mix: tuple[dfc.AbstractActivation, ...], getkey) -> None:
    model = make_network(getkey(), (4, 6, 5, 4, 3), mix, output_activation=dfc.Sigmoid())
    x = jr.normal(getkey(), (4,))
    voltages, rates = Plain(model).settle(np.asarray(x))
    state = model.feedforward(x)
    assert relative_error(state.voltages, voltages) < 1e-14
    assert relative_error(state.inputs, [x, *rates[:-1]]) < 1e-14
    assert relative_error(state.output, rates[-1]) < 1e-14
    assert relative_error(model(x), rates[-1]) < 1e-14


def _output_from(model: dfc.Network, first: int, voltage: Array) -> Array:
    """r_L when layer `first` has this voltage and the ones above it what follows."""
    rate = model.layers[first].activation(voltage)
    for layer in model.layers[first + 1 :]:
        rate = layer.activation(layer.transform(rate))
    return rate


@every_mix
def test_jacobian_is_the_derivative_of_the_output(mix: tuple[dfc.AbstractActivation, ...], getkey) -> None:
    model = make_network(getkey(), (4, 6, 5, 4, 3), mix, output_activation=dfc.Tanh())
    voltages = model.feedforward(jr.normal(getkey(), (4,))).voltages

    @jax.jit
    def by_autodiff(voltages: tuple[Array, ...]) -> list[Array]:
        return [jax.jacobian(lambda v, i=i: _output_from(model, i, v))(v) for i, v in enumerate(voltages)]

    assert relative_error(eqx.filter_jit(model.jacobian)(voltages), by_autodiff(voltages)) < 1e-13


def test_layer_linear_is_the_linear_part(getkey) -> None:
    layer = make_network(getkey()).layers[1]
    a, b = jr.normal(getkey(), (6,)), jr.normal(getkey(), (6,))
    assert relative_error(layer.linear(a), layer.transform.weight @ a) < 1e-14
    assert relative_error(layer.linear(a), layer.transform(a + b) - layer.transform(b)) < 1e-13
    assert np.all(layer.linear(jnp.zeros(6)) == 0)


def test_product_of_weights_feedback(getkey) -> None:
    model = dfc.mlp((4, 6, 5, 3), key=getkey(), feedback=dfc.ProductOfWeights())
    _, W1, W2 = (np.asarray(layer.transform.weight) for layer in model.layers)
    Q = model.feedback.weights
    assert relative_error(Q[0], (W2 @ W1).T) < 1e-14
    assert relative_error(Q[1], W2.T) < 1e-14
    assert np.array_equal(Q[2], np.eye(3))


def test_product_of_weights_is_the_exact_feedback_of_a_linear_network(getkey) -> None:
    model = make_network(getkey(), activation=dfc.Linear())
    jacobian = model.jacobian(model.feedforward(jr.normal(getkey(), (4,))).voltages)
    assert relative_error([J.T for J in jacobian], model.feedback.weights) < 1e-14


def test_exact_feedback_is_each_samples_transposed_jacobian(getkey) -> None:
    model = make_network(getkey(), feedback=dfc.ExactFeedback())
    assert isinstance(model.feedback, dfc.ExactFeedback) and not jax.tree.leaves(model.feedback)
    x, y = make_batch(getkey(), 2)
    loop = dfc.ClosedLoop(model)
    matrices = [loop.feedback(loop.sample(a, b)) for a, b in zip(x, y, strict=True)]
    for a, Q in zip(x, matrices, strict=True):
        plain = Plain(eqx.tree_at(lambda m: m.feedback, model, dfc.FeedbackWeights(Q)))
        wanted = [J.T for J in plain.jacobian(plain.settle(np.asarray(a))[0])]
        assert relative_error(Q, wanted) < 1e-13
    assert relative_error(matrices[0], matrices[1]) > 1e-3


def test_random_feedback(getkey) -> None:
    sizes = (4, 300, 200, 50)
    for std, wanted in ((None, [np.sqrt(2 / 350), np.sqrt(2 / 250)]), (0.7, [0.7, 0.7])):
        Q = dfc.mlp(sizes, key=getkey(), feedback=dfc.RandomFeedback(std)).feedback.weights
        for i, s in enumerate(wanted):
            assert abs(np.std(Q[i]) / s - 1) < 5 / np.sqrt(2 * Q[i].size)
            assert abs(np.mean(Q[i])) < 5 * s / np.sqrt(Q[i].size)
        assert np.array_equal(Q[2], np.eye(50))
    assert abs(np.corrcoef(np.ravel(Q[0])[: Q[1].size], np.ravel(Q[1]))[0, 1]) < 5 / np.sqrt(Q[1].size)


def test_weights_start_as_xavier_normal(getkey) -> None:
    model = dfc.mlp((100, 400, 150), key=getkey())
    for layer, (m, n) in zip(model.layers, ((100, 400), (400, 150)), strict=True):
        W = np.asarray(layer.transform.weight)
        assert W.shape == (n, m) and np.all(layer.transform.bias == 0)
        std = np.sqrt(2 / (m + n))
        assert abs(np.std(W) / std - 1) < 5 / np.sqrt(2 * W.size)
        assert abs(np.mean(W)) < 5 * std / np.sqrt(W.size)
        # Normal, not uniform: the fourth moment is three times the squared variance.
        assert abs(np.mean((W / std) ** 4) - 3) < 5 * np.sqrt(96 / W.size)


def test_mlp_says_what_is_wrong(getkey) -> None:
    key = getkey()
    with pytest.raises(ValueError, match=r"`sizes` is \(4,\); it must name at least"):
        dfc.mlp((4,), key=key)
    with pytest.raises(ValueError, match="`sizes` is 0; it must be a whole number"):
        dfc.mlp((4, 0, 2), key=key)
    with pytest.raises(ValueError, match=r"`activation` has 1 entries.* 2 hidden layers"):
        dfc.mlp((4, 5, 5, 2), key=key, activation=[dfc.Tanh()])
    with pytest.raises(ValueError, match="`layers` is empty"):
        dfc.Network((), dfc.ExactFeedback())
    with pytest.raises(ValueError, match="`std` is -1"):
        dfc.RandomFeedback(-1.0)


def test_one_activation_each(getkey) -> None:
    mix = [dfc.ReLU(), dfc.Sigmoid()]
    model = dfc.mlp((4, 5, 5, 2), key=getkey(), activation=mix, output_activation=dfc.Tanh())
    assert [type(layer.activation) for layer in model.layers] == [dfc.ReLU, dfc.Sigmoid, dfc.Tanh]


def test_forward_rule_is_the_sum_of_outer_products(getkey) -> None:
    model = make_network(getkey())
    presynaptic = [jr.normal(getkey(), (7, n)) for n in (4, 6, 5)]
    teaching = [jr.normal(getkey(), (7, n)) for n in (6, 5, 3)]
    changes = eqx.filter_jit(dfc.forward_rule)(model.layers, presynaptic, teaching)
    for change, r, t in zip(changes, presynaptic, teaching, strict=True):
        assert (
            relative_error(change.transform.weight, sum(np.outer(b, a) for a, b in zip(r, t, strict=True)))
            < 1e-14
        )
        assert relative_error(change.transform.bias, np.sum(t, axis=0)) < 1e-14


def test_feedback_rule_is_the_sum_of_outer_products(getkey) -> None:
    apical, control = [jr.normal(getkey(), (7, n)) for n in (6, 3)], jr.normal(getkey(), (7, 3))
    for change, a in zip(dfc.feedback_rule(apical, control), apical, strict=True):
        assert relative_error(change, sum(np.outer(p, u) for p, u in zip(a, control, strict=True))) < 1e-14


def test_teaching_signal_is_the_rate_lost_without_apical_input(getkey) -> None:
    model = make_network(getkey(), activation=(dfc.Tanh(), dfc.Sigmoid()))
    loop = dfc.ClosedLoop(model)
    x, y = make_batch(getkey(), 1)
    sample, u = loop.sample(x[0], y[0]), jr.normal(getkey(), (3,))
    deviation = loop.sweep(sample, loop.apical_input(sample, u))
    plain = Plain(model)
    voltages, rates = plain.settle(np.asarray(x[0]), np.asarray(u))
    without = plain.rates(plain.basal(np.asarray(x[0]), rates))
    wanted = [a - b for a, b in zip(rates, without, strict=True)]
    assert relative_error(dfc.teaching_signal(loop, sample, deviation), wanted) < 1e-13
    assert relative_error(dfc.presynaptic_rates(sample, deviation), [x[0], *rates[:-1]]) < 1e-13
    base = sample.feedforward.voltages
    moved = [a + d for a, d in zip(base, deviation.voltage, strict=True)]
    assert relative_error(moved, voltages) < 1e-13


class Readout(eqx.Module):
    """A dense layer on a feature map."""

    dense: dfc.Dense

    def __call__(self, rate: Float[Array, "channels height width"]) -> Float[Array, " out"]:
        return self.dense(rate.ravel())


def convolutional(key: Array) -> dfc.Network:
    """Two convolutions and a dense layer, with feedback weights shaped like the feature maps."""
    keys = jr.split(key, 6)
    first = eqx.nn.Conv2d(1, 2, 3, padding=1, key=keys[0])
    second = eqx.nn.Conv2d(2, 3, 3, stride=2, key=keys[1])
    readout = Readout(dfc.Dense(jr.normal(keys[2], (3, 12)), jnp.ones(3)))
    layers = (
        dfc.Layer(first, dfc.Tanh()),
        dfc.Layer(second, dfc.Sigmoid()),
        dfc.Layer(readout, dfc.Linear()),
    )
    shapes = ((2, 5, 5, 3), (3, 2, 2, 3))
    hidden = [0.3 * jr.normal(k, shape) for k, shape in zip(keys[3:5], shapes, strict=True)]
    return dfc.Network(layers, dfc.FeedbackWeights((*hidden, jnp.eye(3))))


def test_forward_rule_of_a_convolution(getkey) -> None:
    model = convolutional(getkey())
    presynaptic = [jr.normal(getkey(), (2, *shape)) for shape in ((1, 5, 5), (2, 5, 5), (3, 2, 2))]
    teaching = [jr.normal(getkey(), (2, *shape)) for shape in ((2, 5, 5), (3, 2, 2), (3,))]

    @eqx.filter_grad
    def by_autodiff(transforms: list[PyTree]) -> Array:
        signals = zip(transforms, presynaptic, teaching, strict=True)
        return sum(jnp.sum(f(r[b]) * t[b]) for f, r, t in signals for b in range(2))

    changes = eqx.filter_jit(dfc.forward_rule)(model.layers, presynaptic, teaching)
    wanted = eqx.filter_jit(by_autodiff)([layer.transform for layer in model.layers])
    for change, gradient in zip(changes, wanted, strict=True):
        assert relative_error(change.transform, gradient) < 1e-13


def test_dynamics_of_a_convolution(getkey) -> None:
    """J, J Q and the linear part hold for feature maps as they do for vectors."""
    model = convolutional(getkey())
    loop = dfc.ClosedLoop(model)

    @eqx.filter_jit
    def compute(x: Array) -> tuple:
        sample = loop.sample(x, jnp.array([0.0, 1.0, 0.0]))
        voltages = sample.feedforward.voltages
        by_autodiff = [jax.jacobian(lambda v, i=i: _output_from(model, i, v))(voltages[i]) for i in range(3)]
        settled = lambda u: loop.sweep(sample, loop.apical_input(sample, u)).rate[-1]
        ours = model.jacobian(voltages), loop.output_gain(sample), sum(loop.layer_gains(sample))
        return by_autodiff, jax.jacobian(settled)(jnp.zeros(3)), ours

    wanted, by_sweep, (jacobian, gain, layer_gains) = compute(jr.normal(getkey(), (1, 5, 5)))
    assert relative_error(jacobian, wanted) < 1e-12
    pairs = zip(wanted, model.feedback.weights, strict=True)
    JQ = sum(np.reshape(J, (3, -1)) @ np.reshape(Q, (-1, 3)) for J, Q in pairs)
    for found in (gain, layer_gains, by_sweep):
        assert relative_error(found, JQ) < 1e-12
