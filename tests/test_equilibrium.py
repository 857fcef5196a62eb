"""Steady states: every strategy against closed forms, long simulations and the other strategies."""

import diffrax
import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import optimistix as optx
import pytest
from helpers import find, make_batch, make_network, Plain, relative_error, softmax, take_samples
from jaxtyping import Array
from scipy.integrate import solve_ivp

import dfc_jax as dfc


NUDGE = 0.3
PRECISE = dict(
    broyden=dfc.Broyden(rtol=1e-11),
    newton=dfc.RootFind(optx.Newton(rtol=1e-10, atol=1e-10)),
    simulated=dfc.Simulated(rtol=1e-8, t1=1500.0),
)


def cross_entropy_error(loop: dfc.ClosedLoop, x: Array, y: Array) -> np.ndarray:
    """The nudged target's error without control, in NumPy: -nudge (softmax(r) - y)."""
    output = [Plain(loop.network).settle(np.asarray(a))[1][-1] for a in x]
    return np.stack([NUDGE * (np.asarray(t) - softmax(r)) for r, t in zip(output, y, strict=True)])


CONTROLLERS = [
    (dfc.PIController(2.0, 0.05), 0.05),
    (dfc.PIController(0.0, 0.05), 0.05),
    (dfc.LeakyIntegratorController(2.0, 0.05), 0.05 / 1.1),
    (dfc.LeakyIntegratorController(0.0, 0.05), 0.05),
]
every_controller = pytest.mark.parametrize("controller, leak", CONTROLLERS, ids=repr)


@pytest.fixture(scope="module")
def linear() -> tuple[dfc.Network, Array, Array]:
    model = make_network(jr.key(1), (4, 5, 3), dfc.Linear())
    return model, *make_batch(jr.key(2), 3)


def closed_form(loop: dfc.ClosedLoop, leak: float, x: Array, y: Array) -> np.ndarray:
    """(J Q + a I)^-1 e of a linear network with two layers."""
    W0, W1 = (np.asarray(layer.transform.weight) for layer in loop.network.layers)
    Q0, Q1 = (np.asarray(Q) for Q in loop.network.feedback.weights)
    assert W0.shape[0] == W1.shape[1]
    return np.linalg.solve(W1 @ Q0 + Q1 + leak * np.eye(3), cross_entropy_error(loop, x, y).T).T


@every_controller
@pytest.mark.parametrize(
    "equilibrium, tolerance",
    [
        (dfc.Analytic(), 1e-12),
        (PRECISE["broyden"], 1e-10),
        (PRECISE["newton"], 1e-10),
        (PRECISE["simulated"], 1e-5),
    ],
    ids=["analytic", "broyden", "newton", "simulated"],
)
def test_linear_network_has_the_closed_form(linear, controller, leak, equilibrium, tolerance) -> None:
    model, x, y = linear
    loop = dfc.ClosedLoop(model, controller, dfc.Nudge(NUDGE))
    found = find(equilibrium, loop, x, y)
    wanted = closed_form(loop, leak, x, y)
    assert relative_error(found.control, wanted) < tolerance
    assert (
        np.all(found.converged) and np.all(found.condition_three) and np.all(np.asarray(found.iterations) > 0)
    )
    plain = Plain(model)
    for b, u in enumerate(wanted):
        voltages = plain.settle(np.asarray(x[b]), u)[0]
        at_rest = plain.settle(np.asarray(x[b]))[0]
        moved = [a - r for a, r in zip(voltages, at_rest, strict=True)]
        assert relative_error([d[b] for d in found.deviation.voltage], moved) < 10 * tolerance


@pytest.mark.slow
def test_stiff_solver_finds_the_closed_form(linear) -> None:
    """An implicit Diffrax solver with a chord root finder, its steps without a bound."""
    model, x, y = linear
    loop = dfc.ClosedLoop(model, dfc.PIController(2.0, 0.05), dfc.Nudge(NUDGE))
    root_finder = diffrax.VeryChord(rtol=1e-9, atol=1e-9)
    stiff = dfc.Simulated(diffrax.Kvaerno3(root_finder=root_finder), rtol=1e-6, t1=1500.0, dtmax=100.0)
    found = find(stiff, loop, x, y)
    assert np.all(found.converged)
    assert relative_error(found.control, closed_form(loop, 0.05, x, y)) < 1e-4


