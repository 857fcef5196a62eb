"""A batch is the mean of its samples: none depends on another, and a broken one spoils only itself."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import AVERAGED, CONTROLLED, every, flat, learn, make_batch, make_network, relative_error, STEADY
from jaxtyping import Array

import dfc_jax as dfc


CONTROLLER, TARGET = dfc.PIController(1.0, 0.05), dfc.Nudge(1.0)


def strong(method: dfc.AbstractMethod) -> dfc.AbstractMethod:
    """The same method where the control is as large as the errors: the same program."""
    return eqx.tree_at(lambda m: (m.controller, m.target), method, (CONTROLLER, TARGET))


@pytest.fixture(scope="module")
def tanh() -> tuple[dfc.Network, Array, Array]:
    return make_network(jr.key(7), (4, 6, 5, 3)), *make_batch(jr.key(8), 8)


@every(CONTROLLED)
def test_a_batch_is_the_mean_of_its_samples(method, getkey):
    model, (x, y) = make_network(getkey()), make_batch(getkey(), 8)
    x = x * jnp.logspace(-2, 1, 8)[:, None]  # easy and hard samples side by side
    alone = [learn(method, model, x[i : i + 1], y[i : i + 1]) for i in range(8)]
    # Steps chosen by a tolerance are chosen for the whole batch: equal within that tolerance.
    shared_steps = method is AVERAGED["tsit5"]
    rounding = 1e-10 if method is STEADY["newton"] else 1e-12
    for batch in (1, 3, 8) if method is STEADY["broyden"] else (1, 3):
        update, report = learn(method, model, x[-batch:], y[-batch:])
        singles, reports = zip(*alone[-batch:], strict=True)
        mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *singles)
        assert relative_error(update, mean) < (1e-3 if shared_steps else rounding)
        for i, single in enumerate(reports):
            assert (
                report.converged[i] == single.converged[0]
                and report.condition_three[i] == single.condition_three[0]
            )
            assert abs(report.residual[i] - single.residual[0]) < (1e-2 if shared_steps else 10 * rounding)
            assert shared_steps or report.iterations[i] == single.iterations[0]


@pytest.mark.slow
def test_a_bad_sample_changes_the_steps_that_it_shares_but_little(getkey):
    method, model, (x, y) = AVERAGED["tsit5"], make_network(getkey()), make_batch(getkey(), 3)
    update, report = learn(method, model, x.at[1, 2].set(jnp.nan), y)
    good, reports = learn(method, model, x, y)
    bad, _ = learn(method, model, x[1:2], y[1:2])
    others = jax.tree.map(lambda total, one: total - one / 3, good, bad)
    assert report.converged.tolist() == [bool(reports.converged[0]), False, bool(reports.converged[2])]
    assert relative_error(update, others) < 1e-3


def test_what_did_not_converge_contributes_only_if_asked_for(getkey):
    model, (x, y) = make_network(getkey()), make_batch(getkey(), 3)
    hasty = dfc.Broyden(rtol=1e-14, max_iterations=1)
    update, report = learn(dfc.DFCSS(equilibrium=hasty, fallback=None), model, x, y)
    assert not np.any(report.converged) and np.all(flat(update) == 0)
    asked = dfc.DFCSS(equilibrium=hasty, fallback=None, include_unconverged=True)
    update, report = learn(asked, model, x, y)
    assert not np.any(report.converged)
    assert relative_error(update, learn(dfc.DFCSS(), model, x, y)[0]) < 0.05
    update, _ = learn(asked, model, x.at[0, 0].set(jnp.nan), y)
    assert np.all(np.isfinite(flat(update))) and np.any(flat(update) != 0)


def learn_alone(method: dfc.AbstractMethod, model: dfc.Network, x: Array, y: Array) -> list:
    """Update and report of every sample on its own."""
    return [learn(method, model, x[b : b + 1], y[b : b + 1]) for b in range(len(x))]


def mean_of(alone: list, contributing: np.ndarray) -> np.ndarray:
    """The batch's update if only these samples contribute; the others count in the mean nevertheless."""
    updates = [flat(update.layers) for update, _ in alone]
    return np.sum([u for u, yes in zip(updates, contributing, strict=True) if yes], axis=0) / len(updates)


def test_what_did_not_converge_contributes_nothing(tanh) -> None:
    """With a single sweep DFC-SS is DFC-SSA, whose residuals tell which samples a tolerance admits.

    The errors are a tenth of those elsewhere: the tolerance is relative to each sample's own.
    """
    model, x, y = tanh[0], tanh[1][:3], tanh[2][:3]
    nudge = dfc.Nudge(0.1)
    single = eqx.tree_at(lambda m: m.target, strong(STEADY["ssa"]), nudge)
    linearised, report = learn(single, model, x, y)
    alone = learn_alone(single, model, x, y)
    residuals = np.sort(np.asarray(report.residual))
    threshold = (residuals[1] + residuals[2]) / 2
    once = dfc.Broyden(float(threshold), 1)
    admitted = np.asarray(report.residual) < threshold
    for include, contributing in ((False, admitted), (True, np.ones(3))):
        method = dfc.DFCSS(CONTROLLER, nudge, equilibrium=once, fallback=None, include_unconverged=include)
        update, report = learn(method, model, x, y)
        assert np.array_equal(report.converged, admitted) and np.sum(admitted) == 2
        assert relative_error(update.layers, mean_of(alone, contributing)) < 1e-12
    assert relative_error(linearised.layers, mean_of(alone, admitted)) > 1e-2
