"""The dynamics in ordinary units: the feedforward state at first, the steady state at last, and between."""

import sys

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib
import numpy as np
import pytest
import scipy.linalg
from helpers import relative_error

import dfc_jax as dfc


TIMES = jnp.linspace(0.0, 1.5, 7)
X, Y = jnp.array([0.5, -1.0, 0.3, 0.8]), jnp.eye(2)[0]


def loop_of(activation=dfc.Tanh(), **parts):
    model = dfc.mlp((4, 3, 2), key=jr.key(0), activation=activation, output_activation=dfc.Linear())
    return dfc.ClosedLoop(model, loss=dfc.MeanSquaredError(), **parts)


def found_of(loop, times=TIMES, dt0=0.01, **options):
    return dfc.trajectory(loop, loop.sample(X, Y), times, dt0=dt0, **options)


def test_a_linear_network_follows_the_matrix_exponential():
    """v, r, u and e of a loop written out by hand, in absolute variables."""
    loop = loop_of(dfc.Linear(), controller=dfc.PIController(k_p=1.5, alpha=0.1), tau_v=0.3)
    (first, second), (Q1, Q2) = loop.network.layers, loop.network.feedback.weights
    (W1, b1), (W2, b2) = ((layer.transform.weight, layer.transform.bias) for layer in (first, second))
    output = W2 @ (W1 @ X + b1) + b2
    target = output + loop.sample(X, Y).error
    # tau_v dv = -v + (W r + b) + Q u, u = u_int + k_p e, e = target - v_2, du_int/dt = e - alpha u
    k_p, alpha, tau = 1.5, 0.1, 0.3
    u_v2, u_int = -k_p * jnp.eye(2), jnp.eye(2)
    A = jnp.block(
        [
            [-jnp.eye(3) / tau, Q1 @ u_v2 / tau, Q1 @ u_int / tau],
            [W2 / tau, (Q2 @ u_v2 - jnp.eye(2)) / tau, Q2 @ u_int / tau],
            [jnp.zeros((2, 3)), -jnp.eye(2) - alpha * u_v2, -alpha * u_int],
        ]
    )
    constant = jnp.concatenate(
        [
            (W1 @ X + b1 + k_p * Q1 @ target) / tau,
            (b2 + k_p * Q2 @ target) / tau,
            target - alpha * k_p * target,
        ]
    )
    start = jnp.concatenate([W1 @ X + b1, output, jnp.zeros(2)])
    rest = -jnp.linalg.solve(A, constant)
    wanted = np.stack([rest + scipy.linalg.expm(np.asarray(A) * float(t)) @ (start - rest) for t in TIMES])
    found = found_of(loop)
    v1, v2, integral = np.split(wanted, [3, 5], axis=1)
    error = np.asarray(target) - v2
    assert relative_error(found.voltages, (v1, v2)) < 1e-8
    assert relative_error(found.rates, (v1, v2)) < 1e-8
    assert relative_error(found.error, error) < 1e-8
    assert relative_error(found.control, integral + k_p * error) < 1e-8
    assert found.result == diffrax.RESULTS.successful and np.array_equal(found.times, TIMES)


def test_it_ends_at_the_steady_state():
    loop = loop_of()
    samples = loop.samples(X[None], Y[None])
    steady = dfc.Broyden(rtol=1e-10)(loop, samples)
    found = found_of(loop, jnp.array([0.0, 200.0]), 0.05)
    assert relative_error(found.control[-1], steady.control[0]) < 1e-6
    voltages = jax.tree.map(lambda v, d: v[0] + d[0], samples.feedforward.voltages, steady.deviation.voltage)
    assert relative_error([v[-1] for v in found.voltages], list(voltages)) < 1e-6
    assert relative_error(found.rates[0], jnp.tanh(found.voltages[0])) < 1e-12
    assert relative_error(found.rates[-1][0], loop.network(X)) < 1e-12


def test_several_controllers_are_one_program():
    gains = jnp.array([0.5, 2.0, 8.0])

    def of(gain):
        return found_of(loop_of(controller=dfc.PIController(k_p=gain)), max_steps=4096)

    together = jax.vmap(of)(gains)
    assert together.control.shape == (3, 7, 2)
    alone = found_of(loop_of(controller=dfc.PIController(k_p=gains[2])))
    assert relative_error(together.control[2], alone.control) < 1e-12
    assert together.rates[0].shape == (3, 7, 3)


@pytest.mark.parametrize("times", [jnp.zeros((2, 2)), jnp.zeros(0)])
@pytest.mark.usefixtures("unchecked")
def test_times_are_a_row(times):
    with pytest.raises(ValueError, match=r"`times` has shape .* it must be"):
        found_of(loop_of(), times)


@pytest.mark.parametrize("times", [[0, 2, 1], [-1, 0.5, 1], [0, np.nan, 1], [0, 0, 1]], ids=str)
def test_times_rise_from_zero_on(times):
    with pytest.raises(ValueError, match=r"`times` are .* they must rise, from 0 on, and be finite"):
        found_of(loop_of(), jnp.asarray(times, float))


def test_the_picture_draws_what_was_found(monkeypatch):
    matplotlib.use("Agg")
    found = found_of(loop_of())
    figure = dfc.plot_trajectory(found, labels=["cat", "dog"])
    panels = [found.rates[-1], found.error, found.control]
    for ax, values in zip(figure.axes, panels, strict=True):
        for line, column in zip(ax.get_lines(), values.T, strict=True):
            assert np.array_equal(line.get_xdata(), TIMES) and np.array_equal(line.get_ydata(), column)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cat", "dog"]
    matplotlib.pyplot.close(figure)
    with pytest.raises(ValueError, match="`labels` are 1; there are 2 outputs"):
        dfc.plot_trajectory(found, labels=["cat"])
    with pytest.raises(ValueError, match=r"`found` has controls of shape \(1, 7, 2\)"):
        dfc.plot_trajectory(jax.tree.map(lambda leaf: leaf[None], found))
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ModuleNotFoundError, match=r"plots need the module `matplotlib.pyplot`; run `pip"):
        dfc.plot_trajectory(found)
