"""The closed loop in time: against plain NumPy, against Diffrax used directly, and in its statistics."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import flat, make_batch, make_network, Plain, relative_error, softmax, take_samples
from jaxtyping import Array, PyTree
from scipy.integrate import solve_ivp

import dfc_jax as dfc


CONTROLLER, NUDGE, TAU_V = dfc.PIController(1.0, 0.05), 0.5, 0.2


@pytest.fixture(scope="module")
def setting() -> tuple[dfc.ClosedLoop, dfc.Sample, Array, Array]:
    """A loop, three of its samples, and their inputs and labels."""
    model = make_network(jr.key(21), (4, 6, 5, 3), (dfc.Tanh(), dfc.Sigmoid()))
    loop = dfc.ClosedLoop(model, CONTROLLER, dfc.Nudge(NUDGE), tau_v=TAU_V)
    x, y = make_batch(jr.key(22), 3)
    return loop, take_samples(loop, x, y), x, y


def first(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[0], tree)


@pytest.mark.parametrize("controller", [dfc.PIController, dfc.LeakyIntegratorController])
@pytest.mark.parametrize("compartments", [False, True])
@pytest.mark.parametrize("clamp", [False, True])
def test_vector_field_in_raw_voltages(controller: type, compartments: bool, clamp: bool, getkey) -> None:
    """Deviations move as the raw voltages of the papers' equations do, from any state."""
    k_p, alpha, tau_v, tau_apical, tau_noise = 1.7, 0.3, 0.15, 0.4, 0.07
    model = make_network(getkey(), (4, 6, 5, 3), (dfc.Tanh(), dfc.ReLU()), dfc.RandomFeedback())
    noise = dfc.FilteredNoise(0.3, tau_noise, 0.6) if compartments else None
    target = dfc.Clamp() if clamp else dfc.Nudge(NUDGE)
    loop = dfc.ClosedLoop(
        model,
        controller(k_p, alpha),
        target,
        dfc.CrossEntropy(),
        tau_v,
        tau_apical if compartments else None,
        noise,
    )
    x, y = jr.normal(getkey(), (4,)), jnp.array([0.1, 0.7, 0.2])
    draw = lambda: tuple(0.5 * jr.normal(getkey(), (n,)) for n in (6, 5, 3))
    state = dfc.LoopState(
        draw(), jr.normal(getkey(), (3,)), *((draw(), draw()) if compartments else (None, None))
    )
    found = eqx.filter_jit(lambda x, y: loop.vector_field(jnp.asarray(0.0), state, loop.sample(x, y)))(x, y)

    plain = Plain(model)
    base, rates = plain.settle(np.asarray(x))
    goal = np.asarray(y) if clamp else rates[-1] - NUDGE * (softmax(rates[-1]) - np.asarray(y))
    wanted = plain.rates_of_change(
        np.asarray(x),
        goal,
        [v + np.asarray(d) for v, d in zip(base, state.voltage, strict=True)],
        np.asarray(state.integral),
        None if state.apical is None else [np.asarray(a) for a in state.apical],
        None if state.noise is None else [np.asarray(n) for n in state.noise],
        k_p=k_p,
        alpha=alpha,
        leaky_integrator=controller is dfc.LeakyIntegratorController,
        clamp_softmax=clamp,
        tau_v=tau_v,
        tau_apical=tau_apical,
        tau_noise=tau_noise,
        sigmas=(0.3, 0.3, 0.6),
    )
    assert relative_error(found.voltage, wanted[0]) < 1e-13
    assert relative_error(found.integral, wanted[1]) < 1e-13
    assert (found.apical is None) == (found.noise is None) == (not compartments)
    if compartments:
        assert relative_error(found.apical, wanted[2]) < 1e-13
        assert relative_error(found.noise, wanted[3]) < 1e-13


@eqx.filter_jit
def state_at(
    loop: dfc.ClosedLoop,
    sample: dfc.Sample,
    solver: diffrax.AbstractSolver,
    stepsize_controller: diffrax.AbstractStepSizeController,
    dt: float,
) -> dfc.LoopState:
    """The states of one sample at `TIMES`, by `simulate`."""
    solution = dfc.simulate(
        loop,
        sample,
        t1=2.0,
        dt0=dt,
        solver=solver,
        stepsize_controller=stepsize_controller,
        saveat=diffrax.SaveAt(ts=TIMES),
        max_steps=20_000,
    )
    return solution.ys


TIMES = jnp.array([0.5, 1.0, 2.0])


