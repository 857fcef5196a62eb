"""LAPACK for a batch of matrices, one after another.

jaxlib's CPU kernels divide a large batch among the threads of XLA's pool and wait there until all parts are
done. As many such kernels at once as the pool has threads wait for ever, each for parts that no thread is
left to compute: two, on two cores (jaxlib 0.10). A kernel for a single matrix is not divided. Where a batch
is divided among CPU devices every one of them does it all.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float


def one_by_one(function: Callable[..., Array]) -> Callable[..., Array]:
    """`function`, of single matrices, such that `jax.vmap` of it loops over its batch on CPUs."""
    single = custom_vmap(function)
    loop = lambda *arrays: jax.lax.map(lambda one: single(*one), arrays)

    @jax.jit  # once for each shape, also where it is called outside of a program
    def of_batch(*arrays: Array) -> Array:
        return jax.lax.platform_dependent(*arrays, cpu=loop, default=jax.vmap(function))

    @single.def_vmap
    def _(size: int, batched: list[bool], *arrays: Array) -> tuple[Array, bool]:
        whole = lambda array, has_batch: array if has_batch else jnp.broadcast_to(array, (size, *array.shape))
        return of_batch(*map(whole, arrays, batched)), True

    return single


@one_by_one
def inverse_by_lu(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The inverse, by elimination with pivots."""
    return jnp.linalg.inv(matrix)


@one_by_one
def inverse_by_qr(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The inverse, by QR, which compiles fastest."""
    q, r = jnp.linalg.qr(matrix)
    return jax.scipy.linalg.solve_triangular(r, q.T)


@one_by_one
def cholesky_and_inverse(matrix: Float[Array, "n n"]) -> Float[Array, "2 n n"]:
    """The lower triangular R of R R^T, and R^-1."""
    root = jnp.linalg.cholesky(matrix)
    identity = jnp.eye(len(matrix), dtype=matrix.dtype)
    return jnp.stack([root, jax.scipy.linalg.solve_triangular(root, identity, lower=True)])


@jax.custom_jvp
def solve_linear(matrix: Float[Array, "n n"], right: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
    """A^-1 b, by elimination with pivots; `right` is a vector or the columns of a matrix."""
    return _solve(matrix, right)


@solve_linear.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # A product, which can be transposed, as the loop over a batch cannot.
    found = solve_linear(*primals)
    return found, inverse_by_lu(primals[0]) @ (tangents[1] - tangents[0] @ found)


_solve = one_by_one(jnp.linalg.solve)
