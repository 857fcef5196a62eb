"""Is the closed loop stable? Tests on small matrices that run on every backend and under vmap."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def eigenvalues_right_of_zero(matrix: Float[Array, "n n"]) -> Bool[Array, ""]:
    """Whether every eigenvalue of a real matrix has a positive real part.

    The Cayley transform (A - c)(A + c)^-1 maps the right half-plane into the unit disc, so its powers
    vanish exactly if all of A's eigenvalues lie there. Nonsymmetric eigenvalue solvers exist on CPUs only
    and cost several times more. Eigenvalues within about 1e-4 of the imaginary axis, relative to the size
    of `matrix`, count as not stable; so does a matrix that is not finite.
    """
    size = jnp.linalg.norm(matrix) / jnp.sqrt(jnp.asarray(matrix.shape[0], matrix.dtype))
    shift = size * jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    power = jnp.linalg.solve(matrix + shift, matrix - shift)
    for _ in range(16):
        power = power @ power
    return jnp.linalg.norm(power) < 1
