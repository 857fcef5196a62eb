"""Optimal control: its conditions, its solvers, and what it says of what it has not solved."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import find, flat, make_batch, make_network, relative_error, softmax, take_samples
from jaxtyping import Array
from least_energy import Energy, eps_of, learn, PRECISE

import dfc_jax as dfc
from dfc_jax._steady_state import optimal_control


def test_apical_input_is_the_transposed_jacobian_times_the_control() -> None:
    """The theorem, by automatic differentiation through another program."""
    model = make_network(jr.key(5), (4, 6, 5, 3), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(6), 4)
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 0.05), dfc.Clamp())
    found = find(PRECISE, loop, x, y)

    for b in range(4):
        state = model.feedforward(x[b])
        v = [s + d[b] for s, d in zip(state.voltages, found.deviation.voltage, strict=True)]
        for i, (d, c) in enumerate(zip(found.deviation.voltage, found.deviation.basal, strict=True)):
            J = model.jacobian(v)[i]
            by_hand = jax.jacobian(lambda own, i=i, v=v: _above(model, v, i, own))(v[i])
            assert relative_error(J, by_hand) < 1e-12
            assert relative_error(d[b] - c[b], found.control[b] @ by_hand) < 1e-8


def _above(model: dfc.Network, voltages: list[Array], i: int, own: Array) -> Array:
    """The output if layer i is at `own` and the apical inputs of those above stay as they are."""
    rate = model.layers[i].activation(own)
    for k, layer in enumerate(model.layers[i + 1 :], i + 1):
        held = voltages[k] - layer.transform(model.layers[k - 1].activation(voltages[k - 1]))
        rate = layer.activation(layer.transform(rate) + held)
    return rate


@pytest.mark.slow
def test_continuation_and_iteration_agree() -> None:
    model = make_network(jr.key(5), (4, 8, 8, 3), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(6), 6)
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 1e-3), dfc.Clamp())
    one, other = find(PRECISE, loop, x, y), find(dfc.LeakContinuation(rtol=1e-10), loop, x, y)
    assert np.all(one.converged) and np.all(other.converged)
    assert relative_error(other.control, one.control) < 1e-8


@pytest.mark.slow
def test_continuation_solves_what_the_iteration_leaves_over() -> None:
    """Sixteen layers, strongly clamped."""
    model = make_network(jr.key(1), (6, *[12] * 15, 3), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(2), 8, 6)
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 1e-4), dfc.Clamp())
    left = ~np.asarray(find(dfc.OptimalControl(), loop, x, y).converged)
    assert np.any(left)
    _, report = learn(dfc.LeastControl(1e-4), model, x, y)
    assert np.array_equal(report.fallback, left)
    for b in np.flatnonzero(left)[:2]:  # a minute for all of them
        found = find(dfc.LeakContinuation(rtol=1e-8), loop, x[b : b + 1], y[b : b + 1])
        eps = eps_of(found, 0)
        gradient = Energy(model, x[b], y[b], 1e-4, squared=False).gradient(eps)
        assert np.linalg.norm(gradient) < 1e-4 * np.linalg.norm(eps)


@pytest.mark.slow
@pytest.mark.parametrize("fallback", [dfc.PseudoTransient(1e-10, 300), dfc.LeakContinuation()])
def test_any_fallback_solves_the_equations_of_optimal_control(fallback: dfc.AbstractEquilibrium) -> None:
    """And not those of the feedforward Jacobian, which `PseudoTransient` would be given by itself."""
    model = make_network(jr.key(5), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(6), 4)
    controller, target = dfc.PIController(0.0, 0.1), dfc.Clamp(0.99)
    wanted = find(PRECISE, dfc.ClosedLoop(model, controller, target), x, y)
    nothing = dfc.OptimalControl(max_iterations=1)
    method = dfc.DFCSS(controller, target, equilibrium=nothing, fallback=fallback)
    _, report = learn(method, model, x, y)
    assert np.all(report.fallback)
    assert relative_error(report.control, wanted.control) < 1e-3


def test_residual_is_of_all_conditions() -> None:
    """The larger of the output's and that of eps = J(v)^T u, in NumPy, after two iterations."""
    model = make_network(jr.key(0), (4, 6, 5, 3), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(1), 5)
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 0.1), dfc.Clamp())
    found = find(dfc.OptimalControl(max_iterations=2), loop, x, y)
    assert not np.any(found.converged)
    for b in range(5):
        eps = eps_of(found, b)
        energy = Energy(model, x[b], y[b], 0.1, squared=False)
        voltages, rates = energy.state(eps)
        pulled = np.concatenate([found.control[b] @ J for J in energy.plain.jacobian(voltages)])
        error = y[b] - softmax(rates[-1]) - 0.1 * found.control[b]
        without = y[b] - softmax(energy.state(0 * eps)[1][-1])
        wanted = [np.linalg.norm(pulled - eps) / np.linalg.norm(pulled)]
        wanted.append(np.linalg.norm(error) / np.linalg.norm(without))
        assert np.isclose(found.residual[b], max(wanted), rtol=1e-6)


