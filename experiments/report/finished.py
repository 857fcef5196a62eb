"""The files of a finished run."""

import collections
import json
import pathlib
from collections.abc import Sequence
from typing import Any


NONE = "does not hold a finished run"
PARTS = {
    "config": {"config": dict, "environment": dict},
    "summary": {"metric": str, "mean": dict, "std": dict, "seeds": dict},
}
# What a table says of a run: its environment, and the means over its seeds beside that of the score.
ENVIRONMENT = dict.fromkeys(("processor", "cores", "device", "python", "git_revision"), object)
ENVIRONMENT |= {"command": str, "versions": dict}
MEANS = ("last_train_loss", "fraction_converged", "seconds_per_epoch")


def read_run(folder: pathlib.Path) -> dict[str, Any]:
    """The `config`, `environment` and `summary` of a run, whichever script made it.

    **Raises:** `ValueError` if it has not finished, or a file lacks a part of what a run writes.
    """
    found = {name: read_json(folder / f"{name}.json") for name in PARTS}
    for name, kinds in PARTS.items():
        _check_parts(folder / f"{name}.json", "", found[name], kinds)
    seeds = found["summary"]["seeds"]
    for seed, of in seeds.items():
        _check_parts(folder / "summary.json", "seeds.", seeds, {seed: dict})
        doubts = of.get("doubts", [])
        if not (isinstance(doubts, list) and all(isinstance(each, str) for each in doubts)):
            problem = f"`seeds.{seed}.doubts` of summary.json is {doubts!r}, no list of sentences"
            raise ValueError(f"{str(folder)!r} {NONE}: {problem}.")
    return {**found["config"], "summary": found["summary"]}


def check_told(folder: pathlib.Path, run: dict[str, Any]) -> None:
    """Raise `ValueError` unless a run has all that a table of several says of it."""
    config, summary = folder / "config.json", folder / "summary.json"
    _check_parts(config, "config.", run["config"], {"dataset": str})
    _check_parts(config, "environment.", run["environment"], ENVIRONMENT)
    of = run["summary"]
    score = {of["metric"]: int | float}
    if of["mean"]:  # not all seeds stopped in their first epoch
        _check_parts(summary, "mean.", of["mean"], score | dict.fromkeys(MEANS, int | float))
    each = {"std.": of["std"]} | {f"seeds.{seed}.": found for seed, found in of["seeds"].items()}
    for where, found in each.items():
        if of["metric"] in found:
            _check_parts(summary, where, found, score)


def _check_parts(file: pathlib.Path, where: str, of: Any, kinds: dict[str, Any]) -> None:
    for part, kind in kinds.items():
        if not (isinstance(of, dict) and part in of and isinstance(of[part], kind)):
            raise ValueError(f"{str(file.parent)!r} {NONE}: {file.name} has no `{where}{part}`.")


def read_json(path: pathlib.Path) -> Any:
    """What a file of a finished run holds.

    **Raises:** `ValueError`, which names the file, if there is none or it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        reason = f"there is no {path.name}" if missing else f"{path.name}: {error}"
        raise ValueError(f"{str(path.parent)!r} {NONE}: {reason}.") from error


def check_same_epochs(folder: pathlib.Path, seeds: Sequence[int], summary: dict[str, Any]) -> None:
    """Raise `ValueError` unless `metrics.jsonl` holds the epochs that `summary.json` is of, and both are of
    these seeds."""
    problem = f"{str(folder)!r} {NONE}"
    asked, told = [str(seed) for seed in seeds], list(summary["seeds"])
    if sorted(asked) != sorted(told):
        held = f"the seeds of summary.json are {' '.join(told) or 'none'}"
        raise ValueError(f"{problem}: {held}, and {' '.join(asked)} were asked for.")
    held = collections.defaultdict(list)
    try:
        for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            held[str(record["seed"])].append(record["epoch"])
    except FileNotFoundError as error:
        if summary["mean"]:  # not all seeds stopped in their first epoch
            raise ValueError(f"{problem}: there is no metrics.jsonl.") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{problem}: metrics.jsonl: {type(error).__name__}: {error}.") from error
    for seed, found in summary["seeds"].items():
        epochs = found.get("epochs", 0)
        if not isinstance(epochs, int) or held.pop(seed, []) != list(range(1, 1 + epochs)):
            raise ValueError(f"{problem}: metrics.jsonl and summary.json hold other epochs of seed {seed}.")
    if held:
        raise ValueError(f"{problem}: metrics.jsonl holds seeds that were not asked for: {' '.join(held)}.")
