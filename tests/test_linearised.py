"""The linearised loop against the full one, and what the library warns of."""

import diffrax
import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import cast, make_batch, make_network, take_samples
from jaxtyping import Array

import dfc_jax as dfc
from dfc_jax._dynamics import stability
from dfc_jax._dynamics.stability import has_few_modes


TAU_V, TINY = 0.2, dfc.Nudge(1e-6)
CONTROLLERS = [dfc.PIController(1.5, 0.05), dfc.LeakyIntegratorController(0.7, 0.3)]


def make_loop(controller=CONTROLLERS[0], target=TINY, **options) -> tuple[dfc.ClosedLoop, dfc.Sample]:
    model = make_network(jr.key(51), (4, 6, 5, 3), (dfc.Tanh(), dfc.Sigmoid()), **options)
    loop = dfc.ClosedLoop(model, controller, target, tau_v=TAU_V)
    x, y = make_batch(jr.key(52), 4)
    return loop, take_samples(loop, x, 0.99 * y + 0.01 / 3)


def one(samples: dfc.Sample, i: int = 0) -> dfc.Sample:
    return jax.tree.map(lambda leaf: leaf[i], samples)


def _jacobian(rates, loop: dfc.ClosedLoop, sample: dfc.Sample) -> np.ndarray:
    """Of `rates(t, state, sample)` by the whole state, where it starts."""
    flat, unravel = jax.flatten_util.ravel_pytree(loop.initial_state(sample))
    flattened = lambda y: jax.flatten_util.ravel_pytree(rates(jnp.asarray(0.0), unravel(y), sample))[0]
    return np.asarray(jax.jit(jax.jacfwd(flattened))(flat))


@pytest.mark.parametrize(
    ("controller", "target"),
    [pytest.param(CONTROLLERS[0], dfc.Clamp(), marks=pytest.mark.slow), (CONTROLLERS[1], TINY)],
    ids=["control-strong", "integrator-nudge"],
)
def test_eigenvalues_are_those_of_all_neurons(controller, target) -> None:
    loop, samples = make_loop(controller, target)
    found = dfc.loop_eigenvalues(loop, samples)
    assert found.shape == (4, 4 * 3 + 1)  # the modes, and once -1 / tau_v
    for i in range(4):
        sample = one(samples, i)
        everything = np.linalg.eigvals(_jacobian(loop.vector_field, loop, sample))
        nearest = np.abs(everything[:, None] - found[i][None])
        # Multiple eigenvalues are only as exact as the root of the rounding error.
        assert np.max(np.min(nearest, axis=0)) < 1e-4 and np.max(np.min(nearest, axis=1)) < 1e-4


@pytest.mark.parametrize("sizes", [(5, 3), (5, 3, 3), (5, 2, 3), (5, 6, 3), (4, 1, 2, 3)], ids=str)
def test_eigenvalues_are_those_of_all_neurons_and_no_others(sizes: tuple[int, ...]) -> None:
    model = dfc.mlp(sizes, key=jr.key(3), feedback=dfc.RandomFeedback())
    loop = dfc.ClosedLoop(cast(model, jnp.float64), cast(dfc.PIController(0.0, 1.0), jnp.float64), tau_v=0.3)
    samples = loop.samples(jr.normal(jr.key(4), (2, sizes[0])), jnp.eye(3)[:2])
    found = dfc.loop_eigenvalues(loop, samples)
    for i in range(2):
        everything = np.linalg.eigvals(_jacobian(loop.vector_field, loop, one(samples, i)))
        nearest = np.abs(everything[:, None] - found[i][None])
        assert np.max(np.min(nearest, axis=0)) < 1e-3 and np.max(np.min(nearest, axis=1)) < 1e-3
        wanted = np.min(-2 * everything.real / np.abs(everything) ** 2)
        assert dfc.euler_step_bound(loop, samples)[i] == pytest.approx(wanted, rel=1e-2)


def test_eigenvalues_that_are_all_real() -> None:
    """One neuron under a leaky integrator: tau_v z'' + (1 + tau_v alpha) z' + (1 + alpha) z = 0."""
    model, controller = dfc.mlp((2, 1), key=jr.key(3)), dfc.LeakyIntegratorController(0.0, 1.0)
    loss = dfc.MeanSquaredError()
    loop = dfc.ClosedLoop(cast(model, jnp.float64), cast(controller, jnp.float64), loss=loss, tau_v=0.05)
    found = dfc.loop_eigenvalues(loop, loop.samples(jnp.ones((3, 2)), jnp.ones((3, 1))))
    assert np.sort(found) == pytest.approx(np.tile(np.sort(np.roots([0.05, 1.05, 2])), (3, 1)))


