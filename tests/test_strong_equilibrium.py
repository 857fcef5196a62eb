"""Steady states of strong feedback, whose output is clamped, by logarithms, logits and continuation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.optimize
from helpers import (
    cast,
    find,
    make_batch,
    make_network,
    Plain,
    relative_error,
    softmax,
    take_samples,
)
from jaxtyping import Array

import dfc_jax as dfc


ALPHA = 1e-3
CONTROLLER = dfc.PIController(2.0, ALPHA)


def strong(key: Array, gain: float = 1.0) -> tuple[dfc.ClosedLoop, Array, Array]:
    """Softened labels, a third of them far from what the network says; the larger `gain`, the surer it is."""
    model = make_network(key, (4, 12, 10, 5))
    model = eqx.tree_at(lambda m: m.layers[-1].transform.weight, model, replace_fn=lambda w: gain * w)
    feedback = dfc.ProductOfWeights().init(model.layers, [(12,), (10,), (5,)], key)
    x = make_batch(jr.key(1), 24)[0]
    said = jnp.argmax(jax.vmap(model)(x), axis=1)
    labels = jnp.where(jnp.arange(24) % 3 == 0, (said + 1) % 5, said)
    y = jnp.where(jax.nn.one_hot(labels, 5) > 0, 0.99, 0.0025)
    return dfc.ClosedLoop(dfc.Network(model.layers, feedback), CONTROLLER, dfc.Clamp()), x, y


def residuals(loop: dfc.ClosedLoop, x: Array, y: Array, controls: Array) -> np.ndarray:
    """|y - softmax(r_L) - a u| / |y - softmax(r_L^-)| of every sample, in NumPy."""
    plain = Plain(loop.network)
    output = lambda a, u: softmax(plain.settle(np.asarray(a), np.asarray(u))[1][-1])
    leak = float(loop.controller.alpha)
    found = [
        np.linalg.norm(t - output(a, u) - leak * u) / np.linalg.norm(t - output(a, 0.0))
        for a, t, u in zip(*map(np.asarray, (x, y, controls)), strict=True)
    ]
    return np.asarray(found)


@pytest.mark.parametrize("gain", [1.0, 4.0])
@pytest.mark.slow
def test_strong_feedback_by_logarithms_and_by_continuation(gain: float) -> None:
    """Two schemes that share no equation find the same root, and NumPy calls it one."""
    loop, x, y = strong(jr.key(0), gain)
    secants = find(dfc.Broyden(rtol=1e-9), loop, x, y)
    continued = find(dfc.PseudoTransient(rtol=1e-9, max_iterations=200), loop, x, y)
    for name, found in (("secants", secants), ("continued", continued)):
        assert np.all(found.converged), (name, found.residual)
        assert np.all(found.converged) and np.all(found.condition_three)
        assert np.max(residuals(loop, x, y, found.control)) < 2e-9
        assert np.max(np.abs(np.asarray(found.residual) - residuals(loop, x, y, found.control))) < 1e-10
    assert relative_error(secants.control, continued.control) < 1e-5
    assert np.max(np.asarray(secants.iterations)) <= 25
    # Newton's method on the equations as they stand fails: without the logarithms this would too.
    assert not np.all(find(dfc.RootFind(), loop, x, y).converged)


@pytest.mark.parametrize("one_hot", [True, False])
@pytest.mark.parametrize("alpha", [5e-4, 1e-2, 0.4, 3.0])
def test_strong_feedback_with_a_leak_needs_no_fallback(alpha: float, one_hot: bool) -> None:
    """However sure the network, and however large the leak, against which a control near the edge of the
    distribution would be solved for: roots in NumPy's terms."""
    loop, x, y = strong(jr.key(0), 8.0)
    y = jnp.round(y) if one_hot else y
    loop = eqx.tree_at(lambda l: l.controller.alpha, loop, jnp.asarray(alpha))
    found = find(dfc.Broyden(rtol=1e-8), loop, x, y)
    assert np.all(found.converged) and np.all(found.condition_three)
    assert np.mean(np.asarray(found.iterations)) < 15
    assert np.max(residuals(loop, x, y, found.control)) < 1e-7


