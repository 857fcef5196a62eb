"""Options read back from JSON."""

import dataclasses
import functools
import pathlib
import types
from typing import Any, get_args, get_origin, get_type_hints, Literal, Union


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """The options that `dataclasses.asdict` and JSON made a dictionary of.

    **Raises:** `ValueError` for options that this version does not have, or values that they cannot have.
    """
    defaults, hints = _fields(kind)
    unknown = [name for name in values if name not in defaults]
    if unknown:
        raise ValueError(f"{kind.__name__} has no option `{unknown[0]}`: the run is of another version.")
    made = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(defaults[name]) and isinstance(value, dict):
            made[name] = from_dict(type(defaults[name]), value)
            continue
        if not _fits(value, hints[name]):
            raise ValueError(f"`{name}` is {value!r}")
        made[name] = tuple(value) if isinstance(value, list) else value
        if hints[name] is pathlib.Path:
            made[name] = pathlib.Path(value)
    return kind(**made)


@functools.cache
def _fields(kind: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Defaults and types of a kind of options."""
    return {field.name: field.default for field in dataclasses.fields(kind)}, get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    """Whether JSON has such a value for an option of such a type."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Literal:
        return value in parts
    if kind in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is tuple:
        return isinstance(value, list | tuple) and all(_fits(each, parts[0]) for each in value)
    if hint is float:
        hint = int | float
    if hint is pathlib.Path:
        hint = str | pathlib.Path
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
