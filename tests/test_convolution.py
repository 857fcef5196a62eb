"""Convolutional networks against the same networks written as dense matrices, and against autodiff."""

import json
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
import scipy.signal
from helpers import cast, learn, relative_error, take_samples
from jaxtyping import Array, PyTree

import dfc_jax as dfc
from dfc_jax._runs import model_description as architecture


IMAGE = (2, 6, 6)


def small(
    key: Array, feedback: object = dfc.ProductOfWeights(), activation: dfc.AbstractActivation = dfc.Tanh()
) -> dfc.Network:
    """Two convolutions and two dense layers, with biases."""
    model = dfc.convnet(IMAGE, (3, 4), (5, 3), key=key, feedback=feedback, activation=activation)
    biases = lambda m: [layer.transform.parts[-1].bias for layer in m.layers]
    return eqx.tree_at(biases, model, [0.2 * jr.normal(key, bias.shape) for bias in biases(model)])


def inputs_of(model: dfc.Network) -> list[tuple[int, ...]]:
    state = model.feedforward(jnp.zeros(72))
    return [rate.shape for rate in state.inputs]


def matrix_and_bias(transform: eqx.Module, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The affine map as a matrix between flat vectors, by autodiff, and its offset."""
    flat = lambda rate: transform(rate.reshape(shape)).ravel()
    nothing = jnp.zeros(np.prod(shape))
    return jax.jacobian(flat)(nothing), flat(nothing)


@eqx.filter_jit
def as_dense(model: dfc.Network) -> dfc.Network:
    """The same network of dense layers, every feature map a vector."""
    layers = tuple(
        dfc.Layer(dfc.Dense(*matrix_and_bias(layer.transform, shape)), layer.activation)
        for layer, shape in zip(model.layers, inputs_of(model), strict=True)
    )
    if isinstance(model.feedback, dfc.ExactFeedback):
        return dfc.Network(layers, model.feedback)
    flat = tuple(Q.reshape(-1, Q.shape[-1]) for Q in model.feedback.weights)
    return dfc.Network(layers, dfc.FeedbackWeights(flat))


@eqx.filter_jit
def shared(model: dfc.Network, dense_update: dfc.Network) -> PyTree:
    """A dense update summed over all places that share a weight: pulled back through the matrices."""
    found = []
    pairs = zip(model.layers, dense_update.layers, inputs_of(model), strict=True)
    for layer, change, shape in pairs:
        weights, rest = eqx.partition(layer.transform, eqx.is_inexact_array)
        expand = lambda w, rest=rest, shape=shape: matrix_and_bias(eqx.combine(w, rest), shape)
        _, pull = jax.vjp(expand, weights)
        found.append(pull((change.transform.weight, change.transform.bias))[0])
    return found


def batch(samples: int = 5) -> tuple[Array, Array]:
    x = jr.normal(jr.key(8), (samples, 72))
    return x, jax.nn.one_hot(jnp.arange(samples) % 3, 3)


METHODS = {
    "bp": dfc.Backprop(),
    "dfa": dfc.DFA(),
    "ss": dfc.DFCSS(equilibrium=dfc.Broyden(rtol=1e-11)),
    "ss newton": dfc.DFCSS(equilibrium=dfc.RootFind()),
    "ss strong": dfc.DFCSS(target=dfc.Clamp(0.9), equilibrium=dfc.Broyden(rtol=1e-10)),
    "ssa": dfc.DFCSSA(),
    "dfc": dfc.DFC(),
    "dfc closed form": dfc.DFC(average=dfc.ClosedFormAverage()),
    "dfc published": dfc.DFC(average=dfc.PublishedAverage(dfc.PublishedEuler(0.02, 100))),
    "strong": dfc.StrongDFC(
        noise=dfc.FilteredNoise(1e-6), tau_v=0.01, scheme=dfc.PublishedEuler(0.002, 60), start=None
    ),
    "mn": dfc.MinimumNorm(),
}


FAST = {name: () for name in ("ss", "dfa")}
BY_HAND = {name: pytest.mark.script for name in ("ss newton", "ss strong", "dfc closed form")}
NAMES = [*METHODS, "exact feedback"]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=(FAST | BY_HAND).get(n, pytest.mark.slow)) for n in NAMES]
)
def test_updates_are_those_of_the_dense_matrices(name: str, change: Callable[..., None]) -> None:
    """Of every method, to 1e-6 in float64. Noise is drawn for the same neurons in the same order."""
    if name == "dfc":  # whose steps begin with other Jacobians where there are feature maps
        for module in ("implicit_steps", "shared_steps"):
            change(f"dfc_jax._average.{module}.STEP_RTOL", 1e-10)
    feedback = dfc.ExactFeedback() if name == "exact feedback" else dfc.ProductOfWeights()
    model, (x, y) = small(jr.key(1), feedback), batch(3)
    method = METHODS["ssa" if name == "exact feedback" else name]
    update, report = learn(method, model, x, y, jr.key(2))
    wanted, plain = learn(method, as_dense(model), x, y, jr.key(2))
    assert np.all(report.converged == plain.converged) and np.all(np.isfinite(report.residual))
    assert relative_error([layer.transform for layer in update.layers], shared(model, wanted)) < 1e-6
    assert relative_error(report.output, plain.output) < 1e-12
    assert relative_error(report.control, plain.control) < 1e-6


@pytest.mark.parametrize("several_parts_learn", [False, True])
def test_gauss_newton_moves_the_output_by_the_error(several_parts_learn: bool) -> None:
    """Without damping, the step of one sample lowers its loss as the gradient by the output says."""
    model, (x, y) = small(jr.key(1)), batch(1)
    if several_parts_learn:
        more = dfc.Dense(jr.normal(jr.key(5), (5, 5)), jnp.ones(5))
        longer = dfc.Chain((*model.layers[2].transform.parts, more))
        model = eqx.tree_at(lambda m: m.layers[2].transform, model, longer)
    method = dfc.GaussNewton(damping=1e-12)

    @eqx.filter_jit
    def compute(model: dfc.Network) -> tuple:
        update, _ = method(model, x, y)
        outputs = lambda layers: dfc.Network(layers, model.feedback)(x[0])
        moved = eqx.filter_jvp(outputs, (model.layers,), (update.layers,))
        return *moved, dfc.null_space_fraction(method, model, x, y)

    output, moved, beside = compute(model)
    assert relative_error(moved, dfc.CrossEntropy().gradient(output, y[0])) < 1e-8
    assert float(beside[0]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("phase", [dfc.SleepPhase(), dfc.ExpectedSleepPhase(), dfc.LinearisedSleepPhase()])
def test_feedback_learns_as_in_the_dense_network(phase: dfc.AbstractSleepPhase) -> None:
    model, (x, y) = small(jr.key(1), dfc.RandomFeedback()), batch()
    run = eqx.filter_jit(lambda model: phase(model, x, y, key=jr.key(3)).feedback.weights)
    found, wanted = run(model), run(as_dense(model))
    flat = [Q.reshape(-1, Q.shape[-1]) for Q in found]
    assert relative_error(flat, list(wanted)) < 1e-6
    assert all(np.any(np.asarray(Q) != 0) for Q in found)


@pytest.mark.slow
def test_measures_are_those_of_the_dense_network() -> None:
    model, (x, _) = small(jr.key(1)), batch()
    plain = as_dense(model)
    for measure in (dfc.condition_one, dfc.condition_two, dfc.feedback_angles):
        assert relative_error(*(eqx.filter_jit(measure)(m, x) for m in (model, plain))) < 1e-9
    loops = [dfc.ClosedLoop(m) for m in (model, plain)]
    y = batch()[1]
    values = [np.sort_complex(dfc.loop_eigenvalues(l, take_samples(l, x, y))) for l in loops]
    assert np.max(np.abs(values[0] - values[1])) < 1e-8 * np.max(np.abs(values[1]))


def test_a_convolution_is_a_correlation() -> None:
    """Against SciPy, stride and padding by hand."""
    rng = np.random.default_rng(0)
    rate, weight = rng.normal(size=(7, 6, 2)), rng.normal(size=(3, 3, 2, 4))
    padded = np.pad(rate, ((1, 1), (1, 1), (0, 0)))
    wanted = np.stack(
        [
            sum(scipy.signal.correlate2d(padded[..., i], weight[..., i, o], "valid") for i in range(2)) + o
            for o in range(4)
        ],
        axis=-1,
    )[::2, ::2]
    found = dfc.Convolution(jnp.asarray(weight), jnp.arange(4.0), stride=2, padding=1)(jnp.asarray(rate))
    assert relative_error(found, wanted) < 1e-12


def test_pooling_is_the_mean_and_leaves_out_what_fills_no_square() -> None:
    rate = jnp.arange(5.0 * 4 * 2).reshape(5, 4, 2)
    found = dfc.AveragePool(2)(rate)
    assert found.shape == (2, 2, 2)
    assert float(found[1, 0, 1]) == pytest.approx(np.mean(rate[2:4, 0:2, 1]))


def test_images_may_be_flat_and_are_channels_first() -> None:
    model = small(jr.key(1))
    image = jr.normal(jr.key(2), IMAGE)
    assert relative_error(model(image.ravel()), model(image)) == 0
    assert dfc.Image(IMAGE)(image.ravel())[1, 2, 0] == image[0, 1, 2]


def test_strides_instead_of_pooling() -> None:
    model = dfc.convnet((1, 8, 8), (2, 3), (3,), key=jr.key(0), pool=1, stride=2)
    assert [Q.shape for Q in model.feedback.weights] == [(4, 4, 2, 3), (2, 2, 3, 3), (3, 3)]
    assert sum(leaf.size for leaf in jax.tree.leaves(model.layers)) == 18 + 2 + 54 + 3 + 36 + 3


@pytest.mark.parametrize("feedback", [dfc.ProductOfWeights(), dfc.ExactFeedback()], ids=["weights", "exact"])
def test_checkpoints_describe_it(feedback: object) -> None:
    model = small(jr.key(1), feedback, dfc.LeakyReLU(0.3))
    built = architecture.build(json.loads(json.dumps(architecture.describe(model))), 10**6)
    assert jax.tree.structure(built) == jax.tree.structure(model)
    assert [leaf.shape for leaf in jax.tree.leaves(built)] == [leaf.shape for leaf in jax.tree.leaves(model)]


@pytest.mark.script
def test_it_learns_and_is_measured(as_users_run) -> None:
    """DFC-SS on the digits, as images, with all diagnostics."""
    data = dfc.load("digits")
    model = cast(dfc.convnet((1, 8, 8), (4, 8), (10,), key=jr.key(0)), jnp.float32)
    few = eqx.tree_at(lambda d: (d.train.x, d.train.y), data, (data.train.x[:512], data.train.y[:512]))
    _, history = dfc.fit(
        model,
        cast(dfc.DFCSS(), jnp.float32),
        few,
        optax.adam(1e-2),
        epochs=6,
        key=jr.key(1),
        batch_size=64,
        diagnostics=dfc.Diagnostics(samples=8, every=6),
        progress=False,
    )
    assert history.records[-1]["validation_accuracy"] > 0.75 and history.doubts == []
    assert history.records[-1]["angle_to_backprop"] < 60


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (((1, 8, 8), (0,), (3,)), "`channels` is 0; it must be a whole number of at least 1"),
        (((1, 8, 8), (2,), ()), "`sizes` is empty"),
        (((1, 3, 3), (2, 2), (3,)), r"`image` is \(1, 3, 3\), too small for 2 convolutions with pooling"),
    ],
)
def test_what_makes_no_network_is_said(arguments: tuple, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        dfc.convnet(*arguments, key=jr.key(0))


@pytest.mark.parametrize("name", ["kernel", "pool", "stride"])
def test_even_kernels_and_zeros_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is"):
        dfc.convnet((1, 8, 8), (2,), (3,), key=jr.key(0), **{name: 2 if name == "kernel" else 0})
