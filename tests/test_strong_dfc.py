"""Single-phase Strong-DFC against a replay in NumPy, its noise, its time scales, and what it learns."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import (
    adam,
    flat,
    Gained,
    learn,
    make_batch,
    make_network,
    Plain,
    relative_error,
    Replayed,
    softmax,
    take_samples,
)
from jaxtyping import Array

import dfc_jax as dfc


SIGMAS, TAU_NOISE, TAU_V, TAU_FILTER = (0.2, 0.2, 0.4), 0.05, 0.02, 0.3
CONTROLLER = dfc.PIController(1.5, 0.01)
NOISE = dfc.FilteredNoise(SIGMAS[0], TAU_NOISE, sigma_output=SIGMAS[-1])
SCHEME = dfc.PublishedEuler(0.004, 60)
SMALL = dfc.StrongDFC(
    CONTROLLER, dfc.Clamp(0.9), noise=NOISE, tau_v=TAU_V, tau_filter=TAU_FILTER, scheme=SCHEME, start=None
)


def soft(y: np.ndarray, value: float = 0.9) -> np.ndarray:
    return np.where(y == 1, value, (1 - value) / (len(y) - 1))


def replay(plain: Plain, x: np.ndarray, y: np.ndarray, draws: list[np.ndarray], settled: np.ndarray | None):
    """Sums over one sample's trajectory, from u at rest if `settled`: forward rule and v_fb u_fast^T."""
    dt, k_p, alpha = 0.004, 1.5, 0.01
    v, r = plain.settle(x)
    u = integral = np.zeros(len(y))
    if settled is not None:
        v, r = plain.settle(x, settled)
        u = settled
        integral = u - k_p * (soft(y) - softmax(r[-1]))
    eps, apical, slow = [np.zeros_like(a) for a in v], [Q @ u for Q in plain.Q], None
    weights = [np.zeros((len(a), len(p))) for a, p in zip(v, [x, *r[:-1]], strict=True)]
    biases, feedback = [np.zeros_like(a) for a in v], [np.zeros_like(Q) for Q in plain.Q]

    def learn(basal: list[np.ndarray]) -> None:
        for i, before in enumerate([x, *r[:-1]]):
            taught = plain.phi[i](v[i]) - plain.phi[i](basal[i])
            weights[i] += np.outer(taught, before)
            biases[i] += taught

    learn(plain.basal(x, r))
    for t in range(len(draws[0])):
        error = soft(y) - softmax(r[-1])
        integral = integral + dt * (error - alpha * u)
        u = integral + k_p * error
        slow = u if slow is None else slow + dt / TAU_FILTER * (u - slow)
        earlier, basal, apical, before = apical, [], [], x
        for i in range(len(v)):
            eps[i] = (1 - dt / TAU_NOISE) * eps[i] + np.sqrt(dt) / TAU_NOISE * draws[i][t]
            apical.append(plain.Q[i] @ u + SIGMAS[i] * eps[i])
            basal.append(plain.W[i] @ before + plain.b[i])
            v[i] = v[i] + dt / TAU_V * (basal[i] + apical[i] - v[i])
            r[i] = before = plain.phi[i](v[i])
        for i, a in enumerate(earlier if settled is None else apical):
            feedback[i] += np.outer(a, u - slow)
        learn(basal)
    return weights, biases, feedback


@pytest.mark.parametrize(
    "start",
    [None, pytest.param(dfc.Broyden(rtol=1e-11), marks=pytest.mark.slow)],
    ids=["feedforward", "steady_state"],
)
def test_update_is_that_of_a_replay_in_numpy(getkey, start) -> None:
    model = make_network(getkey(), feedback=dfc.RandomFeedback(), activation=dfc.Sigmoid())
    x, y = make_batch(getkey(), 3)
    noise = tuple(jr.normal(getkey(), (59, 3, n)) for n in (6, 5, 3))
    method = dataclasses.replace(SMALL, scheme=Replayed(0.004, 60, x=x, noise=noise), start=start)
    update, report = eqx.filter_jit(method)(model, x, y, key=getkey())

    settled = [None] * 3
    if start is not None:
        settled = np.asarray(start(method.loop(model), take_samples(method.loop(model), x, y)).control)
    sums = [
        replay(Plain(model), a, b, [np.asarray(n[:, i]) for n in noise], settled[i])
        for i, (a, b) in enumerate(zip(np.asarray(x), np.asarray(y), strict=True))
    ]
    weights, biases, feedback = (
        jax.tree.map(lambda *parts: sum(parts), *which) for which in zip(*sums, strict=True)
    )
    lag = 1 + TAU_V / TAU_NOISE
    for i, layer in enumerate(update.layers):
        assert relative_error(layer.transform.weight, -weights[i] / (3 * 60)) < 1e-9
        assert relative_error(layer.transform.bias, -biases[i] / (3 * 60)) < 1e-9
        wanted = lag ** (2 - i) * feedback[i] / (SIGMAS[i] ** 2 * 3 * 59)
        assert relative_error(update.feedback.weights[i], wanted) < 1e-9
    assert np.all(np.isfinite(flat(report.control)))