def test_what_does_not_converge_teaches_nothing() -> None:
    model = make_network(jr.key(0))
    x, y = make_batch(jr.key(1), 4)
    method = dfc.LeastControl(1e-3, equilibrium=dfc.OptimalControl(max_iterations=1), fallback=None)
    update, report = method(model, x, y)
    assert not np.any(report.converged) and np.all(flat(update) == 0)


@pytest.mark.slow
def test_no_sample_depends_on_its_companions() -> None:
    """Many converge before the others, which go on in a batch of their own."""
    model = make_network(jr.key(0), (4, 6, 5, 3), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(1), 150)
    x = x * jnp.where(jnp.arange(150) % 10 == 0, 3.0, 0.1)[:, None]
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 1e-3), dfc.Clamp())
    strategy = dfc.OptimalControl(rtol=1e-3)
    together = find(strategy, loop, x, y)
    assert np.all(together.converged) and len(np.unique(together.iterations)) > 2
    for part in (slice(0, 40), slice(110, 150)):
        alone = find(strategy, loop, x[part], y[part])
        assert np.array_equal(alone.iterations, together.iterations[part])
        assert relative_error(alone.control, together.control[part]) < 1e-12


@pytest.mark.slow
def test_feature_maps_and_many_outputs() -> None:
    """A convolutional network, and more outputs than hidden neurons."""
    convolutional = dfc.convnet((6, 6, 2), (3,), (5, 3), key=jr.key(0), feedback=dfc.ExactFeedback())
    wide = make_network(jr.key(1), (4, 7, 40), feedback=dfc.ExactFeedback())
    for model, inputs, outputs in ((convolutional, 72, 3), (wide, 4, 40)):
        x, y = make_batch(jr.key(2), 5, inputs, outputs)
        update, report = learn(dfc.LeastControl(0.01, equilibrium=PRECISE, fallback=None), model, x, y)
        loop = dfc.LeastControl(0.01).loop(model)
        found = find(PRECISE, loop, x, y)
        for b in range(5):
            voltages = [
                v + d[b]
                for v, d in zip(model.feedforward(x[b]).voltages, found.deviation.voltage, strict=True)
            ]
            wanted = [jnp.tensordot(found.control[b], J, axes=1) for J in model.jacobian(voltages)]
            assert relative_error(eps_of(found, b), wanted) < 1e-8
        assert np.any(flat(update) != 0) and np.all(report.residual < 1e-10)


@pytest.mark.slow
def test_idealised_strong_feedback_is_the_same_state() -> None:
    """`ControlledJacobian`, which shares no equation with the iteration, finds it."""
    model = make_network(jr.key(5), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(6), 4)
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 0.1), dfc.Clamp(0.99))
    turns = dfc.ControlledJacobian(dfc.Broyden(rtol=1e-11, max_iterations=60), rtol=1e-10, max_iterations=300)
    one, other = find(PRECISE, loop, x, y), find(turns, loop, x, y)
    assert relative_error(one.control, other.control) < 1e-8


def test_wrong_settings_are_refused(unchecked) -> None:
    for method in (dfc.LeastControl, dfc.PredictiveCoding):
        with pytest.raises(ValueError, match=r"`alpha` is 0.0; it must be a finite number greater than 0"):
            method(alpha=0)
    for part in ({"equilibrium": dfc.Broyden()}, {"fallback": dfc.PseudoTransient()}):
        with pytest.raises(ValueError, match=r"it must be of the type AbstractOptimalControl"):
            dfc.LeastControl(**part)
    model = make_network(jr.key(0))
    strategy = dfc.DFCSS(target=dfc.Clamp(), equilibrium=dfc.OptimalControl())
    with pytest.raises(
        ValueError, match=r"`model.feedback` is FeedbackWeights; optimal control is that of Exact"
    ):
        strategy(model, *make_batch(jr.key(1), 2))


