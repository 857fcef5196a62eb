"""The apical compartment by the dynamics themselves: it delays the control, and moves no steady state."""

import equinox as eqx
import jax.random as jr
import numpy as np
import pytest
from helpers import find, make_batch, make_network, Plain, relative_error, softmax, take_samples
from jaxtyping import Array

import dfc_jax as dfc


NUDGE = 0.3


@pytest.fixture(scope="module")
def linear() -> tuple[dfc.Network, Array, Array]:
    return make_network(jr.key(1), (4, 5, 3), dfc.Linear()), *make_batch(jr.key(2), 3)


def at_rest(model: dfc.Network, x: Array, y: Array, leak: float) -> np.ndarray:
    """(J Q + a I)^-1 e of a linear network."""
    plain, found = Plain(model), []
    for sample, label in zip(np.asarray(x), np.asarray(y), strict=True):
        voltages, rates = plain.settle(sample)
        error = NUDGE * (label - softmax(rates[-1]))
        found.append(np.linalg.solve(plain.gain(voltages) + leak * np.eye(3), error))
    return np.stack(found)


def test_the_dynamics_rest_where_they_do_without_it(linear) -> None:
    model, x, y = linear
    loop = dfc.ClosedLoop(model, dfc.PIController(0.5, 0.05), dfc.Nudge(NUDGE), tau_apical=0.1)
    found = find(dfc.Simulated(rtol=1e-8, t1=1500.0), loop, x, y)
    assert np.all(found.converged)
    assert relative_error(found.control, at_rest(model, x, y, 0.05)) < 1e-5


def test_they_do_not_rest_before_it_does(linear) -> None:
    """Where the controller is fast, and the voltages, as slow, have hardly moved when that rests."""
    model, x, y = linear
    slow = {"tau_v": 20.0, "tau_apical": 20.0}
    loop = dfc.ClosedLoop(model, dfc.LeakyIntegratorController(0.5, 20.0), dfc.Nudge(NUDGE), **slow)
    found = find(dfc.Simulated(rtol=1e-2, dtmax=0.1, t1=1500.0), loop, x, y)
    assert np.all(found.converged)
    assert relative_error(found.control, at_rest(model, x, y, 20 / 11)) < 0.1


def test_explicit_solvers_average_over_it_as_the_published_scheme_does() -> None:
    """In short steps, and from the beginning, where it delays everything."""
    model = make_network(jr.key(21), (4, 6, 5, 3), (dfc.Tanh(), dfc.Sigmoid()))
    loop = dfc.ClosedLoop(model, dfc.PIController(1.0, 0.05), dfc.Nudge(NUDGE), tau_apical=0.3)
    samples = take_samples(loop, *make_batch(jr.key(22), 3))
    fine = dfc.PublishedAverage(dfc.PublishedEuler(0.001, 2001))
    (found, last), (wanted, end) = (
        eqx.filter_jit(average)(loop, samples) for average in (dfc.DiffraxAverage(t1=2.0), fine)
    )
    assert relative_error(found, wanted) < 0.01
    assert relative_error(last.control, end.control) < 0.01
