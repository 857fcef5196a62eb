"""What a sweep is: how it searches, and what options its runs have. It stands in the sweep's folder."""

import contextlib
import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from options.config import Config
from options.defaults import REGRESSION
from options.ready import of_method
from options.script import parse
from report.naming import FEEDBACK, reads, replaced, value_of
from sweeping.space import Choices, grouped, kind_of, read_space, Setting, Swept, words_of

from dfc_jax._runs.environment import environment
from dfc_jax._runs.files import write_whole
from dfc_jax._runs.folder import first_difference


Search = Literal["grid", "random", "optuna"]
FILE = "sweep.json"
COMPARED = ("method", "feedback")  # kinds of runs, each of which gets the same settings
DECISIVE = (  # for what else a run reads
    *COMPARED,
    "solver.steady_state",
    "solver.trajectory",
    "model",  # which has its own default of `layered`
    "layered",
    "feedback_learning.update",
)
MAY_DIFFER = ("trials",)  # of a sweep that goes on: there may be more


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A search, and what of `run.py`'s options is searched."""

    arguments: tuple[str, ...]
    """Of `run.py`, some with several values."""
    search: Search = "grid"
    trials: int | None = None
    """How many settings, in a random search of each method and kind of feedback; a grid has all there are."""
    sampling_seed: int = 0
    prune: bool = False

    def __post_init__(self) -> None:
        if self.search == "grid" and self.trials is not None:
            raise ValueError(f"`trials` is {self.trials}; a grid is all there is: give it to another search.")
        if self.search != "grid" and (self.trials is None or self.trials < 1):
            raise ValueError(f"`trials` is {self.trials}; {self.search} needs their number, at least 1.")
        if self.prune and self.search != "optuna":
            raise ValueError("`prune` is given, which only --search optuna does.")

    @functools.cached_property
    def _read(self) -> tuple[Setting, dict[str, Swept]]:
        fixed, space = read_space(self.arguments)
        if "method" not in fixed and "method" not in space:
            space = {"method": Choices(Config().method)} | space
        return fixed, space

    @property
    def fixed(self) -> Setting:
        """The options that all runs share."""
        return self._read[0]

    @property
    def space(self) -> dict[str, Swept]:
        """Those that are searched, and where."""
        return self._read[1]

    @functools.cached_property
    def _start(self) -> Config:
        """The options that all runs share, the others open."""
        return parse(Config, words_of(self.fixed), "")

    @property
    def chosen_by(self) -> str:
        """The score of a run, and of the epoch that counts: `validation_accuracy` or `validation_loss`."""
        usual = "validation_loss" if self._start.dataset in REGRESSION else "validation_accuracy"
        return self._start.best or usual

    def config(self, setting: Setting) -> Config:
        """The options of one run, none of them left open but its folder.

        **Raises:** `ValueError` if they cannot be; `SystemExit`, said, for words that are no values.
        """
        config = self._with(setting)
        return of_method(config, config.method[0])

    def _with(self, setting: Setting) -> Config:
        config = self._start
        for name, text in setting.items():
            config = replaced(config, name, _value(name, text))
        return config

    def read(self, setting: Setting) -> list[str]:
        """The names of the searched options that a run reads, by those of `setting` that decide it."""
        config = self._with({name: setting[name] for name in DECISIVE if name in setting})
        own = FEEDBACK.keys() & {*config.method}
        return [name for name in self.space if reads(config, name) and not (name == "feedback" and own)]

    @functools.cached_property
    def listed(self) -> list[Setting]:
        """The settings of a grid or a random search, none of them twice."""
        if self.search == "grid":
            drawn = self._grid()
        else:
            drawn = [setting for number in range(self.trials or 0) for setting in self._drawn(number)]
        found: dict[Config, Setting] = {}
        for setting in drawn:
            setting = {name: setting[name] for name in self.read(setting)}
            found.setdefault(self.config(setting), setting)
        return list(found.values())

    def _grid(self) -> list[Setting]:
        for name, swept in self.space.items():
            if not isinstance(swept, Choices):
                between = f"{swept.low:g} to {swept.high:g}"
                problem = f"`{name}` is all between {between}, and a grid needs a number of values"
                raise ValueError(f"{problem}: {'log' if swept.log else 'linear'} LOW HIGH NUMBER.")
        values = (swept.values for swept in self.space.values() if isinstance(swept, Choices))
        return [dict(zip(self.space, chosen, strict=True)) for chosen in itertools.product(*values)]

    def _drawn(self, number: int) -> list[Setting]:
        """Of every option a value at random, whatever the settings before; the same for all methods and kinds
        of feedback."""
        generator = np.random.default_rng((self.sampling_seed, number))
        drawn = {name: swept.draw(generator) for name, swept in self.space.items()}
        names = [name for name in COMPARED if name in self.space]
        kinds = itertools.product(*(_ends(self.space[name]) for name in names))
        return [drawn | dict(zip(names, kind, strict=True)) for kind in kinds]

    def check(self) -> list[Config]:
        """The options of all runs or, where Optuna is to choose, of some with every value that it may.

        **Raises:** `ValueError` for what cannot be, or what no method of the sweep would read.
        """
        first = {name: _ends(swept)[0] for name, swept in self.space.items()}
        kinds = [first | kind for kind in self._kinds(DECISIVE)]
        read = [self.read(kind) for kind in kinds]
        methods = list(dict.fromkeys(kind["method"] for kind in kinds))
        for name in self.space.keys() - {"method", *itertools.chain(*read)}:
            raise ValueError(f"`{name}` is searched, which {' and '.join(methods)} does not read.")
        self._check_fixed(methods)
        if self.search != "optuna":
            return [self.config(setting) for setting in self.listed]
        settings = []
        for kind, names in zip(kinds, read, strict=True):
            own = {name: kind[name] for name in ("method", *names)}
            settings.append(own)
            for name in set(names) - {*DECISIVE}:  # every value of one option, the others at their first
                settings += [own | {name: value} for value in _ends(self.space[name])]
        return self._possible(settings)

    def _possible(self, settings: Sequence[Setting]) -> list[Config]:
        """The options of those that can be.

        **Raises:** `ValueError` for a value, or a method with a kind of feedback, that none of them has.
        """
        found: dict[Config, None] = {}
        possible: set[Any] = set()
        problems: dict[Any, ValueError] = {}
        for setting in settings:
            parts = [*setting.items(), tuple(setting.get(name) for name in COMPARED)]
            try:
                found[self.config(setting)] = None
                possible.update(parts)
            except ValueError as problem:
                problems |= {part: problems.get(part, problem) for part in parts}
        for part, problem in problems.items():
            if part not in possible:
                raise problem
        return list(found)

    def _kinds(self, names: Sequence[str]) -> list[Setting]:
        """All methods with all values of those of `names` that are searched."""
        spaces = {name: self.space[name] for name in names if name in self.space}
        spaces = {"method": Choices(self._start.method)} | spaces
        values = itertools.product(*map(_ends, spaces.values()))
        return [dict(zip(spaces, chosen, strict=True)) for chosen in values]

    def _check_fixed(self, methods: Sequence[str]) -> None:
        """Raise `ValueError` for an option with one value that no kind of run reads."""
        problem = None
        for kind in [*self._kinds(COMPARED), *self._kinds(DECISIVE)]:
            try:
                dataclasses.replace(self._with(kind), method=tuple(methods)).checked()
                return
            except ValueError as error:
                problem = problem or error
        assert problem is not None
        raise problem

    def write(self, folder: pathlib.Path) -> None:
        """Leave it in the folder, for those who work on it and for another day."""
        held = {"sweep": dataclasses.asdict(self), "environment": environment()}
        write_whole(folder / FILE, (json.dumps(held, indent=2) + "\n").encode())


