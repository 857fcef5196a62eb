"""Feedback from layer to layer: the sweep, against exact feedback and NumPy, in all that takes feedback."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import cast, make_batch, make_network, Plain, relative_error, take_samples

import dfc_jax as dfc


def dense(feedback: dfc.AbstractFeedbackInit, seed: int = 0) -> dfc.Network:
    return make_network(jr.key(seed), feedback=feedback)


def convolutional(feedback: dfc.AbstractFeedbackInit) -> dfc.Network:
    return dfc.convnet((2, 8, 8), (3, 4), (5, 3), key=jr.key(0), feedback=feedback)


BATCHES = {dense: make_batch(jr.key(1), 3)}
BATCHES[convolutional] = (jr.normal(jr.key(2), (3, 128)), BATCHES[dense][1])
CONTROLLER = dfc.PIController(k_p=0.5, alpha=0.1)
SCHEME = dfc.PublishedEuler(dt=0.02, states=60)
TIGHT = 1e-11
EULER = diffrax.Euler(), diffrax.ConstantStepSize()
METHODS = {
    "ssa": dfc.DFCSSA(CONTROLLER),
    "broyden": dfc.DFCSS(CONTROLLER, equilibrium=dfc.Broyden(TIGHT)),
    "newton": dfc.DFCSS(CONTROLLER, equilibrium=dfc.RootFind()),
    "pseudo-transient": dfc.DFCSS(CONTROLLER, equilibrium=dfc.PseudoTransient(TIGHT)),
    "simulated": dfc.DFCSS(CONTROLLER, equilibrium=dfc.Simulated(t1=5.0), include_unconverged=True),
    "at a time": dfc.DFCSS(CONTROLLER, equilibrium=dfc.StateAtTime(SCHEME), include_unconverged=True),
    "controlled slopes": dfc.DFCSS(CONTROLLER, equilibrium=dfc.ControlledJacobian(dfc.Broyden(TIGHT), TIGHT)),
    "implicit": dfc.DFC(CONTROLLER),
    "closed form": dfc.DFC(CONTROLLER, average=dfc.ClosedFormAverage()),
    "published": dfc.DFC(CONTROLLER, average=dfc.PublishedAverage(SCHEME)),
    "diffrax": dfc.DFC(CONTROLLER, average=dfc.DiffraxAverage(*EULER, t1=1.0)),
}
QUICK = {(dense, "ssa"), (dense, "broyden"), (convolutional, "ssa"), (dense, "controlled slopes")}
CASES = [
    pytest.param(make, name, marks=() if (make, name) in QUICK else pytest.mark.slow)
    for make in BATCHES
    for name in METHODS
]


@pytest.mark.parametrize(("make", "name"), CASES)
def test_with_the_forward_weights_it_is_the_exact_feedback(make, name):
    model, compute = make(dfc.CopyOfWeights()), eqx.filter_jit(METHODS[name])
    found, report = compute(model, *BATCHES[make])
    wanted, exactly = compute(make(dfc.ExactFeedback()), *BATCHES[make])
    assert relative_error(found.layers, wanted.layers) < 1e-12
    assert relative_error(report.control, exactly.control) < 1e-12
    assert np.array_equal(report.converged, exactly.converged)


@pytest.mark.parametrize("make", BATCHES)
def test_with_the_forward_weights_it_is_the_derivative_of_the_output(make):
    """JAX's own, by voltages that are moved in every layer."""
    model, (x, y) = make(dfc.CopyOfWeights()), BATCHES[make]
    loop = dfc.ClosedLoop(model)
    sample = loop.sample(x[0], y[0])

    def output(moved):
        rate = x[0]
        for layer, move in zip(model.layers, moved, strict=True):
            rate = layer.activation(layer.transform(rate) + move)
        return rate

    still = jax.tree.map(jnp.zeros_like, sample.feedforward.voltages)
    wanted = [jnp.moveaxis(J, 0, -1) for J in jax.jacrev(output)(still)]
    assert relative_error(loop.feedback(sample), wanted) < 1e-12
    u = jnp.array([0.3, -1.0, 2.0])
    assert relative_error(loop.apical_input(sample, u), [Q @ u for Q in wanted]) < 1e-12


