"""Numbers that are finite, and what to put where they are not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from dfc_jax._numerics.arrays import Flag


def all_finite(tree: PyTree) -> bool:
    """Whether every number in every array of a pytree is finite; on the host, with nothing to compile."""
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return all(bool(np.isfinite(np.asarray(leaf)).all()) for leaf in leaves)


def is_finite(tree: PyTree) -> Flag:
    """Whether all numbers in the arrays of one sample are finite. Works under jit."""
    return jnp.isfinite(sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree)))


def zero_unless_finite(tree: PyTree) -> PyTree:
    """The arrays of one sample as they are, or all of them zero if any of their numbers is not finite."""
    finite = is_finite(tree)
    return jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0), tree)
