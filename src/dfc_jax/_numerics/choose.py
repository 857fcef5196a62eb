"""A choice between two trees, sample by sample."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from dfc_jax._numerics.arrays import BatchFlags


def choose(flags: BatchFlags, one: PyTree, other: PyTree) -> PyTree:
    """Of two trees with the samples along the first axis: `one` where `flags` say so."""
    pick = lambda flag, a, b: jax.tree.map(lambda x, y: jnp.where(flag, x, y), a, b)
    return jax.vmap(pick)(flags, one, other)
