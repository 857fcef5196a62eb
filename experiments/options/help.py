"""What `--help` says of an option: its text in one piece, and the value that an open default becomes."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

from tyro import conf
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo


def registry(options: Any) -> ConstructorRegistry:
    """How tyro is to read dataclasses; `options` is the one of the command, whose `resolved` fills in what
    is left open."""
    asked = options().resolved() if hasattr(options, "resolved") else None
    groups = [] if asked is None else [asked, *vars(asked).values()]
    becomes = {type(group): group for group in groups if dataclasses.is_dataclass(group)}
    found, busy = ConstructorRegistry(), []

    @found.struct_rule
    def described(info: StructTypeInfo) -> StructConstructorSpec | None:
        if busy or not dataclasses.is_dataclass(info.type):
            return None
        busy.append(info)  # so that tyro's own rule answers
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            busy.clear()
        if not isinstance(spec, StructConstructorSpec):
            return spec
        fields = tuple(_described(field, becomes.get(info.type), asked) for field in spec.fields)
        return dataclasses.replace(spec, fields=fields)

    return found


def _described(field: StructFieldSpec, resolved: Any, asked: Any) -> StructFieldSpec:
    field = dataclasses.replace(field, helptext=_joined(field.helptext))
    if field.default is not None:
        return field
    value = getattr(resolved, field.name, None)
    text = " ".join(map(str, value)) if isinstance(value, tuple) else value
    hint = "" if text in (None, "") else f"(default for {asked.dataset}: {text})"
    return dataclasses.replace(field, type=Annotated[field.type, conf.arg(help_behavior_hint=hint)])


def _joined(text: str | Callable[[], str | None] | None) -> Callable[[], str | None]:
    """Without the source's line breaks; tyro asks for it only where it shows it."""

    def joined() -> str | None:
        found = text() if callable(text) else text
        return None if found is None else " ".join(found.split())

    return joined
