"""The surrogate loss of strong feedback, its gradient, and the idealised feedback that descends it."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import angle, find, flat, make_batch, make_network, Plain, relative_error, softmax, take_samples
from scipy.optimize import root

import dfc_jax as dfc


PRECISE = dfc.ControlledJacobian(dfc.Broyden(rtol=1e-10, max_iterations=60), rtol=1e-8, max_iterations=300)
LOSSES = {
    "squared": (dfc.MeanSquaredError(), dfc.Clamp()),
    "cross_entropy": (dfc.CrossEntropy(), dfc.Clamp(0.9)),
}


def setting(name: str, alpha: float, feedback: object, activation=dfc.Tanh()):
    loss, target = LOSSES[name]
    model = make_network(jr.key(1), (6, 8, 7, 3), activation, feedback)
    x, y = make_batch(jr.key(2), 6, 6, 3)
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, alpha), target, loss)
    return loop, x, y, take_samples(loop, x, y)


def update_of(loop: dfc.ClosedLoop, x, y, **options: object) -> dfc.Network:
    method = dfc.DFCSS(loop.controller, loop.target, loop.loss, PRECISE, None, **options)
    update, report = eqx.filter_jit(method)(loop.network, x, y)
    assert np.all(report.converged)
    return update


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("squared", marks=pytest.mark.script), "cross_entropy"])
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    """H once more in NumPy, its steady states by SciPy; with a leak and feedback that make a difference."""
    loop, x, y, samples = setting(name, 0.3, dfc.RandomFeedback())
    found = find(dfc.Broyden(rtol=1e-11), loop, x, y)
    gradient = eqx.filter_jit(dfc.surrogate_gradient)(loop, x, y, samples, found)
    plain = Plain(loop.network)

    def mean_loss() -> float:
        total = 0.0
        for a, b, start in zip(*map(np.asarray, (x, y, found.control)), strict=True):
            label = np.where(b == 1, 0.9, 0.05) if name == "cross_entropy" else b

            def remaining(u, a=a, label=label):
                output = plain.settle(a, u)[1][-1]
                return label - (softmax(output) if name == "cross_entropy" else output) - 0.3 * u

            u = root(remaining, start, tol=1e-13).x
            total += sum(np.sum((Q @ u) ** 2) for Q in plain.Q) / 2
        return total / len(x)

    H = eqx.filter_jit(dfc.surrogate_loss)(loop, samples, found)
    assert float(jnp.mean(H)) == pytest.approx(mean_loss(), rel=1e-9)
    for layer, i, j in ((0, 2, 3), (1, 4, 1), (2, 0, 6), (2, 1, None)):
        array, position = (plain.b, i) if j is None else (plain.W, (i, j))
        array[layer] = array[layer].copy()
        ends = []
        for step in (1e-5, -2e-5):
            array[layer][position] += step
            ends.append(mean_loss())
        array[layer][position] += 1e-5
        dense = gradient.layers[layer].transform
        found_here = dense.bias[i] if j is None else dense.weight[i, j]
        assert float(found_here) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-8)
    assert not np.any(flat(gradient.feedback))


@pytest.mark.script
@pytest.mark.parametrize("name", ["squared", "cross_entropy"])
def test_idealised_updates_descend_the_surrogate_loss(name: str) -> None:
    """Q = J^T in the controlled state: the voltage rule is the gradient itself as the leak vanishes."""
    angles, sizes = [], []
    for alpha in (1e-2, 1e-4):
        loop, x, y, samples = setting(name, alpha, dfc.ExactFeedback())
        found = eqx.filter_jit(PRECISE)(loop, samples)
        settled = PRECISE.samples_at_rest(loop, samples, found)
        gradient = eqx.filter_jit(dfc.surrogate_gradient)(loop, x, y, settled, found)
        method = dfc.DFCSS(
            *(loop.controller, loop.target, loop.loss, PRECISE, None, True), teaching=dfc.VoltageDifference()
        )
        update, _ = eqx.filter_jit(method)(loop.network, x, y)
        angles.append(angle(update.layers, gradient.layers))
        sizes.append(np.linalg.norm(flat(update.layers)) / np.linalg.norm(flat(gradient.layers)))
    assert angles[1] < 0.05 and angles[1] < angles[0] / 10
    assert sizes[1] == pytest.approx(1, abs=1e-3)
    assert angle(update_of(loop, x, y).layers, gradient.layers) > 1  # rates, of tanh, are another thing


@pytest.mark.slow
@pytest.mark.parametrize("equilibrium", [PRECISE, dfc.OptimalControl(rtol=1e-9)])
def test_diagnostics_measure_the_steady_state_that_the_method_learns_in(equilibrium) -> None:
    """Where the theorem holds, and |Q u|^2 is |eps|^2; not so in the state of the feedforward Jacobian."""
    loop, x, y, samples = setting("squared", 1e-4, dfc.ExactFeedback())
    method = dfc.DFCSS(
        *(loop.controller, loop.target, loop.loss, equilibrium, None, True), teaching=dfc.VoltageDifference()
    )
    numbers = dfc.Diagnostics()(loop.network, method, dfc.Split(np.asarray(x), np.asarray(y)))
    found = eqx.filter_jit(equilibrium)(loop, samples)
    assert numbers["surrogate_loss"] == pytest.approx(float(jnp.mean(dfc.control_energy(found))), rel=1e-6)
    assert numbers["angle_to_surrogate_gradient"] < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("kind", [dfc.DFC, dfc.DFCSSA, dfc.StrongDFC])
def test_diagnostics_measure_rest_where_the_method_learns_in_other_states(kind: type) -> None:
    """The mean of |Q u|^2 / 2 where y - softmax(r_L) = a u, by SciPy."""
    loop, x, y, _ = setting("cross_entropy", 0.1, dfc.ProductOfWeights())
    plain, losses = Plain(loop.network), []
    for a, b in zip(*map(np.asarray, (x, y)), strict=True):

        def remaining(u, a=a, label=np.where(b == 1, 0.9, 0.05)):
            return label - softmax(plain.settle(a, u)[1][-1]) - 0.1 * u

        u = root(remaining, np.zeros(3), tol=1e-12).x
        assert np.max(np.abs(remaining(u))) < 1e-9
        losses.append(sum(np.sum((Q @ u) ** 2) for Q in plain.Q) / 2)
    method = kind(controller=loop.controller, target=loop.target, loss=loop.loss)
    numbers = dfc.Diagnostics()(loop.network, method, dfc.Split(np.asarray(x), np.asarray(y)))
    assert numbers["surrogate_loss"] == pytest.approx(np.mean(losses), rel=5e-3)


@pytest.mark.slow
def test_the_idealised_rest_is_that_of_dynamics_which_recompute_the_feedback() -> None:
    loop, x, y, samples = setting("squared", 0.05, dfc.ExactFeedback())
    found = eqx.filter_jit(PRECISE)(loop, samples)
    plain = Plain(loop.network)
    v, r = Plain(make_network(jr.key(1), (6, 8, 7, 3))).settle(np.asarray(x[0]))
    assert relative_error(v, jax.tree.map(lambda a: a[0], samples.feedforward.voltages)) < 1e-12
    u = np.zeros(3)
    for _ in range(6000):
        error = np.asarray(y[0]) - r[-1]
        u = u + 0.02 * (error - 0.05 * u)
        before = np.asarray(x[0])
        for i, J in enumerate(plain.jacobian(v)):
            v[i] = v[i] + 0.1 * (plain.W[i] @ before + plain.b[i] + J.T @ u - v[i])
            r[i] = before = plain.phi[i](v[i])
    assert relative_error(found.control[0], u) < 1e-6
    displaced = zip(samples.feedforward.voltages, found.deviation.voltage, strict=True)
    assert relative_error([(base + d)[0] for base, d in displaced], v) < 1e-6


def test_what_does_not_settle_is_said(getkey) -> None:
    loop, _, _, samples = setting("cross_entropy", 1e-4, dfc.ExactFeedback())
    hasty = dataclasses.replace(PRECISE, max_iterations=2)
    assert not np.any(eqx.filter_jit(hasty)(loop, samples).converged)
    with pytest.raises(ValueError, match="FeedbackWeights, which is the same in every state"):
        PRECISE(dataclasses.replace(loop, network=make_network(getkey(), (6, 8, 7, 3))), samples)


@pytest.mark.slow
def test_learning_lowers_the_surrogate_loss() -> None:
    """In the idealised setting; and the output loss with it."""
    loop, x, y, _ = setting("cross_entropy", 1e-3, dfc.ExactFeedback())
    settle = dfc.ControlledJacobian(dfc.Broyden(rtol=1e-6), rtol=1e-4)
    method = dfc.DFCSS(
        loop.controller, loop.target, loop.loss, settle, teaching=dfc.VoltageDifference(), fallback=None
    )

    @eqx.filter_jit
    def step(model: dfc.Network):
        update, report = method(model, x, y)
        here = method.loop(model)
        samples = jax.vmap(here.sample)(x, y)
        found = settle(here, samples)
        H = jnp.mean(dfc.surrogate_loss(here, settle.samples_at_rest(here, samples, found), found))
        layers = jax.tree.map(lambda w, g: w - 0.1 * g, model.layers, update.layers)
        return dfc.Network(layers, model.feedback), H, jnp.mean(report.loss)

    model, curve, losses = loop.network, [], []
    for _ in range(60):
        model, H, loss = step(model)
        curve.append(float(H))
        losses.append(float(loss))
    assert np.all(np.diff(curve) < 0) and curve[-1] < 0.1 * curve[0]
    assert losses[-1] < 0.5 * losses[0]
