"""Folders of finished runs of which seeds have stopped early, as `RunFolder.finish` leaves them."""

import json
import pathlib
from collections.abc import Sequence


WHY = "the loss or a weight is no longer finite; the model is that before it."


def accuracy(seed: int, epoch: int) -> float:
    return 0.5 + 0.1 * epoch + 0.01 * seed


def leave(folder: pathlib.Path, came_to: Sequence[int], epochs: int) -> None:
    """A run of the seeds 0, 1, ..., each of which came to an epoch of its own of so many."""
    folder.mkdir(parents=True)
    seeds, lines = {}, []
    for seed, last in enumerate(came_to):
        broken = last < epochs
        measured = {"test_accuracy": accuracy(seed, last), "epochs": last} if last else {}
        ending = {"stopped": f"epoch {last + 1}: {WHY}", "stopped_by": "divergence"} if broken else {}
        seeds[str(seed)] = measured | {"stopped": None, "stopped_by": None, "doubts": []} | ending
        for epoch in range(1, 1 + last):
            measures = {"test_accuracy": accuracy(seed, epoch), "train_loss": 1 / epoch, "converged": 1.0}
            measures |= {"angle_to_backprop": 10.0 * epoch, "target_alignment": 0.9}
            measures |= {"angle_to_backprop_by_layer": [10.0 * epoch, 20.0 * epoch]}
            lines.append({"seed": seed, "epoch": epoch, **measures})
    summary = {"metric": "test_accuracy", "mean": {}, "std": {}, "seeds": seeds}
    (folder / "summary.json").write_text(json.dumps(summary))
    if lines:
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
