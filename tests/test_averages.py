"""Averages over a trajectory: against trapezoids on a precise solution; and the noise in its statistics."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import angle, flat, Gained, make_batch, make_network, Plain, relative_error, take_samples
from jaxtyping import Array, PyTree

import dfc_jax as dfc
from dfc_jax._average.implicit_steps import ImplicitStep
from dfc_jax._dynamics.implicit_euler import implicit_inverse


CONTROLLER, NUDGE, TAU_V = dfc.PIController(1.0, 0.05), 0.5, 0.2


@pytest.fixture(scope="module")
def setting() -> tuple[dfc.ClosedLoop, dfc.Sample, Array]:
    """A loop, three of its samples, and their inputs."""
    model = make_network(jr.key(21), (4, 6, 5, 3), (dfc.Tanh(), dfc.Sigmoid()))
    loop = dfc.ClosedLoop(model, CONTROLLER, dfc.Nudge(NUDGE), tau_v=TAU_V)
    x, y = make_batch(jr.key(22), 3)
    return loop, take_samples(loop, x, y), x


def first(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[0], tree)


DURATION, FINDER = 10.0, dfc.ControlRootFinder()


@pytest.fixture(scope="module")
def average(setting) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """The time average of the forward rule, summed over samples, and every sample's control in the end.

    By trapezoids on a fine and precise solution.
    """
    loop, samples, x = setting
    times = jnp.linspace(0, DURATION, 8001)

    @eqx.filter_jit
    def solve(sample: dfc.Sample) -> tuple[tuple[Array, ...], Array]:
        solution = dfc.simulate(
            loop,
            sample,
            t1=DURATION,
            dt0=0.01,
            stepsize_controller=diffrax.PIDController(rtol=1e-9, atol=1e-9),
            saveat=diffrax.SaveAt(ts=times),
            max_steps=20_000,
        )
        base = sample.feedforward.voltages
        end = loop.control(jax.tree.map(lambda leaf: leaf[-1], solution.ys), sample)
        return tuple(v[None] + d for v, d in zip(base, solution.ys.voltage, strict=True)), end

    plain, totals, controls = Plain(loop.network), None, []
    for b in range(3):
        voltages, control = solve(jax.tree.map(lambda leaf, b=b: leaf[b], samples))
        controls.append(np.asarray(control))
        path = [np.asarray(v) for v in voltages]
        rates = plain.rates(path)
        before = [np.broadcast_to(np.asarray(x[b]), (8001, 4)), *rates[:-1]]
        taught = [
            r - phi(p @ W.T + c)
            for r, phi, p, W, c in zip(rates, plain.phi, before, plain.W, plain.b, strict=True)
        ]
        weights = np.full(8001, 1 / 8000)
        weights[[0, -1]] /= 2
        pairs = zip(taught, before, strict=True)
        term = [(np.einsum("t,ti,tj->ij", weights, t, p), weights @ t) for t, p in pairs]
        totals = term if totals is None else jax.tree.map(np.add, totals, term)
    return totals, np.stack(controls)


@pytest.mark.parametrize(
    "method, degrees, length",
    [
        (dfc.ImplicitAverage(), 1.0, 0.03),
        (dfc.ImplicitAverage(DURATION, ((200, 0.2), (160, 0.8))), 0.05, 2e-3),
        (dfc.PublishedAverage(dfc.PublishedEuler(0.005, 2001)), 0.2, 5e-3),
        (dfc.DiffraxAverage(), 1e-2, 3e-4),
        (dfc.DiffraxAverage(diffrax.Heun(), diffrax.ConstantStepSize(), dt0=0.02), 0.05, 2e-3),
        pytest.param(
            dfc.DiffraxAverage(diffrax.Kvaerno3(root_finder=FINDER)), 0.05, 2e-3, marks=pytest.mark.slow
        ),
        pytest.param(
            dfc.DiffraxAverage(diffrax.Kvaerno5(root_finder=FINDER)), 0.05, 2e-3, marks=pytest.mark.script
        ),
    ],
    ids=["implicit", "implicit_fine", "published", "adaptive", "fixed", "kvaerno3", "kvaerno5"],
)
def test_time_averages(setting, average, method: dfc.AbstractAverage, degrees: float, length: float) -> None:
    """Direction and length of every layer's averaged weight change, and where the controls end."""
    loop, samples, *_ = setting
    change, last = eqx.filter_jit(method)(loop, samples)
    changes, controls = average
    assert np.all(last.converged)
    assert relative_error(last.control, controls) < 5 * length
    for layer, wanted in zip(change, changes, strict=True):
        found = layer.transform.weight, layer.transform.bias
        assert angle(found, wanted) < degrees
        assert abs(np.linalg.norm(flat(found)) / np.linalg.norm(flat(wanted)) - 1) < length


def _deaf(sizes: tuple[int, ...], key: Array, **options: object) -> tuple[dfc.ClosedLoop, dfc.Sample]:
    """A loop without feedback, so that its noise is nothing but noise, and one sample of it."""
    model = make_network(key, sizes)
    model = eqx.tree_at(lambda m: m.feedback, model, jax.tree.map(jnp.zeros_like, model.feedback))
    loop = dfc.ClosedLoop(model, CONTROLLER, dfc.Rest(), **options)
    x, y = make_batch(key, 1, sizes[0], sizes[-1])
    return loop, first(take_samples(loop, x, y))


