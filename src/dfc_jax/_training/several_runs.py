"""One training run, or several along the first axis."""

import jax
import jax.random as jr
from jaxtyping import Array, Key


def fold_in(key: Key[Array, "*runs"], number: int) -> Key[Array, "*runs"]:
    """`jax.random.fold_in` for the key of one run, or for those of several."""
    return jr.fold_in(key, number) if key.ndim == 0 else jax.vmap(jr.fold_in, in_axes=(0, None))(key, number)


def split(key: Key[Array, "*runs"]) -> tuple[Key[Array, "*runs"], Key[Array, "*runs"]]:
    """The two halves that `jax.random.split` makes of the key of one run, or of those of several."""
    halves = jr.split(key) if key.ndim == 0 else jax.vmap(jr.split)(key)
    return halves[..., 0], halves[..., 1]
