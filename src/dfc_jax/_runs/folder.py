"""The folder of a training run: what was asked for, what happened in each epoch, and what came out."""

import contextlib
import json
import os
import pathlib
import statistics
from collections.abc import Callable, Generator, Sequence
from typing import Any

import equinox as eqx

from dfc_jax._checks import check_type, require
from dfc_jax._lock import Lock, lock_of_process
from dfc_jax._runs.environment import environment
from dfc_jax._runs.files import clear_parts, delete, sync, write_whole
from dfc_jax._runs.history import History, Record
from dfc_jax._runs.loading import check_belong, held_in, lines_of, read_config, seeds_of


# What a run leaves beside its config.json.
_LEFT = ("metrics.jsonl", "checkpoints/*.checkpoint", "checkpoints/program-*/*.checkpoint")


class _Once:
    """Work that is done when this is called first."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work

    def __call__(self) -> None:
        if self._work is not None:
            self._work()
        self._work = None


class RunFolder(eqx.Module):
    """A folder that holds one run: `config.json`, `metrics.jsonl`, `checkpoints/` and, at its end,
    `summary.json`."""

    path: pathlib.Path = eqx.field(static=True)
    _lock: Lock | None = eqx.field(default=None, repr=False)
    _going_on: Callable[[], None] | None = eqx.field(default=None, repr=False)  # of a run that was there

    def __check_init__(self) -> None:
        check_type("_lock", self._lock, Lock, type(None))
        check_type("_going_on", self._going_on, Callable, type(None))

    @staticmethod
    def create(path: str | os.PathLike, config: dict[str, Any]) -> "RunFolder":
        """Make the folder and write its `config.json`, with the environment, before anything else happens.

        `config` is what describes the run, whatever JSON can hold, and lists its `seeds`. No other process
        can open the folder until `finish`, or the end of this process.

        **Raises:** `ValueError` if `config` lists no seeds, or the folder holds a run already, or what is
        left of one; `OSError` if it cannot be written.
        """
        folder = pathlib.Path(path)
        seeds_of(config, "config")
        lock = lock_of_process(folder, "out")
        with _said(folder):
            clear_parts(folder)
            problem = f"`out` is {str(folder)!r}, which holds"
            held = (folder / "config.json").exists()
            require(not held, f"{problem} a run already; name a new folder, or resume it.")
            left = next((name for name in _LEFT if any(folder.glob(name))), None)
            require(left is None, f"{problem} {left} of a run without its config.json; name a new folder.")
            _write_json(folder / "config.json", {"config": config, "environment": environment()})
        return RunFolder(folder, lock)

    @staticmethod
    def reopen(
        path: str | os.PathLike, config: dict[str, Any], may_differ: Sequence[str] = ("epochs",)
    ) -> "RunFolder":
        """The folder of an interrupted run, its metrics brought to its newest checkpoint; or a new one.

        `config` must be that of the run, but for the options in `may_differ`. `config.json` and
        `summary.json` stay until `go_on`, should `fit` refuse to.

        **Raises:** `ValueError` if `config` is another, if epochs were finished but no checkpoint is there
        or intact, or more of them than `config` asks for; `OSError` if the folder cannot be read or written.
        """
        folder = pathlib.Path(path)
        if not (folder / "config.json").exists():
            return RunFolder.create(path, config)
        lock = lock_of_process(folder, "out")
        with _said(folder):
            clear_parts(folder)
            held = read_config(folder)
            difference = first_difference(held["config"], config, may_differ)
            if difference is not None:
                name, there, now = difference
                problem = f"{str(folder)!r} holds a run with other options"
                raise ValueError(f"{problem}: `{name}` is {there!r} there and {now!r} now.")
            metrics = folder / "metrics.jsonl"
            write_whole(metrics, _recorded(folder, metrics, config).encode())
        sessions = [*held.get("resumed", []), environment()]

        def go_on() -> None:
            with _said(folder):
                _write_json(folder / "config.json", held | {"config": config, "resumed": sessions})
                delete(folder / "summary.json")

        return RunFolder(folder, lock, _Once(go_on))

    @property
    def checkpoints(self) -> pathlib.Path:
        """Where `fit` keeps the checkpoints of this run."""
        return self.path / "checkpoints"

    def go_on(self) -> None:
        """Note that the run goes on: `config.json` is that of now, and there is no `summary.json` until
        `finish`. `append` and `finish` do that, too.

        **Raises:** `OSError` if it cannot be written.
        """
        if self._going_on is not None:
            self._going_on()

    def append(self, seed: int, record: Record) -> None:
        """Add one epoch to `metrics.jsonl`; it is on disk when this returns.

        `record` may hold more than `fit` said, `record | {"mine": 1.5}`: it stays when the run is resumed.
        """
        self.go_on()
        path = self.path / "metrics.jsonl"
        with open(path, "ab") as file:
            file.write(_line(seed, record).encode())
            file.flush()
            sync(file.fileno(), path)

    def finish(self, histories: dict[int, History], metric: str) -> dict[str, Any]:
        """Write `summary.json` from the history of each seed, and return what it holds.

        Other processes may open the folder then.
        """
        self.go_on()
        seeds = {str(seed): _summarise(history, metric) for seed, history in histories.items()}
        summary = summary_of(seeds, metric)
        _write_json(self.path / "summary.json", summary)
        if self._lock is not None:
            self._lock.release()
        return summary


def summary_of(seeds: dict[str, dict[str, Any]], metric: str) -> dict[str, Any]:
    """What `summary.json` holds: every seed's figures, and of those that all have means and standard
    deviations over the seeds."""
    trained = [found for found in seeds.values() if metric in found]  # others stopped in the first epoch
    floats = [{name for name, value in found.items() if isinstance(value, float)} for found in trained]
    numbers = [name for found in trained[:1] for name in found if all(name in own for own in floats)]
    columns = {name: [found[name] for found in trained] for name in numbers}
    std = {name: statistics.stdev(values) for name, values in columns.items() if len(values) > 1}
    mean = {name: statistics.fmean(values) for name, values in columns.items()}
    return {"metric": metric, "mean": mean, "std": std, "seeds": seeds}


def _summarise(history: History, metric: str) -> dict[str, Any]:
    """One seed: its scores at the best validation epoch, its losses, and how its dynamics fared."""
    if not history.best_epoch:  # no epoch, or none whose validation score is a number
        finished = {"epochs": len(history.records)} if history.records else {}
        return finished | _ending(history)
    train = [record["train_loss"] for record in history.records]
    return {
        metric: history.best[metric],
        "best_epoch": history.best_epoch,
        "epochs": len(history.records),
        "last_train_loss": train[-1],
        "best_train_loss": min(train),
        "last_validation_loss": history.records[-1]["validation_loss"],
        "best_validation_loss": min(record["validation_loss"] for record in history.records),
        **{f"fraction_{name}": mean for name in _FRACTIONS if (mean := _mean(history, name)) is not None},
        # The median: the first epoch compiles.
        "seconds_per_epoch": statistics.median(record["seconds"] for record in history.records),
    } | _ending(history)


_FRACTIONS = "converged", "fallback", "condition_three", "stable"


def _mean(history: History, name: str) -> float | None:
    """Over the epochs whose records have it, which not all methods and versions do; None if none has."""
    values = [record[name] for record in history.records if name in record]
    return statistics.fmean(values) if values else None


def _ending(history: History) -> dict[str, Any]:
    return {name: getattr(history, name) for name in ("stopped", "stopped_by", "doubts")}


def first_difference(
    first: dict[str, Any], second: dict[str, Any], may_differ: Sequence[str] = ()
) -> tuple[str, Any, Any] | None:
    """The first option that has two values, `group.option`, and both of them; None for the same options.

    Options are compared as JSON holds them, where a tuple is a list; those in `may_differ` are not. One that
    is not there, as in runs of before there was such an option, is the same as None or False.
    """
    first, second = json.loads(json.dumps((first, second)))
    for key in dict.fromkeys((*first, *second)):
        one, other = first.get(key), second.get(key)
        off = all(value is None or value is False for value in (one, other))
        if key in may_differ or one == other or (off and not (key in first and key in second)):
            continue
        if not (isinstance(one, dict) and isinstance(other, dict)):
            return key, one, other
        inner = first_difference(one, other)
        if inner is not None:
            name, one, other = inner
            return f"{key}.{name}", one, other
    return None


def _line(seed: int, record: Record) -> str:
    """One line of `metrics.jsonl`: all but the time it took, so that the same run leaves the same bytes."""
    kept = {name: value for name, value in record.items() if name != "seconds"}
    return json.dumps({"seed": seed, **kept}) + "\n"


def _recorded(folder: pathlib.Path, metrics: pathlib.Path, config: dict[str, Any]) -> str:
    """What `metrics.jsonl` holds up to the newest checkpoint, with what its lines have beyond the records.

    **Raises:** `ValueError` if there are epochs but no checkpoint, or more of them than `config` asks for.
    """
    seeds = seeds_of(config, "config")
    found = held_in(folder / "checkpoints", seeds)
    if not found:
        lines = len(metrics.read_bytes().splitlines()) if metrics.exists() else 0
        problem = f"{str(folder)!r} holds {lines} lines in metrics.jsonl but no checkpoint to go on from"
        require(lines == 0, f"{problem}; name a new folder.")
        return ""
    for checkpoint, _ in found:
        done, epochs = checkpoint.facts.get("epoch"), config.get("epochs")
        if isinstance(done, int) and isinstance(epochs, int):
            problem = f"`epochs` is {epochs}, but {str(folder)!r} holds {done} already"
            require(epochs >= done, f"{problem}; ask for as many at least.")
    held = lines_of(metrics)
    check_belong(found, held)
    lines = [
        (i, record["epoch"], seeds.index(seed), _line(seed, held.get((seed, record["epoch"]), {}) | record))
        for i, (_, runs) in enumerate(found)
        for seed, records in runs.items()
        for record in records
    ]
    return "".join(line for *_, line in sorted(lines))


@contextlib.contextmanager
def _said(folder: pathlib.Path) -> Generator[None]:
    """Say which folder it is that cannot be written."""
    try:
        yield
    except OSError as error:
        problem = f"`out` is {str(folder)!r}, which cannot be written ({error.strerror or error})"
        raise OSError(f"{problem}; name another folder, or free it.") from error


def _write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())
