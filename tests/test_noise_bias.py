"""What noise adds to the mean update of the single phase, and the figure of that."""

import csv
import functools
import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from figures import main
from helpers import flat, make_batch, make_network, relative_error
from icml2022.bias import NoiseBias, OUTPUT_ALONE, RUNS
from icml2022.mean_updates import at_rest, cosine, LessBias, mean_update, minus, signal

import dfc_jax as dfc


DT, STATES, TAU_V, TAU_NOISE, K_P, ALPHA, SIZES = 0.004, 60, 0.02, 0.05, 1.5, 0.01, (4, 6, 5, 3)
LAST = slice(11, 14)  # the outputs among all neurons
LAYERS = slice(0, 6), slice(6, 11), LAST


def single_phase(
    sigma: float, target: dfc.AbstractTarget, sigma_output: float | None = None
) -> dfc.StrongDFC:
    return dfc.StrongDFC(
        dfc.PIController(K_P, ALPHA),
        target,
        dfc.MeanSquaredError(),
        dfc.FilteredNoise(sigma, TAU_NOISE, sigma_output),
        tau_v=TAU_V,
        scheme=dfc.PublishedEuler(DT, STATES),
        start=dfc.Broyden(rtol=1e-12),
    )


@functools.cache
def linear(samples: int = 8, std: float = 0.5) -> tuple[dfc.Network, jax.Array, jax.Array]:
    """A linear network, whose bias is the same for every sample, and samples."""
    model = make_network(jr.key(0), SIZES, dfc.Linear(), dfc.RandomFeedback(std=std))
    return model, *make_batch(jr.key(1), samples)


def bias(sigma: float = 0.2, nudge: float = 0.1, sigma_output: float | None = None) -> tuple[dfc.Layer, ...]:
    """The mean update less the one without noise, times the nudge; always of the same draws."""
    method = single_phase(sigma, dfc.Nudge(nudge), sigma_output)
    mean, _ = mean_update(method, *linear(), jr.split(jr.key(2), 2))
    return jax.tree.map(lambda w: nudge * w, minus(mean, signal(method, *linear())))


