"""Early checks of what a user passes in."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, PyTree


def require(condition: bool, message: str) -> None:
    """Raise `ValueError(message)` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def check_number(
    name: str, value: ArrayLike, *, minimum: float | int = -np.inf, above: float | int | None = None
) -> None:
    """Raise unless `value` is a finite number, at least `minimum` and, if `above` is given, greater than it.

    Traced values have no number yet and pass: sweeps and vmapped hyperparameters stay possible.
    """
    if isinstance(value, jax.core.Tracer):
        return
    array = np.asarray(value)
    bound = f"greater than {above}" if above is not None else f"at least {minimum}"
    wanted = "a finite number" if above is None and minimum == -np.inf else f"a finite number {bound}"
    numeric = np.issubdtype(array.dtype, np.number) and not np.iscomplexobj(array)
    fine = numeric and bool(np.all(np.isfinite(array)) and np.all(array >= minimum))
    if above is not None:
        fine = fine and bool(np.all(array > above))
    require(fine, f"`{name}` is {value}; it must be {wanted}.")


def all_finite(tree: PyTree) -> bool:
    """Whether every number in every array of a pytree is finite."""
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in leaves)


def zero_unless_finite(tree: PyTree) -> PyTree:
    """The arrays of one sample as they are, or all of them zero if any of their numbers is not finite."""
    finite = jnp.isfinite(sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree)))
    return jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0), tree)
