"""The batches of an epoch: their order, keys and augmentation, for one training run or several."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Int, Key, PRNGKeyArray

from dfc_jax._data.dataset import Split
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs
from dfc_jax._training.devices import divided
from dfc_jax._training.traced import trace, Traced


Augmentation = Callable[..., Array]  # (x, key=...) -> x, of one sample


class Batches(eqx.Module):
    """The training samples, and how a step of an epoch takes its batch of them."""

    train: Split
    size: int = eqx.field(static=True)
    augment: Traced | None = None
    mesh: Mesh | None = eqx.field(static=True, default=None)

    def shuffled(self, key: PRNGKeyArray) -> tuple[Int[Array, "steps batch"], Key[Array, " steps"]]:
        """Shuffled sample indices and a key for each step of an epoch."""
        return shuffled_batches(key, len(self.train), self.size)

    def take(
        self, indices: Int[Array, " batch"], key: PRNGKeyArray
    ) -> tuple[BatchInputs, BatchOutputs, PRNGKeyArray]:
        """A batch, divided among the devices, and what its augmentation leaves of the step's key."""
        x, y = divided((self.train.x[indices], self.train.y[indices]), self.mesh)
        augment = self.augment
        if augment is not None:
            augment_key, key = jr.split(key)
            x = jax.vmap(augment)(x, jr.split(augment_key, len(x)))
        return x, y, key


def traced_augmentation(
    augment: Augmentation | None, samples: ArrayLike, key: Key[Array, "*runs"]
) -> Traced | None:
    """The augmentation of such samples by keys of the kind of `key`."""
    if augment is None:
        return None
    sample, example = jax.eval_shape(lambda x: jnp.asarray(x)[0], samples), jr.key(0, impl=jr.key_impl(key))
    return trace(lambda x, key: jnp.asarray(augment(x, key=key)), sample, example)


def shuffled_batches(
    key: PRNGKeyArray, samples: int, batch_size: int
) -> tuple[Int[Array, "steps batch"], Key[Array, " steps"]]:
    """Shuffled sample indices and a key for each step of an epoch."""
    steps = samples // batch_size
    order_key, steps_key = jr.split(key)
    order = jr.permutation(order_key, samples)[: steps * batch_size]
    return order.reshape(steps, batch_size), jr.split(steps_key, steps)
