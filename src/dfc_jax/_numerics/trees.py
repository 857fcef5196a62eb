"""Trees of arrays as vectors, those of one sample."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from dfc_jax._numerics.arrays import Scalar


def minus(one: PyTree, other: PyTree) -> PyTree:
    """The difference of two trees."""
    return jax.tree.map(jnp.subtract, one, other)


def dot(one: PyTree, other: PyTree) -> Scalar:
    """Their inner product."""
    return sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), one, other)))


def relative_distance(one: PyTree, other: PyTree) -> Scalar:
    """|one - other| / |other|; |one| where the other is zero."""
    apart = minus(one, other)
    size, distance = jnp.sqrt(dot(other, other)), jnp.sqrt(dot(apart, apart))
    return jnp.where(size > 0, distance / jnp.where(size > 0, size, 1), distance)
