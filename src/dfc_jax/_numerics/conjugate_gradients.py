"""Conjugate gradients for one sample, ended where the operator turns out not to be positive."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from dfc_jax._numerics.arrays import Flag
from dfc_jax._numerics.trees import dot


def conjugate_gradients(
    operator: Callable[[PyTree], PyTree], right: PyTree, rtol: float, max_iterations: int
) -> PyTree:
    """x with |A x - b| <= `rtol` |b| for a positive symmetric A and b = `right`.

    Where a direction p has p . A p <= 0 (Steihaug, SIAM J. Numer. Anal. 20, 1983), and after
    `max_iterations`, what has been found until then.
    """
    enough = rtol**2 * dot(right, right)

    def unfinished(state: tuple) -> Flag:
        *_, size, turn, positive = state
        return (size > enough) & (turn < max_iterations) & positive

    def step(state: tuple) -> tuple:
        found, residual, direction, size, turn, _ = state
        image = operator(direction)
        curvature = dot(direction, image)
        positive = curvature > 0
        length = jnp.where(positive, size / jnp.where(positive, curvature, 1), 0)
        found = jax.tree.map(lambda x, p: x + length * p, found, direction)
        residual = jax.tree.map(lambda r, q: r - length * q, residual, image)
        new = dot(residual, residual)
        direction = jax.tree.map(lambda r, p: r + new / size * p, residual, direction)
        return found, residual, direction, new, turn + 1, positive

    nothing = jax.tree.map(jnp.zeros_like, right)
    start = nothing, right, right, dot(right, right), jnp.asarray(0), jnp.asarray(True)
    return jax.lax.while_loop(unfinished, step, start)[0]
