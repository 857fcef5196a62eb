"""The folder of a training run: what was asked for, what happened in each epoch, and what came out."""

import datetime
import json
import os
import pathlib
import platform
import shlex
import statistics
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import equinox as eqx
import jax

from dfc_jax._checks import require
from dfc_jax.training import History, Record


_PACKAGES = ("dfc_jax", "jax", "jaxlib", "equinox", "diffrax", "optimistix", "lineax", "optax", "numpy")


def environment() -> dict[str, Any]:
    """Where and with what a result came about: versions, git revision, device, command, time."""
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
        "git_revision": _git_revision(),
        "device": device.device_kind,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "command": shlex.join(["python", _script(), *sys.argv[1:]]),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


class RunFolder(eqx.Module):
    """A folder that holds one run: `config.json`, `metrics.jsonl` and, at its end, `summary.json`."""

    path: pathlib.Path = eqx.field(static=True)

    @staticmethod
    def create(path: str | os.PathLike, config: dict[str, Any]) -> "RunFolder":
        """Make the folder and write its `config.json`, with the environment, before anything else happens.

        **Raises:** `ValueError` if the folder holds a run already, `OSError` if it cannot be written.
        """
        folder = pathlib.Path(path)
        require(
            not (folder / "config.json").exists(),
            f"`out` is {str(folder)!r}, which holds a run already; name a new folder.",
        )
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "config.json", {"config": config, "environment": environment()})
        return RunFolder(folder)

    def append(self, seed: int, record: Record) -> None:
        """Add one epoch to `metrics.jsonl`; it is on disk when this returns."""
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"seed": seed, **record}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self, histories: dict[int, History], metric: str) -> dict[str, Any]:
        """Write `summary.json` from the history of each seed and return what it holds."""
        seeds = {str(seed): _summarise(history, metric) for seed, history in histories.items()}
        numbers = [name for name, value in next(iter(seeds.values())).items() if isinstance(value, float)]
        summary = {
            "metric": metric,
            "mean": {n: statistics.fmean(s[n] for s in seeds.values()) for n in numbers},
            "std": {n: statistics.stdev(s[n] for s in seeds.values()) for n in numbers}
            if len(seeds) > 1
            else {},
            "seeds": seeds,
        }
        _write_json(self.path / "summary.json", summary)
        return summary


def _summarise(history: History, metric: str) -> dict[str, Any]:
    """One seed: its scores at the best validation epoch, its losses, and how its dynamics fared."""
    if not history.records:
        return {"stopped": history.stopped}
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
    }


def _write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _git_revision() -> str | None:
    """The revision of the source this package was imported from, None outside a git checkout."""
    folder = pathlib.Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _script() -> str:
    """The script as it was named on the command line; by name alone where that was an absolute path."""
    script = pathlib.Path(sys.argv[0])
    return script.name if script.is_absolute() else str(script)


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
