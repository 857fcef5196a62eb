"""The folder of a training run: what was asked for, what happened in each epoch, and what came out."""

import json
import os
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import equinox as eqx

from dfc_jax._checks import require
from dfc_jax._network.network import Network
from dfc_jax._runs import checkpoints, model_description
from dfc_jax._runs.environment import environment
from dfc_jax._runs.history import History, Record


class RunFolder(eqx.Module):
    """A folder that holds one run: `config.json`, `metrics.jsonl`, `checkpoints/` and, at its end,
    `summary.json`."""

    path: pathlib.Path = eqx.field(static=True)

    @staticmethod
    def create(path: str | os.PathLike, config: dict[str, Any]) -> "RunFolder":
        """Make the folder and write its `config.json`, with the environment, before anything else happens.

        **Raises:** `ValueError` if the folder holds a run already, `OSError` if it cannot be written.
        """
        folder = pathlib.Path(path)
        require(
            not (folder / "config.json").exists(),
            f"`out` is {str(folder)!r}, which holds a run already; name a new folder, or resume it.",
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write_json(folder / "config.json", {"config": config, "environment": environment()})
        except OSError as error:
            problem = f"`out` is {str(folder)!r}, which cannot be written ({error.strerror})"
            raise OSError(f"{problem}; name another folder, or free it.") from error
        return RunFolder(folder)

    @staticmethod
    def reopen(
        path: str | os.PathLike, config: dict[str, Any], may_differ: Sequence[str] = ("epochs",)
    ) -> "RunFolder":
        """The folder of an interrupted run, its metrics brought to its newest checkpoint; or a new one.

        `config` must be that of the run, but for the options in `may_differ`.

        **Raises:** `ValueError` if it is not, or if no checkpoint is intact; `OSError` if the folder cannot
        be read or written.
        """
        folder = RunFolder(pathlib.Path(path))
        if not (folder.path / "config.json").exists():
            return RunFolder.create(path, config)
        held = _read_config(folder.path)
        difference = first_difference(held["config"], config, may_differ)
        if difference is not None:
            name, there, now = difference
            problem = f"{str(folder.path)!r} holds a run with other options"
            raise ValueError(f"{problem}: `{name}` is {there!r} there and {now!r} now.")
        _write_json(folder.path / "config.json", held | {"config": config})
        found = checkpoints.newest(folder.checkpoints)
        runs = [] if found is None else [run["records"] for run in found[1]["runs"]]
        seeds = zip(config["seeds"], runs, strict=False)
        lines = [(record["epoch"], i, seed, record) for i, (seed, run) in enumerate(seeds) for record in run]
        text = "".join(_line(seed, record) for *_, seed, record in sorted(lines, key=lambda line: line[:2]))
        _write(folder.path / "metrics.jsonl", text)
        return folder

    @property
    def checkpoints(self) -> pathlib.Path:
        """Where `fit` keeps the checkpoints of this run."""
        return self.path / "checkpoints"

    def append(self, seed: int, record: Record) -> None:
        """Add one epoch to `metrics.jsonl`; it is on disk when this returns."""
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(_line(seed, record))
            file.flush()
            os.fsync(file.fileno())

    def finish(self, histories: dict[int, History], metric: str) -> dict[str, Any]:
        """Write `summary.json` from the history of each seed and return what it holds."""
        seeds = {str(seed): _summarise(history, metric) for seed, history in histories.items()}
        summary = summary_of(seeds, metric)
        _write_json(self.path / "summary.json", summary)
        return summary


def summary_of(seeds: dict[str, dict[str, Any]], metric: str) -> dict[str, Any]:
    """What `summary.json` holds: every seed's figures, and means and standard deviations over the seeds."""
    trained = [found for found in seeds.values() if metric in found]  # others stopped in the first epoch
    numbers = [name for found in trained[:1] for name, value in found.items() if isinstance(value, float)]
    columns = {name: [found[name] for found in trained] for name in numbers}
    std = {name: statistics.stdev(values) for name, values in columns.items() if len(values) > 1}
    mean = {name: statistics.fmean(values) for name, values in columns.items()}
    return {"metric": metric, "mean": mean, "std": std, "seeds": seeds}


def _summarise(history: History, metric: str) -> dict[str, Any]:
    """One seed: its scores at the best validation epoch, its losses, and how its dynamics fared."""
    if not history.records:
        return {"stopped": history.stopped, "doubts": history.doubts}
    train = [record["train_loss"] for record in history.records]
    return {
        metric: history.best[metric],
        "best_epoch": history.best_epoch,
        "epochs": len(history.records),
        "last_train_loss": train[-1],
        "best_train_loss": min(train),
        "last_validation_loss": history.records[-1]["validation_loss"],
        "best_validation_loss": min(record["validation_loss"] for record in history.records),
        "fraction_converged": statistics.fmean(record["converged"] for record in history.records),
        "fraction_fallback": statistics.fmean(record["fallback"] for record in history.records),
        "fraction_stable": statistics.fmean(record["stable"] for record in history.records),
        # The median: the first epoch compiles.
        "seconds_per_epoch": statistics.median(record["seconds"] for record in history.records),
        "stopped": history.stopped,
        "doubts": history.doubts,
    }


class LoadedRun(eqx.Module):
    """A run read back from its folder, seed by seed."""

    config: dict[str, Any]
    models: dict[int, Network]  # as training left them, or the newest checkpoint holds them
    best_models: dict[int, Network]  # of the best epochs
    records: dict[int, list[Record]]


def load_run(path: str | os.PathLike, like: Network | None = None) -> LoadedRun:
    """The models and the configuration of a run, without the script that made it.

    Networks with layers or activations of the user's own need a model of the same architecture in `like`.

    **Raises:** `ValueError` if the folder holds no checkpoint that is intact, or `like` is needed or wrong.
    """
    folder = RunFolder(pathlib.Path(path))
    config = _read_config(folder.path)["config"]
    found = checkpoints.newest(folder.checkpoints)
    if found is None:
        raise ValueError(f"{str(folder.path)!r} holds no checkpoint yet.")
    runs, description = found[1]["runs"], found[1]["model"]
    problem = "`like` is None, but the run's network has layers or activations of the user's own"
    fine = like is not None or description is not None
    require(fine, f"{problem}: give a model of its architecture.")
    model = model_description.build(description) if like is None else like
    filled = checkpoints.newest(folder.checkpoints, ([model] * len(runs), [model] * len(runs)))
    assert filled is not None  # it was there a moment ago
    (best, last), _ = filled
    seeds = config["seeds"]
    return LoadedRun(
        config,
        dict(zip(seeds, last, strict=True)),
        dict(zip(seeds, best, strict=True)),
        {seed: run["records"] for seed, run in zip(seeds, runs, strict=True)},
    )


def _read_config(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / "config.json"
    require(path.exists(), f"{str(folder)!r} holds no run: there is no config.json.")
    try:
        held = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}. Restore it or start anew.") from error
    fine = isinstance(held, dict) and isinstance(held.get("config"), dict)
    require(fine, f"{str(path)!r} is no configuration of a run: it has no `config`.")
    return held


def first_difference(
    first: dict[str, Any], second: dict[str, Any], may_differ: Sequence[str] = ()
) -> tuple[str, Any, Any] | None:
    """The first option that has two values, `group.option`, and both of them; None for the same options.

    Options are compared as JSON holds them, where a tuple is a list; those in `may_differ` are not.
    """
    first, second = json.loads(json.dumps((first, second)))
    for key in dict.fromkeys((*first, *second)):
        one, other = first.get(key), second.get(key)
        if key in may_differ or one == other:
            continue
        if not (isinstance(one, dict) and isinstance(other, dict)):
            return key, one, other
        inner = first_difference(one, other)
        if inner is not None:  # None and no entry at all are the same
            name, one, other = inner
            return f"{key}.{name}", one, other
    return None


def _line(seed: int, record: Record) -> str:
    """One line of `metrics.jsonl`: all but the time it took, so that the same run leaves the same bytes."""
    kept = {name: value for name, value in record.items() if name != "seconds"}
    return json.dumps({"seed": seed, **kept}) + "\n"


def _write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    _write(path, json.dumps(content, indent=2) + "\n")


def _write(path: pathlib.Path, text: str) -> None:
    """All of it or nothing."""
    temporary = path.with_suffix(".part")
    temporary.write_text(text)
    os.replace(temporary, path)