def linear_step(model: dfc.Network, state: np.ndarray, draws: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """The next of the states (epsilon, d, u_int, u) in the columns of a matrix, without a target."""
    eps, d, integral, u = np.split(state, [14, 28, 31])
    error = -d[LAST]
    integral = integral + DT * (error - ALPHA * u)
    u = integral + K_P * error
    eps = (1 - DT / TAU_NOISE) * eps + np.sqrt(DT) / TAU_NOISE * draws
    arriving = np.concatenate(model.feedback.weights) @ u + sigmas[:, None] * eps
    new = np.zeros_like(d)
    for i, part in enumerate(LAYERS):
        basal = model.layers[i].transform.weight @ new[LAYERS[i - 1]] if i else 0
        new[part] = d[part] + DT / TAU_V * (basal + arriving[part] - d[part])
    return np.concatenate([eps, new, integral, u])


def expected(sigmas: tuple[float, ...], std: float = 0.5) -> list[np.ndarray]:
    """Minus the mean of (v_i - v_ff_i) rho_(i-1)^T of every layer but the first, from covariances."""
    model, *_ = linear(std=std)
    by_neuron = np.repeat(sigmas, SIZES[1:])
    moves = linear_step(model, np.eye(34), np.zeros((14, 34)), by_neuron)
    kicks = linear_step(model, np.zeros((34, 14)), np.eye(14), by_neuron)
    covariance, found = np.zeros((34, 34)), [np.zeros((5, 6)), np.zeros((3, 5))]
    for _ in range(STATES - 1):
        covariance = moves @ covariance @ moves.T + kicks @ kicks.T
        of_voltages = covariance[14:28, 14:28]
        for i, (below, above) in enumerate(itertools.pairwise(LAYERS)):
            taught = of_voltages[above, below]
            taught = taught - np.asarray(model.layers[i + 1].transform.weight) @ of_voltages[below, below]
            found[i] -= taught / STATES
    return found


@pytest.mark.parametrize("sigmas", [(0.2, 0.2, 0.2), (0.0001, 0.0001, 0.2)], ids=["all", "output"])
def test_the_bias_of_a_linear_network_has_a_closed_form(sigmas) -> None:
    method = single_phase(sigmas[0], dfc.Rest(), sigmas[-1])
    mean, error = mean_update(method, *linear(512), jr.split(jr.key(3), 16))
    for layer, spread, wanted in zip(mean[1:], error[1:], expected(sigmas), strict=True):
        uncertain = np.linalg.norm(spread.transform.weight)
        assert uncertain < 0.05 * np.linalg.norm(wanted)
        assert np.linalg.norm(layer.transform.weight - wanted) < 2 * uncertain
    # A constant input and, without a nonlinearity, teaching signals of mean zero.
    assert np.max(np.abs(flat([mean[0], [layer.transform.bias for layer in mean]]))) < 1e-12


def test_the_standard_error_of_two_pairs_is_half_of_their_difference() -> None:
    method, keys = single_phase(0.2, dfc.Rest()), jr.split(jr.key(2), 2)
    twice = (mean_update(method, *linear(), keys[jnp.array([i, i])])[0] for i in (0, 1))
    wanted = jax.tree.map(lambda one, other: jnp.abs(one - other) / 2, *twice)
    _, error = mean_update(method, *linear(), keys)
    assert relative_error(error, wanted) < 1e-8


def test_the_noise_of_the_outputs_turns_their_weights_against_the_feedback() -> None:
    """The controller sends it to the layer below, at once and by way of the first, where it meets itself."""
    model, *_ = linear(std=0.05)
    first, second, _ = (np.asarray(Q) for Q in model.feedback.weights)
    reached = second + np.asarray(model.layers[1].transform.weight) @ first
    assert cosine(expected((0.0, 0.0, 0.2), 0.05)[1], reached.T) > 0.97


def test_the_bias_is_of_second_order_in_the_noise() -> None:
    assert relative_error(bias(0.4), jax.tree.map(lambda w: 4 * w, bias(0.2))) < 1e-8


def test_the_bias_does_not_depend_on_the_nudge_or_the_label() -> None:
    assert relative_error(bias(nudge=0.5), bias(nudge=0.05)) < 1e-8
    alone, _ = mean_update(single_phase(0.2, dfc.Rest()), *linear(), jr.split(jr.key(2), 2))
    assert relative_error(bias(), alone) < 1e-8


@pytest.mark.parametrize("same_noise", [True, False])
def test_less_the_bias_it_is_the_update_without_noise(same_noise: bool) -> None:
    """Up to what is odd in the noise, and up to what two independent draws of it differ by."""
    method = single_phase(1e-3, dfc.Nudge(0.1))
    model, x, y = linear()
    less, _ = LessBias(method, same_noise)(model, x, y, key=jr.key(4))
    key, other = (jr.key(4), jr.key(4)) if same_noise else jr.split(jr.key(4))
    whole, _ = method(model, x, y, key=key)
    bias_alone, _ = at_rest(method)(model, x, y, key=other)
    wanted = minus(whole.layers, bias_alone.layers, 0.1)
    assert relative_error(less.layers, wanted) < 1e-10
    assert relative_error(less.feedback, whole.feedback) == 0
    error = relative_error(less.layers, signal(method, model, x, y))
    assert error < 0.02 if same_noise else error > 0.02


def test_a_standard_error_needs_two_pairs(tmp_path, capsys) -> None:
    assert main(NoiseBias(number=1, out=tmp_path)) == 2
    assert "`number` is 1; it must be a whole number of at least 2." in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.script
@pytest.mark.usefixtures("as_users_run")
def test_the_figure_has_every_curve(tmp_path) -> None:
    sizes = {"epochs": 1, "seeds": 1, "samples": 8, "number": 2, "sigmas": (0.01, 0.03, 0.1)}
    options = NoiseBias(out=tmp_path, progress=False, **sizes)
    assert main(options) == 0
    with open(tmp_path / "noise-bias.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["curve"] for row in rows} > {*RUNS, OUTPUT_ALONE}
    assert np.all(np.isfinite([float(row["value"]) for row in rows]))
