"""Which kind of implicit steps is taken, and that it makes no difference to what they find."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import angle, learn, make_batch, make_network, relative_error, take_samples
from test_implicit_many_outputs import (
    Change,
    CONTROLLERS,
    DURATION,
    method_of,
    NUDGE,
    outputs_are_many_from,
    SEGMENTS,
    solved_to,
    TAU_V,
    without_elimination,
)

import dfc_jax as dfc
from dfc_jax._average.wide_steps import WideSteps
from dfc_jax._steady_state.hidden_system import HiddenSystem


@pytest.mark.slow
def test_who_is_eliminated(change: Change) -> None:
    """Linear outputs, more than the layer before them has neurons, with feedback weights; no other."""
    outputs_are_many_from(change, 6)
    asked = []
    create = WideSteps.create
    change(WideSteps, "create", staticmethod(lambda *parts: asked.append(1) or create(*parts)))
    networks = [
        (make_network(jr.key(0), (4, 5, 6)), True),
        (make_network(jr.key(0), (4, 6, 6)), False),
        (make_network(jr.key(0), (4, 6)), False),
        (make_network(jr.key(0), (4, 5, 6), output_activation=dfc.Tanh()), False),
        (make_network(jr.key(0), (4, 5, 6), feedback=dfc.ExactFeedback()), False),
    ]
    for model, wanted in networks:
        asked.clear()
        learn(method_of(), model, jnp.ones((2, 4)), jnp.ones((2, 6)))
        assert bool(asked) == wanted


@pytest.mark.parametrize(
    ("sizes", "fits"), [((4, 9, 3, 6), True), ((4, 3, 9, 6), False), ((4, 3, 6, 6), False)]
)
def test_elimination_pays_where_outputs_outnumber_the_neurons_below_them(sizes, fits) -> None:
    model = make_network(jr.key(0), sizes)
    x, y = make_batch(jr.key(1), 2, 4, 6)
    loop = dfc.ClosedLoop(model, CONTROLLERS["pi"], loss=dfc.MeanSquaredError())
    assert HiddenSystem.fits(loop, take_samples(loop, x, y)) is fits


@pytest.mark.slow
def test_all_kinds_of_steps_are_the_same(change: Change) -> None:
    """With more neurons below than outputs, where any may be taken."""
    model = make_network(jr.key(3), (5, 9, 8, 6))
    x, y = make_batch(jr.key(4), 3, 5, 6)
    method = method_of(segments=SEGMENTS)
    solved_to(change, 1e-9)
    outputs_are_many_from(change, 7)
    wanted, reported = learn(method, model, x, y)
    assert np.all(np.asarray(reported.converged))
    outputs_are_many_from(change, 6)
    for eliminated in (False, True):
        change(HiddenSystem, "fits", staticmethod(lambda loop, samples, fits=eliminated: fits))
        found, report = learn(method, model, x, y)
        assert relative_error(found, wanted) < 1e-6
        assert np.all(np.asarray(report.converged))


@pytest.mark.slow
@pytest.mark.parametrize("eliminated", [True, False])
def test_steps_far_from_the_zero_inputs_are_solved_from_the_samples_own_jacobian(
    eliminated: bool, change: Change
) -> None:
    """No cliff where one Jacobian for all begins."""
    outputs_are_many_from(change, 13)
    x = jr.normal(jr.key(1), (16, 20))
    model = dfc.mlp((20, 30, 12, 13), key=jr.key(0))
    weights = lambda m: [layer.transform.weight for layer in m.layers]
    layers = eqx.tree_at(weights, model, replace_fn=lambda w: 3 * w).layers
    model = dfc.Network(layers, dfc.ProductOfWeights().init(layers, [(30,), (12,), (13,)], jr.key(0)))
    y = jnp.eye(13)[jnp.arange(16) % 13]
    method = dfc.DFC(dfc.PIController(2.0, 1e-3), tau_v=0.02)
    assert HiddenSystem.fits(method.loop(model), take_samples(method.loop(model), x, y))
    if not eliminated:
        without_elimination(change)
    found, report = learn(method, model, x, y)
    assert np.all(report.converged)
    outputs_are_many_from(change, 14)
    own, report = learn(method, model, x, y)
    assert np.all(report.converged) and angle(found.layers, own.layers) < 0.1


@pytest.mark.parametrize("feedback", [dfc.ExactFeedback(), dfc.CopyOfWeights()])
@pytest.mark.parametrize("loss", [dfc.MeanSquaredError(), dfc.CrossEntropy()])
def test_one_jacobian_serves_any_feedback_and_loss(feedback, loss, change: Change) -> None:
    """Where no output layer is eliminated: the update of matrices of each sample's own."""
    outputs_are_many_from(change, 9)
    model = make_network(jr.key(13), (7, 5, 9), feedback=feedback)
    x, y = jr.normal(jr.key(14), (3, 7)), jax.nn.softmax(jr.normal(jr.key(15), (3, 9)))
    solved_to(change, 1e-10)
    average = dfc.ImplicitAverage(DURATION, SEGMENTS)
    method = dfc.DFC(CONTROLLERS["pi"], dfc.Nudge(NUDGE), loss, TAU_V, average)
    found, report = learn(method, model, x, y)
    assert np.all(report.converged)
    outputs_are_many_from(change, 10)
    wanted, _ = learn(method, model, x, y)
    assert relative_error(found, wanted) < 1e-7
