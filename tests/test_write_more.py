"""The target, loss, equilibrium and average that notebook 4 teaches to write, with what can take them."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from helpers import flat, make_batch, make_network, Plain, relative_error
from jaxtyping import Array
from notebook_four import by_hand, compute, mean_update, quickest, transforms, written

import dfc_jax as dfc


NUDGE, RADIUS, DELTA = 0.1, 0.06, 0.4
K_P, ALPHA, TAU_V = 1.0, 0.01, 0.2
CONTROLLER = dfc.PIController(k_p=K_P, alpha=ALPHA)
Batch = tuple[Array, Array]


@pytest.fixture(scope="module")
def own() -> dict:
    return written()


@pytest.fixture(scope="module")
def model() -> dfc.Network:
    return make_network(jr.key(0))


@pytest.fixture(scope="module")
def batch() -> Batch:
    return make_batch(jr.key(1), 4)


def asked(output: np.ndarray, y: np.ndarray, radius: float = RADIUS) -> np.ndarray:
    """The target error of Huber's loss and the bounded nudge."""
    step = -NUDGE * np.clip(output - y, -DELTA, DELTA)
    return step * min(1.0, radius / np.linalg.norm(step))


def test_the_bounded_nudge_is_its_formula(own: dict) -> None:
    radius, y = 0.03, jnp.asarray([0.0, 1.0, 0.0])
    target, loss, found = own["BoundedNudge"](NUDGE, radius), own["Huber"](DELTA), {}
    outputs = {"near": [0.01, 0.9, -0.02], "far": [3.0, -1.0, 0.1], "there": [0.0, 1.0, 0.0]}
    for name, output in outputs.items():
        found[name] = target.initial_error(loss, jnp.asarray(output), y)
        expected = -NUDGE * np.clip(np.asarray(output) - y, -DELTA, DELTA)
        size = np.linalg.norm(expected)
        np.testing.assert_allclose(found[name], expected / max(1, size / radius), rtol=1e-14)
    assert np.linalg.norm(found["near"]) < 0.5 * radius and np.all(found["there"] == 0)
    assert abs(np.linalg.norm(found["far"]) - radius) < 1e-15
    assert target.unit() == NUDGE


def test_hubers_loss_is_scipys_and_asks_for_the_label_itself(own: dict) -> None:
    loss, output, y = own["Huber"](DELTA), jnp.asarray([0.2, -1.5, 2.0]), jnp.asarray([0.0, 0.0, 1.9])
    np.testing.assert_allclose(loss(output, y), np.sum(scipy.special.huber(DELTA, output - y)), rtol=1e-14)
    slope = scipy.optimize.approx_fprime(output, lambda r: float(loss(jnp.asarray(r), y)), 1e-7)
    np.testing.assert_allclose(loss.gradient(output, y), slope, atol=1e-6)
    np.testing.assert_allclose(dfc.Clamp().initial_error(loss, output, y), y - output, rtol=1e-14)


@pytest.fixture(scope="module")
def at_rest(own: dict) -> Callable[..., tuple[dfc.Network, dfc.Report]]:
    """DFC-SS with all parts of the notebook, compiled once."""
    compiled = eqx.filter_jit(lambda method, *arguments: method(*arguments))
    parts = {"target": own["BoundedNudge"](NUDGE, RADIUS), "loss": own["Huber"](DELTA), "fallback": None}

    def run(model: dfc.Network, batch: Batch, rtol: float = 1e-12) -> tuple[dfc.Network, dfc.Report]:
        chord = own["Chord"](rtol=rtol)
        return compiled(dfc.DFCSS(controller=CONTROLLER, equilibrium=chord, **parts), model, *batch)

    return run