@pytest.mark.parametrize("value", [0.99, 1.0])
@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0])
def test_strong_feedback_of_many_outputs_needs_no_fallback(alpha: float, value: float) -> None:
    """All samples begin with one Jacobian, of one class, and are of a hundred."""
    model = dfc.mlp((30, 64, 64, 100), key=jr.key(0))
    model = eqx.tree_at(lambda m: m.layers[-1].transform.weight, model, replace_fn=lambda w: 4 * w)
    feedback = dfc.ProductOfWeights().init(model.layers, [(64,), (64,), (100,)], jr.key(1))
    network, x, y = dfc.Network(model.layers, feedback), jr.normal(jr.key(2), (16, 30)), jnp.eye(100)[3:99:6]
    loop = dfc.ClosedLoop(network, dfc.PIController(0.0, alpha), dfc.Clamp(value))
    found = find(dfc.Broyden(), loop, x, y)
    assert np.all(found.converged)
    softened = jnp.where(y > 0, value, (1 - value) / 99)
    assert np.max(residuals(loop, x, softened, found.control)) < 3.1e-5


@pytest.mark.parametrize("outputs", [5, 20])
def test_one_hot_labels_are_solved_from_inside_the_domain(outputs: int) -> None:
    """A class value of 1 asks for log 0 where no control is: no sample may fail for that."""
    model = make_network(jr.key(0), (4, 12, outputs))
    x, labels = make_batch(jr.key(1), 12)[0], jnp.eye(outputs)[jnp.arange(12) % outputs]
    loop = dfc.ClosedLoop(model, dfc.PIController(2.0, 0.1), dfc.Clamp())
    found = find(dfc.Broyden(rtol=1e-9, max_iterations=100), loop, x, labels)
    assert np.all(found.converged), found.residual
    for sample in range(3):
        plain, y = Plain(model), np.asarray(labels[sample])
        settle = lambda u: softmax(plain.settle(np.asarray(x[sample]), u)[1][-1])  # noqa: B023
        root = scipy.optimize.root(lambda u: y - settle(u) - 0.1 * u, np.zeros(outputs), tol=1e-12)  # noqa: B023
        assert root.success
        assert relative_error(found.control[sample], root.x) < 1e-6


@pytest.mark.parametrize("value", [0.99999, 1.0])
@pytest.mark.parametrize("alpha", [1e-4, 1e-2])
def test_clamped_digits_need_no_fallback(value: float, alpha: float) -> None:
    """In single precision, as users run it; a fallback would hide that the default scheme finds nothing."""
    digits = dfc.load("digits")
    x, y = jnp.asarray(digits.train.x[:64]), jnp.asarray(digits.train.y[:64])
    model = cast(make_network(jr.key(0), (64, 12, 10)), jnp.float32)
    loop = cast(dfc.ClosedLoop(model, dfc.PIController(2.0, alpha), dfc.Clamp(value)), jnp.float32)
    found = find(dfc.Broyden(), loop, x, y)
    assert np.mean(found.converged) >= 0.98 and np.mean(np.asarray(found.iterations)) < 15


def test_strong_feedback_in_single_precision() -> None:
    loop, x, y = strong(jr.key(0), 6.0)
    found = find(dfc.Broyden(), *cast((loop, x, y), jnp.float32))
    assert np.all(found.converged) and found.control.dtype == jnp.float32
    assert np.max(residuals(loop, x, y, np.asarray(found.control, np.float64))) < 1e-4