@every_controller
def test_dynamics_settle_in_the_closed_form(linear, controller, leak) -> None:
    """`simulate` alone: no event and no root finder, only time."""
    model, x, y = linear
    loop = dfc.ClosedLoop(model, controller, dfc.Nudge(NUDGE))
    sample = jax.tree.map(lambda leaf: leaf[0], take_samples(loop, x, y))
    final = _settle(loop, sample)
    assert relative_error(loop.control(final, sample), closed_form(loop, leak, x, y)[0]) < 1e-8


@eqx.filter_jit
def _settle(loop: dfc.ClosedLoop, sample: dfc.Sample) -> dfc.LoopState:
    precise = diffrax.PIDController(rtol=1e-11, atol=1e-11)
    solution = dfc.simulate(loop, sample, t1=150.0, dt0=0.01, stepsize_controller=precise, max_steps=100_000)
    return jax.tree.map(lambda leaf: leaf[-1], solution.ys)


NETWORKS = [
    (dfc.Tanh(), dfc.Tanh()),
    (dfc.ReLU(), dfc.Sigmoid()),
]
by_name = lambda value: "-".join(type(a).__name__ for a in value)


@pytest.mark.slow
@pytest.mark.parametrize("activation", NETWORKS, ids=by_name)
def test_strategies_agree_on_nonlinear_networks(activation: tuple[dfc.AbstractActivation, ...]) -> None:
    """The same root by secants, by Newton's method and by the dynamics, and a root in plain NumPy."""
    model = make_network(jr.key(3), (4, 6, 5, 3), activation)
    loop = dfc.ClosedLoop(model, dfc.PIController(1.0, 0.05), dfc.Nudge(NUDGE))
    x, y = make_batch(jr.key(4), 4)
    found = {name: find(equilibrium, loop, x, y) for name, equilibrium in PRECISE.items()}
    error, plain = cross_entropy_error(loop, x, y), Plain(model)
    for name, each in found.items():
        assert np.all(each.converged) and np.all(each.condition_three), name
        tolerance = 1e-5 if name == "simulated" else 1e-9
        assert relative_error(each.control, found["newton"].control) < tolerance
        assert relative_error(each.deviation, found["newton"].deviation) < tolerance
        for b, u in enumerate(np.asarray(each.control)):
            moved = plain.settle(np.asarray(x[b]), u)[1][-1] - plain.settle(np.asarray(x[b]))[1][-1]
            F = np.linalg.norm(error[b] - moved - 0.05 * u) / np.linalg.norm(error[b])
            assert 10 * tolerance > F
            assert abs(F - float(each.residual[b])) < 1e-12
    # The linearised solution is none: the test would notice a strategy that stops there.
    assert relative_error(find(dfc.Analytic(), loop, x, y).control, found["newton"].control) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("loss", [dfc.MeanSquaredError(), dfc.CrossEntropy()], ids=repr)
def test_clamped_output_against_a_long_simulation(loss: dfc.AbstractLoss) -> None:
    """Strong feedback, with errors of order one, against SciPy's integration of the raw equations."""
    model = make_network(jr.key(5), (3, 4, 2))
    alpha, k_p = 0.2, 0.5
    loop = dfc.ClosedLoop(model, dfc.PIController(k_p, alpha), dfc.Clamp(), loss)
    x, labels = make_batch(jr.key(6), 2, 3, 2)
    y = 0.9 * labels + 0.05
    softened = isinstance(loss, dfc.CrossEntropy)
    broyden, newton = find(PRECISE["broyden"], loop, x, y), find(PRECISE["newton"], loop, x, y)
    assert np.all(broyden.converged) and np.all(newton.converged)
    plain, sizes = Plain(model), [4, 6]
    for b in range(2):

        def field(t: float, state: np.ndarray, b: int = b) -> np.ndarray:
            *voltages, integral = np.split(state, sizes)
            rates = plain.rates_of_change(
                np.asarray(x[b]),
                np.asarray(y[b]),
                voltages,
                integral,
                k_p=k_p,
                alpha=alpha,
                clamp_softmax=softened,
            )
            return np.concatenate([*rates[0], rates[1]])

        start = np.concatenate([*plain.settle(np.asarray(x[b]))[0], np.zeros(2)])
        end = solve_ivp(field, (0, 300), start, method="LSODA", rtol=1e-10, atol=1e-12).y[:, -1]
        assert np.max(np.abs(field(0, end))) < 1e-8
        output = plain.rates(np.split(end, sizes)[:2])[-1]
        error = np.asarray(y[b]) - (softmax(output) if softened else output)
        for each in (broyden, newton):
            assert relative_error(each.control[b], error / alpha) < 1e-6
            base = plain.settle(np.asarray(x[b]))[1][-1]
            assert relative_error(each.deviation.rate[-1][b], output - base) < 1e-6


