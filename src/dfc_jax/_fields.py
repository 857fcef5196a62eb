"""Fields of Equinox modules that refuse, the moment a module is made, what they could not mean."""

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from dfc_jax._checks import check_count, check_number, check_type, require


class Part(eqx.Module):
    """An Equinox module whose `repr` shows its numbers, of which Equinox's shows the type alone."""

    def __repr__(self) -> str:
        return eqx.tree_pformat(jax.tree.map(_shown, self))


def _shown(leaf: Any) -> Any:
    """A single number of an array as one of Python's, by the digits that its precision holds."""
    held = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
    if not (held and leaf.ndim == 0 and leaf.is_fully_addressable and not leaf.is_deleted()):
        return leaf
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return float(str(np.asarray(leaf)))
    exact = leaf.dtype == bool or jnp.issubdtype(leaf.dtype, jnp.integer)
    return leaf.item() if exact else leaf


def number(
    name: str,
    default: float | int | None,
    *,
    minimum: float | int = -np.inf,
    above: float | int | None = None,
    maximum: float | int = np.inf,
    optional: bool = False,
    static: bool = False,
) -> Any:
    """A field for a number within bounds; None as well where it is `optional` or the default.

    Not `static`, it is an array, which one may sweep without compiling anew, or under `vmap`.
    """

    def convert(value: Any) -> Array | float | int | None:
        if value is None and (optional or default is None):
            return None
        check_number(name, value, minimum=minimum, above=above, maximum=maximum)
        if not static:
            return _of_any_type(value)
        require(np.ndim(value) == 0, f"`{name}` is {value}; it must be one number.")
        return value if isinstance(value, int) else float(value)

    return eqx.field(converter=convert, static=static, default=default)


def _of_any_type(value: ArrayLike) -> Array:
    """A number, or an array of them, in JAX and still of no type of its own, as Python's numbers are.

    It takes the type of the samples it meets, NumPy's numbers too. What is traced keeps its type.
    """
    if isinstance(value, jax.core.Tracer):
        return jnp.asarray(value)
    array = np.asarray(value)
    if array.ndim == 0:
        return jnp.asarray(float(array))
    return jnp.stack([_of_any_type(part) for part in array])


def count(name: str, default: int, minimum: int = 1) -> Any:
    """A static field for a whole number."""

    def convert(value: Any) -> int:
        check_count(name, value, minimum)
        return int(value)

    return eqx.field(converter=convert, static=True, default=default)


def flag(name: str, default: bool) -> Any:
    """A static field for True or False."""

    def convert(value: Any) -> bool:
        require(isinstance(value, bool), f"`{name}` is {value!r}; it must be True or False.")
        return value

    return eqx.field(converter=convert, static=True, default=default)


def default(make: Callable[..., eqx.Module], *args: Any, **options: Any) -> Any:
    """A field for a module, by default `make(*args, **options)`.

    What holds arrays must be made with each instance: made on import, it would fix JAX's devices and
    precision before the user has chosen them.
    """
    return eqx.field(default_factory=lambda: make(*args, **options))


def check_parts(module: eqx.Module) -> None:
    """Raise `ValueError` if a field that is to hold a module holds anything else. For `__check_init__`."""
    for field in dataclasses.fields(module):
        union = isinstance(field.type, types.UnionType)
        kinds: tuple[Any, ...] = typing.get_args(field.type) if union else (field.type,)
        parts = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, eqx.Module)]
        if parts:
            check_type(field.name, getattr(module, field.name), *kinds)
