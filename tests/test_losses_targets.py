"""Losses, their gradients, and the errors the controller works on."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import cast, make_batch, make_network, relative_error, softmax, take_samples

import dfc_jax as dfc


LOSSES = [dfc.MeanSquaredError(), dfc.CrossEntropy()]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=repr)


@every_loss
def test_gradient_is_the_derivative_of_the_loss(loss: dfc.AbstractLoss, getkey) -> None:
    output = 3 * jr.normal(getkey(), (5, 4))
    soft = jax.nn.softmax(jr.normal(getkey(), (5, 4)))
    wanted, found = jax.jit(jax.vmap(jax.grad(loss))), jax.jit(jax.vmap(loss.gradient))
    for y in (soft, jnp.eye(4)[jnp.array([0, 1, 2, 3, 1])]):
        assert relative_error(found(output, y), wanted(output, y)) < 1e-13


def test_values_in_plain_numpy(getkey) -> None:
    output, y = np.asarray(jr.normal(getkey(), (4,))), np.array([0.1, 0.2, 0.3, 0.4])
    assert (
        relative_error(
            dfc.MeanSquaredError()(jnp.asarray(output), jnp.asarray(y)), np.mean((output - y) ** 2)
        )
        < 1e-14
    )
    entropy = -np.sum(y * np.log(softmax(output)))
    assert relative_error(dfc.CrossEntropy()(jnp.asarray(output), jnp.asarray(y)), entropy) < 1e-14


@pytest.mark.parametrize("margin", [5.0, 15.0, 25.0])
def test_cross_entropy_gradient_keeps_its_digits_late_in_training(margin: float) -> None:
    """At a margin of 15 the label's probability rounds to one in float32, yet 1 - p must not become 0."""
    output = jnp.array([margin, 0.3, -0.7, 0.1], jnp.float32)
    y = jnp.array([1.0, 0, 0, 0], jnp.float32)
    loss = dfc.CrossEntropy()
    found = np.asarray(loss.gradient(output, y), np.float64)
    others = np.exp(np.asarray(output[1:], np.float64) - np.float64(output[0]))
    p = others / (1 + np.sum(others))
    np.testing.assert_allclose(found, [-np.sum(p), *p], rtol=1e-5)
    np.testing.assert_allclose(loss.readout.error(output, y), -found, rtol=1e-12)


@every_loss
@pytest.mark.parametrize("size", [1e-6, 1e-2, 1.0, 60.0])
def test_a_readouts_difference_is_the_fall_of_its_error(loss: dfc.AbstractLoss, size: float, getkey) -> None:
    output, y = jr.normal(getkey(), (20, 5)), jax.nn.softmax(jr.normal(getkey(), (20, 5)))
    change = size * jr.normal(getkey(), (20, 5))
    squash = np.vectorize(softmax, signature="(n)->(n)") if isinstance(loss, dfc.CrossEntropy) else np.asarray
    before, after = squash(np.asarray(output)), squash(np.asarray(output + change))
    assert relative_error(jax.vmap(loss.readout.error)(output, y), np.asarray(y) - before) < 1e-13
    found = jax.vmap(loss.readout.difference)(output, change)
    assert np.max(np.abs(np.asarray(found) - (after - before))) < 3e-16 + 1e-13 * min(size, 1)
    single = jax.vmap(loss.readout.difference)(output.astype(jnp.float32), change.astype(jnp.float32))
    exact = jax.vmap(loss.readout.difference)(
        *(a.astype(jnp.float32).astype(jnp.float64) for a in (output, change))
    )
    # Relative to each sample's own largest change: nothing is lost to the size of the output.
    errors = np.max(np.abs(np.asarray(single, np.float64) - exact), axis=1) / np.max(np.abs(exact), axis=1)
    # An exponent of size 60 has that many roundings of one.
    assert np.max(errors) < 5e-6 * max(1, size / 30)


@pytest.mark.parametrize("margin", [6.0, 12.0, 20.0])
def test_softmax_difference_keeps_its_digits_late_in_training(margin: float) -> None:
    """To soften its output a confident network must change its logits much."""
    output = jnp.array([margin, 0.3, -0.7, 0.1, 1.0], jnp.float32)
    wanted = jnp.array([0.99, 0.0025, 0.0025, 0.0025, 0.0025])
    change = jnp.log(wanted.astype(jnp.float32)) - output
    found = np.asarray(dfc.SoftmaxReadout().difference(output, change), np.float64)
    before, after = (
        softmax(np.asarray(z, np.float64))
        for z in (output, np.asarray(output, np.float64) + np.asarray(change))
    )
    assert np.max(np.abs(found - (after - before))) < 1e-5 * np.max(np.abs(after - before))


