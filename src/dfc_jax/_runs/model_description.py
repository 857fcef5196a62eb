"""Networks as data: what a checkpoint says of a model, so that it loads without the code that made it."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from dfc_jax._checks import require
from dfc_jax._network import activations, convolution, feedback, layer, layered_feedback, network


_MODULES = (network, layer, convolution, activations, feedback, layered_feedback)
_Description = dict[str, Any] | list[Any] | int | float | bool | str


def describe(model: network.Network) -> _Description | None:
    """A description of `model` without its numbers, ready for JSON; None if it has others' parts."""
    try:
        return _describe(model)
    except TypeError:
        return None


def _describe(part: Any) -> _Description:
    if isinstance(part, eqx.Module):
        name = type(part).__name__
        if _known(name) is not type(part):
            raise TypeError(name)
        return {f.name: _describe(getattr(part, f.name)) for f in dataclasses.fields(part)} | {"kind": name}
    if isinstance(part, tuple):
        return [_describe(each) for each in part]
    if eqx.is_array(part):
        return {"shape": part.shape, "dtype": part.dtype.name, "kind": "array"}
    if isinstance(part, int | float | str):
        return part
    raise TypeError(type(part).__name__)


def build(description: Any, limit: int) -> network.Network:
    """A network of that description, all of its numbers zero.

    **Raises:** `ValueError` if it is none that `describe` makes, or of one whose arrays have more than
    `limit` bytes.
    """
    try:
        require(_size(description) <= limit, f"it has arrays of more than the file's {limit} bytes.")
        built = _build(description)
    except (TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"the description is damaged: {error!r}.") from error
    require(isinstance(built, network.Network), f"it is {type(built).__name__}, where a Network is wanted.")
    return built


def _size(description: Any) -> int:
    """Bytes of all its arrays."""
    if isinstance(description, list):
        return sum(_size(each) for each in description)
    if not isinstance(description, dict):
        return 0
    if description["kind"] != "array":
        return sum(_size(each) for each in description.values())
    lengths = [_length(length) for length in description["shape"]]
    return math.prod(lengths) * jnp.dtype(description["dtype"]).itemsize


def _length(length: Any) -> int:
    require(isinstance(length, int) and length >= 0, f"an array has a length of {length!r}.")
    return length


def _build(description: Any) -> Any:
    if isinstance(description, list):
        return tuple(_build(each) for each in description)
    if not isinstance(description, dict):
        return description
    kind, fields = description["kind"], {n: _build(d) for n, d in description.items() if n != "kind"}
    if kind == "array":
        return jnp.zeros(fields["shape"], fields["dtype"])
    known = _known(kind)
    if known is None:
        raise ValueError(f"it holds a {kind!r}, which this version of the library does not know.")
    return known(**fields)


def _known(name: str) -> type | None:
    """The class of one of the library's own parts."""
    found = (getattr(module, name, None) for module in _MODULES)
    return next((part for part in found if isinstance(part, type) and issubclass(part, eqx.Module)), None)
