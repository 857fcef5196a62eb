"""The tables of training that goes on in several ways after learned feedback."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from report.curves import by_seed
from report.doubts import explained, remarked
from weight_transport.branches import BRANCHES, DAMPINGS, SAMPLES
from weight_transport.foretelling import SETTLED


def table(given: Mapping[str, Any], rows: Mapping[str, Any], slept: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of `late_rise.md`.

    **Arguments:**

    - `given`: dataset, start, epochs and seeds of the run.
    - `rows`: of every branch, what was found.
    - `slept`: of every seed, where sleep has left its feedback.
    """
    seeds = f"{len(given['seeds'])} seed{'s' if len(given['seeds']) > 1 else ''}"
    lines = [
        f"# Feedback after {given['start']} epochs with one that learns: {given['dataset']}, "
        f"{given['epochs']} epochs more, {seeds}",
        "",
        "| from there on | to the gradient, degrees | of each layer | train loss, first epoch | lowest "
        "| last epoch | largest mean logit |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in rows.items():
        network, layers = (np.mean(found["angles"][part], axis=0) for part in ("network", "layers"))
        cells = [remarked(BRANCHES[name].label, found)]
        cells += [f"{network:.0f}", " ".join(f"{angle:.0f}" for angle in layers)]
        cells += [_ends(found[f"{which}_train_loss"]) for which in ("first", "lowest", "last")]
        lines.append(_line([*cells, _ends(found["largest_mean_logit"], "{:.0f}")]))
    return [
        *lines,
        "",
        "Degrees: at the start, between the update by all training samples and the gradient of their loss,",
        "the mean over seeds; more than 90 go uphill. Losses and the largest mean of a logit over the",
        "validation samples: the least and the most of the seeds.",
        *explained(rows),
        *_of_sleep(slept),
        *_foretold({name: found for name, found in rows.items() if "foretold" in found}, given["epochs"]),
    ]


def seen(curves: dict[str, np.ndarray], seeds: Sequence[int], epochs: int) -> dict[str, list[float | None]]:
    """The last train loss of each seed, and that over its lowest; None of one that stopped early."""
    losses = by_seed(curves, "train_loss")
    each = [losses.get(seed, np.empty(0)) for seed in seeds]
    whole = [of if len(of) == epochs and np.isfinite(of[-1]) else None for of in each]
    return {
        "seen": [None if of is None else float(of[-1]) for of in whole],
        "over_lowest": [None if of is None else float(of[-1] / np.min(of)) for of in whole],
    }


def _of_sleep(found: Sequence[Mapping[str, Any]]) -> list[str]:
    named = ["none", *(f"{damping:g}" for damping in DAMPINGS[1:])]
    degrees, condition = (
        np.mean([seed[name] for seed in found], axis=0) for name in ("degrees", "condition_two")
    )
    own = np.mean([seed["own"] for seed in found])
    return [
        "",
        "Where sleep has left Q: its angle to the mean over samples of J^T (J J^T + damping)^-1, and",
        f"Condition 2 of that mean; of Q itself it is {own:.3f}. The first {SAMPLES} training samples, mean",
        "over seeds.",
        "",
        _line(["damping", *named]),
        "|---" + "|---:" * len(named) + "|",
        _line(["degrees", *(f"{value:.0f}" for value in degrees)]),
        _line(["Condition 2", *(f"{value:.3f}" for value in condition)]),
    ]


def _foretold(rows: Mapping[str, Any], epochs: int) -> list[str]:
    if not rows:
        return []
    lines = [
        "",
        "Where the feedback does not learn: what would come of the samples' errors if they went on",
        "acting on each other as at the start, and as at the end. Growth: of the loss, in thousandths of",
        f"the mean effect of an error on itself, after {SETTLED} epochs of that, in which what is common to",
        "many samples comes to rest; the loss rises where it is positive. A number a seed, in their order.",
        "",
        "| from there on | growth, by the start | loss of the last epoch, by the start | seen "
        "| seen, over the lowest | growth, by the end |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in rows.items():
        start, end = found["foretold"]["start"], found["foretold"]["end"]
        cells = [
            BRANCHES[name].label,
            _each([_after(each["growth"], SETTLED, 1e3) for each in start], "{:+.2f}"),
            _each([_after(each["train_loss"], epochs) for each in start], "{:.1e}"),
            _each(found["foretold"]["seen"], "{:.1e}", without="stopped"),
            _each(found["foretold"]["over_lowest"], "{:.1f}", without="stopped"),
            _each([_after(each["growth"], SETTLED, 1e3) for each in end], "{:+.2f}"),
        ]
        lines.append(_line(cells))
    return lines


def _after(course: Sequence[float], epochs: int, unit: float = 1.0) -> float | None:
    return unit * course[epochs] if len(course) > epochs else None


def _each(values: Sequence[float | None], shown: str, without: str = "unsolved") -> str:
    return ", ".join(without if value is None else shown.format(value) for value in values)


def _ends(values: Sequence[float], shown: str = "{:.1e}") -> str:
    ends = sorted({shown.format(value) for value in (min(values), max(values))}, key=float) if values else []
    return " to ".join(ends)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
