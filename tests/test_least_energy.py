"""Least control and predictive coding against the minimum of their energy, found by SciPy."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import find, make_batch, make_network, relative_error
from least_energy import ALPHAS, Energy, ENTROPY, eps_of, learn, least, PRECISE, SQUARED
from scipy.optimize import minimize

import dfc_jax as dfc


CASES = {
    "two layers": ((5, 6, 3), dfc.Tanh()),
    "sigmoids": ((5, 6, 5, 6, 3), dfc.Sigmoid()),
    "eight layers": ((4, 5, 5, 5, 5, 5, 5, 5, 3), dfc.Tanh()),
    "far from kinks": ((5, 6, 6, 3), dfc.LeakyReLU()),
}
SLOW = ("sigmoids", "eight layers", "far from kinks")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CASES]
)
@pytest.mark.parametrize("loss", [SQUARED, ENTROPY], ids=["squared", "entropy"])
def test_updates_are_those_of_the_least_energy(name: str, loss: dfc.AbstractLoss) -> None:
    sizes, activation = CASES[name]
    model = make_network(jr.key(3), sizes, activation)
    if name == "far from kinks":
        aside = lambda bias: bias + 4.0 * jnp.where(jnp.arange(len(bias)) % 2 == 0, 1, -1)
        hidden = lambda m: [layer.transform.bias for layer in m.layers[:-1]]
        model = eqx.tree_at(hidden, model, replace_fn=aside)
    x, y = make_batch(jr.key(4), 3, sizes[0])
    for alpha in ALPHAS[:2] if name == "far from kinks" else ALPHAS:  # strongly clamped, they are not far
        update, _ = learn(dfc.PredictiveCoding(alpha, loss, PRECISE, None), model, x, y)
        wanted, _ = least(model, x, y, alpha, loss is SQUARED)
        assert relative_error(update.layers, wanted) < 1e-7


@pytest.mark.slow
def test_least_control_with_softened_targets_is_the_same_equilibrium() -> None:
    model = make_network(jr.key(0), (4, 6, 3))
    x, y = make_batch(jr.key(1), 3)
    soft = jnp.where(y > 0, 0.9, 0.05)
    update, _ = learn(dfc.LeastControl(0.1, class_value=0.9, equilibrium=PRECISE, fallback=None), model, x, y)
    coded, _ = learn(dfc.PredictiveCoding(0.1, equilibrium=PRECISE, fallback=None), model, x, soft)
    assert relative_error(update.layers, coded.layers) < 1e-12


@pytest.mark.parametrize("activation", [dfc.ReLU(), pytest.param(dfc.LeakyReLU(), marks=pytest.mark.slow)])
def test_neurons_held_at_a_kink_are_where_the_energy_is_least(activation: dfc.AbstractActivation) -> None:
    """No small step lowers the energy, and some neurons are at zero, where it has no gradient."""
    model = make_network(jr.key(7), (5, 12, 12, 3), activation, feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(8), 4, 5)
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 0.1), dfc.Clamp(), SQUARED)
    found = find(PRECISE, loop, x, y)
    assert np.all(found.converged)
    held = 0
    for b in range(4):
        eps = eps_of(found, b)
        energy = Energy(model, x[b], y[b], 0.1, squared=True)
        held += sum(np.sum(np.abs(v) < 1e-9) for v in energy.state(eps)[0])
        assert no_step_lowers(energy, eps)
    assert held > 0


def no_step_lowers(energy: Energy, eps: np.ndarray) -> bool:
    steps = 1e-5 * np.random.default_rng(0).normal(size=(300, len(eps)))
    return min(energy.value(eps + step) for step in steps) > energy.value(eps)


def test_neurons_that_can_rest_on_both_sides_of_a_kink_stay_on_one() -> None:
    """If the one on which all others are now decided, some samples would have no rest."""
    model = make_network(jr.key(4), (5, 12, 3), dfc.LeakyReLU(), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(104), 64, 5)
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 0.01), dfc.Clamp(), SQUARED)
    found = find(PRECISE, loop, x, y)
    assert np.all(found.converged)
    both = 0
    for b in np.flatnonzero(np.asarray(found.iterations) > 20):
        eps = eps_of(found, b)
        energy = Energy(model, x[b], y[b], 0.01, squared=True)
        assert no_step_lowers(energy, eps)
        basal, *_ = np.split(energy.state(0 * eps)[0][0], [12])
        demand = eps[:12]  # of those above zero, whose slope is 1
        both += np.sum((basal + demand > 0) & (basal + 0.2 * demand < 0))
    assert both > 0


@pytest.mark.slow
def test_no_leak_clamps_the_output_as_other_libraries_do() -> None:
    """alpha 0: the hidden layers minimise sum |eps_i|^2 / 2 + |y - f_L|^2 / 2."""
    model = make_network(jr.key(9), (4, 6, 5, 3))
    x, y = make_batch(jr.key(10), 3)
    update, report = learn(dfc.PredictiveCoding(0.0, SQUARED, PRECISE, None), model, x, y)
    hidden = dfc.Network(model.layers[:-1], model.feedback)
    W, b = (np.asarray(p) for p in (model.layers[-1].transform.weight, model.layers[-1].transform.bias))
    last = []
    for a, label in zip(np.asarray(x), np.asarray(y), strict=True):
        below = Energy(hidden, a, label, 1.0, squared=True)

        def energy(eps: np.ndarray, below=below, label=label) -> float:
            return eps @ eps / 2 + np.sum((label - W @ below.state(eps)[1][-1] - b) ** 2) / 2

        eps = minimize(energy, np.zeros(11), method="BFGS", options={"gtol": 1e-9}).x
        last.append(label - W @ below.state(eps)[1][-1] - b)
    assert relative_error(update.layers[-1].transform.bias, -np.mean(last, axis=0)) < 1e-6
    assert np.all(np.asarray(report.residual) < 1e-9)


@pytest.mark.slow
def test_minimum_is_the_one_that_a_falling_leak_leads_to() -> None:
    """Among several: from elsewhere SciPy ends in others, of lower energy even."""
    model = make_network(jr.key(2), (3, 4, 4, 2))
    weights = lambda m: [layer.transform.weight for layer in m.layers]
    model = eqx.tree_at(weights, model, replace_fn=lambda w: 6 * w)
    x, y = make_batch(jr.key(3), 6, 3, 2)
    model = dfc.Network(model.layers, dfc.ExactFeedback())
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 0.1), dfc.Clamp(), SQUARED)
    found = find(PRECISE, loop, x, 2 * y)
    random, others, lower = np.random.default_rng(1), 0, 0
    assert np.sum(found.converged) >= 4  # so steep a network is not solved for every sample
    _, followed = least(model, x, 2 * y, 0.1, squared=True)
    for b in np.flatnonzero(found.converged):
        eps = eps_of(found, b)
        assert relative_error(eps, followed[b]) < 1e-7
        energy = Energy(model, x[b], 2 * y[b], 0.1, squared=True)
        for _ in range(6):
            other = energy.minimum(3 * random.normal(size=len(eps)))
            if np.linalg.norm(other - eps) > 0.1 and np.linalg.norm(energy.gradient(other)) < 1e-6:
                others += 1
                lower += energy.value(other) < energy.value(eps) - 1e-6
    assert others > 0 and lower > 0


@pytest.mark.parametrize("loss", [SQUARED, ENTROPY], ids=["squared", "entropy"])
def test_energies_are_those_of_numpy(loss: dfc.AbstractLoss) -> None:
    model = make_network(jr.key(0), (4, 6, 3))
    x, y = make_batch(jr.key(1), 3)
    loop = dfc.PredictiveCoding(0.3, loss).loop(model)
    samples = eqx.filter_jit(loop.samples)(x, y)
    found = PRECISE(loop, samples)
    energies = dfc.predictive_coding_energy(loop, samples, found)
    for b in range(3):
        eps = eps_of(found, b)
        assert np.isclose(dfc.control_energy(found)[b], eps @ eps / 2, rtol=1e-12)
        value = Energy(model, x[b], y[b], 0.3, loss is SQUARED).value(eps)
        assert np.isclose(energies[b], value, rtol=1e-12)


def test_energy_without_a_leak_is_that_of_the_control() -> None:
    model = make_network(jr.key(0), (4, 6, 3))
    x, y = make_batch(jr.key(1), 3)
    loop = dfc.PredictiveCoding(0.0, SQUARED).loop(model)
    samples = eqx.filter_jit(loop.samples)(x, y)
    found = PRECISE(loop, samples)
    assert np.array_equal(dfc.predictive_coding_energy(loop, samples, found), dfc.control_energy(found))