def test_what_is_not_finite_has_no_eigenvalues_and_stops_nothing() -> None:
    loop, samples = make_loop()
    broken = eqx.tree_at(
        lambda m: m.feedback.weights[0], loop.network, replace_fn=lambda Q: Q.at[0].set(jnp.inf)
    )
    loop = eqx.tree_at(lambda own: own.network, loop, broken)
    assert np.isnan(dfc.loop_eigenvalues(loop, samples)).all()
    assert np.isinf(dfc.distance_from_rest(loop, samples, 1.0)).all()
    x, y = make_batch(jr.key(52), 4)
    for method in (dfc.DFCSS(), dfc.StrongDFC(), dfc.DFC(average=dfc.PublishedAverage())):
        assert isinstance(method.doubts(broken, x, y), list)


def test_an_unstable_loop_is_doubted_whatever_the_method() -> None:
    """Through three lags a strong control overshoots, though Condition 3 holds."""
    model, (x, y) = make_network(jr.key(0)), make_batch(jr.key(1), 6)
    strong = eqx.tree_at(lambda m: m.feedback.weights[0], model, replace_fn=lambda Q: 100 * Q)
    for method in (dfc.DFCSSA(), dfc.DFCSS(), dfc.DFC(), dfc.DFC(average=dfc.ClosedFormAverage())):
        assert "the gain is too high, for Condition 3 holds" in method.doubts(strong, x, y)[0]
        assert not any("unstable" in doubt for doubt in method.doubts(model, x, y))
    assert dfc.DFCSSA().doubts(strong, x.at[0].set(jnp.nan), y)


@pytest.mark.parametrize("kind", [dfc.PIController, dfc.LeakyIntegratorController])
def test_a_loop_is_stable_if_its_eigenvalues_are_negative(kind: type) -> None:
    """Random weights, feedback, gains and lags, weak to far too strong, in both precisions."""
    draw, verdicts = np.random.default_rng(0), []
    base, (x, y) = make_network(jr.key(0), (4, 10, 10, 10, 3)), make_batch(jr.key(1), 8)
    for _ in range(24):
        layers = jax.tree.map(lambda leaf, f=draw.uniform(0.5, 3): f * leaf, base.layers)
        feedback = [10 ** draw.uniform(-1, 1.3) * draw.normal(size=(n, 3)) for n in (10, 10, 10, 3)]
        if draw.integers(2):
            feedback = dfc.ProductOfWeights().init(layers, [*[(10,)] * 3, (3,)], jr.key(0)).weights
        model = dfc.Network(layers, dfc.FeedbackWeights(tuple(jnp.asarray(Q) for Q in feedback)))
        controller = kind(draw.uniform(0, 5), 10 ** draw.uniform(-3, 0))
        loop = dfc.ClosedLoop(model, controller, dfc.Nudge(0.1), tau_v=10 ** draw.uniform(-2, 0.5))
        rightmost = dfc.loop_eigenvalues(loop, loop.samples(x, y)).real.max(axis=1)
        clear = np.abs(rightmost) > 1e-4
        verdicts.extend(rightmost[clear] < 0)
        for dtype in (jnp.float32, jnp.float64):
            own, *batch = cast((loop, x, y), dtype)
            stable = np.asarray(dfc.loop_is_stable(own, own.samples(*batch)))
            assert np.array_equal(stable[clear], rightmost[clear] < 0)
    assert 0.2 < np.mean(verdicts) < 0.8


def test_what_rests_on_the_axis_or_is_not_finite_is_not_stable() -> None:
    loop, samples = make_loop(dfc.PIController(1.0, 0.0), dfc.Clamp())  # softmax: a mode of rate zero
    assert not np.any(dfc.loop_is_stable(loop, samples))
    loop, samples = make_loop()
    broken = eqx.tree_at(
        lambda s: s.feedforward.voltages[0], samples, replace_fn=lambda v: v.at[1].set(jnp.nan)
    )
    assert dfc.loop_is_stable(loop, broken).tolist() == [True, False, True, True]


