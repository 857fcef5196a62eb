"""The expected sleep update against exact covariances of the full scheme and against many draws."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import flat, make_batch, make_network, relative_error
from jaxtyping import Array

import dfc_jax as dfc
from dfc_jax._methods.expected_sleep import MAX_TERMS


FAST, COUPLED = dfc.PIController(0.0, 0.5), dfc.PIController(2.0, 0.5)
SCHEME = dfc.PublishedEuler(dt=0.05, states=12, proactive=False)
WHITE, FILTERED = dfc.WhiteNoise(1e-3, 3e-3), dfc.FilteredNoise(1e-3, 0.3, 3e-3)
# Noise, apical low-pass, controller and flags, each of them both ways.
SETTINGS = {
    "white": (FAST, WHITE, 0.2, 0.3, SCHEME),
    "white_coupled": (COUPLED, WHITE, 0.2, 0.3, dfc.PublishedEuler(dt=0.05, states=12)),
    "filtered": (COUPLED, FILTERED, 0.2, None, SCHEME),
    "filtered_proactive": (FAST, FILTERED, 0.2, None, dfc.PublishedEuler(dt=0.05, states=12)),
    "filtered_delayed_low_pass": (
        dfc.LeakyIntegratorController(1.0, 0.5),
        FILTERED,
        0.2,
        0.3,
        dfc.PublishedEuler(dt=0.05, states=9, instant_transmission=False, proactive=False),
    ),
}


def problem(seed: int, batch: int = 2, outputs: int = 3) -> tuple[dfc.Network, Array, Array]:
    model = make_network(jr.key(seed), (4, 6, 5, outputs), feedback=dfc.RandomFeedback(0.4))
    return model, *make_batch(jr.key(seed + 1), batch, outputs=outputs)


@eqx.filter_jit
def linear_maps(loop: dfc.ClosedLoop, scheme: dfc.PublishedEuler, x: Array, y: Array) -> tuple[Array, ...]:
    """The derivatives of one step of the scheme by the state and by the noise, and of what is correlated."""
    sample = loop.sample(x, y)
    state, unravel = jax.flatten_util.ravel_pytree(scheme.initial(loop, sample))
    draws, as_draws = jax.flatten_util.ravel_pytree(sample.feedforward.voltages)
    step = lambda s, w: jax.flatten_util.ravel_pytree(scheme.step(loop, unravel(s), sample, as_draws(w)))[0]
    apical = lambda s: jax.flatten_util.ravel_pytree(unravel(s).apical)[0]
    by_state, by_noise = jax.jacfwd(step, (0, 1))(state, jnp.zeros_like(draws))
    return by_state, by_noise, jax.jacfwd(apical)(state), jax.jacfwd(lambda s: unravel(s).control)(state)


def exact_update(phase: dfc.ExpectedSleepPhase, model: dfc.Network, x: Array, y: Array) -> list[np.ndarray]:
    """By the covariance of all neurons, step after step, in NumPy."""
    loop = dfc.ClosedLoop(
        model, phase.controller, phase.target, phase.loss, phase.tau_v, phase.tau_apical, phase.noise
    )
    steps, total = phase.scheme.states - 1, 0.0
    for a, b in zip(x, y, strict=True):
        A, B, apical, control = map(np.asarray, linear_maps(loop, phase.scheme, a, b))
        covariance = np.zeros_like(A)
        for _ in range(steps):
            total = total + apical @ covariance @ A.T @ control.T  # v_fb[t] with u[t+1]
            covariance = A @ covariance @ A.T + B @ B.T
    sizes = [len(Q) for Q in model.feedback.weights]
    parts = np.split(total / (steps * len(x)), np.cumsum(sizes)[:-1])
    return [part / s**2 for part, s in zip(parts, (1e-3, 1e-3, 3e-3), strict=True)]


@eqx.filter_jit
def update(phase: dfc.AbstractSleepPhase, model: dfc.Network, x: Array, y: Array, key: Array) -> dfc.Network:
    return phase(model, x, y, key=key)


def slow_but(*kept: str) -> list:
    """The names of all settings, those not kept marked as slow."""
    return [name if name in kept else pytest.param(name, marks=pytest.mark.slow) for name in SETTINGS]


@pytest.mark.parametrize("name", slow_but("white_coupled", "filtered_delayed_low_pass"))
def test_it_is_the_exact_expectation_of_the_linearised_scheme(name: str) -> None:
    model, x, y = problem(0)
    phase = dfc.ExpectedSleepPhase(*SETTINGS[name])
    found = update(phase, model, x, y, jr.key(0))
    wanted = exact_update(phase, model, x, y)
    for ours, theirs in zip(found.feedback.weights, wanted, strict=True):
        assert relative_error(ours, theirs) < 1e-10
    assert np.all(flat(found.layers) == 0)


@pytest.mark.parametrize("outputs", [MAX_TERMS, MAX_TERMS + 1])
def test_both_ways_to_multiply_are_exact(outputs: int) -> None:
    model, x, y = problem(12, outputs=outputs)
    phase = dfc.ExpectedSleepPhase(*SETTINGS["white"])
    found = update(phase, model, x, y, jr.key(0)).feedback.weights
    for ours, theirs in zip(found, exact_update(phase, model, x, y), strict=True):
        assert relative_error(ours, theirs) < 1e-10


def test_it_is_the_mean_of_many_draws() -> None:
    """Each entry's distance from the mean of 1000 draws, in units of that mean's own standard error."""
    (model, x, y), setting = problem(2), SETTINGS["white_coupled"]
    found = flat(update(dfc.ExpectedSleepPhase(*setting), model, x, y, jr.key(0)).feedback)
    one = lambda key: dfc.SleepPhase(*setting)(model, x, y, key=key).feedback.weights
    draws = eqx.filter_jit(jax.vmap(one))(jr.split(jr.key(3), 1000))
    draws = np.concatenate([np.asarray(d).reshape(1000, -1) for d in draws], axis=1)
    z = (np.mean(draws, axis=0) - found) / (np.std(draws, axis=0) / np.sqrt(1000))
    assert np.max(np.abs(z)) < 4.5 and 0.6 < np.sqrt(np.mean(z**2)) < 1.5


def test_the_size_of_small_noise_does_not_matter() -> None:
    model, x, y = problem(6)
    small, large = (
        update(dfc.ExpectedSleepPhase(noise=dfc.WhiteNoise(sigma)), model, x, y, jr.key(0))
        for sigma in (1e-4, 1e-2)
    )
    assert relative_error(small.feedback, large.feedback) < 1e-12


def test_what_it_cannot_do_is_said() -> None:
    model, x, y = problem(8)
    with pytest.raises(ValueError, match="`target` is Clamp; ExpectedSleepPhase needs Rest"):
        dfc.ExpectedSleepPhase(target=dfc.Clamp())
    exact = dfc.Network(model.layers, dfc.ExactFeedback())
    with pytest.raises(ValueError, match="ExactFeedback; ExpectedSleepPhase needs FeedbackWeights"):
        dfc.ExpectedSleepPhase()(exact, x, y)
    for sigma in (0.0, 1e-20):  # whose square float32 does not hold
        with pytest.raises(ValueError, match=rf"`noise.sigma` is {sigma}"):
            dfc.ExpectedSleepPhase(noise=dfc.WhiteNoise(sigma))
