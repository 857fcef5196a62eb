"""The picture of one equilibrium and four theories, drawn from nothing but its folders and numbers."""

import pathlib
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from report.curves import COLOURS, draw_curve, NAMES, read_curves
from report.figure import tidied
from report.pictures import plt


LABELS = NAMES | {"strong-dfc": "Strong-DFC, exact feedback"}
PANELS = {
    "validation_accuracy": ("validation accuracy (%)", 100),
    "angle_to_backprop": ("update to backprop (degrees)", 1),
    "target_alignment": ("target alignment (cosine)", 1),
}


def plot_theories(
    out: pathlib.Path, interference: dict[str, dict[str, Any]], path: pathlib.Path
) -> pathlib.Path:
    """Three measures over training, a line for each method, and what other outputs do when one learns."""
    figure, axes = plt.subplots(2, 2, figsize=(9.5, 6), layout="constrained")
    methods = [name for name in LABELS if (out / name / "metrics.jsonl").exists()]
    for ax, (measure, (label, factor)) in zip(axes.flat, PANELS.items(), strict=False):
        for name in methods:
            draw_curve(ax, read_curves(out / name), measure, factor, {"color": COLOURS[name]})
        ax.set(xlabel="epoch", ylabel=label)
        ax.xaxis.get_major_locator().set_params(integer=True)
    _draw_interference(axes[1, 1], interference)
    entries = [Line2D([], [], color=COLOURS[name], label=LABELS[name], linewidth=3) for name in methods]
    figure.legend(handles=entries, loc="outside lower center", frameon=False, ncols=3)
    tidied(figure).savefig(path, dpi=150)
    plt.close(figure)
    return path


def _draw_interference(ax: Axes, interference: dict[str, dict[str, Any]]) -> None:
    for name, found in interference.items():
        own, others = (np.mean(found[part], axis=0) for part in ("own", "others"))
        ax.plot(own, others, color=COLOURS[name], marker=".")
    ax.set(xlabel="change of the output that learns", ylabel="change of the other outputs")
    ax.set(xscale="log", yscale="log")
