"""Runs read back from their folders, whatever those hold."""

import contextlib
import json
import os
import pathlib
from typing import Any, NamedTuple

import equinox as eqx

from dfc_jax._checks import check_type, require
from dfc_jax._network.network import Network
from dfc_jax._runs import checkpoints
from dfc_jax._runs.history import of_this_version, Record
from dfc_jax._runs.model_file import check_architecture, described
from dfc_jax._runs.programs import newest, programs_in


class LoadedRun(eqx.Module):
    """A run read back from its folder, seed by seed."""

    config: dict[str, Any]  # empty for a folder of `fit(resume=...)`
    models: dict[int, Network]  # as training left them, or the newest checkpoint holds them
    best_models: dict[int, Network]  # of the best epochs
    records: dict[int, list[Record]]


def load_run(path: str | os.PathLike, like: Network | None = None) -> LoadedRun:
    """The models and the configuration of a run, without the script that made it.

    `path` is the folder of a command or of a `RunFolder`, or one that `fit(resume=path)` made: its `config`
    is empty, and its runs are numbered from 0. Runs of a program that has not begun are not there. Networks
    with layers or activations of the user's own need a model of the same architecture in `like`.

    **Raises:** `ValueError` if the folder holds no checkpoint that is intact, if what it holds is not what a
    run leaves, or `like` is needed or wrong.
    """
    check_type("path", path, str, os.PathLike)
    folder = pathlib.Path(path)
    alone = not (folder / "config.json").exists() and bool(programs_in(folder))
    config = {} if alone else read_config(folder)["config"]
    seeds = None if alone else seeds_of(config, str(folder / "config.json"))
    found = held_in(folder if alone else folder / "checkpoints", seeds)
    if not found:
        raise ValueError(f"{str(folder)!r} holds no checkpoint yet.")
    if not alone:
        check_belong(found, lines_of(folder / "metrics.jsonl"))
    run = LoadedRun(config, {}, {}, {})
    for checkpoint, records in found:
        model = described(checkpoint) if like is None else like
        check_architecture(checkpoint, model)
        best, last = checkpoint.first(([model] * len(records), [model] * len(records)))
        run.best_models.update(zip(records, best, strict=True))
        run.models.update(zip(records, last, strict=True))
        run.records.update(records)
    return run


def seeds_of(config: dict[str, Any], name: str) -> list[int]:
    """The seeds that a configuration lists, `name` being what to call it.

    **Raises:** `ValueError` unless they are different whole numbers, at least one.
    """
    seeds = config.get("seeds")
    fine = isinstance(seeds, list | tuple) and all(isinstance(seed, int) for seed in seeds) and len(seeds) > 0
    if not fine or len(set(seeds)) < len(seeds):
        problem = f"{name!r} is no configuration of a run: `seeds` is {seeds!r}"
        raise ValueError(f"{problem}; they must be different whole numbers.")
    return list(seeds)


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """What `config.json` holds.

    **Raises:** `ValueError` if it is not there, or no configuration.
    """
    path = folder / "config.json"
    require(path.exists(), f"{str(folder)!r} holds no run: there is no config.json.")
    try:
        held = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}. Restore it, or name a new folder.") from error
    fine = isinstance(held, dict) and isinstance(held.get("config"), dict)
    require(fine, f"{str(path)!r} is no configuration of a run: it has no `config`.")
    return held


class Held(NamedTuple):
    """A program's newest checkpoint, and the records of its runs by seed."""

    checkpoint: checkpoints.Checkpoint
    records: dict[int, list[Record]]


def held_in(folder: pathlib.Path, seeds: list[int] | None = None) -> list[Held]:
    """Of every program in the folder of checkpoints that has one; without `seeds` the runs are numbered.

    **Raises:** `ValueError` if a checkpoint is none, or of other runs than those.
    """
    found = []
    for positions, checkpoint in newest(folder):
        records = _records_of(checkpoint)
        everyone = list(range(len(records))) if seeds is None else seeds
        wanted = list(range(len(everyone))) if positions is None else positions
        if len(records) != len(wanted) or (seeds is not None and max(wanted) >= len(seeds)):
            problem = f"{str(checkpoint.path)!r} is no checkpoint of this run: it holds {len(records)} runs"
            raise ValueError(f"{problem}, and config.json {len(everyone)} `seeds`.")
        names = wanted if seeds is None else [seeds[i] for i in wanted]
        found.append(Held(checkpoint, dict(zip(names, records, strict=True))))
    return found


def _records_of(checkpoint: checkpoints.Checkpoint) -> list[list[Record]]:
    """The records of every run in a checkpoint. **Raises:** `ValueError` if it holds none."""
    runs = checkpoint.facts.get("runs")
    if not isinstance(runs, list) or not runs or not all(_has_records(run) for run in runs):
        problem = f"{str(checkpoint.path)!r} is no checkpoint of this run"
        raise ValueError(f"{problem}: its `runs` hold no records of epochs.")
    return [[of_this_version(record) for record in run["records"]] for run in runs]


def lines_of(metrics: pathlib.Path) -> dict[tuple[Any, Any], Record]:
    """The whole lines of a run's `metrics.jsonl`, by seed and epoch; none where there is no such file."""
    found = {}
    for line in metrics.read_bytes().splitlines() if metrics.exists() else ():
        # Not one that was being written when the process died, nor what is no record.
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            record = json.loads(line)
            of = record["seed"], record["epoch"]
            found[of] = of_this_version(record)
    return found


def check_belong(held: list[Held], lines: dict[tuple[Any, Any], Record]) -> None:
    """Raise `ValueError` if `lines` of `metrics.jsonl` have other losses than the records of a checkpoint."""
    for checkpoint, runs in held:
        for seed, records in runs.items():
            for record in records:
                line, name = lines.get((seed, record["epoch"]), {}), "train_loss"
                if name in line and json.dumps(line[name]) != json.dumps(record.get(name)):
                    problem = f"{str(checkpoint.path)!r} is no checkpoint of this run"
                    where = f"in epoch {record['epoch']} of seed {seed} its loss is not that of metrics.jsonl"
                    raise ValueError(f"{problem}: {where}.")


def _has_records(run: Any) -> bool:
    records = run.get("records") if isinstance(run, dict) else None
    if not isinstance(records, list):
        return False
    return all(isinstance(record, dict) and isinstance(record.get("epoch"), int) for record in records)