def end(loop: dfc.ClosedLoop, sample: dfc.Sample, dt: float, steps: int) -> float:
    solution = dfc.simulate(loop, sample, t1=steps * dt, dt0=dt, solver=diffrax.Euler(), max_steps=steps + 1)
    return float(jnp.linalg.norm(loop.control(jax.tree.map(lambda leaf: leaf[-1], solution.ys), sample)))


@pytest.mark.slow
def test_few_modes_are_at_most_500() -> None:
    """(L + 1) n_L of them; the network has three layers."""
    loop, _ = make_loop()
    assert has_few_modes(loop, 125) and not has_few_modes(loop, 126)
    two = dfc.ClosedLoop(make_network(jr.key(0), (4, 3)))
    assert has_few_modes(two, 250) and not has_few_modes(two, 251)


@pytest.mark.slow
def test_forward_euler_is_stable_just_below_its_bound() -> None:
    loop, samples = make_loop()
    bounds = dfc.euler_step_bound(loop, samples)
    sample, bound = one(samples, 1), float(bounds[1])
    assert end(loop, sample, 0.97 * bound, 4000) < 2 * end(loop, sample, 0.5 * bound, 4000)
    assert end(loop, sample, 1.03 * bound, 4000) > 1e3 * end(loop, sample, 0.5 * bound, 4000)


def test_an_unstable_loop_has_no_stable_step() -> None:
    loop, samples = make_loop()
    negative = tuple(-Q for Q in loop.network.feedback.weights)
    flipped = eqx.tree_at(lambda l: l.network.feedback.weights, loop, negative)
    assert np.all(dfc.loop_eigenvalues(flipped, samples).real.max(axis=1) > 0)
    assert np.all(dfc.euler_step_bound(flipped, samples) == 0)
    assert np.all(dfc.distance_from_rest(flipped, samples, 10.0) == np.inf)
    assert np.all(dfc.loop_eigenvalues(loop, samples).real < 0)


def test_a_loop_that_grows_slowly_is_unstable() -> None:
    """With eigenvalues between 0 and 1."""
    loop, samples = make_loop()
    for factor in (-0.01, -0.1, -0.3, -1.0):
        weights = tuple(factor * Q for Q in loop.network.feedback.weights)
        flipped = eqx.tree_at(lambda l: l.network.feedback.weights, loop, weights)
        largest = dfc.loop_eigenvalues(flipped, samples).real.max(axis=1)
        slow = (largest > 0.02) & (largest < 1)
        if np.any(slow):
            break
    assert np.any(slow)
    assert np.all(dfc.distance_from_rest(flipped, samples, 10.0)[slow] == np.inf)


def test_a_loop_that_is_not_finite_is_not_stable_and_said() -> None:
    loop, samples = make_loop()
    huge = tuple(1e308 * Q / jnp.abs(Q) for Q in loop.network.feedback.weights)
    found = stability.loop_stability(eqx.tree_at(lambda l: l.network.feedback.weights, loop, huge), samples)
    assert found is not None and not found.stable.any()
    assert len(found.doubts) == 1 and "is not finite for 100% of the samples" in found.doubts[0]


def test_a_mode_at_rest_has_no_stable_step_and_no_error_no_distance() -> None:
    """Without feedback and leak the control stays as it is; a target that is reached moves nothing."""
    loop, samples = make_loop(dfc.PIController(0.0, 0.0))
    silent = jax.tree.map(jnp.zeros_like, loop.network.feedback.weights)
    alone = eqx.tree_at(lambda l: l.network.feedback.weights, loop, silent)
    assert np.array_equal(dfc.euler_step_bound(alone, samples), np.zeros(4))
    resting, still = make_loop(target=dfc.Rest())
    assert np.array_equal(dfc.distance_from_rest(resting, still, 1.0), np.zeros(4))


def test_nothing_is_said_of_a_loop_with_too_many_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, samples = make_loop()
    negative = tuple(-Q for Q in loop.network.feedback.weights)
    flipped = eqx.tree_at(lambda l: l.network.feedback.weights, loop, negative)
    found = stability.loop_stability(flipped, samples)
    assert found is not None and not found.stable.any() and len(found.doubts) == 1
    scheme = dfc.PublishedEuler(2.0, 5)
    assert stability.scheme_doubts(loop, samples, scheme)
    monkeypatch.setattr(stability, "has_few_modes", lambda *_: False)
    assert stability.loop_stability(flipped, samples) is None
    assert stability.scheme_doubts(loop, samples, scheme) == []


