"""The cross-correlation of feature maps with a kernel, as a primitive of JAX with derivatives of its own.

XLA's CPU backend has a fast routine for convolutions whose dimensions are in the order given here, and a slow
one, 5 to 50 times slower in the loop of a training run, for those that JAX derives for their transposes. So
the transpose in the input is here again a correlation in that order, with the kernel turned round, and the
one in the kernel a product of matrices. All have the precision that is JAX's default where the correlation is
called: the setting is no longer there when JAX translates a primitive for XLA.
"""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


Edges = tuple[tuple[int, int], tuple[int, int]]  # zeros before and after the rows, and the columns
_ORDER = ("NHWC", "HWIO", "NHWC")
_primitive = Primitive("correlate")


def correlate(
    maps: Float[Array, "batch rows columns in"],
    kernel: Float[Array, "height width in out"],
    *,
    stride: int = 1,
    edges: Edges = ((0, 0), (0, 0)),
    spread: int = 1,
) -> Float[Array, "batch newrows newcolumns out"]:
    """The correlation of `maps`, spread out by zeros to every `spread`-th row and column, with `kernel`."""
    precision = jax.config.jax_default_matmul_precision  # ty: ignore[missing-attribute]
    return _primitive.bind(maps, kernel, stride=stride, edges=edges, spread=spread, precision=precision)


def _by_xla(
    maps: Array, kernel: Array, *, stride: int, edges: Edges, spread: int, precision: str | None
) -> Array:
    strides, spreads = (stride, stride), (spread, spread)
    return jax.lax.conv_general_dilated(
        maps, kernel, strides, edges, spreads, dimension_numbers=_ORDER, precision=precision
    )


def _shape(maps: Any, kernel: Any, **how: Any) -> jax.core.ShapedArray:
    like = (jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (maps, kernel))
    found = jax.eval_shape(lambda maps, kernel: _by_xla(maps, kernel, **how), *like)
    return jax.core.ShapedArray(found.shape, found.dtype)


def _transposed_in_maps(
    cotangent: Array,
    maps: Any,
    kernel: Array,
    *,
    stride: int,
    edges: Edges,
    spread: int,
    precision: str | None,
) -> Array:
    """A correlation of the spread-out cotangent with the kernel turned round."""
    turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    sizes = zip(maps.aval.shape[1:3], cotangent.shape[1:3], kernel.shape[:2], edges, strict=True)
    around = []
    for before, after, width, (first, _) in sizes:
        first = width - 1 - first
        around.append((first, (before - 1) * spread - (after - 1) * stride + width - 1 - first))
    how = {"stride": spread, "edges": (around[0], around[1]), "spread": stride}
    return _primitive.bind(cotangent, turned, precision=precision, **how)


def _transposed_in_kernel(
    cotangent: Array,
    maps: Array,
    kernel: Any,
    *,
    stride: int,
    edges: Edges,
    spread: int,
    precision: str | None,
) -> Array:
    """The product of what each weight has seen with the cotangents."""
    height, width, inputs, outputs = kernel.aval.shape
    zero, around = jnp.zeros((), maps.dtype), [(*edge, spread - 1) for edge in edges]
    padded = jax.lax.pad(maps, zero, ((0, 0, 0), *around, (0, 0, 0)))
    rows, columns = cotangent.shape[1:3]
    along = lambda start, number: slice(start, start + (number - 1) * stride + 1, stride)
    seen = [padded[:, along(i, rows), along(j, columns)] for i in range(height) for j in range(width)]
    seen = jnp.concatenate(seen, axis=-1).reshape(-1, height * width * inputs)
    product = jnp.matmul(seen.T, cotangent.reshape(-1, outputs), precision=precision)
    return product.reshape(height, width, inputs, outputs)


def _batched(arrays: tuple, axes: tuple, **how: Any) -> tuple[Array, int]:
    """One correlation for a batch of maps. Kernels of a batch take turns, on a CPU the fastest by far."""
    (maps, kernel), (of_maps, of_kernel) = arrays, axes
    if of_kernel is None:
        maps = jnp.moveaxis(maps, of_maps, 0)
        found = _primitive.bind(maps.reshape(-1, *maps.shape[2:]), kernel, **how)
        return found.reshape(*maps.shape[:2], *found.shape[1:]), 0
    kernels = jnp.moveaxis(kernel, of_kernel, 0)
    if of_maps is None:
        return jax.lax.map(lambda one: _primitive.bind(maps, one, **how), kernels), 0
    pairs = jnp.moveaxis(maps, of_maps, 0), kernels
    return jax.lax.map(lambda pair: _primitive.bind(*pair, **how), pairs), 0


_primitive.def_impl(_by_xla)


_primitive.def_abstract_eval(_shape)


mlir.register_lowering(_primitive, mlir.lower_fun(_by_xla, multiple_results=False))


ad.defbilinear(_primitive, _transposed_in_maps, _transposed_in_kernel)


batching.primitive_batchers[_primitive] = _batched
