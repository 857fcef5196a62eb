"""Updates are differentiable in forward mode, and in reverse where the documentation says so."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
from helpers import make_batch, make_network

import dfc_jax as dfc


CONTROL = dfc.PIController(k_p=0.5, alpha=0.1)
REVERSE = {
    "backprop": dfc.Backprop(),
    "dfa": dfc.DFA(),
    "minimum norm": dfc.MinimumNorm(damping=0.1),
    "gauss-newton": dfc.GaussNewton(damping=0.1),
    "ssa": dfc.DFCSSA(CONTROL),
    "published": dfc.DFC(CONTROL, average=dfc.PublishedAverage(dfc.PublishedEuler(states=10))),
    "root find": dfc.DFCSS(CONTROL, equilibrium=dfc.RootFind(optx.Newton(1e-12, 1e-12)), fallback=None),
}
FORWARD = REVERSE | {
    "ss": dfc.DFCSS(CONTROL, equilibrium=dfc.Broyden(1e-11)),
    "closed form": dfc.DFC(CONTROL, average=dfc.ClosedFormAverage()),
}
SLOW = pytest.mark.slow
named = lambda names: [pytest.param(n, marks=() if n in ("ssa", "backprop") else SLOW) for n in names]


def size(method: dfc.AbstractMethod, model: dfc.Network, x, y):
    """One number of an update: the square of its size."""
    update, _ = method(model, x, y)
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(update.layers))


@pytest.fixture
def line(getkey):
    """A model as a function of how far it has gone in a random direction, and a batch."""
    model = make_network(getkey())
    direction = make_network(getkey())
    at = lambda t: jax.tree.map(lambda a, b: a + t * b, model, direction)
    return at, make_batch(getkey(), 4)


def by_differences(function, step: float = 1e-5) -> float:
    """The derivative at zero, by central differences of the fourth order."""
    near, far = (function(h) - function(-h) for h in (step, 2 * step))
    return float((8 * near - far) / (12 * step))


@pytest.mark.parametrize("name", named(FORWARD))
def test_updates_are_differentiable_in_forward_mode(name, line):
    at, batch = line
    function = eqx.filter_jit(lambda t: size(FORWARD[name], at(t), *batch))
    found = eqx.filter_jit(lambda t: jax.jvp(function, (t,), (jnp.ones(()),))[1])(jnp.zeros(()))
    wanted = by_differences(lambda t: function(jnp.asarray(t)))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("name", named(REVERSE))
def test_updates_are_differentiable_in_reverse_where_nothing_iterates(name, line):
    at, batch = line
    function = eqx.filter_jit(lambda t: size(REVERSE[name], at(t), *batch))
    found = eqx.filter_jit(jax.grad(function))(jnp.zeros(()))
    wanted = by_differences(lambda t: function(jnp.asarray(t)))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert abs(wanted) > 1e-6
