"""Which output layers implicit steps eliminate, and that it makes no difference to what they find."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import learn, make_batch, make_network, relative_error, take_samples
from test_wide_implicit import Change, CONTROLLERS, method_of, SEGMENTS, solved_to

import dfc_jax as dfc
from dfc_jax._average.wide_steps import WideSteps
from dfc_jax._steady_state.hidden_system import HiddenSystem


@pytest.mark.slow
def test_who_is_eliminated(change: Change) -> None:
    """Linear outputs, more than the layer before them has neurons, with feedback weights; no other."""
    asked = []
    create = WideSteps.create
    change(WideSteps, "create", staticmethod(lambda **parts: asked.append(1) or create(**parts)))
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


@pytest.mark.parametrize(("outputs", "most", "eliminated"), [(6, None, False), (6, 5, True), (6, 6, False)])
def test_many_outputs_over_more_neurons_are_eliminated_too(outputs: int, most, eliminated: bool) -> None:
    model = make_network(jr.key(0), (4, 9, outputs))
    loop = dfc.ClosedLoop(model, CONTROLLERS["pi"], loss=dfc.MeanSquaredError())
    samples = take_samples(loop, *make_batch(jr.key(1), 2, 4, outputs))
    assert HiddenSystem.fits(loop, samples, most) is eliminated


@pytest.mark.slow
def test_both_kinds_of_steps_are_the_same_over_more_neurons(change: Change) -> None:
    """With more neurons below than outputs, where either may be taken."""
    model = make_network(jr.key(3), (5, 9, 8, 6))
    x, y = make_batch(jr.key(4), 3, 5, 6)
    method = method_of(segments=SEGMENTS)
    solved_to(change, 1e-9)
    change("dfc_jax._average.implicit_steps.STEP_RTOL", 1e-9)
    change("dfc_jax._average.implicit_steps.MAX_STEP_ITERATIONS", 60)
    wanted, reported = learn(method, model, x, y)
    change("dfc_jax._average.implicit._OWN_OUTPUTS", 5)
    found, report = learn(method, model, x, y)
    assert relative_error(found, wanted) < 1e-6
    assert np.all(np.asarray(report.converged)) and np.all(np.asarray(reported.converged))
