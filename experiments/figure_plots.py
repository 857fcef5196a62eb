"""Pictures of the figures of the NeurIPS 2021 paper, from their tables alone."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from figure_presets import SWEEPS
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from plots import COLOURS, NAMES
from scipy.stats import gaussian_kde


Rows = list[dict[str, Any]]
FEEDBACK_STYLES = {"learned": "-", "fixed": "--"}
TIME_LABEL = "time (in units of the controller's time constant)"
WINDOW = 30  # of the rolling means of Figure 3, in epochs
SWEPT_LABELS = {
    "gn_damping": r"damping $\gamma$ of the reference",
    "alpha_fb": r"leak $\alpha$",
    "k_p_fb": r"gain $k_p$",
}


def draw_1d(rows: Rows) -> Figure:
    """Output, target and control in time."""
    figure, axes = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    time, control_axes = _column(rows, "time"), axes.twinx()
    axes.plot(time, 1e3 * _column(rows, "output_change"), color=COLOURS["dfc"], label="output")
    axes.plot(time, 1e3 * _column(rows, "target_change"), "--", color="black", label="target")
    control_axes.plot(time, 1e3 * _column(rows, "control"), color=COLOURS["dfa"], label="control")
    axes.set(xlabel=TIME_LABEL, ylabel=r"$r_L - r_L^-$ ($10^{-3}$)")
    control_axes.set_ylabel(r"$u$ ($10^{-3}$)")
    handles = [*axes.get_lines(), *control_axes.get_lines()]
    axes.legend(handles=handles, frameon=False, loc="center right")
    axes.spines["top"].set_visible(False)
    control_axes.spines["top"].set_visible(False)
    return figure


def draw_2(rows: Rows) -> Figure:
    """Feedback weights in the plane of their two principal components."""
    figure, axes = plt.subplots(figsize=(5, 4.2), layout="constrained")
    points = {kind: np.array([(r["pc1"], r["pc2"]) for r in rows if r["kind"] == kind]) for kind in KINDS}
    random = points["random"]
    grid = [np.linspace(low, high, 120) for low, high in zip(random.min(0), random.max(0), strict=True)]
    mesh = np.meshgrid(*grid)
    density = gaussian_kde(random.T)(np.stack([m.ravel() for m in mesh])).reshape(mesh[0].shape)
    axes.contourf(*mesh, density, levels=5, cmap="Blues", alpha=0.5)
    for kind, (label, style) in KINDS.items():
        axes.plot(*points[kind].T, linestyle="none", label=label, **style)
    axes.set(xlabel="first principal component", ylabel="second principal component")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    _open(axes)
    return figure


KINDS = {
    "random": ("stable, Condition 2", dict(marker=".", markersize=2.5, color=COLOURS["dfc"], alpha=0.6)),
    "damped": (r"$J^T (J J^T + \gamma I)^{-1}$", dict(marker="x", color=COLOURS["mn"])),
    "pseudo_inverse": (r"$J^\dagger$", dict(marker="X", markersize=10, color=COLOURS["dfc-ss"])),
    "transpose": (r"$J^T$", dict(marker="X", markersize=10, color=COLOURS["dfa"])),
}


def draw_3(rows: Rows) -> Figure:
    """Conditions, stability and alignment during training: rolling means and deviations."""
    panels = [
        ("condition_two", "Condition 2 (ratio)", (None, 1.02)),
        ("condition_one", "Condition 1 (std / mean)", (0, None)),
        ("eigenvalue_whole_mean", r"largest Re $\lambda$ (per $\tau_u$)", (None, None)),
        ("angle_to_minimum_norm", "angle to minimum norm (°)", (0, None)),
        ("angle_to_gauss_newton", "angle to Gauss-Newton (°)", (0, None)),
        ("angle_to_dfc_ssa", "angle to DFC-SSA (°)", (0, None)),
    ]
    figure, grid = plt.subplots(2, 3, figsize=(9.5, 5), layout="constrained", sharex=True)
    runs = _runs(rows)
    for axes, letter, (name, label, limits) in zip(grid.flat, "ACEBDF", panels, strict=True):
        for (method, feedback), records in runs.items():
            if name in records[0] and not (name == "angle_to_dfc_ssa" and method == "dfc-ssa"):
                _rolling(axes, records, name, COLOURS[method], FEEDBACK_STYLES[_shown(method, feedback)])
        axes.set(ylabel=label, ylim=limits)
        axes.set_title(letter, loc="left", fontweight="bold", fontsize=10)
        _open(axes)
    for axes in grid[1]:
        axes.set_xlabel("epoch")
    _legend(figure, runs)
    return figure


def draw_s1(rows: Rows) -> Figure:
    """Largest real parts of three linearisations of the loop, and the norms of the layers' rates, for DFC."""
    names = {"whole": "whole loop", "integral": r"whole loop, $k_p = 0$", "instant": "without delays"}
    figure, grid = plt.subplots(1, 4, figsize=(12, 3), layout="constrained")
    runs = {key: records for key, records in _runs(rows).items() if key[0] == "dfc"}
    for axes, (name, title) in zip(grid, names.items(), strict=False):
        for (method, feedback), records in runs.items():
            mean, std = (_column(records, f"eigenvalue_{name}_{kind}") for kind in ("mean", "std"))
            epochs = _column(records, "epoch")
            axes.plot(epochs, mean, color=COLOURS[method], linestyle=FEEDBACK_STYLES[feedback])
            axes.fill_between(epochs, mean - std, mean + std, color=COLOURS[method], alpha=0.15, linewidth=0)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(title=title, xlabel="epoch", ylabel=r"largest Re $\lambda$ (per $\tau_u$)")
    for i, marker_colour in enumerate((COLOURS["bp"], COLOURS["mn"], COLOURS["gn"])):
        for (_, feedback), records in runs.items():
            line = dict(color=marker_colour, linestyle=FEEDBACK_STYLES[feedback])
            label = f"$|r_{i}|$" if feedback == "learned" else None
            grid[3].plot(
                _column(records, "epoch"), _column(records, f"norm_of_layer_{i}"), label=label, **line
            )
    grid[3].set(title="rates", xlabel="epoch", ylabel="norm", ylim=(0, None))
    grid[3].legend(frameon=False)
    for axes in grid:
        _open(axes)
    _legend(figure, runs)
    return figure