def adaptive(tolerance: float) -> diffrax.PIDController:
    """Tolerances as arrays: a change of them does not recompile."""
    return diffrax.PIDController(rtol=jnp.asarray(tolerance), atol=jnp.asarray(tolerance))


@pytest.fixture(scope="module")
def reference(setting) -> dfc.LoopState:
    """Tsit5 at tolerances far below what the tests ask for."""
    loop, samples, *_ = setting
    return state_at(loop, first(samples), diffrax.Tsit5(), adaptive(1e-11), 0.01)


def test_reference_solves_the_raw_equations(setting, reference) -> None:
    """Against SciPy on the equations in raw voltages, so that what follows rests on something outside."""
    loop, _, x, y = setting
    plain, x, y = Plain(loop.network), np.asarray(x[0]), np.asarray(y[0])
    base, rates = plain.settle(x)
    goal = rates[-1] - NUDGE * (softmax(rates[-1]) - y)

    def field(t: float, state: np.ndarray) -> np.ndarray:
        *voltages, integral = np.split(state, [6, 11, 14])
        change = plain.rates_of_change(x, goal, voltages, integral, k_p=1.0, alpha=0.05, tau_v=TAU_V)
        return np.concatenate([*change[0], change[1]])

    start = np.concatenate([*base, np.zeros(3)])
    solution = solve_ivp(
        field, (0, 2), start, t_eval=np.asarray(TIMES), method="DOP853", rtol=1e-11, atol=1e-13
    )
    wanted = solution.y.T - np.concatenate([*base, np.zeros(3)])
    found = np.concatenate([*map(np.asarray, reference.voltage), np.asarray(reference.integral)], axis=1)
    assert relative_error(found, wanted) < 1e-8


def test_fixed_steps_have_their_order(setting, reference) -> None:
    loop, samples, *_ = setting
    errors = [
        relative_error(
            state_at(loop, first(samples), diffrax.Euler(), diffrax.ConstantStepSize(), dt).voltage,
            reference.voltage,
        )
        for dt in (0.02, 0.01, 0.005)
    ]
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    assert np.all(np.abs(np.log2(ratios) - 1) < 0.15), (errors, ratios)


@pytest.mark.parametrize("instant", [True, False])
@pytest.mark.parametrize("proactive", [True, False])
def test_published_scheme_has_first_order(setting, reference, instant: bool, proactive: bool) -> None:
    """It follows the same differential equation whichever way signals pass from one step to the next."""
    loop, samples, *_ = setting
    errors = []
    trajectory = eqx.filter_jit(lambda scheme: scheme.trajectory(loop, first(samples)))
    for steps in (250, 500, 1000):  # to t = 1
        path = trajectory(dfc.PublishedEuler(jnp.asarray(1 / steps), 1001, instant, proactive))
        end = [v[steps] for v in path.deviation.voltage], path.integral[steps]
        errors.append(relative_error(end, ([v[1] for v in reference.voltage], reference.integral[1])))
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    assert np.all((ratios > 1.85) & (ratios < 2.15)), (errors, ratios)
    assert errors[-1] < 0.02


def test_adaptive_steps_keep_to_their_tolerance(setting, reference) -> None:
    loop, samples, *_ = setting
    errors = []
    for tolerance in (1e-3, 1e-5, 1e-7):
        found = state_at(loop, first(samples), diffrax.Tsit5(), adaptive(tolerance), 0.01)
        errors.append(relative_error(found, reference) / tolerance)
    assert np.all(np.array(errors) < 30) and errors[0] > 1e-4, errors


def test_tolerances_do_not_depend_on_the_size_of_the_error(setting) -> None:
    """A nudge a million times smaller moves everything a million times less, and with as many digits.

    The output layer of this network is linear and so nearly is, for small displacements, all the rest.
    """
    loop, _, x, y = setting
    ends = []
    for nudge in (1e-5, 1e-11):
        smaller = eqx.tree_at(lambda l: l.target, loop, dfc.Nudge(nudge))
        sample = first(take_samples(smaller, x, y))
        ends.append(state_at(smaller, sample, diffrax.Tsit5(), adaptive(1e-4), 0.01))
    assert relative_error(jax.tree.map(lambda leaf: 1e6 * leaf, ends[1]), ends[0]) < 1e-5


