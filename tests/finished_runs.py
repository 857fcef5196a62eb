"""Folders of finished runs that have never been trained, and the table of a comparison."""

import dataclasses
import json
import pathlib
from typing import Any

from options.config import Config


def finished_run(
    place: pathlib.Path,
    name: str,
    method: str = "dfc-ss",
    command: str | None = None,
    epochs: int = 2,
    **options: Any,
) -> pathlib.Path:
    """What a finished run leaves for a comparison, but for its checkpoints; so many epochs for every seed."""
    folder = place / name
    folder.mkdir(parents=True)
    config = Config(method=(method,), **{"feedback": "fixed", "epochs": 2, "out": name} | options)
    config = config.resolved()
    numbers = {"test_accuracy": 0.5, "last_train_loss": 1.0}
    numbers |= {"fraction_converged": 1.0, "seconds_per_epoch": 1.0, "epochs": epochs}
    environment = dict.fromkeys(("processor", "cores", "device", "python", "git_revision"), "x")
    environment |= {"versions": {}, "command": f"python run.py {name}" if command is None else command}
    held = {"config": dataclasses.asdict(config), "environment": environment}
    measured = numbers if epochs else {}
    summary = {"metric": "test_accuracy", "mean": measured, "std": {}}
    summary["seeds"] = {str(seed): measured for seed in config.seeds}
    lines = [
        {"seed": seed, "epoch": epoch, "train_loss": 1 / epoch, "test_loss": 1.0, "test_accuracy": 0.5}
        for epoch in range(1, 1 + epochs)
        for seed in config.seeds
    ]
    (folder / "config.json").write_text(json.dumps(held))
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def rows_of(folder: pathlib.Path) -> list[list[str]]:
    """The cells of the table in a folder."""
    lines = (folder / "table.md").read_text(encoding="utf-8").splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][2:]
