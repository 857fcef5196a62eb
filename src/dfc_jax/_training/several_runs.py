"""One training run, or several along the first axis."""

import jax
import jax.random as jr
from jaxtyping import Array, Key


def fold_in(key: Key[Array, "*runs"], number: int) -> Key[Array, "*runs"]:
    """`jax.random.fold_in` for the key of one run, or for those of several."""
    return jr.fold_in(key, number) if key.ndim == 0 else jax.vmap(jr.fold_in, in_axes=(0, None))(key, number)
