"""Pictures of a sweep: the score against every option, and all options of every run side by side."""

import contextlib
import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from report.curves import COLOURS, NAMES
from report.pictures import plt
from sweeping.results import ranked, Result, searched


LABELLED = 4  # values of an option, which stand at its axis as they were given
FEW = 12  # values of an option, through whose best scores there is a line
WIDE = 9.9  # a ratio from which an axis is logarithmic
COLUMNS = 4
ENTRY = 1.7  # inches of the legend


def plot_settings(results: Sequence[Result], path: pathlib.Path) -> pathlib.Path | None:
    """A panel for every option: each run's validation score against its value; None where nothing differs.

    Scores far below the median's are drawn as triangles at the panel's edge.
    """
    names = _differing(results)
    if not names:
        return None
    rows = -(-len(names) // COLUMNS)
    width = min(len(names), COLUMNS)
    figure, axes = plt.subplots(
        rows,
        width,
        figsize=(2.9 * width + 0.6, 2.9 * rows + 0.4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    methods = _methods(results)
    worst = _edge(results)
    for name, ax in zip(names, axes.flat, strict=False):
        axis = _axis(results, name)
        for method in methods:
            alike = [r for r in results if _method(r) == method and name in r.setting]
            _panel(ax, alike, name, axis, COLOURS.get(method, COLOURS["dfc-ss"]), worst)
        ax.set(xlabel=name)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    for ax in axes[:, 0]:
        ax.set(ylabel=_label(results))
    if len(methods) > 1:
        entries = [
            Line2D([], [], color=COLOURS[m], marker="o", linestyle="", label=NAMES[m]) for m in methods
        ]
        beside = min(len(entries), int(figure.get_figwidth() / ENTRY))
        figure.legend(handles=entries, loc="outside upper center", ncols=beside, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def plot_parallel(results: Sequence[Result], path: pathlib.Path) -> pathlib.Path | None:
    """A line for every run through its values of all options to its score; None where but one differs."""
    names = [name for name in searched(results) if len(_axis(results, name).texts) > 1]
    if len(names) < 2:
        return None
    figure, ax = plt.subplots(figsize=(1.7 * len(names) + 3, 4), layout="constrained")
    axes = {name: _axis(results, name) for name in names}
    scores = np.array([_shown(result) for result in results])
    edge = _edge(results)
    low, high = sorted((edge, scores.max() if results[0].metric == "accuracy" else scores.min()))
    norm = Normalize(low, high if high > low else low + 1)
    colours = plt.get_cmap("viridis" if results[0].metric == "accuracy" else "viridis_r")
    for result in reversed(ranked(results)):  # the best on top
        heights = [axis.height(result.setting.get(name)) for name, axis in axes.items()]
        heights.append(float(norm(np.clip(_shown(result), low, high))))
        ax.plot(heights, color=colours(norm(_shown(result))), alpha=0.8, linewidth=1.2)
    for position, axis in enumerate(axes.values()):
        ax.axvline(position, color="black", linewidth=0.8)
        for height, text in axis.marks():
            ax.text(position - 0.02, height, text, ha="right", va="center", fontsize=7, bbox=_BACKGROUND)
    ax.axvline(len(names), color="black", linewidth=0.8)
    ax.set_xticks(range(len(names) + 1), [*names, "score"], fontsize=8)
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    figure.colorbar(ScalarMappable(norm, colours), ax=ax, label=_label(results))
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


_BACKGROUND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}


class _Axis:
    """Of one option: where its values lie between 0 and 1, numbers by size and all else in order."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(dict.fromkeys(texts))
        self.numbers: dict[str, float] = {}
        with contextlib.suppress(ValueError):
            self.numbers = {text: float(text) for text in self.texts}
        found = sorted(self.numbers.values())
        self.log = bool(found) and found[0] > 0 and found[-1] / found[0] > WIDE
        ends = [self._scaled(text) for text in self.texts]
        self.low, self.high = min(ends, default=0.0), max(ends, default=0.0)

    def at(self, text: str) -> float:
        """Where a panel draws it."""
        return self.numbers.get(text, self.texts.index(text))

    def height(self, text: str | None) -> float:
        """Between 0 and 1; NaN without a value, where a line is broken."""
        if text is None:
            return np.nan
        return (self._scaled(text) - self.low) / (self.high - self.low)

    def marks(self) -> list[tuple[float, str]]:
        """Heights and texts of some values: all if they are few, else the ends."""
        ordered = sorted(self.texts, key=self.at)
        chosen = ordered if len(ordered) <= FEW else [ordered[0], ordered[-1]]
        return [(self.height(text), text) for text in chosen]

    def _scaled(self, text: str) -> float:
        return float(np.log(self.at(text))) if self.log else self.at(text)


def _panel(ax: Axes, results: Sequence[Result], name: str, axis: _Axis, colour: str, edge: float) -> None:
    places = np.array([axis.at(result.setting[name]) for result in results])
    scores = np.array([_shown(result) for result in results])
    worse = scores < edge if results and results[0].metric == "accuracy" else scores > edge
    style = {"color": colour, "alpha": 0.55, "linewidths": 0}
    ax.scatter(places[~worse], scores[~worse], s=16, **style)
    ax.scatter(places[worse], np.full(worse.sum(), edge), s=20, marker="v", clip_on=False, **style)
    if axis.log:
        ax.set_xscale("log")
    if not axis.numbers:
        ax.set_xticks(range(len(axis.texts)), axis.texts, rotation=30, ha="right", fontsize=8)
    elif len(axis.texts) <= LABELLED:
        ax.set_xticks([axis.at(text) for text in axis.texts], axis.texts)
        ax.xaxis.set_minor_locator(NullLocator())
    if 1 < len(set(places)) <= FEW and axis.numbers:
        best = np.max if results[0].metric == "accuracy" else np.min
        ordered = np.unique(places)
        heights = np.array([best(scores[places == place]) for place in ordered])
        seen = heights >= edge if results[0].metric == "accuracy" else heights <= edge
        ax.plot(ordered[seen], heights[seen], color=colour, linewidth=1.5)


def _axis(results: Sequence[Result], name: str) -> _Axis:
    return _Axis([result.setting[name] for result in results if name in result.setting])


def _differing(results: Sequence[Result]) -> list[str]:
    """The searched options of which there are several values; the method where that is all there is."""
    names = [name for name in searched(results) if len(_axis(results, name).texts) > 1]
    others = [name for name in names if name != "method"]
    return others or names


def _edge(results: Sequence[Result]) -> float:
    """The worst score that is drawn at its place: thrice as far from the best as the median is."""
    scores = [_shown(result) for result in ranked(results)]
    best, middle, worst = scores[0], scores[len(scores) // 2], scores[-1]
    far = best + 3 * (middle - best)
    return max(far, worst) if results[0].metric == "accuracy" else min(far, worst)


def _shown(result: Result) -> float:
    assert result.validation is not None
    return 100 * result.validation if result.metric == "accuracy" else result.validation


def _label(results: Sequence[Result]) -> str:
    return "validation accuracy (%)" if results[0].metric == "accuracy" else "validation loss"


def _methods(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(map(_method, results)))


def _method(result: Result) -> str:
    return result.setting.get("method", "")
