"""Pictures of runs, drawn from nothing but their folders."""

import json
import pathlib
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator
from report.naming import Named, named
from report.pictures import plt
from report.spread import spread


# Okabe and Ito's colours, which colour-blind readers can tell apart; a method has the same one everywhere.
COLOURS = {
    "bp": "#000000",
    "dfa": "#D55E00",
    "dfc": "#0072B2",
    "dfc-ss": "#009E73",
    "dfc-ssa": "#CC79A7",
    "strong-dfc": "#882255",
    "strong-dfc-2phase": "#999933",
    "least-control": "#7A5195",
    "predictive-coding": "#F0A3B5",
    "mn": "#E69F00",
    "gn": "#56B4E9",
}

NAMES = {
    "bp": "backprop",
    "dfa": "DFA",
    "dfc": "DFC",
    "dfc-ss": "DFC-SS",
    "dfc-ssa": "DFC-SSA",
    "strong-dfc": "Strong-DFC",
    "strong-dfc-2phase": "Strong-DFC, two phases",
    "least-control": "least control",
    "predictive-coding": "predictive coding",
    "mn": "minimum norm",
    "gn": "Gauss-Newton",
}


STYLES = {"train": "-", "validation": "--", "test": ":"}
SHORT = 40  # letters of a legend that has room beside the panels
LETTERS, LINE = 12, 0.19  # to an inch, and the inches of a line of the legend


def drawn(name: str, draw: Callable[..., pathlib.Path | None], *arguments: Any) -> pathlib.Path | None:
    """What `draw` writes; without a picture training goes on, and the numbers are there."""
    try:
        return draw(*arguments)
    except Exception as error:
        print(f"no {name}: {type(error).__name__}: {error}", file=sys.stderr)
        return None


def plot_curves(folder: pathlib.Path) -> pathlib.Path | None:
    """`curves.png` of one run: its losses, and its accuracies if it has any; None without an epoch."""
    return _plot([folder], folder / "curves.png", splits=("train", "validation", "test"))


def plot_comparison(folders: Sequence[pathlib.Path], path: pathlib.Path) -> pathlib.Path | None:
    """Training and test curves of several runs; None if none has finished an epoch."""
    return _plot(folders, path, splits=("train", "test"))


