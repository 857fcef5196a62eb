"""Linear systems that are singular, or that an iteration leaves over."""

import jax
import jax.random as jr
import numpy as np
import pytest
from helpers import learn, make_batch, make_network

import dfc_jax as dfc


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
