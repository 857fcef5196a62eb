"""The theorems of the NeurIPS paper, and the locality of its plasticity rules.

The theorems are about voltages: their updates are (v_i - v_ff_i) r_{i-1}^T. The rule that DFC uses takes
rates for voltages, to first order a factor phi'(v_i), by which the tests divide.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.optimize
from helpers import (
    angle,
    find,
    flat,
    learn,
    make_batch,
    make_network,
    Plain,
    relative_error,
    softmax,
    take_samples,
)
from jaxtyping import Array

import dfc_jax as dfc


TINY, NO_LEAK = dfc.Nudge(1e-6), dfc.PIController(k_p=0.0, alpha=1e-9)
STEADY = [dfc.DFCSSA(NO_LEAK, TINY), dfc.DFCSS(NO_LEAK, TINY, equilibrium=dfc.Broyden(1e-9))]
steady_states = pytest.mark.parametrize("method", STEADY, ids=["ssa", "ss"])


def with_feedback(model: dfc.Network, Q: np.ndarray) -> dfc.Network:
    """The rows of Q shared out over the layers."""
    ends = np.cumsum([len(layer.transform.bias) for layer in model.layers])[:-1]
    weights = tuple(jnp.asarray(rows) for rows in np.split(Q, ends))
    return dfc.Network(model.layers, dfc.FeedbackWeights(weights))


def whole_jacobian(model: dfc.Network, x: Array) -> np.ndarray:
    plain = Plain(model)
    return np.concatenate(plain.jacobian(plain.settle(np.asarray(x))[0]), axis=1)


def of_voltages(update: dfc.Network, model: dfc.Network, x: Array) -> list[tuple[np.ndarray, np.ndarray]]:
    """An update of one sample with phi' divided out: weight and bias of every layer."""
    plain = Plain(model)
    voltages, _ = plain.settle(np.asarray(x))
    slopes = [slope(v) for slope, v in zip(plain.slope, voltages, strict=True)]
    pairs = ((layer.transform.weight, layer.transform.bias) for layer in update.layers)
    return [(np.asarray(W) / s[:, None], np.asarray(b) / s) for (W, b), s in zip(pairs, slopes, strict=True)]


def weights_and_biases(update: dfc.Network) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.asarray(l.transform.weight), np.asarray(l.transform.bias)) for l in update.layers]


def condition_two_network() -> tuple[dfc.Network, Array, Array]:
    """Q = J^T M: Condition 2 holds on the sample, though the feedback is far from J^T."""
    model = make_network(jr.key(81), feedback=dfc.RandomFeedback())
    x, y = make_batch(jr.key(82), 1)
    J = whole_jacobian(model, x[0])
    mixing = np.eye(3) + 0.5 * np.asarray(jr.normal(jr.key(83), (3, 3)))
    return with_feedback(model, J.T @ mixing), x, y


@steady_states
def test_condition_two_gives_the_minimum_norm_update(method: dfc.AbstractMethod) -> None:
    """Theorem 3."""
    model, x, y = condition_two_network()
    angles, within = (eqx.filter_jit(f)(model, x) for f in (dfc.feedback_angles, dfc.condition_two))
    assert float(angles[0]) > 10 and np.isclose(within[0], 1)
    wanted, _ = learn(dfc.MinimumNorm(damping=jnp.asarray(0.0)), model, x, y)
    found = of_voltages(learn(method, model, x, y)[0], model, x[0])
    assert relative_error(found, weights_and_biases(wanted)) < 1e-4
    # Without the condition it is another update.
    shapes = [layer.transform.bias.shape for layer in model.layers]
    other = dfc.Network(model.layers, dfc.RandomFeedback().init(model.layers, shapes, jr.key(1)))
    found = of_voltages(learn(method, other, x, y)[0], other, x[0])
    assert angle(found, weights_and_biases(wanted)) > 5