CONTROLLER, TARGET = dfc.PIController(1.0, 0.05), dfc.Nudge(1.0)


@pytest.fixture(scope="module")
def tanh() -> tuple[dfc.ClosedLoop, Array, Array]:
    model = make_network(jr.key(7), (4, 6, 5, 3))
    return dfc.ClosedLoop(model, CONTROLLER, TARGET), *make_batch(jr.key(8), 8)


@pytest.mark.slow
def test_the_event_fires_when_there_is_time(tanh) -> None:
    loop, x, y = tanh[0], tanh[1][:4], tanh[2][:4]
    # With steps as long as stability bears, the solver's own error would keep it from resting.
    for rtol, dtmax in ((1e-4, 0.2), (1e-8, 0.2), (1e-4, 1.0)):
        enough = dfc.Simulated(rtol=rtol, dtmax=dtmax, t1=1500.0)
        found = find(enough, loop, x, y)
        steps = np.asarray(found.iterations)
        assert np.all(found.converged) and np.all(found.condition_three)
        assert np.all(steps > 10) and np.all(steps < enough.max_steps)
        # Rest means that the integral no longer moves, so that the residual is of the event's size.
        assert np.all(np.asarray(found.residual) < 10 * rtol)
        assert relative_error(found.control, find(PRECISE["newton"], loop, x, y).control) < 100 * rtol


def test_simulated_waits_for_voltages_that_are_slower_than_the_controller() -> None:
    model = make_network(jr.key(5))
    loop = dfc.ClosedLoop(model, dfc.LeakyIntegratorController(0.5, 20.0), tau_v=20.0)
    x, y = make_batch(jr.key(6), 3)
    found = find(dfc.Simulated(rtol=1e-2, dtmax=1.0, t1=1500.0), loop, x, y)
    assert np.all(found.converged)
    assert (
        relative_error(found.deviation.voltage, find(PRECISE["newton"], loop, x, y).deviation.voltage) < 0.1
    )


def test_simulated_admits_that_time_ran_out(tanh) -> None:
    loop, x, y = tanh[0], tanh[1][:4], tanh[2][:4]
    found = find(dfc.Simulated(t1=0.5), loop, x, y)
    assert not np.any(found.converged) and np.all(found.condition_three)
    assert np.all(np.asarray(found.residual) > 1e-2)


def test_a_root_finder_admits_that_it_ran_out(tanh) -> None:
    """In the result, sample by sample; nothing is raised."""
    loop, x, y = tanh[0], tanh[1][:4], tanh[2][:4]
    found = find(dfc.RootFind(optx.Newton(rtol=1e-12, atol=1e-12), max_iterations=1), loop, x, y)
    assert not np.any(found.converged) and np.all(np.asarray(found.iterations) == 1)


def test_broyden_admits_that_it_ran_out(tanh) -> None:
    loop, x, y = tanh[0], tanh[1][:4], tanh[2][:4]
    once = find(dfc.Broyden(1e-11, 1), loop, x, y)
    assert not np.any(once.converged) and np.all(np.asarray(once.residual) > 1e-11)
    assert np.all(np.asarray(once.iterations) == 1)
    assert relative_error(once.control, find(dfc.Analytic(), loop, x, y).control) < 1e-12
    many = find(PRECISE["broyden"], loop, x, y)
    assert np.all(many.converged) and np.all(np.asarray(many.residual) <= 1e-11)
    # Without its secants, by the Jacobian of the feedforward state alone, it takes up to 13.
    assert np.all(np.asarray(many.iterations) > 2) and np.all(np.asarray(many.iterations) <= 9)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [10, 70])
