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
    "controlled slopes": dfc.DFCSS(
        CONTROLLER, equilibrium=dfc.ControlledJacobian(dfc.Broyden(TIGHT), TIGHT)
    ),
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
def test_with_the_forward_weights_its_matrices_are_the_transposed_jacobian(make):
    model, (x, y) = make(dfc.CopyOfWeights()), BATCHES[make]
    loop = dfc.ClosedLoop(model)
    sample = loop.sample(x[0], y[0])
    jacobian = model.jacobian(sample.feedforward.voltages)
    assert relative_error(loop.feedback(sample), [jnp.moveaxis(J, 0, -1) for J in jacobian]) < 1e-12
    u = jnp.array([0.3, -1.0, 2.0])
    assert relative_error(loop.apical_input(sample, u), [jnp.tensordot(u, J, 1) for J in jacobian]) < 1e-12


def test_the_sweep_is_the_product_of_slopes_and_backward_weights():
    """Q_i = D_i B_{i+1}^T D_{i+1} ... B_L^T D_L, in NumPy; biases play no part."""
    model = dense(dfc.RandomLayeredFeedback())
    biased = lambda B: eqx.tree_at(lambda b: b.bias, B, B.bias + 1)
    backward = dfc.LayeredFeedback(tuple(map(biased, model.feedback.transforms)))
    loop = dfc.ClosedLoop(dfc.Network(model.layers, backward))
    x, y = BATCHES[dense]
    plain = Plain(dfc.Network(model.layers, dfc.FeedbackWeights(())))
    voltages, _ = plain.settle(np.asarray(x[0]), still=True) if False else (plain_voltages(model, x[0]), None)
    slopes = [1 - np.tanh(v) ** 2 for v in voltages[:-1]] + [np.ones(3)]
    B = [np.asarray(transform.weight) for transform in model.feedback.transforms]
    Q = [np.diag(slopes[2])]
    for i in (1, 0):
        Q.insert(0, np.diag(slopes[i]) @ B[i].T @ Q[0])
    sample = loop.sample(x[0], y[0])
    assert relative_error(loop.feedback(sample), Q) < 1e-13
    u = np.array([0.3, -1.0, 2.0])
    assert relative_error(loop.apical_input(sample, jnp.asarray(u)), [q @ u for q in Q]) < 1e-13