def test_the_sweep_is_the_product_of_slopes_and_backward_weights():
    """Q_i = D_i B_{i+1}^T D_{i+1} ... B_L^T D_L in NumPy; biases play no part."""
    model = dense(dfc.RandomLayeredFeedback())
    biased = tuple(eqx.tree_at(lambda b: b.bias, B, B.bias + 1) for B in model.feedback.transforms)
    loop = dfc.ClosedLoop(dfc.Network(model.layers, dfc.LayeredFeedback(biased)))
    x, y = (batch[0] for batch in BATCHES[dense])
    sample = loop.sample(x, y)
    plain = Plain(dfc.Network(model.layers, dfc.FeedbackWeights(loop.feedback(sample))))
    voltages, _ = plain.settle(np.asarray(x))
    D = [np.diag(slope(v)) for slope, v in zip(plain.slope, voltages, strict=True)]
    B = [np.asarray(transform.weight) for transform in biased]
    wanted = [D[0] @ B[0].T @ D[1] @ B[1].T @ D[2], D[1] @ B[1].T @ D[2], D[2]]
    assert relative_error(plain.Q, wanted) < 1e-13
    u = np.array([0.3, -1.0, 2.0])
    assert relative_error(loop.apical_input(sample, jnp.asarray(u)), [Q @ u for Q in wanted]) < 1e-13


@pytest.mark.parametrize("make", BATCHES)
def test_nothing_of_the_size_of_neurons_by_outputs_is_made(make):
    """To carry a control, for either kind; feedback weights hold nothing else."""

    def largest(feedback):
        loop = dfc.ClosedLoop(make(feedback))
        sample = loop.sample(*(batch[0] for batch in BATCHES[make]))
        closed = jax.make_jaxpr(loop.apical_input)(sample, jnp.ones(3))
        return closed.jaxpr, [v.size for v in sample.feedforward.voltages]

    for feedback in (dfc.CopyOfWeights(), dfc.ExactFeedback()):
        jaxpr, neurons = largest(feedback)
        shapes = [v.aval.shape for equation in jaxpr.eqns for v in equation.outvars]
        assert not [s for s in shapes if np.prod(s) == max(neurons) * 3]


def test_random_layers_have_the_size_of_the_forward_ones():
    model = dfc.mlp((30, 300, 200, 50), key=jr.key(0), feedback=dfc.RandomLayeredFeedback())
    for layer, backward in zip(model.layers[1:], model.feedback.transforms, strict=True):
        W, B = layer.transform.weight, backward.weight
        assert abs(np.std(B) / np.std(W) - 1) < 5 / np.sqrt(W.size)
        assert abs(np.corrcoef(W.ravel(), B.ravel())[0, 1]) < 5 / np.sqrt(W.size)
        assert not np.any(backward.bias)


@pytest.mark.parametrize("random", [False, True])
def test_sign_symmetric_feedback_follows_the_signs_and_keeps_its_magnitudes(random):
    model = make_network(jr.key(0), feedback=dfc.SignSymmetry(random))
    negated = jax.tree.map(jnp.negative, model.layers[1])
    moved = dfc.Network((model.layers[0], negated, model.layers[2]), model.feedback)
    for network in (model, moved):
        loop = dfc.ClosedLoop(network)
        sample = loop.sample(*(batch[0] for batch in BATCHES[dense]))
        W = [np.asarray(layer.transform.weight) for layer in network.layers[1:]]
        M = [np.asarray(transform.weight) for transform in model.feedback.magnitudes]
        B = [np.abs(m) * np.where(w > 0, 1, -1) for m, w in zip(M, W, strict=True)]
        D = [np.diag(slope) for slope in network.slopes(sample.feedforward.voltages)]
        wanted = [D[0] @ B[0].T @ D[1] @ B[1].T @ D[2], D[1] @ B[1].T @ D[2], D[2]]
        assert relative_error(loop.feedback(sample), wanted) < 1e-13
    assert (np.unique(M[0]).size == M[0].size) == random
    update, _ = dfc.DFCSSA()(model, *BATCHES[dense])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(update.feedback))


@pytest.mark.parametrize("random", [False, True])
def test_sign_symmetric_feedback_has_the_size_of_the_forward_weights(random):
    model = dfc.mlp((30, 300, 200, 50), key=jr.key(0), feedback=dfc.SignSymmetry(random))
    for layer, magnitude in zip(model.layers[1:], model.feedback.magnitudes, strict=True):
        W, M = layer.transform.weight, magnitude.weight
        assert abs(np.linalg.norm(M) / np.linalg.norm(W) - 1) < (5 / np.sqrt(W.size) if random else 1e-12)


