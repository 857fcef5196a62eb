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
    "mean-damped": {"color": "#F0E442"},
    "mean-inverse": {"color": "#56B4E9"},
    "layered": {"color": "#009E73"},
    "exact": {"color": "#000000"},
    "tenth-nudge": {"color": "#0072B2", "linestyle": "--"},
    "sleep-gain": {"color": "#882255", "linestyle": "--"},
    "descent": {"color": "#999999", "linestyle": ":"},
}


def plot_branches(out: pathlib.Path, start: str, branches: Sequence[str], path: pathlib.Path) -> pathlib.Path:
    """Train loss, a panel a seed, which those leave that diverge."""
    before, after = _losses(out / start), {name: _losses(out / name) for name in branches}
    highest = max(losses.max() for losses in before.values())
    size = 4 * len(before), 4.6
    figure, axes = plt.subplots(
        1, len(before), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for (seed, losses), ax in zip(before.items(), axes.flat, strict=True):
        ax.plot(np.arange(1, 1 + len(losses)), losses, color="0.5")
        for name, curves in after.items():
            curve = [losses[-1], *curves.get(seed, ())]
            ax.plot(len(losses) + np.arange(len(curve)), curve, **STYLES[name])
        ax.set(xlabel="epoch", yscale="log", title=f"seed {seed}")
        ax.set_ylim(top=2 * highest)
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set(ylabel="train loss")
    entries = [Line2D([], [], label=BRANCHES[name].label, linewidth=2, **STYLES[name]) for name in branches]
    figure.legend(handles=entries, loc="outside lower center", frameon=False, ncols=2, fontsize=8)
    tidied(figure).savefig(path, dpi=130)
    plt.close(figure)
    return path


def _losses(folder: pathlib.Path) -> dict[int, np.ndarray]:
    """Train loss by epoch, of each seed that finished one."""
    curves = read_curves(folder)
    return (
        {int(seeds[0]): losses for seeds, losses in zip(curves["seed"], curves["train_loss"], strict=True)}
        if curves
        else {}
    )
