"""Draws of small noise against the full scheme: with the same noise, and in mean and covariance."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import flat, make_batch, make_network, relative_error
from jaxtyping import Array
from test_expected_sleep import problem, SETTINGS, slow_but, update

import dfc_jax as dfc
from dfc_jax._dynamics.small_noise import SmallNoise
from dfc_jax._dynamics.states import Deviation
from dfc_jax._methods.noise_draws import NoiseDraws
from dfc_jax._numerics.signs import random_signs


def loop_of(name: str, model: dfc.Network, sigma: float = 1.0) -> tuple[dfc.ClosedLoop, dfc.PublishedEuler]:
    controller, noise, tau_v, tau_apical, scheme = SETTINGS[name]
    noise = dataclasses.replace(noise, sigma=sigma, sigma_output=3 * sigma)
    loop = dfc.ClosedLoop(model, controller, dfc.Rest(), tau_v=tau_v, tau_apical=tau_apical, noise=noise)
    return loop, scheme


@pytest.mark.parametrize("name", slow_but("white_coupled", "filtered_delayed_low_pass"))
def test_under_the_same_noise_it_is_the_scheme_to_first_order(name: str) -> None:
    """The full scheme's control, for noise so small that its square is lost, and that of n_L dimensions."""
    model, x, y = problem(0)
    small = 1e-7
    loop, scheme = loop_of(name, model, small)
    sample = loop.sample(x[0], y[0])
    sizes = [v.shape for v in sample.feedforward.voltages]
    noise = tuple(
        jr.normal(k, (scheme.states - 1, *s)) for k, s in zip(jr.split(jr.key(1), 3), sizes, strict=True)
    )
    wanted = eqx.filter_jit(scheme.trajectory)(loop, sample, noise).control[1:] / small

    @eqx.filter_jit
    def control() -> Array:
        linear = SmallNoise(*loop_of(name, model))
        still = Deviation.none(sample.feedforward.voltages)
        jacobians, gains, _, readout = linear.products(sample, still)
        seen = jnp.stack([draws @ J.T for draws, J in zip(noise, jacobians, strict=True)], axis=1)
        kicks = linear.noise_steps()[1][None, :, None] * seen
        of_one = (matrices[..., None] for matrices in (gains, readout, kicks))
        return linear.answer(*of_one)[1][..., 0]

    assert relative_error(control(), wanted) < 1e-5


def moments(phase: dfc.AbstractSleepPhase, batch: tuple, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of all feedback weights' updates."""
    one = lambda key: phase(*batch, key=key).feedback.weights
    drawn = eqx.filter_jit(jax.vmap(one))(jr.split(jr.key(3), draws))
    drawn = np.concatenate([np.asarray(d).reshape(draws, -1) for d in drawn], axis=1)
    return np.mean(drawn, axis=0), np.cov(drawn.T)


@pytest.mark.parametrize("name", ["white_coupled", pytest.param("filtered", marks=pytest.mark.slow)])
def test_its_mean_is_the_expected_update(name: str) -> None:
    """Each entry's distance in units of the standard error of the mean of 1000 draws."""
    batch = problem(2)
    mean, covariance = moments(dfc.LinearisedSleepPhase(*SETTINGS[name]), batch, 1000)
    wanted = flat(update(dfc.ExpectedSleepPhase(*SETTINGS[name]), *batch, jr.key(0)).feedback)
    z = (mean - wanted) / np.sqrt(np.diag(covariance) / 1000)
    assert np.max(np.abs(z)) < 4.5 and 0.6 < np.sqrt(np.mean(z**2)) < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["white_coupled", "filtered_delayed_low_pass"])
def test_its_covariance_is_that_of_the_simulated_phase(name: str) -> None:
    """As near as two halves of the simulated draws are to each other."""
    batch = problem(2)
    ours = moments(dfc.LinearisedSleepPhase(*SETTINGS[name]), batch, 4000)[1]
    one = moments(dfc.SleepPhase(*SETTINGS[name]), batch, 4000)[1]
    other = moments(dfc.SleepPhase(*SETTINGS[name]), batch, 2000)[1]
    noise = relative_error(other, one)  # of 2000 draws in 4000
    assert relative_error(ours, one) < 2 * noise < 0.6
    assert abs(np.mean(np.diag(ours) / np.diag(one)) - 1) < 0.05


def noise_draws(key: Array, jacobians: tuple[Array, ...], batch: int, steps: int) -> NoiseDraws:
    grams = jnp.stack([J @ jnp.swapaxes(J, 1, 2) for J in jacobians], axis=1)
    return NoiseDraws.draw(jr.split(key, batch), jacobians, grams, steps)


