"""Linear systems that are singular, or that an iteration leaves over."""

from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import learn, make_batch, make_network

import dfc_jax as dfc


@pytest.mark.parametrize("target", [dfc.Nudge(0.1), dfc.Clamp(0.9)], ids=["nudge", "softmax"])
@pytest.mark.parametrize("sizes", [(), (3,)], ids=["dense", "convolution"])
@pytest.mark.parametrize("feedback", [dfc.RandomFeedback(), dfc.SignSymmetry()], ids=["direct", "layered"])
def test_the_gain_along_a_control_is_the_derivative_of_the_residual(target, sizes, feedback) -> None:
    kinds = {"key": jr.key(0), "feedback": feedback}
    model = dfc.convnet((2, 4, 4), sizes, (5, 3), **kinds) if sizes else dfc.mlp((32, 5, 4, 3), **kinds)
    loop = dfc.ClosedLoop(model, dfc.PIController(2.0, 0.3), target)
    sample = loop.sample(jr.normal(jr.key(1), (32,)), jnp.eye(3)[1])

    def residual(control):
        return loop.residual(sample, control, loop.controlled(sample, control))

    @eqx.filter_jit
    def both(control):
        still, slopes = jnp.zeros_like(control), loop.network.slopes(sample.feedforward.voltages)
        along = loop.gain_along(sample, slopes, control)
        return along, -jax.jvp(residual, (still,), (control,))[1], loop.gain(sample) @ control

    along, derivative, by_matrix = both(jr.normal(jr.key(2), (3,)))
    np.testing.assert_allclose(along, derivative, rtol=1e-10)
    np.testing.assert_allclose(along, by_matrix, rtol=1e-10)


@pytest.fixture
def optimised() -> Iterator[None]:
    """Programs as users have them: the suite leaves most optimisations out."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("hidden", [16, 8], ids=["outputs", "hidden"])  # which of them are unknowns
def test_the_iterated_linear_system_holds_no_residuals_of_a_derivative(hidden: int) -> None:
    """Of feature maps, which are most of the memory, the solution needs the slopes."""
    model = dfc.convnet((3, 16, 16), (16, 16), (hidden, 10), key=jr.key(0))
    x, y = jnp.zeros((64, 3, 16, 16)), jnp.zeros((64, 10))
    needed = {}
    for method in (dfc.DFCSSA(), dfc.DFCSS(), dfc.Backprop()):
        planned = eqx.filter_jit(lambda m, *batch, method=method: method(m, *batch)[0]).lower(model, x, y)
        needed[type(method)] = planned.compile().compiled.memory_analysis().temp_size_in_bytes
    assert needed[dfc.DFCSSA] < min(needed[dfc.DFCSS], 1.5 * needed[dfc.Backprop])


def test_a_singular_linear_system_is_not_solved() -> None:
    """Without a leak a clamped softmax cannot determine the control: E J Q maps some vector to zero."""
    model, (x, y) = make_network(jr.key(0)), make_batch(jr.key(1), 4)
    leaking, without = (dfc.DFCSSA(dfc.PIController(2.0, a), dfc.Clamp(0.9)) for a in (1e-3, 0.0))
    assert np.all(learn(leaking, model, x, y)[1].converged)
    update, report = learn(without, model, x, y)
    assert not np.any(report.converged)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(update.layers))


@pytest.mark.parametrize(
    "method", [dfc.DFCSSA(), dfc.DFC(average=dfc.ClosedFormAverage())], ids=["ssa", "closed"]
)
def test_what_the_iteration_leaves_over_is_solved_directly(method: dfc.AbstractMethod, change) -> None:
    model, (x, y) = make_network(jr.key(0), (4, 6, 5, 3)), make_batch(jr.key(1), 4)
    wanted, own = learn(method, model, x, y)
    change("dfc_jax._steady_state.base._DENSE_OUTPUTS", 2)
    change("dfc_jax._steady_state.linear._LINEAR_ITERATIONS", 1)
    found, report = learn(method, model, x, y)
    assert np.all(own.converged) and np.all(report.converged) and np.all(report.iterations == 2)
    for one, other in zip(jax.tree.leaves(found.layers), jax.tree.leaves(wanted.layers), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-12)
