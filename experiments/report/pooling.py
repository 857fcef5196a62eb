"""Runs that differ in their seeds alone, as one."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from options.config import MAY_DIFFER
from report.finished import check_same_epochs, read_json, read_run

from dfc_jax._runs.folder import first_difference, summary_of
from dfc_jax._runs.history import of_this_version
from dfc_jax._runs.loading import seeds_of


OWN = ("seeds", *(name for name in MAY_DIFFER if name != "epochs"))


def pool(folders: Sequence[pathlib.Path], out: pathlib.Path) -> pathlib.Path:
    """Write `config.json`, `metrics.jsonl` and `summary.json` of all `folders` to `out`; returns it.

    **Raises:** `ValueError` if they are not finished runs of the same options, or have a seed in common.
    """
    runs = [_load(folder) for folder in folders]
    for folder, run in zip(folders[1:], runs[1:], strict=True):
        difference = first_difference(runs[0]["config"], run["config"], OWN)
        if difference is not None:
            problem = f"{str(folder)!r} differs from {str(folders[0])!r} in `{difference[0]}`"
            raise ValueError(f"{problem}, not in its seeds alone.")
    seeds = {seed: found for run in runs for seed, found in run["summary"]["seeds"].items()}
    if len(seeds) < sum(len(run["summary"]["seeds"]) for run in runs):
        raise ValueError("the runs have a seed in common; pool those of different seeds.")
    if out.exists():
        raise ValueError(f"`out` is {str(out)!r}, which exists; name a new folder.")
    records = [of_this_version(json.loads(line)) for folder in folders for line in _lines(folder)]
    records.sort(key=lambda record: record["epoch"])
    config = runs[0]["config"] | {"seeds": [int(seed) for seed in seeds]}
    if "out" in config:  # which other scripts' runs do not note
        config["out"] = str(out)
    environments = [run["environment"] for run in runs]
    environment = {name: _of_all([own.get(name) for own in environments]) for name in environments[0]}
    found = {seed: of_this_version(numbers, "fraction_") for seed, numbers in seeds.items()}
    summary = summary_of(found, runs[0]["summary"]["metric"])
    out.mkdir(parents=True)
    for name, text in (
        ("config.json", json.dumps({"config": config, "environment": environment}, indent=2)),
        ("metrics.jsonl", "".join(f"{json.dumps(record)}\n" for record in records)),
        ("summary.json", json.dumps(summary, indent=2)),
    ):
        (out / name).write_text(text, encoding="utf-8")
    return out


def _load(folder: pathlib.Path) -> dict[str, Any]:
    """A run, whose files are of the same seeds and epochs."""
    run = read_run(folder)
    check_same_epochs(folder, _seeds(folder, run["config"]), run["summary"])
    return run


def _seeds(folder: pathlib.Path, config: dict[str, Any]) -> list[int]:
    return seeds_of(config, str(folder / "config.json"))


def _lines(folder: pathlib.Path) -> list[str]:
    """Of `metrics.jsonl`, which a run does not have whose seeds all stopped in their first epoch."""
    metrics = folder / "metrics.jsonl"
    return metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []


def _of_all(values: list[Any]) -> Any:
    """What is the same for all runs; of what differs all there is, strings one after another."""
    if all(isinstance(value, dict) for value in values):
        return {name: _of_all([value.get(name) for value in values]) for name in values[0]}
    different = [value for i, value in enumerate(values) if value not in values[:i]]
    if len(different) == 1:
        return different[0]
    return "; ".join(different) if all(isinstance(value, str) for value in different) else different


def by_seeds(folders: Sequence[pathlib.Path]) -> list[list[pathlib.Path]]:
    """Runs that differ in their seeds alone, side by side; all in the order of the first of each."""
    groups: list[tuple[dict[str, Any], set[int], list[pathlib.Path]]] = []
    for folder in folders:
        config = read_json(folder / "config.json")["config"]
        seeds = set(_seeds(folder, config))
        for first, taken, members in groups:
            if not taken & seeds and first_difference(first, config, OWN) is None:
                taken |= seeds
                members.append(folder)
                break
        else:
            groups.append((config, seeds, [folder]))
    return [members for _, _, members in groups]
