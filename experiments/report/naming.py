"""What tells runs apart: method and feedback or, of those that share them, the options that differ."""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from options.checks import READERS, reads_of_learning, reads_of_solver
from options.config import Config, MAY_DIFFER
from options.held import options_of


MOST = 4  # columns for options
FEEDBACK = {"bp": "none", "mn": "none", "gn": "none", "dfa": "random"} | dict.fromkeys(
    ("least-control", "predictive-coding"), "exact"
)
# What names a run otherwise, and what does not change its training.
OTHERWISE = ("dataset", "method", "feedback", "seeds", "diagnostics", *(set(MAY_DIFFER) - {"epochs"}))


@dataclasses.dataclass(frozen=True)
class Named:
    """A run, and what tells it apart from others."""

    config: Config
    method: str
    feedback: str
    told: dict[str, str]
    """The text of every option that is named for any of the runs; empty where its method reads none."""
    differs: tuple[str, ...] = ()
    """Those among them that differ between the runs of its own method and feedback."""
    order: tuple[Any, ...] = ()
    """Sorts the runs of a method."""


def named(folders: Sequence[pathlib.Path]) -> tuple[list[Named], list[str]]:
    """Each run's names; and the options that differ too, but for which there is no room.

    Runs that differ in nothing else are told apart by their seeds, or by their folders if those are the same.
    """
    configs = [options_of(folder) for folder in folders]
    kinds = [(method_of(config), feedback_of(config)) for config in configs]
    groups = [[c for c, k in zip(configs, kinds, strict=True) if k == kind] for kind in kinds]
    distinct: dict[str, int] = {}
    for group in groups:
        for name in _differing(group):
            distinct[name] = max(distinct.get(name, 0), len(_values(group, name)))
    ordered = sorted(distinct, key=lambda name: -distinct[name])
    names = ordered[:MOST]
    told = [{name: _text(config, name) for name in names} for config in configs]
    for name, texts in (
        ("seeds", [" ".join(map(str, config.seeds)) for config in configs]),
        ("folder", _short(folders)),
    ):
        keys = [(kind, *texts.values()) for kind, texts in zip(kinds, told, strict=True)]
        if len({*zip(keys, texts, strict=True)}) > len(set(keys)):
            number = collections.Counter(keys)
            given = [text if number[key] > 1 else "" for key, text in zip(keys, texts, strict=True)]
            told = [found | {name: text} for found, text in zip(told, given, strict=True)]
    runs = []
    for config, kind, texts in zip(configs, kinds, told, strict=True):
        alike = [other for other, k in zip(told, kinds, strict=True) if k == kind]
        differs = tuple(name for name in texts if len({other[name] for other in alike}) > 1)
        values = [value_of(config, name) if name in names else texts[name] for name in differs]
        order = (kind, *map(_sortable, values))
        runs.append(Named(config, *kind, texts, differs, order))
    return runs, ordered[MOST:]


def method_of(config: Config) -> str:
    """The method, and whether its steady state is the state that the published scheme reaches."""
    (method,) = config.method
    reached = method in READERS["solver.steady_state"] and config.solver.steady_state == "published"
    return f"{method}, after T" if reached else method


def feedback_of(config: Config) -> str:
    """The feedback weights that the method has."""
    (method,) = config.method
    return FEEDBACK.get(method, config.feedback)


def _differing(group: Sequence[Config]) -> list[str]:
    """The options read by runs of one method and feedback that differ, and that follow from no other."""
    names = [name for name in _names(Config()) if len(_values(group, name)) > 1]
    return [name for name in names if not all(_follows(config, name) for config in group)]


def _names(options: Any, prefix: str = "") -> list[str]:
    """Of all options, `group.option`, but for those that name a run otherwise."""
    found = []
    for field in dataclasses.fields(options):
        value, name = getattr(options, field.name), f"{prefix}{field.name}"
        nested = dataclasses.is_dataclass(value)
        found += _names(value, f"{name}.") if nested else [name] if name not in OTHERWISE else []
    return found


def _values(group: Sequence[Config], name: str) -> set[Any]:
    return {value_of(config, name) for config in group if reads(config, name)}


def value_of(options: Any, name: str) -> Any:
    """That of an option, `group.option`."""
    for part in name.split("."):
        options = getattr(options, part)
    return options


def reads(config: Config, name: str) -> bool:
    """Whether the run's method reads the option."""
    group, _, option = name.partition(".")
    if group == "solver":
        return reads_of_solver(config, config.method[0], option)
    if group == "feedback_learning":
        return reads_of_learning(config, config.method[0], option)
    readers = READERS.get(name, READERS.get(group, config.method))
    if name == "damping":
        readers = ("mn", "gn")
    return config.method[0] in readers


def _follows(config: Config, name: str) -> bool:
    """Whether an option that may be left open has the value that the others give it then."""
    if value_of(Config(), name) is not None:
        return False
    try:
        return value_of(replaced(config, name, None).resolved(), name) == value_of(config, name)
    except ValueError:  # the others ask for it
        return False


def replaced(options: Any, name: str, value: Any) -> Any:
    """The same options with another value of one, `group.option`."""
    first, _, rest = name.partition(".")
    inner = replaced(getattr(options, first), rest, value) if rest else value
    return dataclasses.replace(options, **{first: inner})


def _sortable(value: Any) -> tuple[str, Any]:
    """Numbers by size, and apart from what is not compared with them."""
    number = isinstance(value, int | float)
    return ("", value) if number else (type(value).__name__, () if value is None else value)


def _text(config: Config, name: str) -> str:
    if not reads(config, name):
        return ""
    match value_of(config, name):
        case None:
            return "default"
        case float(value):
            return f"{value:g}"
        case tuple(values):
            return " ".join(map(str, values)) or "none"
        case value:
            return str(value)


def _short(folders: Sequence[pathlib.Path]) -> list[str]:
    """Each folder's last parts, as many as no other has: those of runs pooled for a table are in a temporary
    folder, which is nobody's to read."""
    parts = [folder.resolve().parts for folder in folders]
    endings = collections.Counter(p[-n:] for p in {*parts} for n in range(1, 1 + len(p)))
    return ["/".join(next(p[-n:] for n in range(1, 1 + len(p)) if endings[p[-n:]] == 1)) for p in parts]
