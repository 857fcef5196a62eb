"""Inverses of small matrices by elimination itself, whose faults the inverse by QR behind it would hide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfc_jax._numerics.small_matrices import _eliminate, inverse


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