@functools.cache
def _value(name: str, text: str) -> Any:
    """What an option's words stand for."""
    kind = kind_of(name)
    if kind.number and not kind.several:
        with contextlib.suppress(ValueError):
            return int(text) if kind.whole else float(text)
    return value_of(parse(Config, words_of({name: text}), ""), name)


def _ends(swept: Swept) -> tuple[str, ...]:
    if isinstance(swept, Choices):
        return swept.values
    return swept.written(swept.low), swept.written(swept.high)


def _options(sweep: Sweep) -> dict[str, Any]:
    """All of a sweep's, whatever the order on its command line."""
    return dataclasses.asdict(sweep) | {"arguments": None} | grouped(sweep.arguments)


def sweep_in(folder: pathlib.Path) -> Sweep | None:
    """That of a folder, if it holds one. **Raises:** `ValueError` if it cannot be read."""
    file = folder / FILE
    if not file.exists():
        return None
    try:
        held: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["sweep"]
        return Sweep(**held | {"arguments": tuple(held["arguments"])})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(file)!r} describes no sweep that this version can read: {error}.") from error


def check_same(held: Sweep, asked: Sweep, folder: pathlib.Path) -> None:
    """Raise `ValueError` if the sweep that goes on in `folder` is another than the one that is asked for."""
    difference = first_difference(_options(held), _options(asked), MAY_DIFFER)
    if difference is not None:
        name, there, now = difference
        problem = f"`out` is {str(folder)!r}, which holds a sweep with other options"
        raise ValueError(f"{problem}: `{name}` is {there!r} there and {now!r} now; name a new folder.")
    if (asked.trials or 0) < (held.trials or 0):
        raise ValueError(f"`trials` is {asked.trials}, but {str(folder)!r} holds a sweep of {held.trials}.")
