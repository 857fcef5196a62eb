"""Pictures of runs, drawn from nothing but their folders."""

import json
import pathlib
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator
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
    "mn": "#E69F00",
    "gn": "#56B4E9",
}

NAMES = {"bp": "backprop", "dfa": "DFA", "dfc": "DFC", "dfc-ss": "DFC-SS", "dfc-ssa": "DFC-SSA"}


NAMES |= {"strong-dfc": "Strong-DFC", "strong-dfc-2phase": "Strong-DFC, two phases"}


NAMES |= {"mn": "minimum norm", "gn": "Gauss-Newton"}


STYLES = {"train": "-", "validation": "--", "test": ":"}


def drawn(name: str, draw: Callable[..., pathlib.Path | None], *arguments: Any) -> pathlib.Path | None:
    """What `draw` writes; without a picture training goes on, and the numbers are there."""
    try:
        return draw(*arguments)
    except Exception as error:
        print(f"no {name}: {type(error).__name__}: {error}", file=sys.stderr)
        return None


def plot_curves(folder: pathlib.Path) -> pathlib.Path:
    """`curves.png` of one run: its losses, and its accuracies if it has any."""
    return _plot([folder], folder / "curves.png", splits=("train", "validation", "test"))


def plot_comparison(folders: Sequence[pathlib.Path], path: pathlib.Path) -> pathlib.Path:
    """Training and test curves of several runs."""
    return _plot(folders, path, splits=("train", "test"))


def _plot(folders: Sequence[pathlib.Path], path: pathlib.Path, splits: Sequence[str]) -> pathlib.Path:
    runs = [_curves(folder) for folder in folders]
    configs = [_config(folder) for folder in folders]
    accuracy = any("test_accuracy" in curves for curves in runs)
    figure, axes = plt.subplots(
        1, 2 if accuracy else 1, figsize=(9.5 if accuracy else 6, 3.6), squeeze=False, layout="constrained"
    )
    for config, curves in zip(configs, runs, strict=True):
        for split in splits:
            line = {**_line(config, configs), "linestyle": STYLES[split]}
            _draw(axes[0, 0], curves, f"{split}_loss", 1, line)
            if accuracy:
                _draw(axes[0, 1], curves, f"{split}_accuracy", 100, line)
    axes[0, 0].set(xlabel="epoch", ylabel="loss", yscale="log")
    _plain_ticks(axes[0, 0])
    if accuracy:
        axes[0, 1].set(xlabel="epoch", ylabel="accuracy (%)")
    for ax in axes.flat:
        _tidy(ax)
    entries = _methods(configs)
    entries += [Line2D([], [], color="grey", linestyle=STYLES[s], label=s) for s in splits]
    figure.legend(handles=entries, loc="outside center right", frameon=False, fontsize=9)
    figure.suptitle(_title(folders), fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def plot_alignment(folders: Sequence[pathlib.Path], path: pathlib.Path) -> pathlib.Path | None:
    """Each layer's angle between its update and the gradient, over training; None if no run measured it."""
    configs = [_config(folder) for folder in folders]
    runs = [_curves(folder, "angle_to_backprop_by_layer") for folder in folders]
    layers = max(len(curves) for curves in runs)
    if layers == 0:
        return None
    figure, axes = plt.subplots(
        1, layers, figsize=(2.2 * layers + 2, 3), sharey=True, squeeze=False, layout="constrained"
    )
    measured = [(config, curves) for config, curves in zip(configs, runs, strict=True) if curves]
    for config, curves in measured:
        for layer, ax in enumerate(axes.flat):
            _draw(ax, curves, str(layer), 1, _line(config, configs) | {"marker": "."})
    for layer, ax in enumerate(axes.flat, start=1):
        ax.set(xlabel="epoch", title=f"layer {layer}")
        ax.axhline(90, color="grey", linewidth=0.8, linestyle=":")
        _tidy(ax)
    axes[0, 0].set(ylabel="angle to the gradient (degrees)", ylim=(0, None))
    entries = _methods([config for config, _ in measured])
    figure.legend(handles=entries, loc="outside center right", frameon=False, fontsize=9)
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


def _line(config: dict[str, Any], configs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A method's colour; paler for fixed feedback where it is there learned as well."""
    pale = _both(config, configs) and config["feedback"] == "fixed"
    return {"color": COLOURS[config["method"][0]], "alpha": 0.4 if pale else 1.0}


def _both(config: dict[str, Any], configs: Sequence[dict[str, Any]]) -> bool:
    """Whether the method is there with learned and with fixed feedback."""
    of_method = {c["feedback"] for c in configs if c["method"] == config["method"]}
    return of_method >= {"learned", "fixed"}


def _methods(configs: Sequence[dict[str, Any]]) -> list[Line2D]:
    """An entry of the legend for every line."""
    lines = {}
    for config in configs:
        name = NAMES[config["method"][0]]
        lines[f"{name}, {config['feedback']}" if _both(config, configs) else name] = _line(config, configs)
    return [Line2D([], [], **line, label=label, linewidth=3) for label, line in lines.items()]


def _draw(ax: Axes, curves: dict[str, np.ndarray], name: str, factor: float, line: dict[str, str]) -> None:
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


def _curves(folder: pathlib.Path, of_layers: str | None = None) -> dict[str, np.ndarray]:
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


def _config(folder: pathlib.Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]


def _title(folders: Sequence[pathlib.Path]) -> str:
    configs = [_config(folder) for folder in folders]
    feedback = " and ".join(sorted({config["feedback"] for config in configs}))
    seeds = max(len(config["seeds"]) for config in configs)
    return f"{configs[0]['dataset']}, {feedback} feedback, {seeds} seed{'s' if seeds > 1 else ''}"