@pytest.mark.slow
def test_sums_over_steps_have_the_covariance_of_independent_noise() -> None:
    """With weights that depend on nothing, sum_s xi[s] w[s]^T has independent rows of covariance w^T w."""
    rng = np.random.default_rng(0)
    jacobians = (jnp.asarray(rng.normal(size=(2, 3, 7))), jnp.asarray(rng.normal(size=(2, 3, 2))))  # 2 < 3
    weights = jnp.asarray(rng.normal(size=(2, 5, 3)))
    draws = 20_000

    @eqx.filter_jit
    @jax.vmap
    def summed(key: Array) -> tuple[Array, ...]:
        return noise_draws(key, jacobians, 2, 5).summed(weights)

    for total in summed(jr.split(jr.key(0), draws)):
        wanted = np.kron(np.eye(total.shape[1]), np.einsum("bsi,bsj->ij", weights, weights))
        found = np.cov(np.asarray(total).reshape(draws, -1).T)
        assert np.max(np.abs(found - wanted)) < 6 * np.max(wanted) * np.sqrt(2 / draws)


@pytest.mark.slow
def test_what_the_control_sees_is_the_noise_of_the_sums() -> None:
    """J_i times the sum over steps is the same sum of what the control sees: nothing is drawn twice."""
    rng = np.random.default_rng(1)
    jacobians = tuple(jnp.asarray(rng.normal(size=(1, 3, n))) for n in (7, 3))
    weights = jnp.asarray(rng.normal(size=(1, 5, 3)))
    draws = noise_draws(jr.key(0), jacobians, 1, 5)
    for i, (J, total) in enumerate(zip(jacobians, draws.summed(weights), strict=True)):
        assert relative_error(J[0] @ total, draws.seen()[0, i].T @ weights[0]) < 1e-6


@pytest.mark.parametrize("hidden", [6, 2], ids=["unseen", "narrow"])
def test_singular_covariances_and_float32(hidden: int) -> None:
    """Of layers that the output does not see, and of one that is narrower than it: still the mean of the
    expected update, to its standard error."""
    model = make_network(jr.key(5), (4, 6, hidden, 3), feedback=dfc.RandomFeedback(0.4))
    if hidden > 3:
        model = eqx.tree_at(lambda m: m.layers[-1].transform.weight, model, replace_fn=jnp.zeros_like)
    batch = (model, *make_batch(jr.key(6), 2, outputs=3))
    single = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf, batch
    )
    phase = dfc.LinearisedSleepPhase(*SETTINGS["white"])
    mean, covariance = moments(phase, single, 1000)
    wanted = flat(update(dfc.ExpectedSleepPhase(*SETTINGS["white"]), *batch, jr.key(0)).feedback)
    z = (mean - wanted) / np.sqrt(np.diag(covariance) / 1000)
    assert np.max(np.abs(z)) < 4.5


def test_a_jacobian_too_large_to_square_adds_nothing() -> None:
    model, x, y = problem(7)
    model = eqx.tree_at(lambda m: m.layers[-1].transform.weight, model, replace_fn=lambda w: 1e160 * w)
    found = update(dfc.LinearisedSleepPhase(*SETTINGS["white"]), model, x, y, jr.key(0))
    assert all(np.array_equal(Q, np.zeros(Q.shape)) for Q in found.feedback.weights)


def test_the_size_of_small_noise_does_not_matter() -> None:
    model, x, y = problem(6)
    small, large = (
        update(dfc.LinearisedSleepPhase(noise=dfc.WhiteNoise(sigma)), model, x, y, jr.key(0))
        for sigma in (1e-4, 1e-2)
    )
    assert relative_error(small.feedback, large.feedback) < 1e-12
    other = update(dfc.LinearisedSleepPhase(), model, x, y, jr.key(1))
    assert relative_error(other.feedback, large.feedback) > 0.1


def test_what_it_cannot_do_is_said() -> None:
    with pytest.raises(
        ValueError, match="`target` is Clamp; LinearisedSleepPhase needs Rest, use SleepPhase"
    ):
        dfc.LinearisedSleepPhase(target=dfc.Clamp())


@pytest.mark.parametrize("count", [1, 31, 32, 33, 1000])
def test_signs_are_fair_and_independent(count: int) -> None:
    drawn = np.asarray(jax.vmap(lambda key: random_signs(key, count, jnp.float32))(jr.split(jr.key(0), 4000)))
    assert drawn.shape == (4000, count) and drawn.dtype == np.float32 and set(np.unique(drawn)) == {-1.0, 1.0}
    few = drawn[:, :40]
    correlation = few.T @ few / 4000
    assert np.max(np.abs(np.mean(drawn, axis=0))) < 5 / np.sqrt(4000)
    assert np.max(np.abs(correlation - np.eye(len(correlation)))) < 5 / np.sqrt(4000)
