"""What the figures of both papers share."""

import dataclasses
import pathlib
from typing import Any

from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Common:
    """Options of every figure."""

    out: pathlib.Path = pathlib.Path("experiments/results/figures")
    """Folder for the results."""
    seed: int = 42
    """Seeds data, network, order of samples and noise; by default the published configurations' seed."""
    progress: bool = True
    """Show progress bars."""


Rows = list[dict[str, Any]]  # of a figure's table


def tidied(figure: Figure) -> Figure:
    """With a faint grid and without the frame's upper and right side."""
    for ax in figure.axes:
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    return figure
