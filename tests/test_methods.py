"""The methods: against closed forms, against each other, and sample by sample."""

import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import (
    angle,
    cast,
    CONTROLLED,
    every,
    flat,
    learn,
    make_batch,
    make_network,
    Plain,
    relative_error,
    softmax,
    STEADY,
)
from jaxtyping import Array

import dfc_jax as dfc


ALL = {"backprop": dfc.Backprop(), "dfa": dfc.DFA()} | CONTROLLED


def exact(model):
    return dfc.Network(model.layers, dfc.ExactFeedback())


def weights_and_biases(update):
    return [(np.asarray(l.transform.weight), np.asarray(l.transform.bias)) for l in update.layers]


# What an update looks like


@every(ALL)
def test_the_update_is_shaped_like_the_model_and_leaves_the_feedback_alone(method, getkey):
    model, (x, y) = make_network(getkey()), make_batch(getkey(), 3)
    update, report = learn(method, model, x, y)
    assert jax.tree.structure(update) == jax.tree.structure(model)
    shapes = lambda tree: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
    assert shapes(update) == shapes(model)
    assert np.all(flat(update.feedback) == 0)
    assert np.all(flat(update.layers) != 0)
    assert report.output.shape == (3, 3)
    for field in (report.loss, report.converged, report.residual, report.iterations, report.condition_three):
        assert field.shape == (3,)
    assert report.converged.dtype == report.condition_three.dtype == bool
    assert relative_error(report.output, jax.vmap(lambda x: model(x))(x)) < 1e-12
    assert relative_error(report.loss, jax.vmap(method.loss)(report.output, y)) < 1e-12


# Backpropagation and direct feedback alignment


@pytest.mark.parametrize("loss", [dfc.CrossEntropy(), dfc.MeanSquaredError()])
def test_backprop_is_the_gradient_of_the_mean_loss(loss, getkey):
    model, (x, y) = make_network(getkey()), make_batch(getkey(), 3)
    update, _ = learn(dfc.Backprop(loss), model, x, y)

    def mean_loss(model):
        return jnp.mean(jax.vmap(loss)(jax.vmap(model)(x), y))

    assert relative_error(update, eqx.filter_jit(eqx.filter_grad(mean_loss))(model)) < 1e-12


def test_dfa_in_numpy(getkey):
    model, (x, y) = make_network(getkey(), feedback=dfc.RandomFeedback()), make_batch(getkey(), 3)
    update, report = learn(dfc.DFA(), model, x, y)
    plain, wanted = Plain(model), 0
    for one_x, one_y in zip(np.asarray(x), np.asarray(y), strict=True):
        voltages, rates = plain.settle(one_x)
        gradient = softmax(rates[-1]) - one_y
        teaching = [
            slope(v) * (Q @ gradient) for slope, v, Q in zip(plain.slope, voltages, plain.Q, strict=True)
        ]
        pairs = zip(teaching, [one_x, *rates[:-1]], strict=True)
        wanted = wanted + np.concatenate([np.r_[np.outer(t, r).ravel(), t] for t, r in pairs]) / len(x)
    found = np.concatenate([np.r_[w.ravel(), b] for w, b in weights_and_biases(update)])
    assert relative_error(found, wanted) < 1e-12
    assert np.all(report.converged) and np.all(report.iterations == 0)


def test_dfa_needs_feedback_weights(getkey):
    model, (x, y) = make_network(getkey(), feedback=dfc.ExactFeedback()), make_batch(getkey(), 2)
    with pytest.raises(ValueError, match="ExactFeedback, which depends on the sample; direct"):
        dfc.DFA()(model, x, y)


# Size and direction


@every(CONTROLLED)
def test_a_smaller_nudge_is_no_smaller_learning_rate(method, getkey):
    model, (x, y) = make_network(getkey()), make_batch(getkey(), 3)
    nudged = lambda nudge: eqx.tree_at(lambda m: m.target, method, dfc.Nudge(nudge))
    large, small = (learn(nudged(nudge), model, x, y)[0] for nudge in (1e-3, 1e-4))
    assert relative_error(large, small) < 5e-3


@every({name: ALL[name] for name in ("broyden", "implicit")})
def test_with_exact_feedback_the_update_descends(method, getkey):
    model, (x, y) = exact(make_network(getkey())), make_batch(getkey(), 3)
    update, _ = learn(method, model, x, y)
    gradient, _ = learn(dfc.Backprop(), model, x, y)
    assert jax.tree.structure(update) == jax.tree.structure(model)
    assert angle(update, gradient) < 60


