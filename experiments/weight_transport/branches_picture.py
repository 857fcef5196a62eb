"""The pictures of training that goes on in several ways."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from report.curves import by_seed, read_curves
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
    return _saved(figure, [_entry(name) for name in branches], path)


def plot_foretold(
    out: pathlib.Path,
    seeds: Sequence[int],
    foretold: Mapping[str, Sequence[Mapping[str, Sequence[float]]]],
    path: pathlib.Path,
) -> pathlib.Path | None:
    """Train loss as it was seen and as it was to come, a panel a seed; None if nothing was foretold."""
    if not foretold:
        return None
    figure, axes = plt.subplots(
        1, len(seeds), figsize=(4 * len(seeds), 4.6), sharey=True, squeeze=False, layout="constrained"
    )
    for name, courses in foretold.items():
        seen, colour = _losses(out / name), STYLES[name]["color"]
        for seed, course, ax in zip(seeds, courses, axes.flat, strict=True):
            losses = seen.get(seed, np.empty(0))
            ax.plot(np.arange(len(losses)) + 0.5, losses, color=colour)  # the mean of an epoch
            ax.plot(course["train_loss"], color=colour, linestyle=":")  # nothing, if not a step was solved
            ax.set(xlabel="epochs from there on", yscale="log", title=f"seed {seed}")
    first = [course["train_loss"][:1] for courses in foretold.values() for course in courses]
    axes[0, 0].set(ylabel="train loss", ylim=(None, 1e3 * max(sum(first, [1e-5]))))
    kinds = [
        Line2D([], [], color="0.5", label="seen"),
        Line2D([], [], color="0.5", linestyle=":", label="by how errors act on each other at the start"),
    ]
    return _saved(figure, [*kinds, *(_entry(name) for name in foretold)], path)


def _losses(folder: pathlib.Path) -> dict[int, np.ndarray]:
    return by_seed(read_curves(folder), "train_loss")


def _entry(name: str) -> Line2D:
    return Line2D([], [], label=BRANCHES[name].label, linewidth=2, **STYLES[name])


def _saved(figure: Figure, entries: Sequence[Line2D], path: pathlib.Path) -> pathlib.Path:
    figure.legend(handles=entries, loc="outside lower center", frameon=False, ncols=2, fontsize=8)
    tidied(figure).savefig(path, dpi=130)
    plt.close(figure)
    return path
