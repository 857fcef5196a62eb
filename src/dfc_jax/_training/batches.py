"""The batches of an epoch: their order, keys and augmentation, for one training run or several."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Int, Key, PRNGKeyArray, PyTree

from dfc_jax._data.dataset import Split
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs, Scalar
from dfc_jax._training.devices import divided
from dfc_jax._training.traced import trace, Traced


Augmentation = Callable[..., Array]  # (x, key=...) -> x, of one sample
Step = Callable[[PyTree, BatchInputs, BatchOutputs, PRNGKeyArray], tuple[PyTree, dict[str, Scalar]]]


class Batches(eqx.Module):
    """The training samples, and the batches of an epoch."""

    train: Split
    size: int = eqx.field(static=True)
    augment: Traced | None = None
    mesh: Mesh | None = eqx.field(static=True, default=None)

    def scan(
        self, step: Step, carry: PyTree, key: PRNGKeyArray, part: float = 1.0
    ) -> tuple[PyTree, dict[str, Scalar]]:
        """`step(carry, x, y, key) -> carry, metrics` over the batches of a shuffled epoch.

        The samples left over after the full batches are a smaller last one. `part` is how many of the batches
        are taken. Returns the carry, and the means of the metrics over the samples.
        """

        def taken(carry: PyTree, batch: tuple[Array, PRNGKeyArray]) -> tuple[PyTree, dict[str, Scalar]]:
            return step(carry, *self._take(*batch))

        full, left, keys = shuffled_batches(key, len(self.train), self.size)
        steps = math.ceil(round(part * len(keys), 6))  # 0.07 of 100 is no more than 7
        whole = min(steps, len(full))
        carry, metrics = jax.lax.scan(taken, carry, (full[:whole], keys[:whole]))
        total = jax.tree.map(lambda of_batches: self.size * jnp.sum(of_batches), metrics)
        samples = self.size * whole
        if steps > whole:
            carry, last = taken(carry, (left, keys[-1]))
            total = jax.tree.map(lambda t, of_last: t + len(left) * of_last, total, last)
            samples += len(left)
        return carry, jax.tree.map(lambda t: t / samples, total)

    def _take(
        self, indices: Int[Array, " batch"], key: PRNGKeyArray
    ) -> tuple[BatchInputs, BatchOutputs, PRNGKeyArray]:
        """A batch, divided among the devices where they can share it, and what its augmentation leaves of
        the step's key."""
        batch = self.train.x[indices], self.train.y[indices]
        shared = self.mesh is not None and len(indices) % self.mesh.size == 0
        x, y = divided(batch, self.mesh) if shared else batch
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
) -> tuple[Int[Array, "full batch"], Int[Array, " left"], Key[Array, " steps"]]:
    """Shuffled sample indices of the full batches, those left over, and a key for each batch of an epoch."""
    order_key, steps_key = jr.split(key)
    order = jr.permutation(order_key, samples)
    full = samples // batch_size * batch_size
    keys = jr.split(steps_key, math.ceil(samples / batch_size))
    return order[:full].reshape(-1, batch_size), order[full:], keys
