"""What is measured of a network, against NumPy, autodiff and settings in which the answer is known."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import (
    cast,
    find,
    learn,
    make_batch,
    make_network,
    Plain,
    relative_error,
    sgd,
    softmax,
    take_samples,
)
from jaxtyping import Array

import dfc_jax as dfc


LOOSE = dfc.RandomFeedback()


def setting(batch: int = 5, **options) -> tuple[dfc.Network, Array, Array]:
    model = make_network(jr.key(71), feedback=options.pop("feedback", LOOSE), **options)
    return model, *make_batch(jr.key(72), batch)


def states(model: dfc.Network, x: Array) -> list[tuple[list, list, np.ndarray]]:
    """Voltages, rates with the input in front, and J over all neurons, of each sample in NumPy."""
    plain, found = Plain(model), []
    for sample in np.asarray(x):
        voltages, rates = plain.settle(sample)
        found.append((voltages, [sample, *rates], np.concatenate(plain.jacobian(voltages), axis=1)))
    return found


def parameter_jacobian(model: dfc.Network, x: Array) -> np.ndarray:
    """dr_L/dtheta over the weights and biases of all layers, by autodiff."""
    arrays, rest = eqx.partition(model.layers, eqx.is_inexact_array)
    flat, unravel = jax.flatten_util.ravel_pytree(arrays)
    run = lambda theta: dfc.Network(eqx.combine(unravel(theta), rest), model.feedback)(x)
    return np.asarray(jax.jit(jax.jacrev(run))(flat))


def ravel(update: dfc.Network) -> np.ndarray:
    return np.asarray(
        jax.flatten_util.ravel_pytree(eqx.filter(update.layers, eqx.is_inexact_array))[0], np.float64
    )


def test_condition_one_by_both_definitions() -> None:
    model, x, _ = setting()
    norms = np.array([[np.linalg.norm(r) for r in rates[:-1]] for _, rates, _ in states(model, x)])
    spread, mean = norms.std(axis=1), norms.mean(axis=1)
    assert relative_error(eqx.filter_jit(dfc.condition_one)(model, x), spread / mean) < 1e-12
    assert (
        relative_error(eqx.filter_jit(dfc.published_condition_one)(model, x), spread / np.sqrt(mean)) < 1e-12
    )


def test_condition_two_is_the_part_of_the_feedback_in_the_row_space() -> None:
    model, x, _ = setting()
    Q = np.concatenate([np.asarray(q) for q in model.feedback.weights])
    wanted = [np.linalg.norm(np.linalg.pinv(J) @ J @ Q) / np.linalg.norm(Q) for _, _, J in states(model, x)]
    assert relative_error(eqx.filter_jit(dfc.condition_two)(model, x), np.array(wanted)) < 1e-10
    exact = dfc.Network(model.layers, dfc.ExactFeedback())
    assert np.allclose(eqx.filter_jit(dfc.condition_two)(exact, x), 1)


def test_feedback_angles() -> None:
    model, x, _ = setting()
    Q = np.concatenate([np.asarray(q) for q in model.feedback.weights])
    degrees = lambda a, b: np.degrees(np.arccos(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)))
    found, angles = states(model, x), eqx.filter_jit(dfc.feedback_angles)
    assert np.allclose(angles(model, x), [degrees(Q, J.T) for _, _, J in found])
    damped = [degrees(Q, J.T @ np.linalg.inv(J @ J.T + 0.3 * np.eye(3))) for _, _, J in found]
    assert np.allclose(angles(model, x, 0.3), damped)
    exact = dfc.Network(model.layers, dfc.ExactFeedback())
    assert np.all(angles(exact, x) < 1e-10)
    assert np.all(angles(exact, x, 1e12) < 1e-5)  # the damped inverse tends to J^T
    with pytest.raises(ValueError, match="`damping` is -1"):
        dfc.feedback_angles(model, x, -1.0)


def test_update_angles() -> None:
    model, x, y = setting()
    update, _ = learn(dfc.Backprop(), model, x, y)
    scaled = jax.tree.map(lambda leaf: -3 * leaf, update)
    assert float(dfc.update_angles(update, update).network) == 0
    opposite = dfc.update_angles(update, scaled)
    assert np.allclose([*opposite.layers, opposite.network], 180)
    # Turned by 60 degrees in the first layer alone.
    layer = lambda u: (u.layers[0].transform.weight, u.layers[0].transform.bias)
    parts = layer(update)
    size = np.sqrt(sum(float(jnp.sum(p**2)) for p in parts))
    across = jr.normal(jr.key(0), parts[0].shape)
    across -= parts[0] * jnp.sum(across * parts[0]) / jnp.sum(parts[0] ** 2)
    across *= size * np.tan(np.pi / 3) / jnp.linalg.norm(across)
    turned = eqx.tree_at(layer, update, (parts[0] + across, parts[1]))
    found = dfc.update_angles(turned, update)
    assert np.allclose(found.layers, [60, 0, 0])
    a, b = ravel(turned), ravel(update)
    assert np.isclose(found.network, np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))))
    nothing = jax.tree.map(jnp.zeros_like, update)
    assert np.isnan(dfc.update_angles(nothing, update).network)


@pytest.mark.parametrize("damping", [0.0, 0.2])
def test_gauss_newton_by_autodiff(damping: float) -> None:
    model, x, y = setting(3)
    update, report = learn(dfc.GaussNewton(damping=jnp.asarray(damping)), model, x, y)
    wanted = []
    for sample, label, (_, rates, _) in zip(x, y, states(model, x), strict=True):
        G, gradient = parameter_jacobian(model, sample), softmax(rates[-1]) - np.asarray(label)
        wanted.append(G.T @ np.linalg.solve(G @ G.T + damping * np.eye(3), gradient))
    assert relative_error(ravel(update), np.mean(wanted, axis=0)) < 1e-10
    assert np.all(report.converged) and report.loss.shape == (3,)
    assert all(not np.any(q) for q in update.feedback.weights)


@pytest.mark.parametrize("damping", [0.0, 0.2])
def test_minimum_norm_in_numpy(damping: float) -> None:
    model, x, y = setting(3)
    update, _ = learn(dfc.MinimumNorm(damping=jnp.asarray(damping)), model, x, y)
    for i, layer in enumerate(update.layers):
        weight, bias = 0, 0
        for label, (_, rates, J) in zip(np.asarray(y), states(model, x), strict=True):
            z = np.linalg.solve(J @ J.T + damping * np.eye(3), softmax(rates[-1]) - label)
            dv = np.split(J.T @ z, [6, 11])[i] / 3
            weight, bias = weight + np.outer(dv, rates[i]), bias + dv
        assert relative_error(layer.transform.weight, weight) < 1e-10
        assert relative_error(layer.transform.bias, bias) < 1e-10


@pytest.mark.script
def test_null_space_fraction() -> None:
    model, x, y = setting(3)
    method = dfc.DFCSSA()
    found = eqx.filter_jit(dfc.null_space_fraction)(method, model, x, y)
    for i in range(3):
        G = parameter_jacobian(model, x[i])
        update = ravel(learn(method, model, x[i : i + 1], y[i : i + 1])[0])
        wanted = np.linalg.norm(update - np.linalg.pinv(G) @ (G @ update)) / np.linalg.norm(update)
        assert 0.1 < wanted < 1 and np.isclose(found[i], wanted, rtol=1e-6)
    exact = dfc.GaussNewton(damping=jnp.asarray(0.0))
    assert np.all(eqx.filter_jit(dfc.null_space_fraction)(exact, model, x, y) < 1e-6)


@pytest.mark.script
@pytest.mark.parametrize("loss", [dfc.CrossEntropy(), dfc.MeanSquaredError()])
def test_target_alignment(loss: dfc.AbstractLoss) -> None:
    model, x, y = setting(3)
    method = dfc.DFCSSA(loss=loss)
    found = eqx.filter_jit(dfc.target_alignment)(method, model, x, y)
    softly = isinstance(loss, dfc.CrossEntropy)
    for i, (_, rates, _) in enumerate(states(model, x)):
        way = np.asarray(y[i]) - (softmax(rates[-1]) if softly else rates[-1])
        change = -parameter_jacobian(model, x[i]) @ ravel(learn(method, model, x[i : i + 1], y[i : i + 1])[0])
        wanted = change @ way / np.linalg.norm(change) / np.linalg.norm(way)
        assert 0.1 < wanted < 0.9999 and np.isclose(found[i], wanted, rtol=1e-9)
    exact = dfc.GaussNewton(loss, damping=jnp.asarray(0.0))
    np.testing.assert_allclose(eqx.filter_jit(dfc.target_alignment)(exact, model, x, y), 1, atol=1e-9)


def test_feedback_ratio() -> None:
    model, x, y = setting()
    loop = dfc.ClosedLoop(model, dfc.PIController(), dfc.Nudge(0.5))
    found = find(dfc.Broyden(), loop, x, y)
    ratios = eqx.filter_jit(dfc.feedback_ratio)(loop, take_samples(loop, x, y), found)
    plain = Plain(model)
    for k, (sample, u) in enumerate(zip(np.asarray(x), np.asarray(found.control), strict=True)):
        basal = plain.basal(sample, plain.settle(sample, u)[1])
        wanted = [np.linalg.norm(Q @ u) / np.linalg.norm(v) for Q, v in zip(plain.Q, basal, strict=True)]
        assert np.allclose([ratio[k] for ratio in ratios], wanted)


def test_second_order_methods_say_what_is_wrong() -> None:
    for method in (dfc.MinimumNorm, dfc.GaussNewton):
        with pytest.raises(ValueError, match="`damping` is -1"):
            method(damping=-1.0)


@pytest.mark.slow
def test_a_run_records_what_was_asked_for(digits_run) -> None:
    model, history, data = digits_run
    first, second, third = history.records
    assert "condition_two" not in first and "condition_two" not in third
    x, y = jnp.asarray(data.validation.x[:16]), jnp.asarray(data.validation.y[:16])
    assert len(second["angle_to_backprop_by_layer"]) == len(model.layers) == len(second["feedback_ratio"])
    for name in ("backprop", "minimum_norm", "gauss_newton", "dfc_ssa"):
        assert 0 <= second[f"angle_to_{name}"] < 90
    method = cast(dfc.DFCSS(), jnp.float32)
    again = cast(dfc.Diagnostics(samples=16), jnp.float32)(history.best_model, method, data.validation)
    assert again["condition_two"] == pytest.approx(float(jnp.mean(dfc.condition_two(history.best_model, x))))
    loop = method.loop(history.best_model)
    eigenvalues = dfc.loop_eigenvalues(loop, take_samples(loop, x, y))
    assert again["largest_real_part"] == pytest.approx(eigenvalues.real.max(), rel=1e-6) and not np.isnan(
        again["null_space_fraction"]
    )


@pytest.fixture(scope="module")
def digits_run() -> tuple[dfc.Network, dfc.History, dfc.Dataset]:
    data = dfc.load("digits")
    model = cast(dfc.mlp((64, 12, 10), key=jr.key(0)), jnp.float32)
    options = dict(epochs=3, key=jr.key(1), progress=False)
    diagnostics, method = cast((dfc.Diagnostics(2, 16), dfc.DFCSS()), jnp.float32)
    model, history = dfc.fit(model, method, data, sgd(0.1), diagnostics=diagnostics, **options)
    return model, history, data


def test_methods_without_a_controller_have_angles_only() -> None:
    data = dfc.load("digits")
    model = cast(dfc.mlp((64, 12, 10), key=jr.key(0)), jnp.float32)
    diagnostics, method = cast((dfc.Diagnostics(samples=16), dfc.GaussNewton()), jnp.float32)
    found = diagnostics(model, method, data.validation)
    assert found["angle_to_gauss_newton"] < 1e-3 and found["angle_to_backprop"] > 1
    assert 0.9 < found["target_alignment"] < 1.001  # damped
    assert not {"condition_two", "largest_real_part", "angle_to_dfc_ssa"} & found.keys()


def test_measures_of_ones_own_stand_beside_the_others() -> None:
    data = dfc.load("digits")
    model = cast(dfc.mlp((64, 12, 10), key=jr.key(0)), jnp.float32)
    method = cast(dfc.GaussNewton(), jnp.float32)

    def loss(model, method, x, y):
        return {"own_loss": jnp.mean(jax.vmap(method.loss)(jax.vmap(model)(x), y)), "own_inputs": x[:2, 0]}

    samples = lambda also: cast(dfc.Diagnostics(samples=16, also=also), jnp.float32)
    plain, found = (samples(also)(model, method, data.validation) for also in ((), (loss,)))
    output = np.asarray(jax.vmap(model)(data.validation.x[:16]), np.float64)
    likelihood = np.sum(output * data.validation.y[:16], axis=1) - np.log(np.exp(output).sum(axis=1))
    assert found.pop("own_loss") == pytest.approx(-np.mean(likelihood), rel=1e-5)
    assert found.pop("own_inputs") == data.validation.x[:2, 0].tolist()
    assert found == plain

    with pytest.raises(ValueError, match=r"`also` holds a measure named \['angle_to_backprop'\]"):
        samples((lambda *_: {"angle_to_backprop": 0.0},))(model, method, data.validation)


def test_diagnostics_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"`also` is .*; it must be a tuple of functions"):
        dfc.Diagnostics(also=lambda *_: {})
    with pytest.raises(ValueError, match="`every` is 0"):
        dfc.Diagnostics(0)
    with pytest.raises(ValueError, match="`samples` is 0"):
        dfc.Diagnostics(samples=0)


def silenced(outputs: list[int]) -> tuple[dfc.Network, Array, Array]:
    """A setting whose output neurons are ReLUs, some of them silent for every sample."""
    model, x, y = setting(output_activation=dfc.ReLU())
    bias = jnp.full(3, 20.0).at[jnp.asarray(outputs)].set(-20.0)
    return eqx.tree_at(lambda m: m.layers[-1].transform.bias, model, bias), x, y


@pytest.mark.parametrize("outputs", [[1], [0, 2], [0, 1, 2]])
def test_silent_outputs_leave_the_pseudo_inverse(outputs: list[int]) -> None:
    model, x, y = silenced(outputs)
    Q = np.concatenate([np.asarray(weights) for weights in model.feedback.weights])
    wanted = [np.linalg.norm(np.linalg.pinv(J) @ J @ Q) / np.linalg.norm(Q) for *_, J in states(model, x)]
    np.testing.assert_allclose(dfc.condition_two(model, x), wanted, atol=1e-12)
    if len(outputs) < 3:
        angles = dfc.feedback_angles(model, x, 0.0)
        for angle, (*_, J) in zip(angles, states(model, x), strict=True):
            inverse = np.linalg.pinv(J)
            cosine = np.sum(Q * inverse) / np.linalg.norm(Q) / np.linalg.norm(inverse)
            np.testing.assert_allclose(np.cos(np.radians(angle)), cosine, atol=1e-10)
    loss = dfc.MeanSquaredError()
    update, _ = learn(dfc.GaussNewton(loss, 0.0), model, x[:1], y[:1])
    G = parameter_jacobian(model, x[0])
    delta = -np.asarray(loss.gradient(model(x[0]), y[0]))
    np.testing.assert_allclose(ravel(update), -np.linalg.pinv(G) @ delta, atol=1e-10)
    method = dfc.Backprop(loss)
    for found, sample, label in zip(dfc.null_space_fraction(method, model, x, y), x, y, strict=True):
        G, own = parameter_jacobian(model, sample), ravel(learn(method, model, sample[None], label[None])[0])
        if np.any(own):
            left = own - np.linalg.pinv(G) @ G @ own
            np.testing.assert_allclose(found, np.linalg.norm(left) / np.linalg.norm(own), atol=1e-7)
    update, _ = learn(dfc.MinimumNorm(loss, 0.0), model, x, y)
    assert np.all(np.isfinite(ravel(update)))


def test_one_silent_sample_is_left_out_of_the_means() -> None:
    """Its Jacobian is zero, and makes no angle with anything."""
    model, x, y = setting(20, output_activation=dfc.ReLU())
    voltages = jax.vmap(lambda sample: model.feedforward(sample).voltages[-1])(x)
    lowest = jnp.argmin(jnp.sum(voltages, axis=1))
    silent = voltages[lowest] + 0.1
    model = eqx.tree_at(lambda m: m.layers[-1].transform.bias, model, replace_fn=lambda b: b - silent)
    angles = np.asarray(dfc.feedback_angles(model, x))
    assert np.isnan(angles[lowest]) and np.sum(np.isfinite(angles)) > 0
    loss = dfc.MeanSquaredError()
    found = dfc.Diagnostics()(model, dfc.DFCSS(loss=loss), dfc.Split(np.asarray(x), np.asarray(y)))
    assert np.isclose(found["angle_of_feedback_to_transposed_jacobian"], np.nanmean(angles))
    for name in ("angle_of_feedback_to_pseudo_inverse", "target_alignment", "null_space_fraction"):
        assert np.isfinite(found[name]), name