def draw_sweep(name: str, rows: Rows) -> Figure:
    """Figures S2 to S4: alignment of the feedback weights while they are learned, a curve for each value."""
    sweep = SWEEPS[name]
    measures = {
        "angle_to_pseudo_inverse": r"angle to $J^T (J J^T + \gamma I)^{-1}$ (°)",
        "angle_to_transpose": r"angle to $J^T$ (°)",
        "condition_two": "Condition 2 (ratio)",
    }
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(sweep.values)))
    figure, grid = plt.subplots(2, 3, figsize=(10, 5), layout="constrained", sharex=True, sharey="col")
    for row, hidden in zip(grid, ("linear", "tanh"), strict=True):
        for axes, (measure, label) in zip(row, measures.items(), strict=True):
            for value, colour in zip(sweep.values, colours, strict=True):
                chosen = [r for r in rows if r["hidden"] == hidden and r["value"] == value]
                axes.plot(
                    _column(chosen, "iteration"), _column(chosen, measure), color=colour, label=f"{value:g}"
                )
            axes.set_ylabel(label)
            _open(axes)
        row[0].set_title(f"{hidden} hidden layer", loc="left", fontsize=10)
    for axes in grid[1]:
        axes.set_xlabel("iteration of feedback learning")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, title=SWEPT_LABELS[sweep.swept], loc="outside right center", frameon=False)
    return figure


def draw_alignment(rows: Rows) -> Figure:
    """Angles of every layer's update to three references, a column a layer; then what concerns all layers."""
    references = {"minimum_norm": "minimum norm", "backprop": "backprop", "dfc_ssa": "DFC-SSA"}
    runs = _runs(rows)
    layers = 1 + max(r["layer"] for r in rows)
    figure, grid = plt.subplots(4, layers, figsize=(2.9 * layers, 9), layout="constrained", squeeze=False)
    for line, (name, label) in zip(grid, references.items(), strict=False):
        for layer, axes in enumerate(line):
            for (method, feedback), records in runs.items():
                chosen = [r for r in records if r["layer"] == layer]
                _plot(axes, chosen, f"angle_to_{name}_by_layer", method, feedback)
            axes.set(title=f"layer {layer + 1}", xlabel="epoch", ylim=(0, None))
        line[0].set_ylabel(f"angle to {label} (°)")
    whole = {
        "condition_two": "Condition 2 (ratio)",
        "angle_of_feedback_to_transposed_jacobian": r"angle of $Q$ to $J^T$ (°)",
        "angle_of_feedback_to_pseudo_inverse": r"angle of $Q$ to pseudo-inverse (°)",
        "converged": "converged samples",
    }
    for axes, (name, label) in zip(grid[3], whole.items(), strict=False):
        for (method, feedback), records in runs.items():
            _plot(axes, [r for r in records if r["layer"] == 0], name, method, feedback)
        axes.set(xlabel="epoch", ylabel=label)
    for axes in grid[3, len(whole) :]:
        axes.set_axis_off()
    for axes in grid.flat:
        _open(axes)
    _legend(figure, runs)
    return figure


def _plot(axes: Axes, records: Rows, name: str, method: str, feedback: str) -> None:
    if records and records[0].get(name) is not None:
        line = dict(color=COLOURS[method], linestyle=FEEDBACK_STYLES[_shown(method, feedback)])
        marker = "o" if len(records) == 1 else None
        axes.plot(_column(records, "epoch"), _column(records, name), marker=marker, **line)


def _runs(rows: Rows) -> dict[tuple[str, str], Rows]:
    keys = dict.fromkeys((r["method"], r["feedback"]) for r in rows)
    return {key: [r for r in rows if (r["method"], r["feedback"]) == key] for key in keys}


def _shown(method: str, feedback: str) -> str:
    """DFA's random feedback has no dashed counterpart."""
    return "learned" if method == "dfa" else feedback


def _rolling(axes: Axes, records: Rows, name: str, colour: str, style: str) -> None:
    values, epochs = _column(records, name), _column(records, "epoch")
    windows = [values[max(0, i + 1 - WINDOW) : i + 1] for i in range(len(values))]
    mean, std = np.array([w.mean() for w in windows]), np.array([w.std() for w in windows])
    axes.plot(epochs, mean, color=colour, linestyle=style)
    axes.fill_between(epochs, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)


def _column(rows: Rows, name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], float)


def _legend(figure: Figure, runs: Sequence[tuple[str, str]]) -> None:
    methods = dict.fromkeys(method for method, _ in runs)
    kinds = dict.fromkeys(feedback for method, feedback in runs if method != "dfa")
    entries = [Line2D([], [], color=COLOURS[m], label=NAMES[m], linewidth=3) for m in methods]
    styles = [(FEEDBACK_STYLES[f], f"{f} feedback") for f in kinds]
    entries += [Line2D([], [], color="grey", linestyle=s, label=label) for s, label in styles]
    figure.legend(handles=entries, loc="outside right center", frameon=False, fontsize=9)


def _open(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