def with_equal_norms(model: dfc.Network, x: Array) -> dfc.Network:
    """Condition 1: every layer's weights and bias scaled until its rates have the norm of the input."""
    layers, rate, norm = [], np.asarray(x), np.linalg.norm(x)
    for layer in model.layers[:-1]:
        v = np.asarray(layer.transform(jnp.asarray(rate)))
        c = scipy.optimize.brentq(lambda c, v=v: np.linalg.norm(np.tanh(c * v)) - norm, 1e-3, 1e3)
        rate = np.tanh(c * v)
        layers.append(jax.tree.map(lambda leaf, c=c: c * leaf if eqx.is_inexact_array(leaf) else leaf, layer))
    return dfc.Network((*layers, model.layers[-1]), model.feedback)


@steady_states
def test_both_conditions_give_the_gauss_newton_update(method: dfc.AbstractMethod) -> None:
    """Theorem 2, for a minibatch of one: in direction, with the common norm as the factor between them."""
    model, x, y = condition_two_network()
    x = x / jnp.linalg.norm(x)
    model = with_equal_norms(model, x[0])
    assert float(eqx.filter_jit(dfc.condition_one)(model, x)[0]) < 1e-10
    J = whole_jacobian(model, x[0])
    mixing = np.eye(3) + 0.5 * np.asarray(jr.normal(jr.key(83), (3, 3)))
    model = with_feedback(model, J.T @ mixing)
    exact = dfc.GaussNewton(damping=jnp.asarray(0.0))
    wanted, _ = learn(exact, model, x, y)
    found = of_voltages(learn(method, model, x, y)[0], model, x[0])
    assert relative_error(found, [(2 * W, 2 * b) for W, b in weights_and_biases(wanted)]) < 1e-4
    assert np.all(eqx.filter_jit(dfc.null_space_fraction)(exact, model, x, y) < 1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_any_feedback_with_layerwise_rates_descends(seed: int) -> None:
    """With rates 1 / (|r_{i-1}|^2 + 1) the output moves along its target error, whatever Q is.

    The inner product of update and gradient is then the squared norm of the output's loss gradient.
    """
    model = make_network(jr.key(81), feedback=dfc.RandomFeedback(1.0))
    random = jr.normal(jr.key(seed), (14, 3))
    model, (x, y) = with_feedback(model, np.asarray(random)), make_batch(jr.key(90 + seed), 1)
    found = of_voltages(learn(dfc.DFCSSA(NO_LEAK, TINY), model, x, y)[0], model, x[0])
    gradient = weights_and_biases(learn(dfc.Backprop(), model, x, y)[0])
    _, rates = Plain(model).settle(np.asarray(x[0]))
    scaled = [
        (W / (r @ r + 1), b / (r @ r + 1))
        for (W, b), r in zip(found, [np.asarray(x[0]), *rates[:-1]], strict=True)
    ]
    assert angle(scaled, gradient) < 90
    wanted = np.sum((softmax(rates[-1]) - np.asarray(y[0])) ** 2)
    assert np.isclose(flat(scaled) @ flat(gradient), wanted, rtol=1e-4)


@pytest.mark.parametrize("controller", [dfc.PIController, dfc.LeakyIntegratorController])
def test_a_slow_controller_is_stable_if_and_only_if_condition_three_holds(controller) -> None:
    """Condition 3: all eigenvalues of J Q have real parts above -alpha. Neurons are fast, k_p is 0."""
    alpha, seen = 0.3, set()
    base = make_network(jr.key(81), feedback=dfc.RandomFeedback())
    x, y = make_batch(jr.key(84), 1)
    J = whole_jacobian(base, x[0])
    for seed in range(12):
        Q = np.asarray(jr.normal(jr.key(seed), (14, 3))) + 0.4 * J.T
        model = with_feedback(base, Q)
        loop = dfc.ClosedLoop(model, controller(0.0, alpha), TINY, tau_v=1e-5)
        rightmost = dfc.loop_eigenvalues(loop, take_samples(loop, x, y)).real.max()
        margin = np.linalg.eigvals(J @ Q).real.min() + alpha
        assert np.isclose(rightmost, -margin, rtol=1e-2, atol=1e-3)
        seen.add(bool(rightmost < 0))
    assert seen == {True, False}


def test_the_analytic_steady_state_is_exact_for_linear_networks() -> None:
    """Of any size of displacement, against Newton's method on plain voltages."""
    model = make_network(jr.key(85), activation=dfc.Linear(), feedback=dfc.RandomFeedback(1.0))
    x, y = make_batch(jr.key(86), 3)
    loop = dfc.ClosedLoop(model, dfc.PIController(2.0, 0.05), dfc.Nudge(1.0))
    found = find(dfc.Analytic(), loop, x, y)
    plain = Plain(model)
    gain = plain.gain(plain.settle(np.asarray(x[0]))[0])
    for k in range(3):
        resting = plain.settle(np.asarray(x[k]))[1][-1]
        u = np.linalg.solve(gain + 0.05 * np.eye(3), np.asarray(y[k]) - softmax(resting))
        assert relative_error(found.control[k], u) < 1e-10
        voltages, _ = plain.settle(np.asarray(x[k]), u)
        rest, _ = plain.settle(np.asarray(x[k]))
        for i in range(3):
            assert relative_error(found.deviation.voltage[i][k], voltages[i] - rest[i]) < 1e-10


def depends_on(run, arrays: tuple[Array, ...]) -> tuple[np.ndarray, ...]:
    """Which entries of the output of `run` change with which entries of each array."""
    return tuple(np.asarray(J) != 0 for J in jax.jit(jax.jacrev(run, range(len(arrays))))(*arrays))


def test_a_forward_weight_sees_its_two_neurons_only() -> None:
    model, (x, y) = make_network(jr.key(81)), make_batch(jr.key(87), 2)
    loop = dfc.ClosedLoop(model, dfc.PIController(), dfc.Nudge(1.0))
    samples = take_samples(loop, x, y)
    deviation = find(dfc.Analytic(), loop, x, y).deviation

    def change(i: int):
        def run(presynaptic: Array, resting: Array, voltage: Array, basal: Array) -> Array:
            state = eqx.tree_at(lambda s: s.feedforward.voltages[i], samples, resting)
            moved = eqx.tree_at(lambda d: (d.voltage[i], d.basal[i]), deviation, (voltage, basal))
            teaching = jax.vmap(dfc.teaching_signal, in_axes=(None, 0, 0))(loop, state, moved)
            arriving = jax.vmap(dfc.presynaptic_rates)(state, moved)
            arriving = eqx.tree_at(lambda p: p[i], arriving, presynaptic)
            return dfc.forward_rule(model.layers, arriving, teaching)[i].transform.weight

        rates = jax.jit(jax.vmap(dfc.presynaptic_rates))(samples, deviation)[i]
        return run, (rates, samples.feedforward.voltages[i], deviation.voltage[i], deviation.basal[i])

    for i, (post, pre) in enumerate([(6, 4), (5, 6), (3, 5)]):
        run, quantities = change(i)
        presynaptic, *postsynaptic = depends_on(run, quantities)  # (post, pre, batch, neuron)
        own_pre = np.broadcast_to(np.eye(pre, dtype=bool)[None, :, None, :], presynaptic.shape)
        own_post = np.broadcast_to(np.eye(post, dtype=bool)[:, None, None, :], postsynaptic[0].shape)
        assert np.array_equal(presynaptic, own_pre)
        for found in postsynaptic[1:]:
            assert np.array_equal(found, own_post)
        assert not np.any(postsynaptic[0] & ~own_post)


def test_a_feedback_weight_sees_its_compartment_and_its_control_only() -> None:
    apical = tuple(jr.normal(jr.key(i), (2, n)) for i, n in enumerate((6, 5, 3)))
    control = jr.normal(jr.key(9), (2, 3))
    for i, n in enumerate((6, 5, 3)):
        run = lambda control, *apical, i=i: dfc.feedback_rule(apical, control)[i]
        from_control, *from_apical = depends_on(run, (control, *apical))  # (neuron, out, batch, ...)
        own = np.eye(3, dtype=bool)[None, :, None, :]
        assert np.array_equal(from_control, np.broadcast_to(own, from_control.shape))
        for j, found in enumerate(from_apical):
            own = np.eye(n, dtype=bool)[:, None, None, :] & (i == j) if i == j else np.zeros((), bool)
            assert np.array_equal(found, np.broadcast_to(own, found.shape))


@eqx.filter_jit
def learned_on_one_sample(phase: dfc.ExpectedSleepPhase, model: dfc.Network) -> tuple[Array, ...]:
    """Feedback weights after 300 steps of plain gradient descent, with decay, on the expected update."""
    rate, decay = 0.05, 0.5

    def step(Q: tuple[Array, ...], _: None) -> tuple[tuple[Array, ...], None]:
        learner = dfc.Network(model.layers, dfc.FeedbackWeights(Q))
        change = phase(learner, jnp.ones((1, 3)), jnp.ones((1, 2)) / 2, key=jr.key(0)).feedback.weights
        return tuple(q - rate * (c + decay * q) for q, c in zip(Q, change, strict=True)), None

    return jax.lax.scan(step, model.feedback.weights, length=300)[0]


def linear_network_with_random_feedback() -> tuple[dfc.Network, np.ndarray]:
    """The network and its Jacobian."""
    model = make_network(jr.key(33), (3, 8, 2), dfc.Linear(), dfc.RandomFeedback())
    model = with_feedback(model, np.asarray(jr.normal(jr.key(34), (10, 2))))
    return model, whole_jacobian(model, jnp.ones(3))


def nearest_damped_pseudoinverse(Q: tuple[Array, ...], J: np.ndarray) -> tuple[float, float]:
    """The angle of Q to the nearest J^T (J J^T + gamma I)^-1, and that gamma."""
    inverses = {g: J.T @ np.linalg.inv(J @ J.T + g * np.eye(2)) for g in 10.0 ** np.arange(-3, 3, 0.02)}
    return min((angle(np.concatenate(Q), inverse), g) for g, inverse in inverses.items())


def test_expected_feedback_learning_turns_to_the_damped_pseudoinverse() -> None:
    """Theorem 6, without its noise: for a fixed sample Q settles along J^T (J J^T + gamma I)^-1.

    Nearly, since the time scales are apart by factors of 20 and 50 where the theorem has limits.
    """
    model, J = linear_network_with_random_feedback()
    scheme = dfc.PublishedEuler(0.0005, 10_000, proactive=False)
    phase = dfc.ExpectedSleepPhase(
        dfc.PIController(0.0, 1.0), dfc.WhiteNoise(0.05), tau_v=0.001, tau_apical=0.02, scheme=scheme
    )
    before, _ = nearest_damped_pseudoinverse(model.feedback.weights, J)
    after, _ = nearest_damped_pseudoinverse(learned_on_one_sample(phase, model), J)
    assert before > 60 and after < 1.5


def test_the_leak_sets_the_damping_of_learned_feedback_where_control_is_integral() -> None:
    """Theorem 6 has gamma grow with the leak; proportional control, which it leaves out, hides the leak."""
    model, J = linear_network_with_random_feedback()

    def damping(k_p: float, alpha: float) -> float:
        phase = dfc.ExpectedSleepPhase(
            dfc.PIController(k_p, alpha),
            dfc.WhiteNoise(0.05),
            tau_v=0.005,
            tau_apical=0.3,
            scheme=dfc.PublishedEuler(0.005, 600, proactive=False),
        )
        return nearest_damped_pseudoinverse(learned_on_one_sample(phase, model), J)[1]

    assert damping(0.0, 2.0) > 2 * damping(0.0, 0.1)
    assert damping(0.3, 2.0) == pytest.approx(damping(0.3, 0.1), rel=0.15)
