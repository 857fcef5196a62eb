"""Broyden's method by itself, on systems whose roots and slopes are known."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import relative_error

from dfc_jax._numerics.secant import AbstractInverse, OwnInverses, Point, SharedInverse, solve


INVERSES = {
    "own": lambda batch, n: OwnInverses(jnp.tile(jnp.eye(n), (batch, 1, 1))),
    "shared": lambda batch, n: SharedInverse.create(jnp.eye(n), batch, 20),
}


@eqx.filter_jit
def solved(matrices: np.ndarray, right: np.ndarray, inverse: AbstractInverse):
    """Roots of R(u) = b - A u, one system a sample, from inverse Jacobians of I."""
    A, b = jnp.asarray(matrices), jnp.asarray(right)

    def evaluate(root) -> Point:
        residual = b - jnp.einsum("bij,bj->bi", A, root)
        return Point(residual, jnp.linalg.norm(residual, axis=1), None)

    return solve(evaluate, evaluate(jnp.zeros_like(b)), inverse, 1e-12, 20)


@pytest.mark.parametrize("kind", INVERSES)
def test_one_unknown_takes_two_steps_and_shows_its_slope(kind: str) -> None:
    slopes = np.array([2.0, 2.0, -2.0, -2.0, 0.3, -0.3])
    right = np.array([1.0, -1.0, 1.0, -1.0, 5.0, -5.0])
    found = solved(slopes[:, None, None], right[:, None], INVERSES[kind](6, 1))
    assert relative_error(found.root[:, 0], right / slopes) < 1e-14
    assert np.all(found.iterations == 2)
    assert list(found.positive) == [True, True, False, False, True, False]


@pytest.mark.parametrize("kind", INVERSES)
def test_n_unknowns_take_at_most_two_n_steps(kind: str) -> None:
    """Gay's theorem (SIAM J. Numer. Anal. 16, 1979)."""
    rng = np.random.default_rng(0)
    matrices, right = np.eye(4) + 0.4 * rng.normal(size=(8, 4, 4)), rng.normal(size=(8, 4))
    found = solved(matrices, right, INVERSES[kind](8, 4))
    assert relative_error(found.root, np.linalg.solve(matrices, right[..., None])[..., 0]) < 1e-8
    assert np.all(np.asarray(found.iterations) <= 8)
