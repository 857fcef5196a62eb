"""The order of samples in an epoch."""

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