@pytest.mark.slow
def test_diagnostics_are_of_the_methods_own_state() -> None:
    """The model's feedback weights, which play no part, are not measured; the energies are."""
    model = make_network(jr.key(0), (4, 6, 3), feedback=dfc.RandomFeedback())
    x, y = make_batch(jr.key(1), 5)
    method = dfc.LeastControl(0.3, equilibrium=PRECISE, fallback=None)
    numbers = dfc.Diagnostics()(model, method, dfc.Split(x, y))
    loop = method.loop(model)
    samples = loop.samples(x, y)
    found = PRECISE(loop, samples)
    assert np.isclose(numbers["control_energy"], np.mean(dfc.control_energy(found)))
    assert np.isclose(numbers["energy"], np.mean(dfc.predictive_coding_energy(loop, samples, found)))
    assert numbers["condition_two"] > 1 - 1e-9 and "surrogate_loss" not in numbers


@pytest.mark.slow
def test_slopes_that_are_ahead_save_turns(change: Callable[..., None]) -> None:
    """A fifth at least, and they lead to the same states."""
    model = make_network(jr.key(0), (4, 20, 20, 3), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(1), 30)
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 0.05), dfc.Clamp())
    ahead = find(PRECISE, loop, x, y)
    change(optimal_control, "_TURNS_AHEAD", 0)
    plain = find(PRECISE, loop, x, y)
    assert np.all(ahead.converged & plain.converged)
    assert relative_error(ahead.control, plain.control) < 1e-8
    assert np.mean(ahead.iterations) < 0.8 * np.mean(plain.iterations)


@pytest.mark.slow
def test_what_the_turns_take_for_settled_is_checked_and_goes_on(change: Callable[..., None]) -> None:
    """However early the turns stop, what is said to have converged meets all conditions."""
    model = make_network(jr.key(0), (4, 6, 5, 3), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(1), 40)
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 0.05), dfc.Clamp())
    wanted = find(PRECISE, loop, x, y)
    change(optimal_control, "_MUCH_BETTER", 1e4)
    hasty = find(dfc.OptimalControl(rtol=1e-7), loop, x, y)
    assert np.all(hasty.converged) and np.all(hasty.residual <= 1e-7)
    assert relative_error(hasty.control, wanted.control) < 1e-5


def test_gram_moves_the_output_along_the_error_as_all_layers_do() -> None:
    """e^T S e = sum_i |J_i^T e|^2, exactly."""
    model = make_network(jr.key(0), (4, 7, 6, 5, 3), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(1), 1)
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 0.05), dfc.Clamp())
    sample = loop.sample(x[0], y[0])
    voltages, error = sample.feedforward.voltages, sample.error
    pulled = model.pulled_back(voltages, voltages, error)
    gram = optimal_control.approximate_gram(loop, sample, pulled)
    jacobian = np.concatenate(model.jacobian(voltages), axis=1)
    assert relative_error(error @ gram @ error, jnp.sum((error @ jacobian) ** 2)) < 1e-12

    share = optimal_control.share_of_error(loop, sample, gram)
    output = np.asarray(sample.feedforward.output)
    left = y[0] - softmax(output + share * gram @ error) - 0.05 * share * error
    assert abs(error @ left) < 1e-3 * error @ error


@pytest.mark.parametrize("tolerance", [0.03, 1e-3, 0.0])
def test_response_solves_the_readouts_equation(tolerance: float) -> None:
    """To a tolerance relative to the target error, or as well as it can."""
    model = make_network(jr.key(0), (4, 6, 5, 3), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(1), 6)
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 0.01), dfc.Clamp(0.9))
    gram, none = 40 * jnp.eye(3), jnp.zeros(3)
    samples, enough = take_samples(loop, x, y), jnp.asarray(tolerance)
    respond = jax.jit(jax.vmap(lambda s: optimal_control.response(loop, s, none, none, gram, enough)))
    outputs, errors = samples.feedforward.output, samples.error
    for found, output, error in zip(respond(samples), outputs, errors, strict=True):
        target = softmax(output) + error
        left = target - softmax(np.asarray(output + gram @ found)) - 0.01 * np.asarray(found)
        assert np.linalg.norm(left) <= (tolerance + 1e-12) * np.linalg.norm(error)