def test_many_outputs_are_no_different(hidden: int) -> None:
    """Beyond 16 outputs no sample has a Jacobian of its own, and behind fewer hidden neurons the output layer
    is eliminated; the steady states are the same."""
    model, leak = make_network(jr.key(14), (5, 12, hidden, 66)), 0.3
    mixed = lambda Q: Q + 0.02 * jr.normal(jr.key(15), Q.shape)
    model = eqx.tree_at(lambda m: m.feedback.weights[-1], model, replace_fn=mixed)
    loop = dfc.ClosedLoop(model, dfc.PIController(1.0, leak), dfc.Nudge(1.0))
    x, y = make_batch(jr.key(13), 3, 5, 66)
    linearised, steady = (find(e, loop, x, y) for e in (dfc.Analytic(), dfc.Broyden(rtol=1e-7)))
    plain = Plain(model)
    for b in range(3):
        voltages, rates = plain.settle(np.asarray(x[b]))
        error = np.asarray(y[b]) - softmax(rates[-1])
        wanted = np.linalg.solve(plain.gain(voltages) + leak * np.eye(66), error)
        assert relative_error(linearised.control[b], wanted) < 1e-4
        u = np.asarray(steady.control[b])
        moved = plain.settle(np.asarray(x[b]), u)[1][-1] - rates[-1]
        assert np.linalg.norm(error - moved - leak * u) / np.linalg.norm(error) < 2e-7
    for found in (linearised, steady):
        assert np.all(found.converged) and np.all(found.condition_three)
    assert np.all(np.asarray(steady.iterations) <= 13)  # without its secants it takes 15, or more than 30
    others = find(dfc.Broyden(rtol=1e-7), loop, x.at[0].set(3.0), y)
    assert relative_error(others.control[1:], steady.control[1:]) < 1e-12


def test_few_outputs_are_solved_directly() -> None:
    """With each sample's own Jacobian: the linearised state in one turn, the nudged one in very few more."""
    loop = dfc.ClosedLoop(make_network(jr.key(3), (4, 6, 5, 3)), dfc.PIController(1.0, 0.3), dfc.Nudge(0.1))
    x, y = make_batch(jr.key(4), 8)
    assert set(np.asarray(find(dfc.Analytic(), loop, x, y).iterations).tolist()) == {1}
    assert np.max(np.asarray(find(dfc.Broyden(rtol=1e-5), loop, x, y).iterations)) <= 3


@pytest.mark.parametrize("sizes", [(5, 20), (5, 6, 20)])
@pytest.mark.parametrize("nudge", [1e-7, 1.0])
def test_many_outputs_of_one_sample_however_small_its_error(sizes: tuple[int, ...], nudge: float) -> None:
    """With no hidden layer, or a linear one, (J Q + a I)^-1 e is exact; residuals are relative to e."""
    model = make_network(jr.key(14), sizes, dfc.Linear())
    loop = dfc.ClosedLoop(model, dfc.PIController(1.0, 0.3), dfc.Nudge(nudge))
    x, y = make_batch(jr.key(13), 1, 5, 20)
    voltages, rates = Plain(model).settle(np.asarray(x[0]))
    error = nudge * (np.asarray(y[0]) - softmax(rates[-1]))
    wanted = np.linalg.solve(Plain(model).gain(voltages) + 0.3 * np.eye(20), error)
    for equilibrium in (dfc.Analytic(), dfc.Broyden(rtol=1e-9)):
        found = find(equilibrium, loop, x, y)
        assert np.all(found.converged)
        assert relative_error(found.control[0], wanted) < 1e-4


def test_bad_tolerances_are_refused() -> None:
    for make in (dfc.Broyden, dfc.Simulated):
        for rtol in (0.0, -1.0, float("nan")):
            with pytest.raises(ValueError, match="`rtol` is"):
                make(rtol=rtol)
    with pytest.raises(ValueError, match="`max_iterations` is 0"):
        dfc.Broyden(max_iterations=0)
    with pytest.raises(ValueError, match="`dtmax` is"):
        dfc.Simulated(dtmax=0.0)
    with pytest.raises(ValueError, match="`alpha` is -1"):
        dfc.PIController(alpha=-1.0)
    with pytest.raises(ValueError, match="`k_p` is nan"):
        dfc.LeakyIntegratorController(k_p=float("nan"))
