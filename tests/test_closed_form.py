"""The closed-form time average against trajectories."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.integrate
from helpers import angle, flat, learn, make_batch, make_network, relative_error

import dfc_jax as dfc


@pytest.mark.parametrize(
    "controller",
    [
        pytest.param(dfc.PIController(2.0, 0.3), marks=pytest.mark.script),
        pytest.param(dfc.PIController(0.0, 0.3), marks=pytest.mark.script),
        pytest.param(dfc.LeakyIntegratorController(1.5, 0.3), marks=pytest.mark.slow),
    ],
    ids=["pi", "integral", "leaky-integrator"],
)
def test_it_is_the_average_of_a_small_and_long_trajectory(controller: dfc.PIController) -> None:
    """The linearisation is exact for a vanishing nudge, and what it leaves out dies with T: Tsit5 agrees."""
    model, (x, y) = make_network(jr.key(0), (4, 6, 5, 3)), make_batch(jr.key(1), 3)
    loop = controller, dfc.Nudge(1e-7), dfc.CrossEntropy(), 0.4
    precise = diffrax.PIDController(rtol=1e-9, atol=1e-9)
    wanted, _ = learn(dfc.DFC(*loop, dfc.DiffraxAverage(diffrax.Tsit5(), precise, t1=60.0)), model, x, y)
    found, report = learn(dfc.DFC(*loop, dfc.ClosedFormAverage(60.0)), model, x, y)
    assert np.all(report.converged) and np.all(report.condition_three)
    assert relative_error(found.layers, wanted.layers) < 1e-5
    # The steady state, which an infinite time would give, is something else.
    steady, _ = learn(dfc.DFCSS(*loop[:3]), model, x, y)
    assert relative_error(steady.layers, wanted.layers) > 1e-3


@pytest.mark.parametrize(
    "controller",
    [dfc.PIController(2.0, 0.3), dfc.PIController(0.0, 0.3), dfc.LeakyIntegratorController(1.5, 0.3)],
    ids=["pi", "integral", "leaky-integrator"],
)
def test_the_charge_is_what_the_leak_leaves_of_the_error_over_time(controller: dfc.PIController) -> None:
    """The integral of e - a u from rest to rest, of a loop of one neuron, tau_v dr/dt = u - r, by SciPy."""
    k_p, alpha, leak = map(float, (controller.k_p, controller.alpha, controller.steady_state_leak()))
    leaky = isinstance(controller, dfc.LeakyIntegratorController)

    def flow(_: float, state: np.ndarray) -> list[float]:
        rate, integral = state[:2]
        error = 1 - rate
        control = integral + k_p * error
        leaking = alpha * (integral if leaky else control)
        return [(control - rate) / 0.4, error - leaking, error - leak * control]

    path = scipy.integrate.solve_ivp(flow, (0, 60), np.zeros(3), rtol=1e-9, atol=1e-12).y
    rate, integral, left = path[:, -1]
    control = integral + k_p * (1 - rate)
    assert control == pytest.approx((1 - rate) / leak, rel=1e-6)  # at rest
    assert left == pytest.approx(float(controller.charge()) * control, rel=1e-6)


def test_it_is_close_for_more_than_the_usual_nudge_and_its_duration() -> None:
    model, (x, y) = make_network(jr.key(2), (4, 20, 20, 3)), make_batch(jr.key(3), 8)
    exact = dfc.ImplicitAverage(10.0, ((200, 0.04), (200, 0.16), (200, 0.8)))
    wanted, found = (
        learn(dfc.DFC(target=dfc.Nudge(0.3), average=average), model, x, y)[0].layers
        for average in (exact, dfc.ClosedFormAverage())
    )
    assert angle(found, wanted) < 0.5
    assert abs(np.linalg.norm(flat(found)) / np.linalg.norm(flat(wanted)) - 1) < 0.02


def test_an_unstable_sample_has_no_average() -> None:
    """Feedback of the wrong sign: the trajectory runs away, and nothing is learned from it."""
    model, (x, y) = make_network(jr.key(4)), make_batch(jr.key(5), 3)
    wrong = jax.tree.map(jnp.negative, model.feedback)
    update, report = learn(dfc.DFC(average=dfc.ClosedFormAverage()), dfc.Network(model.layers, wrong), x, y)
    assert not np.any(report.converged) and not np.any(report.condition_three)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(update.layers))


def test_a_sample_whose_gain_is_too_high_has_no_average(change) -> None:
    """Condition 3 holds for it, and its trajectory runs into a cycle; the others learn as they do alone. Of
    loops with more modes (25 are these) only Condition 3 is asked."""
    model = dfc.mlp((10, 20, 20, 20, 5), key=jr.key(0))
    weights = lambda m: [layer.transform.weight for layer in m.layers]
    layers = eqx.tree_at(weights, model, replace_fn=lambda w: 2 * w).layers
    feedback = dfc.ProductOfWeights().init(layers, [(20,), (20,), (20,), (5,)], jr.key(0))
    model, x, y = dfc.Network(layers, feedback), jr.normal(jr.key(1), (8, 10)), jnp.eye(5)[jnp.arange(8) % 5]
    method = dfc.DFC(average=dfc.ClosedFormAverage())
    loop = method.loop(model)
    fine = dfc.loop_eigenvalues(loop, loop.samples(x, y)).real.max(axis=1) < 0
    assert 0 < np.sum(fine) < 8
    update, report = learn(method, model, x, y)
    assert np.array_equal(report.converged, fine) and np.all(report.condition_three)
    alone, _ = learn(method, model, x[fine], y[fine])
    part = jax.tree.map(lambda leaf: np.mean(fine) * leaf, alone.layers)
    assert relative_error(update.layers, part) < 1e-12
    for most, wanted in ((25, fine), (24, np.ones(8, bool))):
        change("dfc_jax._average.closed_form._MODES", most)
        assert np.array_equal(learn(method, model, x, y)[1].converged, wanted)


def test_what_it_cannot_do_is_said() -> None:
    model, (x, y) = make_network(jr.key(8)), make_batch(jr.key(9), 2)
    with pytest.raises(ValueError, match="`target` is Clamp, which compares the SoftmaxReadout"):
        learn(dfc.DFC(target=dfc.Clamp(), average=dfc.ClosedFormAverage()), model, x, y)
    with pytest.raises(ValueError, match="`duration` is -1"):
        dfc.ClosedFormAverage(-1.0)


@pytest.mark.script
def test_many_outputs_are_no_different(change) -> None:
    """Beyond some number of outputs the linear systems are solved by iteration; the average is the same."""
    model, (x, y) = make_network(jr.key(0), (4, 6, 5, 3)), make_batch(jr.key(1), 3)
    method = dfc.DFC(average=dfc.ClosedFormAverage())
    own, _ = method(model, x, y)
    change("dfc_jax._steady_state.base._DENSE_OUTPUTS", 2)
    shared, report = method(model, x, y)
    assert np.all(report.iterations > 1) and np.all(report.converged)
    assert relative_error(shared.layers, own.layers) < 1e-4
    wrong = jax.tree.map(jnp.negative, model.feedback)
    nothing, report = method(dfc.Network(model.layers, wrong), x, y)
    assert not np.any(report.converged) and not np.any(report.condition_three)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(nothing.layers))


def test_clamping_squared_errors_is_a_nudge_of_half_the_outputs() -> None:
    """-nudge 2 (r - y) / n_L is y - r for a nudge of n_L / 2; the update is divided by it."""
    model, (x, y) = make_network(jr.key(10)), make_batch(jr.key(11), 3)
    average, loss = dfc.ClosedFormAverage(), dfc.MeanSquaredError()
    nudge = y.shape[1] / 2
    clamped, _ = learn(dfc.DFC(target=dfc.Clamp(), loss=loss, average=average), model, x, y)
    nudged, _ = learn(dfc.DFC(target=dfc.Nudge(nudge), loss=loss, average=average), model, x, y)
    assert relative_error(clamped.layers, jax.tree.map(lambda leaf: nudge * leaf, nudged.layers)) < 1e-12