def _plot(folders: Sequence[pathlib.Path], path: pathlib.Path, splits: Sequence[str]) -> pathlib.Path | None:
    runs = _measured(folders)
    if not runs:
        return None
    accuracy = any("test_accuracy" in curves for _, curves in runs)
    figure, axes = plt.subplots(
        1, 2 if accuracy else 1, figsize=(9.5 if accuracy else 6, 3.6), squeeze=False, layout="constrained"
    )
    lines = _lines([run for run, _ in runs])
    for (_, curves), line in zip(runs, lines, strict=True):
        for split in splits:
            styled = line | {"linestyle": STYLES[split]}
            draw_curve(axes[0, 0], curves, f"{split}_loss", 1, styled)
            if accuracy:
                draw_curve(axes[0, 1], curves, f"{split}_accuracy", 100, styled)
    axes[0, 0].set(xlabel="epoch", ylabel="loss", yscale="log")
    _plain_ticks(axes[0, 0])
    if accuracy:
        axes[0, 1].set(xlabel="epoch", ylabel="accuracy (%)")
    for ax in axes.flat:
        _tidy(ax)
    entries = _entries([run for run, _ in runs], lines)
    there = {name.partition("_")[0] for _, curves in runs for name in curves}
    entries += [Line2D([], [], color="grey", linestyle=STYLES[s], label=s) for s in splits if s in there]
    _explain(figure, entries)
    figure.suptitle(_title([run for run, _ in runs]), fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def plot_alignment(folders: Sequence[pathlib.Path], path: pathlib.Path) -> pathlib.Path | None:
    """Each layer's angle between its update and the gradient, over training; None if no run measured it."""
    runs = _measured(folders, "angle_to_backprop_by_layer")
    if not runs:
        return None
    layers = max(len(curves) for _, curves in runs)
    figure, axes = plt.subplots(
        1, layers, figsize=(2.2 * layers + 2, 3), sharey=True, squeeze=False, layout="constrained"
    )
    lines = _lines([run for run, _ in runs])
    for (_, curves), line in zip(runs, lines, strict=True):
        for layer, ax in enumerate(axes.flat):
            draw_curve(ax, curves, str(layer), 1, line | {"marker": "."})
    for layer, ax in enumerate(axes.flat, start=1):
        ax.set(xlabel="epoch", title=f"layer {layer}")
        ax.axhline(90, color="grey", linewidth=0.8, linestyle=":")
        _tidy(ax)
    axes[0, 0].set(ylabel="angle to the gradient (degrees)", ylim=(0, None))
    entries = _entries([run for run, _ in runs], lines)
    _explain(figure, entries)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _tidy(ax: Axes) -> None:
    """Whole epochs, a grid, and no frame that no reader needs."""
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    ax.xaxis.get_major_locator().set_params(integer=True)


def _plain_ticks(ax: Axes) -> None:
    """Numbers without powers of ten on a logarithmic axis; even steps where it spans less than a decade."""
    low, high = ax.get_ylim()
    if high < 10 * low:
        ax.yaxis.set_major_locator(MaxNLocator(6))
        ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")


def _measured(
    folders: Sequence[pathlib.Path], of_layers: str | None = None
) -> list[tuple[Named, dict[str, np.ndarray]]]:
    """The runs that have anything to draw, with their curves, and named apart from one another."""
    curves = {folder: found for folder in folders if (found := read_curves(folder, of_layers))}
    runs, _ = named(list(curves))
    return list(zip(runs, curves.values(), strict=True))


def _lines(runs: Sequence[Named]) -> list[dict[str, Any]]:
    """Colours: the method's, paler for fixed feedback where it is there learned as well. Where options tell
    the runs of a method apart, from light to dark in their order: shades of it, or, of a method alone, all
    colours."""
    alone = len({_method(run) for run in runs}) == 1
    lines = []
    for run in runs:
        alike = [other for other in runs if _method(other) == _method(run)]
        colour = COLOURS[_method(run)]
        if not any(other.differs for other in alike) and len({other.method for other in alike}) == 1:
            pale = run.feedback == "fixed" and "learned" in {other.feedback for other in alike}
            lines.append({"color": colour, "alpha": 0.4 if pale else 1.0})
            continue
        rank = sorted(other.order for other in alike).index(run.order) / (len(alike) - 1)
        shades = plt.get_cmap("viridis_r") if alone else _shades(colour)
        lines.append({"color": to_hex(shades(0.12 + 0.88 * rank if alone else rank)), "alpha": 1.0})
    return lines


def _shades(colour: str) -> LinearSegmentedColormap:
    """From a light one to a dark one."""
    light, dark = (tuple(np.add(0.4 * np.array(to_rgb(colour)), end)) for end in (0.6, 0.0))
    return LinearSegmentedColormap.from_list(colour, [light, dark])


def _method(run: Named) -> str:
    return run.config.method[0]


def _entries(runs: Sequence[Named], lines: Sequence[dict[str, Any]]) -> list[Line2D]:
    """An entry of the legend for every run: its method and what tells it apart from others of the method."""
    entries = []
    for run, line in zip(runs, lines, strict=True):
        feedbacks = {other.feedback for other in runs if _method(other) == _method(run)}
        parts = [run.method.replace(_method(run), NAMES[_method(run)])]
        parts += [run.feedback] if len(feedbacks) > 1 else []
        parts += [f"{name} {run.told[name]}" for name in run.differs]
        entries.append(Line2D([], [], **line, label=", ".join(parts), linewidth=3))
    return entries


def _explain(figure: Figure, entries: list[Line2D]) -> None:
    """The legend beside the panels, or, for what does not fit there, below them in a figure made higher."""
    beside = max(len(str(entry.get_label())) for entry in entries) <= SHORT
    if not beside:
        width, height = figure.get_size_inches()
        for entry in entries:
            entry.set_label(textwrap.fill(str(entry.get_label()), int(LETTERS * width)))
        lines = sum(str(entry.get_label()).count("\n") + 1 for entry in entries)
        figure.set_size_inches(width, height + LINE * lines)
    place = "outside center right" if beside else "outside lower center"
    figure.legend(handles=entries, loc=place, frameon=False, fontsize=9)


def draw_curve(
    ax: Axes, curves: dict[str, np.ndarray], name: str, factor: float, line: dict[str, str]
) -> None:
    """Mean over seeds, with a band of one sample standard deviation where there are several."""
    if name not in curves:
        return
    values = factor * curves[name]
    measured = ~np.all(np.isnan(values), axis=0)
    values, epochs = values[:, measured], 1 + np.flatnonzero(measured)
    mean = np.nanmean(values, axis=0)
    ax.plot(epochs, mean, **{"marker": "o" if len(epochs) == 1 else None} | line)
    if len(values) > 1:
        std = spread(values, axis=0)
        ax.fill_between(epochs, mean - std, mean + std, color=line["color"], alpha=0.15, linewidth=0)


def read_curves(folder: pathlib.Path, of_layers: str | None = None) -> dict[str, np.ndarray]:
    """Every number as an array (seeds, epochs), NaN where it was not measured or a seed had stopped.

    Or, `of_layers`, those of a list with an entry for each layer, under their positions.
    """
    by_seed: dict[int, list[dict[str, float]]] = defaultdict(list)
    metrics = folder / "metrics.jsonl"
    for line in metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []:
        record = json.loads(line)
        if of_layers is not None:
            record = {"seed": record["seed"]} | {str(i): v for i, v in enumerate(record.get(of_layers, []))}
        by_seed[record["seed"]].append(record)
    longest = max(map(len, by_seed.values()), default=0)
    pairs = (pair for records in by_seed.values() for record in records for pair in record.items())
    names = {name for name, value in pairs if not isinstance(value, list)}
    names -= set() if of_layers is None else {"seed"}
    return {
        name: np.array(
            [[r.get(name, np.nan) for r in rs] + [np.nan] * (longest - len(rs)) for rs in by_seed.values()]
        )
        for name in names
    }


def by_seed(curves: dict[str, np.ndarray], name: str) -> dict[int, np.ndarray]:
    """A number by epoch, of each seed that finished one."""
    seeds = (int(each[0]) for each in curves.get("seed", ()))
    return dict(zip(seeds, curves.get(name, ()), strict=True))


def in_epoch(curves: dict[str, np.ndarray], name: str, epoch: int) -> np.ndarray:
    """What a number, if it is there, was after an epoch: of the seeds that got there, where it is finite."""
    values = curves.get(name, np.empty((0, 0)))[:, epoch - 1 : epoch]
    return values[np.isfinite(values)]


def _title(runs: Sequence[Named]) -> str:
    kinds = sorted({run.feedback for run in runs} - {"none"})
    feedback = [f"{' and '.join(kinds)} feedback"] if kinds else []
    seeds = max(len(run.config.seeds) for run in runs)
    counted = f"{seeds} seed{'s' if seeds > 1 else ''}"
    return ", ".join([runs[0].config.dataset, *feedback, counted])
