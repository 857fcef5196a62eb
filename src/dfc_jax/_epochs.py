"""The batches of an epoch: their order, keys, augmentation and devices, for one training run or several."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from dfc_jax.data import Split


Augmentation = Callable[..., Array]  # (x, key=...) -> x, of one sample


class Batches(eqx.Module):
    """The training samples, and how a step of an epoch takes its batch of them."""

    train: Split
    size: int = eqx.field(static=True)
    augment: Augmentation | None = None
    mesh: Mesh | None = eqx.field(static=True, default=None)

    def shuffled(self, key: PRNGKeyArray) -> tuple[Int[Array, "steps batch"], Key[Array, " steps"]]:
        """Shuffled sample indices and a key for each step of an epoch."""
        return shuffled_batches(key, len(self.train), self.size)

    def take(
        self, indices: Int[Array, " batch"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "batch ..."], Float[Array, "batch out"], PRNGKeyArray]:
        """A batch, divided among the devices, and what its augmentation leaves of the step's key."""
        x, y = divided((self.train.x[indices], self.train.y[indices]), self.mesh)
        if self.augment is not None:
            augment_key, key = jr.split(key)
            x = jax.vmap(lambda sample, key: self.augment(sample, key=key))(x, jr.split(augment_key, len(x)))
        return x, y, key


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


def divided(batch: PyTree, mesh: Mesh | None) -> PyTree:
    """A batch whose samples are divided among the devices of `mesh`, if there is one."""
    if mesh is None:
        return batch
    return eqx.filter_shard(batch, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))


def everywhere(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The same arrays on every device of `mesh`, if there is one. For use within a compiled program."""
    return tree if mesh is None else eqx.filter_shard(tree, NamedSharding(mesh, PartitionSpec()))


def placed(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """`tree` as JAX's arrays: on every device of `mesh`, of other processes too, or on the default one."""
    arrays, rest = eqx.partition(tree, lambda leaf: isinstance(leaf, jax.Array | np.ndarray))
    if mesh is None:
        return eqx.combine(jax.tree.map(jnp.asarray, arrays), rest)
    whole = NamedSharding(mesh, PartitionSpec())

    def put(leaf: Array | np.ndarray) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jr.wrap_key_data(put(jr.key_data(leaf)), impl=jr.key_impl(leaf))
        # `device_put` would compare the arrays of all processes, at the cost of gathering them.
        held = np.asarray(leaf)
        return jax.make_array_from_callback(held.shape, whole, lambda index: held[index])

    return eqx.combine(jax.tree.map(put, arrays), rest)


def mesh_of(devices: Sequence[jax.Device] | None) -> Mesh | None:
    """All `devices` in a row; None for the default device alone."""
    if devices is None:
        return None
    return Mesh(np.array(devices), ("batch",), axis_types=(AxisType.Auto,))
