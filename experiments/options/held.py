"""The runs that a folder holds, and what of their options a command line changes."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any, get_args

from options.config import Config, MAY_DIFFER, Method
from options.read_back import from_dict

from dfc_jax._runs.folder import first_difference


BEFORE = {"weight_decay": 0.0, "schedule": "constant"}  # of the optimiser, where a run does not say it
NOW = tuple(name for name in MAY_DIFFER if name not in ("epochs", "out", "tensorboard"))


def runs_in(out: pathlib.Path) -> dict[Method, pathlib.Path]:
    """The folder of each method's run: `out` itself where it holds a run, or those of one job in it.

    **Raises:** `ValueError` if a `config.json` there cannot be read.
    """
    if (out / "config.json").exists():
        return {options_of(out).method[0]: out}
    found = {}
    for folder in _folders(out):
        config = options_of(folder)
        own = pathlib.Path(config.out or "").name == folder.name != out.resolve().name
        if config.method == (folder.name,) and not own:
            found[config.method[0]] = folder
    return found


def runs_below(out: pathlib.Path) -> list[pathlib.Path]:
    """Folders that hold runs: `out`, or those in it."""
    return [out] if (out / "config.json").exists() else _folders(out)


def _folders(out: pathlib.Path) -> list[pathlib.Path]:
    return [file.parent for file in sorted(out.glob("*/config.json"))]


def options_of(folder: pathlib.Path) -> Config:
    """Those of the run in `folder`, with the defaults of what an earlier version did not have.

    **Raises:** `ValueError` if it holds no configuration that this version can read.
    """
    file = folder / "config.json"
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(held, dict) or not isinstance(held.get("config"), dict):
            raise ValueError("it has no `config`")
        values = held["config"]
        config = from_dict(Config, values)
        if config.method not in [(name,) for name in get_args(Method)]:
            raise ValueError(f"`method` is {values['method']!r}")
        if config.epochs is None:  # which a run has not left open
            raise ValueError("`epochs` is None")
        if not config.model:  # of before there were convolutional networks
            config = dataclasses.replace(config, model="mlp", augment=False)
        return _as_it_was(config, values).resolved()
    except OSError:
        raise
    except Exception as error:  # whatever the file holds
        reason = f"no `{error.args[0]}`" if isinstance(error, KeyError) else error
        problem = f"{str(file)!r} is no configuration of a run that this version can read"
        raise ValueError(f"{problem}: {reason}.") from error


def _as_it_was(config: Config, values: dict[str, Any]) -> Config:
    """Without what has a default of its data set's now, where its version did not have it."""
    before = {name: of for name, of in BEFORE.items() if name not in values.get("optimiser", {})}
    others = {name: False for name in ("layered", "centred") if name not in values}
    return dataclasses.replace(config, optimiser=dataclasses.replace(config.optimiser, **before), **others)


def options_to_go_on(
    runs: dict[Method, pathlib.Path], parse: Callable[[Config], Config]
) -> dict[Method, Config]:
    """The options of each run with those that `parse`, of a default, finds given in their place.

    Only the methods that are asked for; nothing if that is one that has no run.
    """
    held = {method: options_of(folder) for method, folder in runs.items()}
    now = {name: getattr(Config(), name) for name in NOW}
    parsed = {m: parse(dataclasses.replace(c, method=tuple(held), **now)) for m, c in held.items()}
    asked = next(iter(parsed.values())).method
    if not set(asked) <= set(held):
        return {}
    return {method: dataclasses.replace(parsed[method], method=(method,)) for method in asked}


def check_same(folder: pathlib.Path, config: Config) -> None:
    """Raise `ValueError` if the run in `folder` has other options than `config`, but for those that may."""
    held = dataclasses.asdict(options_of(folder))
    # A learning rate that falls over the epochs would be another with more of them.
    fixed = ("epochs",) if config.optimiser.schedule == "cosine" else ()
    may_differ = tuple(name for name in MAY_DIFFER if name not in fixed)
    difference = first_difference(held, dataclasses.asdict(config), may_differ)
    if difference is not None:
        name, there, now = difference
        problem = f"{str(folder)!r} holds a run with other options"
        raise ValueError(f"{problem}: `{name}` is {there!r} there and {now!r} now.")
