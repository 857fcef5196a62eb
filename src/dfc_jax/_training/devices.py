"""The arrays of a batch, a model or a data set, among several devices."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree


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
