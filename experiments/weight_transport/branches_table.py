"""The tables of training that goes on in several ways after learned feedback."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from report.doubts import explained, remarked
from weight_transport.branches import BRANCHES, DAMPINGS
from weight_transport.competition import SETTLED


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
        *_of_competition({name: found for name, found in rows.items() if "foretold" in found}),
    ]


def _of_sleep(found: Sequence[Mapping[str, Any]]) -> list[str]:
    named = ["none", *(f"{damping:g}" for damping in DAMPINGS[1:])]
    degrees, condition = (
        np.mean([seed[name] for seed in found], axis=0) for name in ("degrees", "condition_two")
    )
    own = np.mean([seed["own"] for seed in found])
    return [
        "",
        "Where sleep has left Q: its angle to the mean over samples of J^T (J J^T + damping)^-1, and",
        f"Condition 2 of that mean; of Q itself it is {own:.3f}. The first 1000 training samples, mean",
        "over seeds.",
        "",
        _line(["damping", *named]),
        "|---" + "|---:" * len(named) + "|",
        _line(["degrees", *(f"{value:.0f}" for value in degrees)]),
        _line(["Condition 2", *(f"{value:.3f}" for value in condition)]),
    ]


def _of_competition(rows: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    lines = [
        "",
        "Where the feedback does not learn: what would come of the samples' errors if they went on",
        "acting on each other as at the start, and as at the end. Growth, in thousandths of what an",
        f"error does to itself, after {SETTLED} epochs of that: the loss rises where it is positive. A",
        "number a seed, in their order.",
        "",
        "| from there on | growth, as at the start | loss of the last epoch, as at the start | seen "
        "| growth, as at the end | seen, last over lowest |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in rows.items():
        start, end = found["foretold"]["start"], found["foretold"]["end"]
        epochs = max(len(each["train_loss"]) for each in start)
        come_to = [each["train_loss"][-1] if len(each["train_loss"]) == epochs else None for each in start]
        seen = found["last_train_loss"]
        cells = [
            BRANCHES[name].label,
            _each([_growth(each) for each in start], "{:+.2f}"),
            _each(come_to, "{:.1e}"),
            _each(seen, "{:.1e}"),
            _each([_growth(each) for each in end], "{:+.2f}"),
            _each(np.divide(seen, found["lowest_train_loss"]), "{:.1f}"),
        ]
        lines.append(_line(cells))
    return lines


def _growth(course: Mapping[str, Sequence[float]]) -> float | None:
    of = course["growth"]
    return 1e3 * of[SETTLED] if len(of) > SETTLED else None


def _each(values: Sequence[float | None], shown: str) -> str:
    return ", ".join("unsolved" if value is None else shown.format(value) for value in values)


def _ends(values: Sequence[float], shown: str = "{:.1e}") -> str:
    ends = sorted({shown.format(value) for value in (min(values), max(values))}, key=float) if values else []
    return " to ".join(ends)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