@pytest.mark.parametrize(
    "output, change",
    [
        ([200, 0, 0], [0, 150, 0]),
        ([90, 0, 0], [0, 80, 0]),
        ([200, 0, 0], [0, 250, 0]),
        ([9, 0, 0], [-300, 0, 0]),
    ],
    ids=str,
)
def test_softmax_difference_of_logits_beyond_float32(output: list[float], change: list[float]) -> None:
    before, after = (softmax(np.asarray(z, np.float64)) for z in (output, np.add(output, change)))
    single = jnp.asarray(output, jnp.float32), jnp.asarray(change, jnp.float32)
    found = dfc.SoftmaxReadout().difference(*single)
    np.testing.assert_allclose(found, after - before, rtol=1e-4, atol=1e-7)
    slope = jax.jacfwd(dfc.SoftmaxReadout().difference, argnums=1)(*single)
    np.testing.assert_allclose(slope, np.diag(after) - np.outer(after, after), rtol=1e-4, atol=1e-6)


def test_softmax_difference_of_a_common_shift_is_nothing() -> None:
    output = jnp.array([0.3, -0.2, 1.0])
    found = dfc.SoftmaxReadout().difference(output, jnp.full(3, 500.0))
    np.testing.assert_allclose(found, 0, atol=1e-16)


@every_loss
def test_nudged_target_is_a_step_down_the_gradient(loss: dfc.AbstractLoss, getkey) -> None:
    output, y = jr.normal(getkey(), (3,)), jnp.array([0.0, 1.0, 0.0])
    nudge = dfc.Nudge(0.3)
    wanted = output - 0.3 * jax.grad(loss)(output, y)
    assert relative_error(output + nudge.initial_error(loss, output, y), wanted) < 1e-14
    change = jr.normal(getkey(), (3,))
    remaining = nudge.initial_error(loss, output, y) - nudge.readout(loss).difference(output, change)
    assert relative_error(remaining, wanted - (output + change)) < 1e-14
    assert nudge.unit() == 0.3


def test_rest_and_clamp(getkey) -> None:
    output, y, change = jr.normal(getkey(), (3,)), jnp.array([0.2, 0.5, 0.3]), jr.normal(getkey(), (3,))
    loss = dfc.CrossEntropy()
    assert np.all(dfc.Rest().initial_error(loss, output, y) == 0)
    assert relative_error(dfc.Rest().readout(loss).difference(output, change), change) == 0
    error = dfc.Clamp().initial_error(loss, output, y) - dfc.Clamp().readout(loss).difference(output, change)
    assert relative_error(error, y - jax.nn.softmax(output + change)) < 1e-14
    assert dfc.Rest().unit() == 1 and dfc.Clamp().unit() == 1


def test_a_target_does_not_depend_on_the_batch(getkey) -> None:
    """The nudge acts on the loss of one sample, never on a loss divided by the batch size."""
    loop = dfc.ClosedLoop(make_network(getkey()), target=dfc.Nudge(0.1))
    x, y = make_batch(getkey(), 8)
    samples = take_samples(loop, x, y)
    pairs = zip(np.asarray(samples.feedforward.output), np.asarray(y), strict=True)
    assert relative_error(samples.error, np.stack([-0.1 * (softmax(r) - t) for r, t in pairs])) < 1e-13
    for size in (1, 3):
        assert relative_error(take_samples(loop, x[:size], y[:size]).error, samples.error[:size]) < 1e-14


def test_single_precision_stays_single(getkey) -> None:
    output, y = cast((jr.normal(getkey(), (3,)), jnp.array([0.2, 0.5, 0.3])), jnp.float32)
    for loss in LOSSES:
        for target in (dfc.Nudge(0.1), dfc.Clamp(), dfc.Rest()):
            error = target.initial_error(loss, output, y)
            assert error.dtype == target.readout(loss).difference(output, error).dtype == jnp.float32


@pytest.mark.parametrize("nudge", [0.0, -1.0, float("nan")])
def test_nudge_rejects_what_is_no_step(nudge: float) -> None:
    with pytest.raises(ValueError, match=r"`nudge` is .* greater than 0"):
        dfc.Nudge(nudge)


def test_a_nudge_may_be_swept(getkey) -> None:
    output, y = jr.normal(getkey(), (3,)), jnp.array([0.0, 1.0, 0.0])
    error = lambda size: dfc.Nudge(size).initial_error(dfc.CrossEntropy(), output, y)
    errors = eqx.filter_vmap(error)(jnp.array([0.1, 0.2]))
    assert relative_error(errors[1], 2 * errors[0]) < 1e-15