@pytest.mark.parametrize("alpha", [1e-8, 0.1, 10.0])
@every({name: STEADY[name] for name in ("ssa", "broyden", "newton")})
def test_exact_feedback_has_the_damped_minimum_norm_form(method, alpha, getkey):
    weights, nudge = make_network(getkey()), 1e-6
    x, y = make_batch(getkey(), 1)
    controller = dfc.PIController(k_p=0.0, alpha=alpha)
    method = eqx.tree_at(lambda m: (m.controller, m.target), method, (controller, dfc.Nudge(nudge)))
    update, report = learn(method, exact(weights), x, y)
    plain = Plain(weights)
    voltages, rates = plain.settle(np.asarray(x[0]))
    delta = nudge * (np.asarray(y[0]) - softmax(rates[-1]))
    jacobian = plain.jacobian(voltages)
    u = np.linalg.solve(sum(J @ J.T for J in jacobian) + alpha * np.eye(3), delta)
    pairs = zip(weights_and_biases(update), plain.slope, voltages, jacobian, [x[0], *rates[:-1]], strict=True)
    for (weight, bias), slope, v, J, rate in pairs:
        teaching = slope(v) * (J.T @ u)
        assert relative_error(bias, -teaching / nudge) < 1e-4
        assert relative_error(weight, -np.outer(teaching, rate) / nudge) < 1e-4
    assert np.all(report.converged) and np.all(report.condition_three)


@pytest.mark.slow
def test_a_large_displacement_in_numpy(getkey):
    """One sample far from its feedforward state: Newton's method on raw voltages, then the local rule."""
    model, (x, y), alpha = make_network(getkey()), make_batch(getkey(), 1), 1e-3
    update, report = learn(dfc.DFCSS(target=dfc.Nudge(1.0)), model, x, y)
    plain, u = Plain(model), np.zeros(3)
    target = plain.settle(x[0])[1][-1]
    target = target + np.asarray(y[0]) - softmax(target)
    for _ in range(30):
        voltages, rates = plain.settle(x[0], u)
        remaining = target - rates[-1] - alpha * u
        u = u + np.linalg.solve(plain.gain(voltages) + alpha * np.eye(3), remaining)
    assert np.linalg.norm(remaining) < 1e-10 and report.converged[0]
    basal = plain.rates([v - Q @ u for v, Q in zip(voltages, plain.Q, strict=True)])
    layers = zip(weights_and_biases(update), rates, basal, [x[0], *rates[:-1]], strict=True)
    for (weight, bias), rate, without, presynaptic in layers:
        assert relative_error(bias, without - rate) < 1e-3
        assert relative_error(weight, np.outer(without - rate, presynaptic)) < 1e-3


def test_a_large_leak_makes_the_update_proportional_to_the_gradient_once_more_damped(getkey):
    weights, (x, y) = make_network(getkey()), make_batch(getkey(), 1)
    method = dfc.DFCSSA(controller=dfc.PIController(k_p=0.0, alpha=1e6), target=dfc.Nudge(1e-3))
    update, _ = learn(method, exact(weights), x, y)
    plain = Plain(weights)
    voltages, rates = plain.settle(np.asarray(x[0]))
    delta = np.asarray(y[0]) - softmax(rates[-1])
    wanted = [
        -slope(v) * (J.T @ delta) / 1e6
        for slope, v, J in zip(plain.slope, voltages, plain.jacobian(voltages), strict=True)
    ]
    assert relative_error([b for _, b in weights_and_biases(update)], wanted) < 1e-4


def test_dfa_is_the_limit_of_a_large_leak(getkey):
    """For alpha to infinity u = delta / alpha, so that every layer is taught by Q_i delta alone."""
    model, (x, y) = make_network(getkey(), feedback=dfc.RandomFeedback()), make_batch(getkey(), 3)
    method = dfc.DFCSSA(controller=dfc.PIController(alpha=1e6), target=dfc.Nudge(1e-3))
    damped, _ = learn(method, model, x, y)
    assert (
        relative_error(jax.tree.map(lambda leaf: 1e6 * leaf, damped), learn(dfc.DFA(), model, x, y)[0]) < 1e-4
    )


@pytest.mark.slow
def test_a_long_average_tends_to_the_steady_state(getkey):
    model, (x, y) = make_network(getkey()), make_batch(getkey(), 3)
    wanted, _ = learn(dfc.DFCSS(), model, x, y)
    averages = [dfc.ImplicitAverage(duration) for duration in (10.0, 100.0, 1000.0)]
    errors = [relative_error(learn(dfc.DFC(average=a), model, x, y)[0], wanted) for a in averages]
    assert errors[1] < 0.2 * errors[0] and errors[2] < 0.2 * errors[1] and errors[2] < 5e-3


