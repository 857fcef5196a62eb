"""What makes two training runs the same one: a description of all that goes into them, and its comparison.

Numbers of hyperparameters are described in full. Arrays are summarised by sums that tell others apart but not
roundings, which differ between devices. Functions are known by their names alone: what they compute is not
compared.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np


_ROUNDING = 1e-4  # of the norm of an array
_FEW = 8  # entries, of an array that is described in full
_BLOCK = 4096  # samples


def described(part: Any) -> Any:
    """A description of modules, arrays, numbers and functions, in tuples and dictionaries too, for JSON."""
    if isinstance(part, np.ndarray | np.generic | jax.Array):
        return _array(part)
    if part is None or isinstance(part, bool | int | float | str):
        return part
    if isinstance(part, dict):
        return {str(name): described(each) for name, each in part.items()}
    if isinstance(part, tuple | list):
        return [described(each) for each in part]
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = {field.name: described(getattr(part, field.name)) for field in dataclasses.fields(part)}
        return {"kind": type(part).__qualname__} | fields
    return {"kind": getattr(part, "__qualname__", type(part).__qualname__)}


def _array(array: Any) -> Any:
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    array = np.asarray(jr.key_data(array) if is_key else array)
    if array.ndim == 0:
        return array.item()
    if array.size <= _FEW:
        return array.tolist()
    rows, total, squares = array.reshape(len(array), -1), 0.0, 0.0
    along = np.cos(np.arange(rows.shape[1]))
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK].astype(np.float64)
        total += float(np.cos(start + np.arange(len(block))) @ (block @ along))
        squares += float(np.sum(block**2))
    return {"kind": "array", "shape": list(array.shape), "norm": math.sqrt(squares), "along": total}


def difference(there: Any, now: Any, name: str = "") -> str | None:
    """How two descriptions differ, in words that begin with a name; None if they do not.

    What only one of them names is not compared: the other is of a version that did not know it.
    """
    if isinstance(there, dict) and isinstance(now, dict) and there.get("kind") == now.get("kind"):
        if "along" in there and "along" in now:
            return _array_difference(there, now, name)
        shared = (key for key in now if key in there)
        return _first(difference(there[key], now[key], _within(name, key)) for key in shared)
    if isinstance(there, list) and isinstance(now, list) and len(there) == len(now):
        pairs = enumerate(zip(there, now, strict=True))
        return _first(difference(*pair, f"{name}[{i}]") for i, pair in pairs)
    return None if _same(there, now) else f"`{name}` is {_shown(there)} there and {_shown(now)} now"


def _array_difference(there: dict[str, Any], now: dict[str, Any], name: str) -> str | None:
    if there["shape"] != now["shape"]:
        return f"`{name}` has the shape {there['shape']} there and {now['shape']} now"
    allowed = _ROUNDING * max(there["norm"], now["norm"])
    sums = [(there[key], now[key]) for key in ("norm", "along")]
    same = all(_same(a, b) or abs(a - b) <= allowed for a, b in sums)
    return None if same else f"`{name}` holds other numbers there than now"


def _within(name: str, key: str) -> str:
    """The name of a part; that of the whole where the key is no name, but says of which version it is."""
    if not key.isidentifier():
        return name
    return f"{name}.{key}" if name else key


def _first(differences: Iterable[str | None]) -> str | None:
    return next((found for found in differences if found is not None), None)


def _same(there: Any, now: Any) -> bool:
    """But for what differs between the roundings of float32 and float64."""
    if isinstance(there, int | float) and isinstance(now, int | float):
        return (math.isnan(there) and math.isnan(now)) or math.isclose(there, now, rel_tol=1e-6)
    return there == now


def _shown(part: Any) -> str:
    if isinstance(part, dict):
        return repr(part.get("kind", "a group"))
    if isinstance(part, list):
        return f"{len(part)} parts"
    return f"{part:.7g}" if isinstance(part, float) else repr(part)
