"""The picture of training that goes on in several ways, drawn from nothing but the folders of these."""

import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D
from report.curves import read_curves
from report.figure import tidied
from report.pictures import plt
from weight_transport.branches import BRANCHES


# Okabe and Ito's colours; what is learned on but for one other number is dashed.
STYLES = {
    "learned": {"color": "#D55E00"},
    "kept": {"color": "#E69F00"},
    "mean-jacobian": {"color": "#CC79A7"},
    "mean-inverse": {"color": "#56B4E9"},
    "layered": {"color": "#009E73"},
    "exact": {"color": "#000000"},
    "tenth-nudge": {"color": "#0072B2", "linestyle": "--"},
    "quarter-rate": {"color": "#999999", "linestyle": "--"},
    "descent": {"color": "#882255", "linestyle": ":"},
}


def plot_branches(out: pathlib.Path, start: str, branches: Sequence[str], path: pathlib.Path) -> pathlib.Path:
    """Train loss, a panel a seed; of a slower branch an epoch counts by its rate."""
    before = read_curves(out / start)["train_loss"]
    figure, axes = plt.subplots(
        1, len(before), figsize=(4 * len(before), 4.6), sharey=True, squeeze=False, layout="constrained"
    )
    losses = {name: read_curves(out / name)["train_loss"] for name in branches}
    for seed, ax in enumerate(axes.flat):
        ax.plot(np.arange(1, 1 + before.shape[1]), before[seed], color="0.5")
        for name, curves in losses.items():
            epochs = before.shape[1] + np.arange(1, 1 + curves.shape[1]) / BRANCHES[name].slower
            ax.plot(epochs, curves[seed], **STYLES[name])
        ax.set(xlabel="epoch", yscale="log", title=f"network {seed + 1}")
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set(ylabel="train loss")
    entries = [Line2D([], [], label=BRANCHES[name].label, linewidth=2, **STYLES[name]) for name in branches]
    figure.legend(handles=entries, loc="outside lower center", frameon=False, ncols=2, fontsize=8)
    tidied(figure).savefig(path, dpi=130)
    plt.close(figure)
    return path