class Squashed(dfc.AbstractReadout):
    """tanh of the output: a readout of the user's own, which says no more than it must."""

    def error(self, output: Array, y: Array) -> Array:
        return y - jnp.tanh(output)

    def difference(self, output: Array, change: Array) -> Array:
        return dfc.Tanh().difference(output, change)


class SquashedError(dfc.MeanSquaredError):
    """Squared errors, whose outputs strong feedback compares with the target by their tanh."""

    @property
    def readout(self) -> dfc.AbstractReadout:
        return Squashed()


def test_a_readout_of_the_users_own_has_steady_states_and_a_gain() -> None:
    """The roots are SciPy's, and E J Q + a I is diag(1 - tanh(r_L)^2) J Q + a I in NumPy."""
    model, leak = make_network(jr.key(2)), 0.1
    smaller = lambda layer: jax.tree.map(lambda weights: 0.3 * weights, layer)  # where tanh is nearly linear
    model = eqx.tree_at(lambda m: m.layers[-1], model, replace_fn=smaller)
    x, labels = make_batch(jr.key(3), 4)
    y = 0.6 * labels - 0.3
    loop = dfc.ClosedLoop(model, dfc.PIController(1.0, leak), dfc.Clamp(), SquashedError())
    found = find(dfc.Broyden(rtol=1e-10), loop, x, y)
    assert np.all(found.converged)
    gains = jax.jit(jax.vmap(loop.gain))(take_samples(loop, x, y), found.deviation)
    plain = Plain(model)
    for a, t, control, gain in zip(*map(np.asarray, (x, y, found.control, gains)), strict=True):
        remaining = lambda u, a=a, t=t: t - np.tanh(plain.settle(a, u)[1][-1]) - leak * u
        u = scipy.optimize.root(remaining, np.zeros(3), tol=1e-12).x
        assert np.max(np.abs(remaining(u))) < 1e-10 and relative_error(control, u) < 1e-7
        voltages, rates = plain.settle(a, u)
        slopes = 1 - np.tanh(rates[-1]) ** 2
        assert np.min(slopes) < 0.99  # not linear either
        assert relative_error(gain, slopes[:, None] * plain.gain(voltages) + leak * np.eye(3)) < 1e-7


def test_stability_under_strong_feedback_is_that_of_the_dynamics() -> None:
    """Condition 3 for F, not for its logarithms: against eigenvalues in NumPy, with random feedback.

    The secants know the Jacobian at the root but roughly, so one verdict in ten may differ.
    """
    loop, x, y = strong(jr.key(0))
    verdicts, wrong = {True: 0, False: 0}, 0
    for seed in range(8):
        Q = [0.5 * jr.normal(k, (n, 5)) for k, n in zip(jr.split(jr.key(seed), 3), (12, 10, 5), strict=True)]
        Q[-1] = Q[-1] + 0.5 * jnp.eye(5)
        model = dfc.Network(loop.network.layers, dfc.FeedbackWeights(tuple(Q)))
        random = dfc.ClosedLoop(model, CONTROLLER, dfc.Clamp())
        found, plain = find(dfc.Broyden(rtol=1e-9, max_iterations=60), random, x, y), Plain(model)
        for b in np.flatnonzero(np.asarray(found.converged)):
            voltages, rates = plain.settle(np.asarray(x[b]), np.asarray(found.control[b]))
            p = softmax(rates[-1])
            gain = (np.diag(p) - np.outer(p, p)) @ plain.gain(voltages) + ALPHA * np.eye(5)
            modes = np.linalg.eigvals(gain)
            modes = np.delete(modes, np.argmin(np.abs(modes - ALPHA)))  # a common shift, never excited
            slowest = np.min(modes.real)
            if abs(slowest) > 0.01 * np.linalg.norm(gain):
                verdicts[bool(slowest > 0)] += 1
                wrong += bool(found.condition_three[b]) != (slowest > 0)
    assert min(verdicts.values()) >= 5 and wrong <= 0.1 * sum(verdicts.values()), (verdicts, wrong)