def _noise_of_an_idle_network(dt: float) -> Array:
    """The noise in the apical voltages, (steps, neurons), where nothing controls: Q = 0."""
    model = make_network(jr.key(0), (4, 400, 3), feedback=dfc.RandomFeedback(std=0.0))
    loop = dfc.ClosedLoop(model, CONTROLLER, dfc.Rest(), noise=NOISE, tau_v=TAU_V)
    x, y = make_batch(jr.key(1), 1)
    sample, scheme = loop.sample(x[0], y[0]), dfc.PublishedEuler(dt, 2)

    @eqx.filter_jit
    def run() -> Array:
        def step(state: dfc.PublishedState, t: Array) -> tuple[dfc.PublishedState, Array]:
            state = scheme.noisy_step(loop, state, sample, jr.key(2), t)
            return state, state.apical[0]

        return jax.lax.scan(step, scheme.initial(loop, sample), jnp.arange(round(4 / dt)))[1]

    return run()[round(1 / dt) :]


def test_the_noise_has_its_stationary_variance() -> None:
    dt = 0.004
    found = float(jnp.var(_noise_of_an_idle_network(dt)))
    wanted = SIGMAS[0] ** 2 / (2 * TAU_NOISE)
    # About 12 000 independent values: 1.3 %. Euler's own excess is 1 / (1 - dt / 2 tau).
    assert found / wanted * (1 - dt / (2 * TAU_NOISE)) == pytest.approx(1, abs=0.05)


def test_noise_comes_from_the_key_alone_whatever_the_batch(getkey) -> None:
    model = make_network(getkey(), feedback=dfc.RandomFeedback())
    x, y = make_batch(getkey(), 4)
    learn = eqx.filter_jit(SMALL)
    _, report = learn(model, x, y, key=jr.key(7))
    again, _ = learn(model, x[:1], y[:1], key=jr.key(7))
    first, alone = learn(model, x[:1], y[:1], key=jr.key(7))
    other, _ = learn(model, x[:1], y[:1], key=jr.key(8))
    assert np.array_equal(flat(first), flat(again))
    assert relative_error(report.control[0], alone.control[0]) < 1e-12
    assert relative_error(first.feedback, other.feedback) > 1e-2


@pytest.mark.parametrize(
    "changed, named",
    [
        ({}, []),
        ({"tau_v": 0.005}, ["dt"]),
        ({"noise": dfc.FilteredNoise(0.1, 0.006)}, ["dt"]),
        ({"tau_v": 0.2}, ["tau_v"]),
        ({"noise": dfc.FilteredNoise(0.1, 0.2)}, ["noise.tau"]),
        ({"tau_filter": 0.8}, ["tau_filter"]),
        ({"tau_v": 0.005, "tau_filter": 2.0}, ["dt", "tau_filter"]),
    ],
)
def test_a_broken_order_of_time_scales_is_explained(changed: dict, named: list[str]) -> None:
    doubts = dataclasses.replace(SMALL, **changed).time_scale_doubts()
    assert [doubt.split("`")[1] for doubt in doubts] == named
    assert all("must be much smaller, for " in doubt for doubt in doubts)


@pytest.mark.slow
def test_the_feedback_update_answers_noise_not_the_target(getkey) -> None:
    """From the steady state its size does not depend on sigma; from the feedforward state the transient
    of the control, divided by sigma^2, drowns everything."""
    model = make_network(getkey())
    x, y = make_batch(getkey(), 16)

    def size(sigma: float, start: dfc.AbstractEquilibrium | None) -> float:
        method = dataclasses.replace(SMALL, noise=dfc.FilteredNoise(sigma, TAU_NOISE), start=start)
        update, _ = eqx.filter_jit(method)(model, x, y, key=jr.key(0))
        return float(np.linalg.norm(flat(update.feedback)))

    settled = dfc.Broyden(rtol=1e-10)
    assert size(0.01, None) / size(0.1, None) == pytest.approx(100, rel=0.2)
    assert size(0.01, settled) / size(0.1, settled) < 20


@pytest.mark.parametrize("target", [dfc.Clamp(), dfc.Nudge(0.2)], ids=["strong", "weak"])
def test_one_hot_labels_are_softened_by_the_target(getkey, target) -> None:
    loss, output, y = dfc.CrossEntropy(), jr.normal(getkey(), (4,)), jnp.eye(4)[1]
    softened = jnp.asarray(soft(np.asarray(y), 0.7))
    found = dfc.Clamp(0.7).initial_error(loss, output, y)
    assert relative_error(found, softened - jax.nn.softmax(output)) < 1e-14
    same = target.initial_error(loss, output, y)
    plain = (y - jax.nn.softmax(output)) * target.unit()
    assert relative_error(same, plain) < 1e-14


