"""Condition 3 at a steady state, against eigenvalues in NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx
import pytest
from helpers import find, make_batch, make_network, Plain

import dfc_jax as dfc
from dfc_jax._numerics.small_matrices import eigenvalues_right_of_zero


SOLVERS = {
    "newton": dfc.RootFind(optx.Newton(rtol=1e-10, atol=1e-10)),
    "broyden": dfc.Broyden(rtol=1e-11),
    "analytic": dfc.Analytic(),
}


@pytest.mark.slow
def test_stability_agrees_with_the_eigenvalues() -> None:
    """Condition 3 at the root, on networks whose random feedback often violates it."""
    leak, band = 0.1, 0.02
    x, y = make_batch(jr.key(11), 4)
    base = make_network(jr.key(12), (4, 6, 5, 3), feedback=dfc.RandomFeedback())
    verdicts = {(name, stable): 0 for name in SOLVERS for stable in (True, False)}
    for seed in range(12):
        keys = jr.split(jr.key(seed), 3)
        Q = [0.5 * jr.normal(k, (n, 3)) for k, n in zip(keys, (6, 5, 3), strict=True)]
        Q[-1] = Q[-1] + 0.7 * jnp.eye(3)
        model = eqx.tree_at(lambda m: list(m.feedback.weights), base, Q)
        loop = dfc.ClosedLoop(model, dfc.PIController(0.0, leak), dfc.Nudge(0.02))
        plain = Plain(model)
        for name in SOLVERS:
            found = find(SOLVERS[name], loop, x, y)
            for b in np.flatnonzero(np.asarray(found.converged)):
                u = 0.0 if name == "analytic" else np.asarray(found.control[b])
                gain = plain.gain(plain.settle(np.asarray(x[b]), u)[0]) + leak * np.eye(3)
                slowest = np.min(np.linalg.eigvals(gain).real)
                if abs(slowest) > band * np.linalg.norm(gain):
                    assert bool(found.condition_three[b]) == (slowest > 0), (name, seed, slowest)
                    verdicts[name, bool(slowest > 0)] += 1
    assert min(verdicts.values()) >= 6, verdicts


@pytest.mark.parametrize("few", [True, False], ids=["own-jacobians", "along-the-control"])
def test_condition_three_of_what_was_simulated(few: bool, change) -> None:
    """In the last states of trajectories that may not have come to rest: eigenvalues in NumPy. With many
    outputs: whether the error, with the leak, has fallen along the control."""
    if not few:
        change("dfc_jax._steady_state.base._DENSE_OUTPUTS", 2)
    leak, (x, y) = 0.5, make_batch(jr.key(11), 6)
    base, verdicts = make_network(jr.key(12), (4, 6, 5, 3), feedback=dfc.RandomFeedback()), []
    for seed in range(4):
        keys = jr.split(jr.key(seed), 3)
        Q = [0.5 * jr.normal(k, (n, 3)) for k, n in zip(keys, (6, 5, 3), strict=True)]
        model = eqx.tree_at(lambda m: list(m.feedback.weights), base, Q)
        loop = dfc.ClosedLoop(model, dfc.PIController(0.0, leak), dfc.Nudge(3.0), tau_v=0.02)
        found = find(dfc.StateAtTime(dfc.PublishedEuler(0.01, 100), tau_v=0.02), loop, x, y)
        plain = Plain(model)
        for b in range(6):
            if few:
                feedforward, _ = plain.settle(np.asarray(x[b]))
                moved = zip(feedforward, found.deviation.voltage, strict=True)
                gain = plain.gain([v + np.asarray(d[b]) for v, d in moved]) + leak * np.eye(3)
                measured = np.min(np.linalg.eigvals(gain).real) / np.linalg.norm(gain)
            else:
                u, rate = np.asarray(found.control[b]), np.asarray(found.deviation.rate[-1][b])
                measured = u @ (rate + leak * u) / np.linalg.norm(u) / np.linalg.norm(rate)
            if abs(measured) > 0.02:
                assert bool(found.condition_three[b]) == (measured > 0)
                verdicts.append(measured > 0)
    assert 4 <= np.sum(verdicts) <= len(verdicts) - 4


@pytest.mark.parametrize("n", [2, 10])
def test_eigenvalues_right_of_zero(n: int, getkey) -> None:
    """Against a nonsymmetric eigenvalue solver, on shifted random matrices of widely different sizes."""
    matrices = np.asarray(jr.normal(getkey(), (400, n, n)))
    shifts = np.linspace(-1, 3, 400)[:, None, None] * np.sqrt(n) * np.eye(n)
    scales = 10.0 ** np.linspace(-12, 12, 400)[:, None, None]
    slowest = np.min(np.linalg.eigvals(matrices + shifts).real, axis=1)
    clear = np.abs(slowest) > 1e-3 * np.linalg.norm(matrices + shifts, axis=(1, 2))
    assert np.sum(clear) > 350 and 20 < np.sum(slowest > 0) < 380
    found = jax.jit(jax.vmap(eigenvalues_right_of_zero))(jnp.asarray(scales * (matrices + shifts)))
    assert np.array_equal(np.asarray(found)[clear], slowest[clear] > 0)


def test_eigenvalues_of_awkward_matrices() -> None:
    test = jax.jit(eigenvalues_right_of_zero)
    assert not test(jnp.zeros((3, 3)))
    assert not test(jnp.full((3, 3), jnp.nan))
    assert not test(jnp.array([[0.0, 1.0, 0], [-1.0, 0.0, 0], [0, 0, 1.0]]))  # on the axis
    assert not test(jnp.diag(jnp.array([1.0, -1.0, 2.0])))
    assert test(jnp.array([[1.0, 10.0, 0], [0.0, 1.0, 10.0], [0, 0, 1.0]]))  # far from normal
    assert test(jnp.eye(3))
