"""The search space of a sweep: `run.py`'s options as a command line gives them, some with several values."""

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Sequence
from typing import Any

import numpy as np
from options.config import Config, DISTRIBUTED


OF_ALL_RUNS = ("dataset", "seeds", "best", "download", "tensorboard")  # which have one value in a sweep
OF_RUN_ALONE = ("out", "resume", "progress", *DISTRIBUTED)  # which a sweep sets itself
ALTERNATIVE = "or"  # between the values of an option that takes several
SCALES = ("linear", "log")


@dataclasses.dataclass(frozen=True)
class Choices:
    """Values that an option takes, as they stand on a command line."""

    values: tuple[str, ...]

    def draw(self, generator: np.random.Generator) -> str:
        """Any of them."""
        return self.values[generator.integers(len(self.values))]


@dataclasses.dataclass(frozen=True)
class Range:
    """All numbers between two, even or even in their logarithm."""

    low: float
    high: float
    log: bool
    whole: bool

    def draw(self, generator: np.random.Generator) -> str:
        """Any of them."""
        low, high = (math.log(end) if self.log else end for end in (self.low, self.high))
        at = generator.uniform(low, high)
        return self.written(math.exp(at) if self.log else at)

    def written(self, number: float) -> str:
        """As it stands on a command line, to four digits, which tables have room for."""
        number = min(max(float(f"{number:.4g}"), self.low), self.high)
        return str(round(number)) if self.whole else f"{number:.12g}"

    def values(self, number: int) -> tuple[str, ...]:
        """So many of them, the ends included; fewer where they are whole and would be the same."""
        between = np.geomspace if self.log else np.linspace
        return tuple(dict.fromkeys(map(self.written, between(self.low, self.high, number))))


Swept = Choices | Range
Setting = dict[str, str]  # of every option that is swept its value, as it stands on a command line


def read_space(arguments: Sequence[str]) -> tuple[Setting, dict[str, Swept]]:
    """The options of `run.py` in `arguments` that have one value, and the others' values.

    **Raises:** `ValueError` in a sentence for what is no option, or no values.
    """
    fixed: Setting = {}
    space: dict[str, Swept] = {}
    for name, words in grouped(arguments).items():
        name, words = _asked_not(name, words)
        kind = kind_of(name)
        values = _values(name, kind, words)
        if isinstance(values, Range) or len(values.values) > 1:
            if name in OF_ALL_RUNS:
                raise ValueError(f"`{name}` is {' '.join(words)}; it is the same for all runs of a sweep.")
            space[name] = values
        else:
            fixed[name] = values.values[0]
    return fixed, space


def grouped(arguments: Sequence[str]) -> dict[str, list[str]]:
    """The words behind every option, under its name with underscores."""
    found: dict[str, list[str]] = {}
    name = None
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.removeprefix("--").partition("=")
            name = name.replace("-", "_")
            if name in found:
                raise ValueError(f"`{name}` is given twice; give all its values at once.")
            found[name] = [value] if equals else []
        elif name is None:
            raise ValueError(f"{argument!r} belongs to no option.")
        else:
            found[name].append(argument)
    return found


def words_of(setting: Setting) -> list[str]:
    """The setting as a command line has it."""
    words = []
    for name, value in setting.items():
        if kind_of(name).flag:
            group, _, last = name.rpartition(".")
            name = ".".join(filter(None, (group, last if value == "True" else f"no_{last}")))
            value = ""
        words += [f"--{name.replace('_', '-')}", *value.split()]
    return words


def _asked_not(name: str, words: list[str]) -> tuple[str, list[str]]:
    """`--no-flag` as `--flag False`."""
    group, _, last = name.rpartition(".")
    flag = ".".join(filter(None, (group, last.removeprefix("no_"))))
    negated = last.startswith("no_") and not words and _all_annotations().get(flag) is bool
    return (flag, ["False"]) if negated else (name, words)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What values an option takes."""

    flag: bool
    several: bool
    whole: bool
    number: bool
    truth: bool


def kind_of(name: str) -> Kind:
    """What values an option takes. **Raises:** `ValueError` if there is none of that name."""
    annotation = _all_annotations().get(name)
    if annotation is None or name in OF_RUN_ALONE:
        raise ValueError(_unknown(name))
    parts = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    several = any(typing.get_origin(part) is tuple for part in parts)
    number = bool({int, float} & {*parts})
    return Kind(annotation is bool, several and name != "method", int in parts, number, bool in parts)


@functools.cache
def _all_annotations() -> dict[str, Any]:
    return _annotations(Config())


def _annotations(options: Any, prefix: str = "") -> dict[str, Any]:
    """Of all options, `group.option`."""
    found = {}
    for name, annotation in typing.get_type_hints(type(options)).items():
        value = getattr(options, name)
        if dataclasses.is_dataclass(value):
            found |= _annotations(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = annotation
    return found


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _unknown(name: str) -> str:
    if name in OF_RUN_ALONE:
        return f"`{name}` is for run.py alone: a sweep gives it to its runs."
    near = difflib.get_close_matches(name, _all_annotations(), 1)
    hint = f"; did you mean --{near[0].replace('_', '-')}?" if near else "."
    return f"`{name}` is no option of a sweep, nor of run.py{hint}"


def _values(name: str, kind: Kind, words: list[str]) -> Swept:
    if kind.number and words and words[0] in SCALES:
        return _range(name, kind, words)
    if kind.flag:
        words = words or ["True"]
        if not {*words} <= {"True", "False"}:
            raise ValueError(f"`{name}` is {' '.join(words)}; it can be True, False, or both.")
    elif not words and not kind.several:
        raise ValueError(f"`{name}` has no value{'; give True, False, or both' if kind.truth else ''}.")
    elif kind.several and words and words[0] in SCALES:
        problem = f"`{name}` is {' '.join(words)}; only an option of one number has a range"
        raise ValueError(f"{problem}: give `{ALTERNATIVE}` between values.")
    values = [words]
    if kind.several:  # alternatives, for each is several words
        ends = [i for i, word in enumerate(words) if word == ALTERNATIVE]
        bounds = zip([0, *(end + 1 for end in ends)], [*ends, len(words)], strict=True)
        values = [words[start:end] for start, end in bounds]
    else:
        values = [[word] for word in words]
    texts = tuple(" ".join(value) for value in values)
    if len({_number(text) if kind.number else text for text in texts}) < len(texts):
        raise ValueError(f"`{name}` is {' '.join(words)}; none of its values may stand there twice.")
    return Choices(texts)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _range(name: str, kind: Kind, words: list[str]) -> Swept:
    scale, *numbers = words
    given = f"`{name}` is {' '.join(words)}"
    wanted = f"it must be {scale} LOW HIGH, and for a grid the number of values behind them"
    try:
        low, high = float(numbers[0]), float(numbers[1])
        count = int(numbers[2]) if len(numbers) == 3 else None
    except (ValueError, IndexError):
        raise ValueError(f"{given}; {wanted}.") from None
    if len(numbers) > 3 or not (math.isfinite(low) and low < high < math.inf):
        raise ValueError(f"{given}; {wanted}, LOW below HIGH.")
    if kind.whole and not (low.is_integer() and high.is_integer()):
        raise ValueError(f"{given}; it takes whole numbers, LOW and HIGH among them.")
    if scale == "log" and low <= 0:
        raise ValueError(f"{given}; on a log scale LOW must exceed 0.")
    if count is not None and count < 2:
        raise ValueError(f"{given}; a range has at least 2 values.")
    found = Range(low, high, scale == "log", kind.whole)
    return found if count is None else Choices(found.values(count))