def _directly(loop: dfc.ClosedLoop, sample: dfc.Sample, **options: object) -> diffrax.Solution:
    """The same problem handed to Diffrax as it is, in ordinary units."""
    return diffrax.diffeqsolve(
        diffrax.ODETerm(loop.vector_field),
        diffrax.Heun(),
        t0=0.0,
        t1=2.0,
        dt0=0.01,
        y0=loop.initial_state(sample),
        args=sample,
        adjoint=diffrax.ForwardMode(),
        throw=False,
        **options,
    )


@pytest.mark.slow
def test_saved_states_and_events_are_in_ordinary_units(setting) -> None:
    """What `simulate` returns is Diffrax's own answer, although it solves in units of the error."""
    loop, samples, *_ = setting
    sample = first(samples)
    assert abs(float(sample.scale) - 1) > 0.1  # the units differ
    goal = 0.2 * float(sample.scale)

    def has_integrated(t, state, args, **_):
        return jnp.linalg.norm(state.integral) > goal

    subs = (
        diffrax.SubSaveAt(ts=jnp.array([0.25, 1.0]), fn=lambda t, state, args: loop.control(state, args)),
        diffrax.SubSaveAt(t1=True),
    )
    for options in (
        dict(saveat=diffrax.SaveAt(subs=subs), max_steps=50),
        dict(event=diffrax.Event(has_integrated)),
    ):

        @eqx.filter_jit
        def both(sample: dfc.Sample, options: dict = options) -> tuple[diffrax.Solution, diffrax.Solution]:
            settings = {"saveat": diffrax.SaveAt(t1=True), "max_steps": 4096} | options
            ours = dfc.simulate(loop, sample, t1=2.0, dt0=0.01, solver=diffrax.Heun(), **settings)
            return ours, _directly(loop, sample, **settings)

        ours, theirs = both(sample)
        assert ours.result == theirs.result
        finite = lambda tree: jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf), leaf, 0), tree)
        assert relative_error(finite(ours.ts), finite(theirs.ts)) < 1e-12
        assert relative_error(finite(ours.ys), finite(theirs.ys)) < 1e-12
        assert np.max(np.abs(flat(finite(ours.ys)))) > 0
        assert ours.stats["num_steps"] == theirs.stats["num_steps"]
        if "event" in options:
            assert ours.result == diffrax.RESULTS.event_occurred
            assert 10 < ours.stats["num_steps"] < 190
        else:
            assert ours.result == diffrax.RESULTS.max_steps_reached


def test_what_cannot_be_simulated_is_said(setting) -> None:
    loop, samples, *_ = setting
    model, sample = loop.network, first(samples)
    with pytest.raises(ValueError, match="`tau_apical` is None; white noise"):
        dfc.ClosedLoop(model, noise=dfc.WhiteNoise())
    noisy = dfc.ClosedLoop(model, noise=dfc.FilteredNoise())
    with pytest.raises(ValueError, match="`key` must be given if, and only if"):
        dfc.simulate(noisy, sample, t1=1.0, dt0=0.1)
    with pytest.raises(ValueError, match="`key` must be given if, and only if"):
        dfc.simulate(loop, sample, t1=1.0, dt0=0.1, key=jr.key(0))
    for bad in (dict(t1=0.0, dt0=0.1), dict(t1=1.0, dt0=-0.1)):
        with pytest.raises(ValueError, match="greater than 0"):
            dfc.simulate(loop, sample, **bad)
    with pytest.raises(ValueError, match="`tau_v` is 0"):
        dfc.ClosedLoop(model, tau_v=0.0)
    with pytest.raises(ValueError, match="`tau` is 0"):
        dfc.FilteredNoise(0.1, 0.0)
    with pytest.raises(ValueError, match="`states` is 1"):
        dfc.PublishedEuler(states=1)


def test_white_noise_is_no_part_of_the_apical_voltage(getkey) -> None:
    """It is integrated into it; filtered noise is a state of its own, which adds to it."""
    model, (x, y) = make_network(getkey()), make_batch(getkey(), 1)
    drive = tuple(jnp.ones(n) for n in (6, 5, 3))
    for noise, added in ((dfc.WhiteNoise(0.1), 0.0), (dfc.FilteredNoise(0.1, 0.05), 0.1 * 3)):
        loop = dfc.ClosedLoop(model, noise=noise, tau_apical=0.5)
        state = loop.initial_state(loop.sample(x[0], y[0]))
        if noise.filtered:
            state = eqx.tree_at(lambda s: s.noise, state, tuple(3 * jnp.ones_like(d) for d in drive))
        for voltage in loop.apical(state, drive):
            np.testing.assert_allclose(voltage, added, rtol=1e-12)