SIGMA, SIGMA_OUTPUT, TAU = 0.3, 0.7, 0.1
NOISES = {
    "filtered": dict(noise=dfc.FilteredNoise(SIGMA, TAU, SIGMA_OUTPUT)),
    "white": dict(noise=dfc.WhiteNoise(SIGMA, SIGMA_OUTPUT), tau_apical=TAU),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", NOISES)
def test_stationary_variance_of_the_noise(kind: str, getkey) -> None:
    """sigma^2 / (2 tau) at every step size, but for Euler's known bias of 1 / (1 - dt / (2 tau)).

    The bound is five standard errors of a variance estimated from that many independent normal numbers.
    """
    loop, sample = _deaf((2, 60, 40), getkey(), **NOISES[kind])
    runs, steps = 120, 100  # at least ten time constants

    @eqx.filter_jit
    def apical(keys: Array, dt: float) -> tuple[Array, ...]:
        def one(key: Array) -> tuple[Array, ...]:
            options = dict(solver=diffrax.Euler(), key=key, max_steps=2 * steps)
            solution = dfc.simulate(loop, sample, t1=steps * dt, dt0=dt, **options)
            state = first(solution.ys)
            return loop.apical(state, loop.apical_input(sample, loop.control(state, sample)))

        return jax.vmap(one)(keys)

    for dt in (0.02, 0.01):
        found = apical(jr.split(getkey(), runs), dt)
        bias = 1 / (1 - dt / (2 * TAU))
        for values, sigma in zip(found, (SIGMA, SIGMA_OUTPUT), strict=True):
            values = np.asarray(values)
            wanted = bias * sigma**2 / (2 * TAU)
            assert abs(np.var(values) / wanted - 1) < 5 * np.sqrt(2 / values.size), dt
            assert abs(np.mean(values)) < 5 * np.sqrt(wanted / values.size)
            # Neurons are independent of one another: so are sums over them.
            across = np.var(np.sum(values, axis=1)) / (values.shape[1] * wanted)
            assert abs(across - 1) < 5 * np.sqrt(2 / runs)


def test_noise_moves_the_voltages_at_any_scale(getkey) -> None:
    """The noise is not an amount of the error: a loop with a small target error has as much of it."""
    noise = dfc.FilteredNoise(SIGMA, TAU)
    loop, sample = _deaf((2, 5, 3), getkey(), noise=noise)
    key = getkey()
    ends = []
    for error in (jnp.zeros(3), jnp.array([3e-3, 0, 0])):
        scaled = eqx.tree_at(lambda s: s.error, sample, error)
        solve = eqx.filter_jit(dfc.simulate)
        ends.append(solve(loop, scaled, t1=1.0, dt0=0.01, solver=diffrax.Heun(), key=key).ys)
    assert np.max(np.abs(flat(ends[0].noise))) > 0.1
    assert relative_error(ends[1].noise, ends[0].noise) < 1e-10
    assert relative_error(ends[1].voltage, ends[0].voltage) < 1e-10  # no feedback: the error is not heard


@pytest.mark.parametrize("outputs", [3, pytest.param(9, marks=pytest.mark.slow)])
def test_an_integral_with_a_gain_of_its_own_has_one_trajectory(outputs: int) -> None:
    """By implicit steps, with the output layer eliminated or not, and by the published scheme."""
    model = make_network(jr.key(3), (4, 6, outputs))
    x, y = make_batch(jr.key(4), 2, 4, outputs)
    controller = Gained(3.0, 0.5, 0.1)
    precise = dfc.ImplicitAverage(2.0, segments=((150, 0.1), (150, 0.9)))
    fine = dfc.PublishedAverage(dfc.PublishedEuler(dt=0.002, states=1001))
    implicit, published = (
        eqx.filter_jit(dfc.DFC(controller, dfc.Nudge(0.01), average=average))(model, x, y)[0]
        for average in (precise, fine)
    )
    assert relative_error(flat(implicit.layers), flat(published.layers)) < 0.01


def test_what_cannot_be_averaged_is_said(setting) -> None:
    loop, samples, _ = setting
    with pytest.raises(ValueError, match="`segments` covers"):
        dfc.ImplicitAverage(segments=((8, 0.5), (8, 0.4)))
    with pytest.raises(ValueError, match="`segments` holds"):
        dfc.ImplicitAverage(segments=((0, 1.0),))
    with pytest.raises(ValueError, match="`max_steps` is 10"):
        dfc.DiffraxAverage(diffrax.Heun(), diffrax.ConstantStepSize(), max_steps=10)
    fixed = {"t1": 1.0, "dt0": 0.125}  # eight steps, and one that finds the end
    dfc.DiffraxAverage(diffrax.Heun(), diffrax.ConstantStepSize(), **fixed, max_steps=9)
    with pytest.raises(ValueError, match="`max_steps` is 8; t1 / dt0 needs at least 9"):
        dfc.DiffraxAverage(diffrax.Heun(), diffrax.ConstantStepSize(), **fixed, max_steps=8)
    apical = dfc.ClosedLoop(loop.network, tau_apical=0.3)
    with pytest.raises(ValueError, match="`tau_apical` is set"):
        dfc.ImplicitAverage()(apical, samples)


def test_the_inverse_of_an_implicit_step_is_that_of_its_jacobian() -> None:
    """Before the first step, where the neurons are in the feedforward state: by automatic differentiation."""
    model = make_network(jr.key(7))
    loop = dfc.ClosedLoop(model, dfc.PIController(1.5, 0.05), tau_v=0.3)
    x, y = make_batch(jr.key(8), 1)
    sample = loop.sample(x[0], y[0])
    step = ImplicitStep(loop, sample, loop.initial_state(sample), jnp.asarray(0.4))
    jacobian = jax.jacfwd(lambda control: step.unbalanced(control, step.neurons(control)))(jnp.zeros(3))
    found = implicit_inverse(loop, loop.layer_gains(sample), step.h)
    assert relative_error(found, np.linalg.inv(-jacobian)) < 1e-12
