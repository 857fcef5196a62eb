"""The order of samples in an epoch, and its keys, for one training run or several at once."""

import jax
import jax.random as jr
from jaxtyping import Array, Int, Key, PRNGKeyArray


def shuffled_batches(
    key: PRNGKeyArray, samples: int, batch_size: int
) -> tuple[Int[Array, "steps batch"], Key[Array, " steps"]]:
    """Shuffled sample indices and a key for each step of an epoch."""
    steps = samples // batch_size
    order_key, steps_key = jr.split(key)
    order = jr.permutation(order_key, samples)[: steps * batch_size]
    return order.reshape(steps, batch_size), jr.split(steps_key, steps)


def fold_in(key: Key[Array, "*runs"], number: int) -> Key[Array, "*runs"]:
    """`jax.random.fold_in` for the key of one run, or for those of several."""
    return jr.fold_in(key, number) if key.ndim == 0 else jax.vmap(jr.fold_in, in_axes=(0, None))(key, number)