def test_all_at_once_is_the_steady_state_of_scipy(
    at_rest: Callable, model: dfc.Network, batch: Batch
) -> None:
    update, report = at_rest(model, batch)
    assert np.all(report.converged) and np.all(report.residual <= 1e-12)
    plain, changes, clipped = Plain(model), [], 0
    for x, y, control in zip(*batch, report.control, strict=True):
        output = plain.settle(x)[1][-1]
        error = asked(output, y)
        clipped += np.linalg.norm(asked(output, y, np.inf)) > RADIUS

        def residual(u, x=x, error=error, output=output):
            return error - (plain.settle(x, u)[1][-1] - output) - ALPHA * u

        u = scipy.optimize.root(residual, np.zeros(3), tol=1e-13).x
        assert relative_error(control, u) < 1e-9
        changes.append(by_hand(plain, x, plain.settle(x, u)[0]))
    assert 0 < clipped < len(batch[0])
    assert relative_error(transforms(update), mean_update(changes, NUDGE)) < 1e-8


def test_own_equilibrium_reports_what_failed(at_rest: Callable, model: dfc.Network, batch: Batch) -> None:
    x, y = batch
    update, report = at_rest(model, (x.at[0, 0].set(jnp.nan), y))
    assert report.converged.tolist() == [False, True, True, True] and np.all(np.isfinite(flat(update)))
    update, report = at_rest(model, batch, rtol=1e-30)
    assert not np.any(report.converged) and np.all(report.iterations == 50) and np.all(flat(update) == 0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_own_equilibrium_never_vouches_for_an_unstable_state(
    sign: float, at_rest: Callable, model: dfc.Network, batch: Batch
) -> None:
    turned = dfc.Network(model.layers, jax.tree.map(lambda Q: sign * Q, model.feedback))
    _, report = at_rest(turned, batch)
    assert np.all(report.converged)
    plain = Plain(turned)
    for x, u, stable in zip(batch[0], report.control, report.condition_three, strict=True):
        gain = plain.gain(plain.settle(x, u)[0]) + ALPHA * np.eye(3)
        assert bool(stable) == (np.min(np.linalg.eigvalsh(gain + gain.T)) > 0)
        assert not stable or np.all(np.linalg.eigvals(gain).real > 0)
    assert np.all(np.asarray(report.condition_three) == (sign > 0))


def dfc_with(average: dfc.AbstractAverage) -> Callable:
    return lambda target, loss: dfc.DFC(CONTROLLER, target, loss, average=average)


SCHEME = dfc.PublishedEuler(0.002, 40)
METHODS = {
    "backprop": lambda target, loss: dfc.Backprop(loss=loss),
    "dfa": lambda target, loss: dfc.DFA(loss=loss),
    "linearised": lambda target, loss: dfc.DFCSSA(CONTROLLER, target, loss),
    "steady state": lambda target, loss: dfc.DFCSS(CONTROLLER, target, loss),
    "implicit": dfc_with(dfc.ImplicitAverage()),
    "closed form": dfc_with(dfc.ClosedFormAverage()),
    "published": dfc_with(dfc.PublishedAverage(SCHEME)),
    "strong": lambda target, loss: dfc.StrongDFC(
        CONTROLLER, target, loss, dfc.FilteredNoise(1e-3), scheme=SCHEME, start=None
    ),
}


@pytest.mark.parametrize("name", quickest(METHODS, "backprop", "linearised"))
def test_own_target_and_loss_teach_what_a_moved_label_does(
    name: str, own: dict, model: dfc.Network, batch: Batch
) -> None:
    """Squared error and `Nudge` ask for the same with the label r + (n / 2 nudge) e^-."""
    x, y = batch
    radius = np.inf if name in ("backprop", "dfa") else RADIUS
    outputs = [Plain(model).settle(one)[1][-1] for one in x]
    moved = [r + 3 / (2 * NUDGE) * asked(r, one, radius) for r, one in zip(outputs, y, strict=True)]
    found, _ = compute(METHODS[name](own["BoundedNudge"](NUDGE, RADIUS), own["Huber"](DELTA)), model, batch)
    built_in = METHODS[name](dfc.Nudge(NUDGE), dfc.MeanSquaredError())
    wanted, report = compute(built_in, model, (x, jnp.asarray(np.stack(moved))))
    assert relative_error(found, wanted) < 1e-9 and np.any(flat(wanted) != 0)
    assert np.all(np.isfinite(report.residual))


WITH_EQUILIBRIUM = {
    "controlled jacobian": lambda found: dfc.DFCSS(
        CONTROLLER, dfc.Nudge(NUDGE), equilibrium=dfc.ControlledJacobian(found), fallback=None
    ),
    "start": lambda found: dfc.StrongDFC(
        CONTROLLER, dfc.Nudge(NUDGE), noise=dfc.FilteredNoise(1e-3), scheme=SCHEME, start=found
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_EQUILIBRIUM)
def test_own_equilibrium_serves_where_broyden_does(
    name: str, own: dict, model: dfc.Network, batch: Batch
) -> None:
    model = dfc.Network(model.layers, dfc.ExactFeedback()) if name == "controlled jacobian" else model
    method = WITH_EQUILIBRIUM[name]
    found, report = compute(method(own["Chord"](rtol=1e-11)), model, batch)
    wanted, _ = compute(method(dfc.Broyden(rtol=1e-11)), model, batch)
    assert np.all(report.converged)
    assert relative_error(found, wanted) < 1e-7


STATES, DT = 20, 0.05


def published_states(plain: Plain, x: np.ndarray, error: np.ndarray) -> list[list[np.ndarray]]:
    """The voltages in each state of the published scheme, in NumPy."""
    voltages, rates = plain.settle(x)
    goal = rates[-1] + error
    integral, control, states = np.zeros(3), np.zeros(3), [voltages]
    for _ in range(STATES - 1):
        error, below = goal - plain.rates(states[-1])[-1], x
        integral = integral + DT * (error - ALPHA * control)
        control, moved = integral + K_P * error, []
        for W, b, Q, phi, v in zip(plain.W, plain.b, plain.Q, plain.phi, states[-1], strict=True):
            moved.append(v + DT / TAU_V * (W @ below + b + Q @ control - v))
            below = phi(moved[-1])
        states.append(moved)
    return states


def test_late_average_is_that_of_the_last_states(own: dict, model: dfc.Network, batch: Batch) -> None:
    """All of them, half of them and the last alone, in one program."""
    counts, scheme = (STATES, STATES // 2, 1), dfc.PublishedEuler(DT, STATES)

    @eqx.filter_jit
    def updates(model: dfc.Network) -> dfc.Network:
        late = lambda fraction: dfc_with(own["LateAverage"](scheme, fraction))
        method = lambda fraction: late(fraction)(dfc.Nudge(NUDGE), dfc.MeanSquaredError())
        return jax.vmap(lambda fraction: method(fraction)(model, *batch)[0])(jnp.asarray(counts) / STATES)

    plain, found = Plain(model), updates(model)
    outputs = [plain.settle(x)[1][-1] for x in batch[0]]
    errors = [-NUDGE * 2 / 3 * (r - y) for r, y in zip(outputs, batch[1], strict=True)]
    states = [published_states(plain, x, error) for x, error in zip(batch[0], errors, strict=True)]
    for i, count in enumerate(counts):
        changes = [
            by_hand(plain, x, voltages)
            for x, sequence in zip(batch[0], states, strict=True)
            for voltages in sequence[-count:]
        ]
        update = jax.tree.map(lambda leaf, i=i: leaf[i], found)
        assert relative_error(transforms(update), mean_update(changes, NUDGE)) < 1e-10


@pytest.mark.slow
def test_all_of_it_with_noise_is_the_published_average(own: dict, model: dfc.Network, batch: Batch) -> None:
    noise = dfc.FilteredNoise(0.01)
    found, wanted = (
        compute(dfc.DFC(CONTROLLER, average=average, noise=noise), model, batch)
        for average in (own["LateAverage"](SCHEME, 1.0), dfc.PublishedAverage(SCHEME))
    )
    assert relative_error(found, wanted) < 1e-12
