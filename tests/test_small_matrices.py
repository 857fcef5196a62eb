"""Inverses of small matrices by elimination itself, whose faults the inverse by QR behind it would hide, and
roots."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import relative_error

from dfc_jax._numerics.small_matrices import _eliminate, cholesky, inverse


def dominant(n: int, batch: int = 6) -> np.ndarray:
    """Matrices that need no pivots."""
    return np.random.default_rng(n).standard_normal((batch, n, n)) + 2 * n * np.eye(n)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_elimination_is_the_inverse_of_one_and_of_a_batch(n: int) -> None:
    matrices = dominant(n)
    wanted = np.linalg.inv(matrices)
    np.testing.assert_allclose(jax.vmap(_eliminate)(jnp.asarray(matrices)), wanted, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(_eliminate(jnp.asarray(matrices[0])), wanted[0], rtol=1e-10, atol=1e-13)


def test_what_needs_pivots_is_inverted_too_beside_what_does_not() -> None:
    matrices = dominant(3)
    matrices[1] = np.roll(np.eye(3), 1, axis=0)  # zeros where elimination divides
    found = jax.vmap(inverse)(jnp.asarray(matrices))
    np.testing.assert_allclose(found, np.linalg.inv(matrices), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("n", [1, 3, 10])
def test_inverse_of_a_batch_and_of_batches(n: int, getkey) -> None:
    """Zero pivots included, under one vmap, under two and under none."""
    matrices = jr.normal(getkey(), (6, n, n)) + 3 * jnp.eye(n)[None]
    if n > 1:
        matrices = matrices.at[2].set(jnp.flip(jnp.eye(n), axis=0))  # its first pivot is zero
    wanted = np.linalg.inv(np.asarray(matrices))
    assert relative_error(jax.jit(jax.vmap(inverse))(matrices), wanted) < 1e-10
    twice = jax.jit(jax.vmap(jax.vmap(inverse)))(matrices.reshape(2, 3, n, n))
    assert relative_error(twice.reshape(6, n, n), wanted) < 1e-10
    assert relative_error(inverse(matrices[2]), wanted[2]) < 1e-10


@pytest.mark.parametrize("n", [1, 2, 7, 20])
def test_roots_are_lapacks(n: int) -> None:
    factors = np.random.default_rng(n).standard_normal((6, n, n + 3))
    matrices = factors @ np.swapaxes(factors, 1, 2)
    wanted = np.linalg.cholesky(matrices)
    for found in (jax.vmap(cholesky)(jnp.asarray(matrices)), cholesky(jnp.asarray(matrices[0]))):
        root, inverted = (np.broadcast_to(part, wanted.shape) for part in found)
        ours = slice(None) if found[0].ndim == 3 else slice(1)
        np.testing.assert_allclose(root[ours], wanted[ours], rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(inverted[ours], np.linalg.inv(wanted)[ours], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_roots_of_singular_matrices_are_finite_and_near(dtype: type) -> None:
    thin = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(dtype)
    for matrices in (thin @ np.swapaxes(thin, 1, 2), np.zeros((1, 4, 4), dtype)):
        root, inverted = map(np.asarray, jax.vmap(cholesky)(jnp.asarray(matrices)))
        assert np.all(np.isfinite(inverted)) and np.all(np.triu(root, 1) == 0)
        error = 100 * np.finfo(dtype).eps * np.max(matrices) + 1e-30
        assert np.max(np.abs(root @ np.swapaxes(root, 1, 2) - matrices)) <= error