@pytest.mark.parametrize("instant", [True, False])
@pytest.mark.parametrize("proactive", [True, False])
def test_growth_is_that_of_the_whole_published_scheme(instant: bool, proactive: bool) -> None:
    loop, samples = make_loop()
    sample = one(samples)
    for dt in (0.05, 0.2):
        scheme = dfc.PublishedEuler(dt, 10, instant, proactive)
        state, unravel = jax.flatten_util.ravel_pytree(scheme.initial(loop, sample))

        def step(flat: Array, scheme=scheme, unravel=unravel) -> Array:
            return jax.flatten_util.ravel_pytree(scheme.step(loop, unravel(flat), sample))[0]

        wanted = np.max(np.abs(np.linalg.eigvals(np.asarray(jax.jit(jax.jacfwd(step))(state)))))
        assert dfc.published_growth(loop, samples, scheme)[0] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("controller", CONTROLLERS, ids=["control", "integrator"])
def test_distance_from_rest_is_that_of_a_simulation(controller) -> None:
    loop, samples = make_loop(controller)
    sample = one(samples)
    precise = {"stepsize_controller": diffrax.PIDController(rtol=1e-9, atol=1e-9), "dt0": 0.01}
    times = jnp.asarray([2.0, 200.0])
    solution = dfc.simulate(loop, sample, t1=200.0, saveat=diffrax.SaveAt(ts=times), **precise)
    early, rest = jax.vmap(loop.control, in_axes=(0, None))(solution.ys, sample)
    wanted = float(jnp.linalg.norm(early - rest) / jnp.linalg.norm(rest))
    assert wanted > 1e-3
    assert dfc.distance_from_rest(loop, samples, 2.0)[0] == pytest.approx(wanted, rel=1e-3)


def doubts(method: dfc.AbstractMethod) -> list[str]:
    model = make_network(jr.key(51), (4, 6, 5, 3), (dfc.Tanh(), dfc.Sigmoid()))
    return method.doubts(model, *make_batch(jr.key(52), 4))


EULER = diffrax.ConstantStepSize()
FINE = [
    dfc.Backprop(),
    dfc.DFCSSA(),
    dfc.DFCSS(),
    dfc.DFC(),
    dfc.DFC(average=dfc.PublishedAverage(dfc.PublishedEuler(0.02))),
    dfc.DFC(average=dfc.DiffraxAverage(diffrax.Euler(), EULER, dt0=0.02)),
    dfc.DFC(average=dfc.DiffraxAverage()),
    dfc.DFC(average=dfc.ClosedFormAverage(50.0)),
    dfc.DFCSS(equilibrium=dfc.Simulated()),
]
WRONG = {
    "`scheme.dt` is 0.5, too long": dfc.DFC(average=dfc.PublishedAverage(dfc.PublishedEuler(0.5))),
    "`dt0` is 0.5, too long": dfc.DFC(average=dfc.DiffraxAverage(diffrax.Euler(), EULER, dt0=0.5)),
    "`duration` is 0.5, too short": dfc.DFC(average=dfc.ClosedFormAverage(0.5)),
    "`t1` is 1.0, too short": dfc.DFCSS(equilibrium=dfc.Simulated(t1=1.0)),
}


def test_what_is_known_to_go_wrong_is_said_and_nothing_else() -> None:
    assert [doubts(method) for method in FINE] == [[]] * len(FINE)
    for message, method in WRONG.items():
        assert [doubt[: len(message)] for doubt in doubts(method)] == [message]


@pytest.mark.slow
def test_fit_warns() -> None:
    split = dfc.Split(*(np.asarray(a, np.float32) for a in make_batch(jr.key(52), 8)))
    data = dfc.Dataset("noise", split, split, split, classification=True)
    model = cast(make_network(jr.key(51)), jnp.float32)
    method = cast(dfc.DFC(average=dfc.PublishedAverage(dfc.PublishedEuler(0.5, 3))), jnp.float32)
    with (
        jax.numpy_dtype_promotion("standard"),
        pytest.warns(UserWarning, match="the published scheme diverges"),
    ):
        dfc.fit(model, method, data, optax.sgd(1e-3), epochs=1, key=jr.key(0), batch_size=8, progress=False)