@pytest.mark.parametrize("value", [0.0, 1.1, np.nan])
def test_a_wrong_class_value_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="class_value"):
        dfc.Clamp(value)


def test_a_key_and_feedback_weights_are_demanded(getkey) -> None:
    x, y = make_batch(getkey(), 2)
    with pytest.raises(ValueError, match="`key` is None"):
        SMALL(make_network(getkey()), x, y)
    with pytest.raises(ValueError, match="ExactFeedback; StrongDFC needs FeedbackWeights"):
        SMALL(make_network(getkey(), feedback=dfc.ExactFeedback()), x, y, key=getkey())


@pytest.fixture
def toy(as_users_run) -> dfc.Dataset:
    """The student-teacher task with standardised targets."""
    data = dfc.student_teacher(train_samples=512, validation_samples=128, test_samples=128)
    mean, std = data.train.y.mean(axis=0), data.train.y.std(axis=0)
    scale = lambda split: dfc.Split(split.x, (split.y - mean) / std)
    splits = (scale(split) for split in (data.train, data.validation, data.test))
    return dfc.Dataset(data.name, *splits, classification=False)


def train(data: dfc.Dataset, model: dfc.Network, learning: dfc.FeedbackLearning | None, epochs: int):
    method = dfc.StrongDFC(
        dfc.PIController(2.0, 1e-3),
        dfc.Clamp(),
        dfc.MeanSquaredError(),
        dfc.FilteredNoise(0.1, 0.05),
        tau_v=0.01,
        tau_filter=0.25,
        scheme=dfc.PublishedEuler(0.005, 100),
        start=dfc.Broyden(),
    )
    options = {"epochs": epochs, "key": jr.key(1), "batch_size": 64, "progress": False}
    return dfc.fit(model, method, data, adam(3e-3), feedback_learning=learning, **options)


def learning(lr: float, **options: object) -> dfc.FeedbackLearning:
    optimiser = optax.chain(optax.add_decayed_weights(0.1), adam(lr))
    defaults = {"pretraining_epochs": 0, "epochs_per_wake_epoch": 0}
    return dfc.FeedbackLearning(optimiser, **(defaults | options))


@pytest.mark.script
def test_feedback_learns_in_the_wake_phase(toy) -> None:
    """Condition 2 rises from random feedback while the forward weights learn."""
    model = dfc.mlp((15, 10, 10, 5), key=jr.key(0), feedback=dfc.RandomFeedback())
    trained, history = train(toy, model, learning(5e-3), 20)
    x = jnp.asarray(toy.validation.x)
    before, after = (float(jnp.mean(dfc.condition_two(m, x))) for m in (model, trained))
    assert before < 0.6 and after > 0.85
    assert history.records[-1]["test_loss"] < 0.8 * history.records[0]["test_loss"]


@pytest.mark.script
def test_without_feedback_learning_feedback_stays(toy) -> None:
    model = dfc.mlp((15, 6, 5), key=jr.key(0), feedback=dfc.RandomFeedback())
    still, _ = train(toy, model, None, 1)
    assert np.array_equal(flat(still.feedback), flat(model.feedback))
    assert not np.array_equal(flat(still.layers), flat(model.layers))
    moved, _ = train(toy, model, learning(1e-3, freeze_output=True), 1)
    kept = [np.array_equal(a, b) for a, b in zip(moved.feedback.weights, model.feedback.weights, strict=True)]
    assert kept == [False, True]


@pytest.mark.script
def test_from_the_steady_state_it_stays_there_without_noise() -> None:
    """With an integral that has a gain of its own too: what it is there follows from control and error."""
    model = make_network(jr.key(0), (4, 5, 3))
    quiet = dfc.FilteredNoise(1e-12, TAU_NOISE)
    method = dataclasses.replace(
        SMALL, controller=Gained(3.0, 0.5, 0.1), noise=quiet, start=dfc.Broyden(1e-10)
    )
    method = dataclasses.replace(method, scheme=dfc.PublishedEuler(0.004, 20))
    _, report = learn(method, model, *make_batch(jr.key(1), 4), jr.key(2))
    assert np.max(np.asarray(report.residual)) < 1e-8


def test_the_report_counts_the_steps_between_the_states(getkey) -> None:
    model, (x, y) = make_network(getkey(), feedback=dfc.RandomFeedback()), make_batch(getkey(), 2)
    method = dfc.StrongDFC(scheme=dfc.PublishedEuler(0.001, 7), start=None)
    _, report = eqx.filter_jit(method)(model, x, y, key=getkey())
    assert np.array_equal(report.iterations, [6, 6])