# Transformations


@pytest.mark.slow
@every({name: ALL[name] for name in ("broyden", "implicit")})
def test_several_seeds_are_one_program(method, getkey):
    x, y = make_batch(getkey(), 3)
    keys = jr.split(getkey(), 3)
    models = eqx.filter_vmap(make_network)(keys)
    updates, reports = eqx.filter_vmap(lambda model: learn(method, model, x, y))(models)
    assert reports.loss.shape == (3, 3)
    for i, key in enumerate(keys):
        single, _ = learn(method, make_network(key), x, y)
        assert relative_error(jax.tree.map(lambda leaf, i=i: leaf[i], updates), single) < 1e-9


def test_a_sweep_compiles_once(getkey):
    model, (x, y) = make_network(getkey()), make_batch(getkey(), 3)
    once = eqx.filter_jit(eqx.debug.assert_max_traces(lambda method: method(model, x, y)[0], max_traces=1))
    nudges = [dfc.DFCSS(target=dfc.Nudge(nudge)) for nudge in (0.01, 0.1, 0.5)]
    gains = [dfc.DFCSS(dfc.PIController(k_p, alpha)) for k_p in (0.5, 1.0) for alpha in (1e-4, 1e-2)]
    tolerances = [dfc.DFCSS(equilibrium=dfc.Broyden(rtol)) for rtol in (1e-3, 1e-6)]
    updates = [flat(once(method)) for method in (*nudges, *gains, *tolerances)]
    assert len({update.tobytes() for update in updates}) > 4


def test_a_sweep_of_the_dynamics_compiles_once(getkey):
    model, (x, y) = make_network(getkey()), make_batch(getkey(), 3)
    once = eqx.filter_jit(eqx.debug.assert_max_traces(lambda method: method(model, x, y)[0], max_traces=1))
    scheme = lambda dt: dfc.PublishedAverage(dfc.PublishedEuler(dt, states=20))
    for tau_v, dt in ((0.1, 0.02), (0.2, 0.02), (0.2, 0.01)):
        assert np.all(np.isfinite(flat(once(dfc.DFC(tau_v=tau_v, average=scheme(dt))))))


def test_all_methods_are_called_alike() -> None:
    """`(model, x, y, *, key=None)`, so that one takes another's place."""
    wanted = [
        ("self", None),
        ("model", None),
        ("x", None),
        ("y", None),
        ("key", inspect.Parameter.KEYWORD_ONLY),
    ]
    kinds = [kind for kind in vars(dfc).values() if inspect.isclass(kind)]
    methods = [kind for kind in kinds if issubclass(kind, dfc.AbstractMethod)]
    assert len(methods) >= 9
    for method in methods:
        parameters = inspect.signature(method.__call__).parameters.values()
        found = [(p.name, p.kind if p.name == "key" else None) for p in parameters]
        assert found == wanted, method


def late_in_training() -> tuple[dfc.Network, Array, Array]:
    """Logits so far apart that every error is about 1e-5, in numbers that float32 holds exactly."""
    model = make_network(jr.key(9), (4, 6, 5, 3))
    model = eqx.tree_at(lambda m: m.layers[-1].transform.weight, model, replace_fn=lambda w: 0.3 * w)
    model = eqx.tree_at(lambda m: m.layers[-1].transform.bias, model, jnp.array([12.0, 0.3, -0.2]))
    x, y = make_batch(jr.key(10), 3)[0], jax.nn.one_hot(jnp.zeros(3, int), 3)
    return cast(cast((model, x, y), jnp.float32), jnp.float64)


@every({name: ALL[name] for name in ("broyden", "ssa", "implicit")})
def test_single_precision_late_in_training(method) -> None:
    """In float32, with control errors of 1e-5 of the activations, updates keep direction and length."""
    model, x, y = late_in_training()
    strong = dfc.PIController(1.0, 0.05), dfc.Nudge(1.0)
    method = eqx.tree_at(lambda m: (m.controller, m.target), method, strong)
    wanted, exact = learn(method, model, x, y)
    assert 3e-6 < np.mean(np.asarray(exact.loss)) < 3e-5
    found, report = learn(method, *cast((model, x, y), jnp.float32))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))
    assert np.all(exact.converged) and np.all(report.converged)
    for ours, theirs in zip(found.layers, wanted.layers, strict=True):
        assert np.radians(angle(ours, theirs)) < 1e-3
        assert abs(np.linalg.norm(flat(ours)) / np.linalg.norm(flat(theirs)) - 1) < 1e-3
