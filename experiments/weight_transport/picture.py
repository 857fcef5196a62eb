"""The picture of feedback that keeps up or does not, drawn from nothing but the folders of its rows."""

import pathlib
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from report.curves import draw_curve, read_curves
from report.figure import tidied
from report.pictures import plt


HALF = 45  # degrees: half of an update's squared length is then along the gradient
# Okabe and Ito's colours; direct feedback is dashed, what is no local feedback black or grey.
STYLES = {
    "bp": {"color": "#000000"},
    "dfa": {"color": "#999999"},
    "direct-initial": {"color": "#E69F00", "linestyle": "--"},
    "direct-sleep": {"color": "#D55E00", "linestyle": "--"},
    "direct-kolen-pollack": {"color": "#CC79A7", "linestyle": "--"},
    "layered-random": {"color": "#F0E442"},
    "layered-initial": {"color": "#E69F00"},
    "layered-signs": {"color": "#009E73"},
    "layered-random-signs": {"color": "#7FCEB9"},
    "layered-redrawn-signs": {"color": "#004D40"},
    "layered-kolen-pollack": {"color": "#CC79A7"},
    "layered-mirror": {"color": "#56B4E9"},
    "layered-mirror-kolen-pollack": {"color": "#0072B2"},
    "exact": {"color": "#000000", "linestyle": ":"},
}


def plot_feedback(out: pathlib.Path, labels: Mapping[str, str], path: pathlib.Path) -> pathlib.Path:
    """Accuracy over training, and for each layer the angle of its update to the gradient; a line for every
    row that is finished and has an epoch."""
    files = ("summary.json", "metrics.jsonl")
    rows = [name for name in labels if all((out / name / file).exists() for file in files)]
    angles = {name: _angles(out / name) for name in rows}
    layers = max(map(len, angles.values()))
    columns = min(1 + layers, 3)
    lines = -(-(1 + layers) // columns)
    size = 4 * columns, 3.2 * lines + 1.2
    figure, axes = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
    first, *of_layers = axes.flat
    for name in rows:
        draw_curve(first, read_curves(out / name), "validation_accuracy", 100, STYLES[name])
        for degrees, ax in zip(angles[name], of_layers, strict=False):
            ax.plot(np.arange(1, 1 + len(degrees)), degrees, **STYLES[name])
    first.set(ylabel="validation accuracy (%)", xlabel="epoch")
    first.xaxis.get_major_locator().set_params(integer=True)
    for layer, ax in enumerate(of_layers):
        if layer < layers:
            _describe(ax, layer)
        else:
            ax.set_axis_off()
    entries = [Line2D([], [], label=labels[name], linewidth=2, **STYLES[name]) for name in rows]
    figure.legend(handles=entries, loc="outside lower center", frameon=False, ncols=3, fontsize=8)
    tidied(figure).savefig(path, dpi=130)
    plt.close(figure)
    return path


def _describe(ax: Axes, layer: int) -> None:
    ax.axhline(HALF, color="0.7", linestyle=":", linewidth=1)
    ax.set(ylabel=f"layer {layer + 1}: degrees to the gradient", xlabel="epoch")
    ax.set_ylim(bottom=0)
    ax.xaxis.get_major_locator().set_params(integer=True)


def _angles(folder: pathlib.Path) -> np.ndarray:
    """(layers, epochs), the mean over the seeds."""
    layers = read_curves(folder, of_layers="angle_to_backprop_by_layer")
    return np.asarray([np.nanmean(layers[str(i)], axis=0) for i in range(len(layers))])
