"""What the runs of a sweep came to, read from their folders; as a table and as CSV."""

import csv
import dataclasses
import math
import pathlib
from collections.abc import Sequence

import numpy as np
from report.curves import read_curves
from report.doubts import remark
from report.finished import read_json
from report.spread import mean_and_spread, shown
from sweeping.description import COMPARED
from sweeping.space import Setting
from sweeping.turn import finished


_NONE = {"mean": None, "std": None}


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run; its scores are those of the epoch with the best validation score, means over seeds."""

    folder: pathlib.Path
    setting: Setting
    metric: str
    """accuracy, or loss."""
    validation: float | None
    """None where no seed has finished an epoch."""
    validation_std: float | None
    test: float | None
    test_std: float | None
    epochs: int
    """Of the seed that ran longest."""
    pruned: bool
    diverged: bool
    """Whether a seed's numbers were no longer finite."""
    doubts: tuple[str, ...]
    remark: str
    """What is to be known of its scores."""

    def order(self) -> tuple[bool, float]:
        """Sorts runs, the best first, those that diverged last."""
        if self.validation is None:
            return True, math.inf
        return self.diverged, -self.validation if self.metric == "accuracy" else self.validation


def result_of(folder: pathlib.Path, setting: Setting, chosen_by: str) -> Result | None:
    """What the run in a folder came to, by its validation accuracy or loss; None if it has not finished."""
    if not finished(folder):
        return None
    summary = read_json(folder / "summary.json")
    seeds = summary["seeds"]
    curves, metric = read_curves(folder), chosen_by.removeprefix("validation_")
    rows = {int(values[0]): row for row, values in enumerate(curves.get("seed", ()))}
    best = [(rows[int(s)], found["best_epoch"] - 1) for s, found in seeds.items() if "best_epoch" in found]
    scores = [
        mean_and_spread([curves[f"{split}_{metric}"][place] for place in best]) if best else _NONE
        for split in ("validation", "test")
    ]
    doubts = [text for found in seeds.values() for text in found["doubts"]]
    doubts += [found["stopped"] for found in seeds.values() if found["stopped_by"] == "divergence"]
    return Result(
        folder,
        setting,
        metric,
        *(score[name] for score in scores for name in ("mean", "std")),
        epochs=max((found.get("epochs", 0) for found in seeds.values()), default=0),
        pruned=any(found["stopped_by"] == "on_epoch" for found in seeds.values()),
        diverged=any(found["stopped_by"] == "divergence" for found in seeds.values()),
        doubts=tuple(doubts),
        remark=remark(summary),
    )


def ranked(results: Sequence[Result]) -> list[Result]:
    """The best first."""
    return sorted(results, key=Result.order)


def searched(results: Sequence[Result]) -> list[str]:
    """The names of the options that any of the runs was given a value for."""
    return list(dict.fromkeys(name for result in results for name in result.setting))


def cells(result: Result, names: Sequence[str]) -> list[str]:
    """A row of the table."""
    percent = result.metric == "accuracy"
    factor, digits = (100, 2) if percent else (1, 5)
    pairs = (result.validation, result.validation_std), (result.test, result.test_std)
    scores = ["none" if m is None else shown({"mean": m, "std": s}, factor, digits) for m, s in pairs]
    told = [result.setting.get(name, "") for name in names]
    return [result.folder.name, *told, *scores, str(result.epochs), result.remark]


def columns(results: Sequence[Result]) -> list[str]:
    """The table's heading."""
    metric = "%" if results[0].metric == "accuracy" else "loss"
    return ["run", *searched(results), f"validation {metric}", f"test {metric}", "epochs", "remark"]


def sensitivity(results: Sequence[Result]) -> list[list[str]]:
    """Of every method and kind of feedback the best run's scores, the median's and the worst quarter's
    validation score, and how many runs come near the best."""
    rows = []
    for kind in dict.fromkeys(map(_kind, results)):
        alike = ranked([result for result in results if _kind(result) == kind and not result.pruned])
        if not alike or alike[0].validation is None:
            continue
        accuracy = alike[0].metric == "accuracy"
        factor, style, worst = (100, ".2f", 0.0) if accuracy else (1, ".5f", np.inf)
        scores = np.array([worst if r.validation is None or r.diverged else r.validation for r in alike])
        near = np.abs(scores - scores[0]) <= (0.01 if accuracy else 0.1 * scores[0])
        quartiles = np.quantile(scores, (0.5, 0.25 if accuracy else 0.75), method="nearest")
        told = [f"{factor * value:{style}}" for value in quartiles]
        counted = f"{near.sum()} of {len(alike)}"
        rows.append([", ".join(kind), str(len(alike)), *cells(alike[0], [])[:3], *told, counted])
    return rows


def _kind(result: Result) -> tuple[str, ...]:
    return tuple(result.setting[name] for name in COMPARED if name in result.setting)


def write_csv(path: pathlib.Path, results: Sequence[Result]) -> None:
    """All runs, the best first, numbers unrounded."""
    names = searched(results)
    scores = ["validation", "validation_std", "test", "test_std", "epochs", "pruned", "diverged"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", *names, *scores, "doubts"])
        for result in ranked(results):
            told = [result.setting.get(name, "") for name in names]
            values = [getattr(result, name) for name in scores]
            writer.writerow([result.folder.name, *told, *values, " ".join(result.doubts)])
