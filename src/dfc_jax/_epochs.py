"""The order of samples in an epoch."""

import jax.random as jr
from jaxtyping import Array, PRNGKeyArray


def shuffled_batches(key: PRNGKeyArray, samples: int, batch_size: int) -> tuple[Array, PRNGKeyArray]:
    """Shuffled sample indices and a key for each step of an epoch."""
    steps = samples // batch_size
    order_key, steps_key = jr.split(key)
    order = jr.permutation(order_key, samples)[: steps * batch_size]
    return order.reshape(steps, batch_size), jr.split(steps_key, steps)
