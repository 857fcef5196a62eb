"""Pictures for a notebook."""

from typing import TYPE_CHECKING

import numpy as np

from dfc_jax._checks import check_type, import_extra, require
from dfc_jax._dynamics.trajectory import Trajectory


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_trajectory(found: Trajectory, labels: list[str] | None = None) -> "Figure":
    """Output, error and control of one sample over time, a line for each output.

    **Arguments:**

    - `found`: of one sample, as `trajectory` returns it.
    - `labels`: names of the outputs for the legend; by default their numbers, without one above ten.

    Returns Matplotlib's figure, whose `axes` are those of the three.

    **Raises:** `ValueError` if it is of several samples, or `labels` are of another number;
    `ModuleNotFoundError` without Matplotlib, which `dfc_jax[experiments]` installs.
    """
    check_type("found", found, Trajectory)
    shape = found.control.shape
    require(len(shape) == 2, f"`found` has controls of shape {shape}; one sample's are (times, outputs).")
    outputs = shape[1]
    if labels is not None:
        require(len(labels) == outputs, f"`labels` are {len(labels)}; there are {outputs} outputs.")
    plt = import_extra("matplotlib.pyplot", "plots", "experiments")  # slow to import, too
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    panels = {"output r_L": found.rates[-1], "error e": found.error, "control u": found.control}
    for ax, (title, values) in zip(axes, panels.items(), strict=True):
        lines = ax.plot(np.asarray(found.times), np.asarray(values))
        ax.set(title=title, xlabel="time (tau_u)")
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    if labels is not None or outputs <= 10:
        names = [str(i) for i in range(outputs)] if labels is None else labels
        outside = "outside center right"
        figure.legend(lines, names, title="output", loc=outside, frameon=False)
    return figure
