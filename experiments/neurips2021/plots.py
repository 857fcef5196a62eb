"""The figures drawn from nothing but their tables."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from report.curves import COLOURS, NAMES
from report.figure import Rows, tidied
from report.pictures import plt
from report.spread import spread
from scipy.stats import gaussian_kde


KINDS = {"learned": "-", "fixed": "--"}
OUTPUT, CONTROL, GREY = "#0072B2", "#D55E00", "#666666"
SYMBOLS = {"gn_damping": r"\gamma", "alpha_fb": r"\alpha", "k_p_fb": "k_p"}
WINDOW = 30  # of the published rolling means
WIDTHS = {"dfc-ss": 3.0}  # so that DFC-SSA, drawn later, does not hide it


def draw_1d(rows: Rows) -> Figure:
    """The output above the control that drives it, a column for each sample."""
    samples = sorted({row["sample"] for row in rows})
    figure, axes = plt.subplots(
        2,
        len(samples),
        figsize=(1 + 2.9 * len(samples), 4.2),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for sample, (above, below) in zip(samples, axes.T, strict=True):
        chosen = [row for row in rows if row["sample"] == sample]
        time = _column(chosen, "time")
        above.plot(time, _column(chosen, "output"), color=OUTPUT, label=r"output $r_L$")
        above.axhline(
            chosen[0]["target"], color="black", linestyle="--", linewidth=1, label=r"target $r_L^*$"
        )
        below.plot(time, 1e3 * _column(chosen, "control"), color=CONTROL)
        above.set_title(f"sample {sample + 1}", fontsize=10)
        above.ticklabel_format(useOffset=False)
        below.set_xlabel(r"time ($\tau_u$)")
    axes[0, 0].set_ylabel(r"output $r_L$")
    axes[1, 0].set_ylabel(r"control $u$ ($10^{-3}$)")
    axes[0, 0].legend(frameon=False, fontsize=9, loc="lower right")
    return tidied(figure)


def draw_2(rows: Rows) -> Figure:
    """Random stable feedback, its density, and the damped pseudo-inverses on their way to J^T."""
    points = {
        kind: np.array([(row["pc1"], row["pc2"]) for row in rows if row["kind"] == kind])
        for kind in ("random", "damped", "pseudo_inverse", "transpose")
    }
    figure, ax = plt.subplots(figsize=(5.4, 4.4), layout="constrained")
    low, high = points["random"].min(axis=0) - 0.1, points["random"].max(axis=0) + 0.1
    grid = np.meshgrid(*(np.linspace(a, b, 120) for a, b in zip(low, high, strict=True)))
    density = gaussian_kde(points["random"].T)(np.reshape(grid, (2, -1))).reshape(grid[0].shape)
    filled = ax.contourf(*grid, density, levels=5, cmap="Blues")
    figure.colorbar(filled, ax=ax, label="probability density")
    ax.plot(*points["random"].T, ".", color="#1B2A5E", markersize=2, alpha=0.35, label=r"random $Q$")
    path = {"color": "#E69F00", "linestyle": "", "markeredgewidth": 1.2}
    label = r"$J^T (J J^T + \gamma I)^{-1}$"
    ax.plot(*points["damped"].T, marker="x", markersize=6, label=label, **path)
    big = {"marker": "X", "markersize": 11, "linestyle": "", "markeredgecolor": "white"}
    ax.plot(*points["pseudo_inverse"].T, color="#009E73", label=r"$J^\dagger$", **big)
    ax.plot(*points["transpose"].T, color="#D55E00", label=r"$J^T$", **big)
    ax.set(xlabel="first principal component", ylabel="second principal component", aspect="equal")
    ax.grid(False)
    figure.legend(frameon=False, fontsize=9, loc="outside upper center", ncols=4, handletextpad=0.2)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


PANELS_3 = {
    "condition_two": r"A  Condition 2: $\|P_J Q\| / \|Q\|$",
    "condition_one": r"C  Condition 1: std / mean of $\|r_i\|$",
    "largest_real_part": r"E  $\max \mathrm{Re}\,\lambda$ ($1/\tau_u$)",
    "angle_mn": "B  angle to damped MN (°)",
    "angle_gn": "D  angle to damped GN (°)",
    "angle_ssa": "F  angle to DFC-SSA (°)",
}


def draw_3(rows: Rows) -> Figure:
    """Six measures over training: rolling means with a band of one rolling standard deviation."""
    figure, axes = plt.subplots(2, 3, figsize=(10.5, 5.6), sharex=True, layout="constrained")
    for ax, (name, label) in zip(axes.flat, PANELS_3.items(), strict=True):
        for (method, _), chosen in _groups(rows, "method", "feedback").items():
            if (method, name) != ("dfc-ssa", "angle_ssa"):  # to itself
                _rolling(ax, chosen, name)
        ax.set_title(label, fontsize=10, loc="left")
    axes[0, 2].axhline(0, color="black", linewidth=0.8)
    for ax in axes[1]:
        ax.set(xlabel="epoch")
        ax.set_ylim(bottom=0)
    figure.legend(handles=_method_entries(rows), loc="outside lower center", frameon=False, ncols=6)
    return tidied(figure)


def draw_s1(rows: Rows) -> Figure:
    """Stability of three linearisations, and the norms behind Condition 1: mean and std over samples."""
    figure, axes = plt.subplots(2, 3, figsize=(10.5, 5.6), sharex=True, layout="constrained")
    titles = {
        "A_I": r"integral control, $A_I$",
        "A_inst": r"instantaneous neurons, $A_{inst}$",
        "A_PI": r"proportional and integral, $A_{PI}$",
    }
    norms = ("norm_input", "norm_layer_1", "norm_layer_2")
    for kind, chosen in _groups(rows, "feedback").items():
        line = {"color": COLOURS["dfc"], "linestyle": KINDS[kind[0]]}
        for ax, name in zip(axes.flat, (*titles, *norms), strict=True):
            _band(ax, _column(chosen, "epoch"), chosen, name, line)
    for ax, title in zip(axes[0], titles.values(), strict=True):
        ax.set_title(title, fontsize=10)
        ax.axhline(0, color="black", linewidth=0.8)
    for ax, title in zip(axes[1], ("the input", "layer 1", "layer 2"), strict=True):
        ax.set_title(rf"$\|r_i\|$ of {title}, relative", fontsize=10)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set(xlabel="epoch")
    axes[0, 0].set_ylabel(r"$\max \mathrm{Re}\,\lambda$ ($1/\tau_u$)")
    axes[1, 0].set_ylabel(r"$(\|r_i\| - m) / m$,  $m$ = mean over $i$")
    figure.legend(handles=_method_entries(rows), loc="outside lower center", frameon=False, ncols=3)
    return tidied(figure)


def draw_sweep(rows: Rows, flag: str) -> Figure:
    """Where feedback pre-training drives Q: a row for each activation, a curve for each value."""
    measures = {
        "angle_to_pseudo_inverse": r"$Q$ to $J^T(JJ^T + \gamma I)^{-1}$ (°)",
        "angle_to_transpose": r"$Q$ to $J^T$ (°)",
        "condition_two": "Condition 2",
    }
    activations = list(dict.fromkeys(row["activation"] for row in rows))
    values = sorted({row["value"] for row in rows})
    figure, axes = plt.subplots(
        len(activations),
        3,
        figsize=(10.5, 5.4),
        sharex=True,
        sharey="col",
        squeeze=False,
        layout="constrained",
    )
    colours = dict(zip(values, plt.get_cmap("viridis")(np.linspace(0, 0.92, len(values))), strict=True))
    for (activation, value), chosen in _groups(rows, "activation", "value").items():
        for ax, name in zip(axes[activations.index(activation)], measures, strict=True):
            same = (
                flag == "gn_damping" and name != "angle_to_pseudo_inverse"
            )  # gamma is the reference's alone
            colour = "black" if same else colours[value]
            ax.plot(_column(chosen, "iteration"), _column(chosen, name), color=colour, linewidth=1.2)
    for ax, label in zip(axes[0], measures.values(), strict=True):
        ax.set_title(label, fontsize=10)
    for ax in axes[-1]:
        ax.set_xlabel("batches of feedback pre-training")
    for ax, activation in zip(axes[:, 0], activations, strict=True):
        ax.set_ylabel(f"{activation} hidden layer", fontsize=10)
    symbol = SYMBOLS[flag]
    entries = [
        Line2D([], [], color=colours[value], label=rf"${symbol} = {value:g}$", linewidth=2)
        for value in values
    ]
    figure.legend(handles=entries, loc="outside right center", frameon=False)
    return tidied(figure)


def draw_alignment(rows: Rows) -> Figure:
    """Layer-wise angles of the updates, a column for each layer, and how well the feedback is aligned."""
    layers = sum(name.startswith("angle_mn_layer_") for name in rows[0])
    measures = {"mn": "to damped MN (°)", "bp": "to BP (°)", "ssa": "to DFC-SSA (°)"}
    feedback = {
        "condition_two": "Condition 2",
        "angle_of_feedback_to_transpose": r"$Q$ to $J^T$ (°)",
        "angle_of_feedback_to_pseudo_inverse": r"$Q$ to damped $J^\dagger$ (°)",
    }
    columns = max(layers, len(feedback))
    figure, axes = plt.subplots(4, columns, figsize=(2.7 * columns, 8.5), sharex=True, layout="constrained")
    for chosen in _groups(rows, "method", "feedback").values():
        for measure, line in zip(measures, axes, strict=False):
            for i in range(layers):
                name = f"angle_{measure}_layer_{i + 1}"
                _rolling(line[i], chosen, name)
        for ax, name in zip(axes[3], feedback, strict=False):
            _rolling(ax, chosen, name)
    for i, ax in enumerate(axes[0, :layers]):
        ax.set_title(f"layer {i + 1}", fontsize=10)
    for line, label in zip(axes, measures.values(), strict=False):
        line[0].set_ylabel("update " + label)
    for ax, label in zip(axes[3], feedback.values(), strict=False):
        ax.set_title(label, fontsize=10)
    for ax in axes[3]:
        ax.set_xlabel("epoch")
    for ax in (*axes[:3, layers:].flat, *axes[3, len(feedback) :]):
        ax.set_axis_off()
    figure.legend(handles=_method_entries(rows), loc="outside lower center", frameon=False, ncols=5)
    return tidied(figure)


def _column(rows: Rows, name: str) -> np.ndarray:
    """One column; empty cells become NaN."""
    return np.array([np.nan if row.get(name) is None else row[name] for row in rows], float)


def _groups(rows: Rows, *names: str) -> dict[tuple, Rows]:
    """The rows of every combination of values, in the order in which they come."""
    groups: dict[tuple, Rows] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def _rolling(ax: Axes, rows: Rows, y: str) -> None:
    """A method's curve: mean and spread over the last epochs of one run, not over seeds."""
    values = _column(rows, y)
    if np.all(np.isnan(values)):
        return
    windows = [values[max(0, i - WINDOW + 1) : i + 1] for i in range(len(values))]
    mean, std = (np.array([f(window) for window in windows]) for f in (np.mean, spread))
    method, epochs = rows[0]["method"], _column(rows, "epoch")
    line = {"linestyle": KINDS[rows[0]["feedback"]], "linewidth": WIDTHS.get(method, 1.3)}
    ax.plot(epochs, mean, color=COLOURS[method], **line)
    ax.fill_between(epochs, mean - std, mean + std, color=COLOURS[method], alpha=0.12, linewidth=0)


def _band(ax: Axes, x: np.ndarray, rows: Rows, name: str, line: dict[str, str]) -> None:
    mean, std = _column(rows, f"{name}_mean"), _column(rows, f"{name}_std")
    ax.plot(x, mean, linewidth=1.3, **line)
    ax.fill_between(x, mean - std, mean + std, color=line["color"], alpha=0.15, linewidth=0)


def _method_entries(rows: Rows) -> list[Line2D]:
    pairs = _groups(rows, "method", "feedback")
    entries = [
        Line2D([], [], color=COLOURS[m], label=NAMES[m], linewidth=3)
        for m in dict.fromkeys(m for m, _ in pairs)
    ]
    kinds = [kind for kind in KINDS if any(kind == k for _, k in pairs)]
    return entries + [
        Line2D([], [], color=GREY, linestyle=KINDS[kind], label=f"{kind} feedback") for kind in kinds
    ]
