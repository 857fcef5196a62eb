"""Networks as data: what a checkpoint says of a model, so that it loads without the code that made it."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from dfc_jax._network import activations, convolution, feedback, network


_MODULES = (network, convolution, activations, feedback)
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


def build(description: _Description) -> Any:
    """A network of that description, all of its numbers zero."""
    if isinstance(description, list):
        return tuple(build(each) for each in description)
    if not isinstance(description, dict):
        return description
    kind, fields = description["kind"], {n: build(d) for n, d in description.items() if n != "kind"}
    if kind == "array":
        return jnp.zeros(fields["shape"], fields["dtype"])
    known = _known(kind)
    if known is None:
        raise ValueError(
            f"the description holds a {kind!r}, which this version of the library does not know."
        )
    return known(**fields)


def _known(name: str) -> type | None:
    """The class of one of the library's own parts."""
    return next((getattr(module, name) for module in _MODULES if hasattr(module, name)), None)
