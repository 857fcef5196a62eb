"""Inverses, roots and stability of the n_L x n_L matrices of single samples, fast for a whole batch of them.

LAPACK works through a batch one matrix after another, and JAX's nonsymmetric eigenvalues exist on CPUs only.
What is here are a few elementwise operations with the batch along the last axis: three to five times faster.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Int

from dfc_jax._numerics.arrays import Flag
from dfc_jax._numerics.one_by_one import cholesky_and_inverse, inverse_by_qr, solve_linear


FEW = 16  # rows and columns up to which elementwise operations on a batch beat one matrix after another


@jax.custom_jvp
def inverse(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The inverse, by Gauss-Jordan elimination; by QR where that, which does not pivot, went wrong.

    Its derivative, -A^-1 dA A^-1, can be taken in reverse as well, which a loop's cannot.
    """
    identity = jnp.eye(len(matrix), dtype=matrix.dtype)
    found = _eliminate(matrix)
    wrong = ~jnp.all(jnp.abs(matrix @ found - identity) < 1e-3)  # NaN is wrong as well

    def again(state: tuple[Array, Array]) -> tuple[Array, Array]:
        # Without the barrier XLA moves the inverse out of the loop and computes it always.
        held, _ = jax.lax.optimization_barrier((matrix, state))
        return inverse_by_qr(held), jnp.zeros_like(wrong)

    # A loop of at most one turn: under vmap, unlike a conditional, it is skipped if no sample needs it.
    return jax.lax.while_loop(lambda state: state[1], again, (found, wrong))[0]


@inverse.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    found = inverse(*primals)
    return found, -found @ tangents[0] @ found


def solve_gram(gram: Float[Array, "n n"], right: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
    """The pseudo-inverse of R R^T times `right`, for rows of R that are independent, or zero.

    So are those of a Jacobian by all voltages: an output neuron whose slope is zero, as that of a silent
    ReLU, has a row of zeros, and the others see a voltage of their own.
    """
    silent = jnp.diagonal(gram) == 0
    seen = jnp.where(silent.reshape(-1, *[1] * (right.ndim - 1)), 0, right)
    return solve_linear(gram + jnp.diag(silent.astype(gram.dtype)), seen)


def cholesky(matrix: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
    """The lower triangular R of R R^T, and its inverse.

    The matrix must have no negative eigenvalues, and may be singular: what is added so that rounding leaves
    none negative is 10 n epsilons of their mean. For a matrix of zeros R is zero, and the inverse large but
    finite.
    """
    limits, trace = jnp.finfo(matrix.dtype), jnp.trace(matrix)
    least = 10 * limits.eps * trace + limits.tiny
    identity = jnp.eye(len(matrix), dtype=matrix.dtype)
    definite = matrix + least * identity
    if len(matrix) > FEW:
        root, inverse = cholesky_and_inverse(definite)
    else:
        root, inverse = jnp.split(_factorise(jnp.concatenate([definite, identity], axis=1)), 2, axis=1)
    return jnp.where(trace > 0, root, 0), inverse


def eigenvalues_right_of_zero(
    matrix: Float[Array, "n n"], inverse: Callable[[Array], Array] = inverse
) -> Flag:
    """Whether every eigenvalue of a real matrix has a positive real part.

    The Cayley transform (A - c)(A + c)^-1 maps the right half-plane into the unit disc, so its powers
    vanish exactly if all of A's eigenvalues lie there. Eigenvalues within about 1e-4 of the imaginary axis,
    relative to the size of `matrix`, count as not stable; so does a matrix that is not finite.
    """
    matrix = jax.lax.stop_gradient(matrix)  # a yes or no has no derivative
    identity = jnp.eye(len(matrix), dtype=matrix.dtype)
    shift = jnp.linalg.norm(matrix) / jnp.sqrt(jnp.asarray(len(matrix), matrix.dtype))
    return powers_vanish(identity - 2 * shift * inverse(matrix + shift * identity))


def powers_vanish(matrix: Float[Array, "n n"]) -> Flag:
    """Whether all eigenvalues lie in the unit disc, as far as 16 squarings tell; not if one is not finite."""

    def undecided(state: tuple[Array, Array]) -> Flag:
        power, squarings = state
        return (jnp.linalg.norm(power) >= 1) & (squarings < 16)

    power, _ = jax.lax.while_loop(
        undecided, lambda state: (state[0] @ state[0], state[1] + 1), (matrix, jnp.asarray(0))
    )
    return jnp.linalg.norm(power) < 1


def _of_one(of_many: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """What computes with a batch of matrices along the last axis, for one matrix, or under vmap."""

    @custom_vmap
    def of_one(matrix: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
        return of_many(matrix[..., None])[..., 0]

    @of_one.def_vmap
    def _(axis_size: int, in_batched: list[bool], matrices: Float[Array, "batch _ _"]) -> tuple[Array, bool]:
        del axis_size, in_batched
        return jnp.moveaxis(of_many(jnp.moveaxis(matrices, 0, -1)), -1, 0), True

    return of_one


@_of_one
def _eliminate(matrices: Float[Array, "n n batch"]) -> Float[Array, "n n batch"]:
    """The inverses, in place, and in a loop, whose program is the same for any n."""
    index = jnp.arange(len(matrices))
    rows, columns = index[:, None, None], index[None, :, None]
    # An index in brackets would cater for negative ones, which slows this down threefold.
    at = jax.lax.dynamic_index_in_dim

    def step(k: Int[Array, ""], matrices: Float[Array, "n n batch"]) -> Float[Array, "n n batch"]:
        row, column = at(matrices, k, 0), at(matrices, k, 1)
        row = jnp.where(columns == k, 1, row) / at(row, k, 1)
        rest = jnp.where(columns == k, 0, matrices) - column * row
        return jnp.where(rows == k, row, rest)

    return jax.lax.fori_loop(0, len(matrices), step, matrices)


@_of_one
def _factorise(matrices: Float[Array, "n two_n batch"]) -> Float[Array, "n two_n batch"]:
    """R and R^-1 side by side of R R^T and the identity side by side, column by column."""
    size = len(matrices)
    rows, columns = jnp.arange(size)[:, None, None], jnp.arange(2 * size)[None, :, None]
    at = jax.lax.dynamic_index_in_dim  # as above

    def step(k: Int[Array, ""], matrices: Float[Array, "n two_n batch"]) -> Float[Array, "n two_n batch"]:
        row, column = at(matrices, k, 0), at(matrices, k, 1)
        root = jnp.sqrt(at(row, k, 1))
        column = jnp.where(rows < k, 0, column / root)
        row = jnp.where(columns < k, 0, row / root)
        rest = matrices - jnp.where(rows > k, column, 0) * jnp.where(columns > k, row, 0)
        rest = jnp.where((rows == k) & (columns > k), row, rest)
        return jnp.where(columns == k, column, rest)

    factors = jax.lax.fori_loop(0, size, step, matrices)
    return jnp.where((columns < size) & (columns > rows), 0, factors)
