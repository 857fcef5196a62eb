"""Conjugate gradients on trees: the best of a Krylov space, and an end where an operator bends down."""

import jax.numpy as jnp
import numpy as np

from dfc_jax._numerics.conjugate_gradients import conjugate_gradients


EIGENVALUES = np.array([1.0, 2.0, 5.0, 9.0, 14.0])
RIGHT = np.array([1.0, -2.0, 0.5, 3.0, -1.0])


def solve(eigenvalues: np.ndarray, rtol: float, max_iterations: int) -> np.ndarray:
    """In two parts, for trees are what it takes."""
    one, two = jnp.asarray(eigenvalues[:2]), jnp.asarray(eigenvalues[2:])
    right = jnp.asarray(RIGHT[:2]), jnp.asarray(RIGHT[2:])
    found = conjugate_gradients(lambda p: (one * p[0], two * p[1]), right, rtol, max_iterations)
    return np.concatenate(found)


def test_each_iteration_takes_the_best_of_a_larger_krylov_space() -> None:
    """Least in x^T A x / 2 - b^T x among the combinations of b, A b, ..., A^(k-1) b."""
    for k in (1, 2, 3):
        space = np.stack([EIGENVALUES**j * RIGHT for j in range(k)], axis=1)
        best = space @ np.linalg.solve(space.T @ (EIGENVALUES[:, None] * space), space.T @ RIGHT)
        np.testing.assert_allclose(solve(EIGENVALUES, 0.0, k), best, rtol=1e-10)
    np.testing.assert_allclose(solve(EIGENVALUES, 1e-12, 50), RIGHT / EIGENVALUES, rtol=1e-10)


def test_it_ends_where_the_operator_bends_down() -> None:
    """With what was found so far: here nothing."""
    np.testing.assert_array_equal(solve(-EIGENVALUES, 1e-12, 50), 0.0)
