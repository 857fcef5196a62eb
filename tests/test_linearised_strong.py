"""Single-phase Strong-DFC in small noise against the whole trajectory: mean, covariance, forward half."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import adam, flat, learn, make_network, relative_error
from jaxtyping import Array

import dfc_jax as dfc


NOISE = dfc.FilteredNoise(1e-4, 0.05, 3e-4)
SETTINGS = {
    "strong": {},
    "squared_errors": {"loss": dfc.MeanSquaredError(), "target": dfc.Clamp()},
    "weak": {"target": dfc.Nudge(0.1), "controller": dfc.PIController(0.5, 0.1)},
    "delayed": {
        "scheme": dfc.PublishedEuler(0.004, 40, instant_transmission=False, proactive=False),
        "tau_filter": 0.1,
    },
}


def problem(batch: int = 2) -> tuple[dfc.Network, Array, Array]:
    model = make_network(jr.key(2), (4, 6, 5, 3), feedback=dfc.RandomFeedback(0.4))
    x = jr.normal(jr.key(3), (batch, 4))
    return model, x, jax.nn.one_hot(jnp.arange(batch) % 3, 3, dtype=x.dtype)


def both(name: str) -> tuple[dfc.LinearisedStrongDFC, dfc.StrongDFC]:
    options = {"noise": NOISE, "scheme": dfc.PublishedEuler(0.004, 40)} | SETTINGS[name]
    rest = dfc.Broyden(rtol=1e-10)
    return dfc.LinearisedStrongDFC(equilibrium=rest, **options), dfc.StrongDFC(start=rest, **options)


def moments(method: dfc.AbstractMethod, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of all feedback weights' updates."""
    batch = problem()
    one = lambda key: method(*batch, key=key)[0].feedback.weights
    drawn = eqx.filter_jit(jax.vmap(one))(jr.split(jr.key(seed), draws))
    drawn = np.concatenate([np.asarray(d).reshape(draws, -1) for d in drawn], axis=1)
    return np.mean(drawn, axis=0), np.cov(drawn.T)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["strong", "delayed"])
def test_mean_and_covariance_are_those_of_the_trajectory(name: str) -> None:
    linearised, simulated = both(name)
    draws = 3000
    mean, covariance = moments(linearised, draws, 0)
    wanted, spread = moments(simulated, draws, 1)
    z = (mean - wanted) / np.sqrt((np.diag(covariance) + np.diag(spread)) / draws)
    assert np.max(np.abs(z)) < 4.5
    again = relative_error(moments(simulated, draws, 2)[1], spread)  # of as many other draws
    assert relative_error(covariance, spread) < 2 * again < 0.3
    assert abs(np.mean(np.diag(covariance) / np.diag(spread)) - 1) < 0.03


@pytest.mark.parametrize("name", SETTINGS)
def test_the_forward_half_is_that_of_the_steady_state(name: str) -> None:
    method, _ = both(name)
    model, x, y = problem(5)
    parts = {part: getattr(method, part) for part in ("controller", "target", "loss", "equilibrium")}
    wanted, reported = learn(dfc.DFCSS(**parts), model, x, y)
    update, report = learn(method, model, x, y, jr.key(0))
    assert relative_error(update.layers, wanted.layers) < 1e-12
    assert eqx.tree_equal(report, reported) and np.all(np.asarray(report.converged))


def test_what_has_no_steady_state_adds_nothing() -> None:
    """Neither a broken sample nor one that is given no turns to be found in."""
    method, _ = both("strong")
    model, x, y = problem(3)
    whole, _ = learn(method, model, x[:2], y[:2], jr.key(0))
    broken, report = learn(method, model, x.at[2].set(jnp.nan), y, jr.key(0))
    assert relative_error(jax.tree.map(lambda w: 1.5 * w, broken), whole) < 1e-12
    assert report.converged.tolist() == [True, True, False]
    helpless = dataclasses.replace(method, equilibrium=dfc.Broyden(max_iterations=1), fallback=None)
    nothing, report = learn(helpless, model, x, y, jr.key(0))
    assert not np.any(np.asarray(report.converged)) and not np.any(flat(nothing))


def test_a_layer_without_noise_learns_no_feedback() -> None:
    method = dfc.LinearisedStrongDFC(noise=dfc.FilteredNoise(0.1, 0.05, sigma_output=0.0))
    update, _ = learn(method, *problem(), jr.key(2))
    *hidden, output = update.feedback.weights
    assert np.all(np.asarray(output) == 0) and all(np.any(np.asarray(Q) != 0) for Q in hidden)


def test_a_key_and_feedback_weights_are_demanded() -> None:
    model, x, y = problem()
    with pytest.raises(ValueError, match="`key` is None; LinearisedStrongDFC draws"):
        dfc.LinearisedStrongDFC()(model, x, y)
    exact = dfc.Network(model.layers, dfc.ExactFeedback())
    with pytest.raises(ValueError, match="ExactFeedback; LinearisedStrongDFC needs FeedbackWeights"):
        dfc.LinearisedStrongDFC()(exact, x, y, key=jr.key(0))
    doubts = dfc.LinearisedStrongDFC(tau_v=0.2).doubts(model, x, y)
    assert any("`tau_v` is 0.2" in doubt for doubt in doubts)


@pytest.mark.slow
def test_pre_training_around_the_feedforward_state_is_the_feedback_half() -> None:
    """At rest there is no control, and what is learned is Strong-DFC's own from there."""
    linearised, simulated = (dataclasses.replace(m, target=dfc.Rest()) for m in both("strong"))
    model, x, y = problem()
    found = dfc.HighPassPhase(linearised)(model, x, y, key=jr.key(0))
    wanted, report = learn(linearised, model, x, y, jr.key(0))
    assert relative_error(found.feedback, wanted.feedback) < 1e-12 and not np.any(flat(found.layers))
    assert not np.any(flat(report.control))
    mean = moments(linearised, 3000, 0)[0]
    other, spread = moments(simulated, 3000, 1)
    assert np.max(np.abs(mean - other) / np.sqrt(2 * np.diag(spread) / 3000)) < 4.5


@pytest.mark.script
def test_it_learns(as_users_run) -> None:
    """Both kinds of weights, on digits, in float32: as well as two phases do."""
    data = dfc.load("digits")
    model = dfc.mlp((64, 32, 10), key=jr.key(0))
    learning = dfc.FeedbackLearning(
        adam(1e-4), dfc.HighPassPhase(), pretraining_epochs=0, epochs_per_wake_epoch=0
    )
    options = {"epochs": 10, "key": jr.key(1), "progress": False}
    method = dfc.LinearisedStrongDFC()
    trained, history = dfc.fit(model, method, data, adam(3e-3), feedback_learning=learning, **options)
    assert history.records[-1]["test_accuracy"] > 0.88 and history.records[-1]["converged"] == 1
    assert not np.array_equal(flat(trained.feedback), flat(model.feedback))