@pytest.mark.parametrize("make", BATCHES)
def test_single_precision_is_near_double(make):
    model, batch = make(dfc.RandomLayeredFeedback()), BATCHES[make]
    method = dfc.DFCSSA(CONTROLLER)
    wanted, _ = eqx.filter_jit(method)(model, *batch)
    found, _ = eqx.filter_jit(method)(cast(model, np.float32), *cast(batch, np.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype("float32")}
    assert relative_error(found.layers, wanted.layers) < 1e-4


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "broyden" else pytest.mark.slow) for n in ("ssa", "broyden")]
)
def test_no_sample_depends_on_its_companions(name):
    model, (x, y) = convolutional(dfc.RandomLayeredFeedback()), BATCHES[convolutional]
    compute = eqx.filter_jit(METHODS[name])
    together = compute(model, x, y)[1].control
    alone = [compute(model, x[i : i + 1], y[i : i + 1])[1].control[0] for i in range(3)]
    assert relative_error(list(together), alone) < 1e-9


X, Y = BATCHES[dense]
REFUSED = {
    "DFA": (lambda model: dfc.DFA()(model, X, Y), "direct feedback alignment needs feedback that is fixed"),
    "LinearisedStrongDFC": (
        lambda model: dfc.LinearisedStrongDFC()(model, X, Y, key=jr.key(2)),
        "LinearisedStrongDFC needs FeedbackWeights[.]",
    ),
    "StrongDFC": (
        lambda model: dfc.StrongDFC()(model, X, Y, key=jr.key(2)),
        "StrongDFC needs FeedbackWeights[.]",
    ),
    "SleepPhase": (
        lambda model: dfc.SleepPhase()(model, X, Y, key=jr.key(2)),
        "SleepPhase needs FeedbackWeights[.]",
    ),
    "LinearisedSleepPhase": (
        lambda model: dfc.LinearisedSleepPhase()(model, X, Y, key=jr.key(0)),
        "LinearisedSleepPhase needs FeedbackWeights[.]",
    ),
    "ExpectedSleepPhase": (
        lambda model: dfc.ExpectedSleepPhase()(model, X, Y),
        "ExpectedSleepPhase needs FeedbackWeights[.]",
    ),
    "OptimalControl": (
        lambda model: dfc.DFCSS(equilibrium=dfc.OptimalControl())(model, X, Y),
        "optimal control is that of ExactFeedback",
    ),
}


@pytest.mark.parametrize("who", REFUSED)
def test_who_needs_other_feedback_says_so(who):
    ask, sentence = REFUSED[who]
    with pytest.raises(ValueError, match=f"^`model.feedback` is LayeredFeedback[,;] .*{sentence}"):
        ask(dense(dfc.CopyOfWeights()))


def test_transforms_that_do_not_suit_the_layers_are_refused():
    model = dense(dfc.CopyOfWeights())
    first, second = model.feedback.transforms
    for transforms, sentence in (((first,), "`transforms` are 1; 3 layers need 2"), ((second, first), "")):
        wrong = dfc.Network(model.layers, dfc.LayeredFeedback(transforms))
        with pytest.raises(ValueError, match=f"^`model.feedback` does not suit the layers: .*{sentence}"):
            dfc.DFCSSA()(wrong, X, Y)
    for feedback in (model.feedback, dense(dfc.SignSymmetry()).feedback):
        with pytest.raises(
            ValueError, match=f"`matrices` sees no slopes, of which {type(feedback).__name__}"
        ):
            feedback.matrices(None)


def test_a_saved_model_keeps_it(tmp_path):
    for feedback in (dfc.RandomLayeredFeedback(), dfc.SignSymmetry(random=True)):
        model = convolutional(feedback)
        dfc.save_model(tmp_path / "model", model)
        assert eqx.tree_equal(dfc.load_model(tmp_path / "model"), model)


def test_exact_feedback_is_measured_as_such():
    model = dense(dfc.CopyOfWeights())
    loop = dfc.ClosedLoop(model)
    assert np.allclose(dfc.condition_two(model, X), 1)
    assert np.allclose(dfc.feedback_angles(model, X), 0, atol=1e-5)
    assert np.all(dfc.loop_eigenvalues(loop, take_samples(loop, X, Y)).real < 0)
    assert np.all(dfc.condition_two(dense(dfc.RandomLayeredFeedback()), X) < 0.99)
