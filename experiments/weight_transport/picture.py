"""The picture of feedback that keeps up or does not, drawn from nothing but the folders of its rows."""

import json
import pathlib
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from report.curves import draw_curve, read_curves
from report.figure import tidied
from report.pictures import plt


LEARNS = 45  # degrees: an update turned further from the gradient than this learns little from most of it


def plot_feedback(out: pathlib.Path, labels: Mapping[str, str], path: pathlib.Path) -> pathlib.Path:
    """Accuracy over training, and for each layer the angle of its update to the gradient; a line a row."""
    rows = [name for name in labels if (out / name / "metrics.jsonl").exists()]
    colours = dict(zip(rows, mpl.colormaps["tab20"](np.linspace(0, 1, len(rows))), strict=True))
    if "bp" in colours:
        colours["bp"] = (0, 0, 0, 1)
    angles = {name: _angles(out / name) for name in rows}
    layers = max(found.shape[1] for found in angles.values())
    columns = min(1 + layers, 3)
    lines = -(-(1 + layers) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(10, 3 * lines + 1), layout="constrained", squeeze=False
    )
    for name in rows:
        curves = read_curves(out / name)
        draw_curve(axes.flat[0], curves, "validation_accuracy", 100, {"color": colours[name]})
        for layer in range(angles[name].shape[1]):
            epochs = np.arange(1, 1 + len(angles[name]))
            axes.flat[1 + layer].plot(epochs, angles[name][:, layer], color=colours[name])
    axes.flat[0].set(ylabel="validation accuracy (%)", xlabel="epoch")
    for layer in range(layers):
        _angle_axes(axes.flat[1 + layer], layer)
    for unused in axes.flat[1 + layers :]:
        unused.set_axis_off()
    entries = [Line2D([], [], color=colours[name], label=labels[name], linewidth=3) for name in rows]
    figure.legend(handles=entries, loc="outside lower center", frameon=False, ncols=3)
    tidied(figure).savefig(path, dpi=150)
    plt.close(figure)
    return path


def _angle_axes(ax: Axes, layer: int) -> None:
    ax.axhline(LEARNS, color="0.7", linestyle=":", linewidth=1)
    ax.set(ylabel=f"layer {layer + 1}: update to gradient (degrees)", xlabel="epoch", ylim=(0, 100))
    ax.xaxis.get_major_locator().set_params(integer=True)


def _angles(folder: pathlib.Path) -> np.ndarray:
    """(epochs, layers), the mean over the seeds."""
    records = [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    epochs = sorted({record["epoch"] for record in records})
    of_epoch = lambda epoch: [r["angle_to_backprop_by_layer"] for r in records if r["epoch"] == epoch]
    return np.asarray([np.mean(of_epoch(epoch), axis=0) for epoch in epochs])
