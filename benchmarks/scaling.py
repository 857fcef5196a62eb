"""How the cost of an update grows with width, depth, number of outputs and batch size.

    python benchmarks/scaling.py            # minutes; writes to runs/benchmarks
    python benchmarks/scaling.py --small    # small networks, two points an axis, for a first look
    python benchmarks/scaling.py --batch 1024 8192 --width 256 4096 --depth --outputs    # two axes alone

One size changes at a time; the others stay at 784-256-256-256-10 and batch 128. Inputs are normal noise,
labels random, weights and feedback those of initialisation. Exponents are slopes of log time against log
size by least squares; the times are medians over rounds in which all methods of one setting take turns.
"""

import dataclasses
import pathlib
import sys
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from contenders import SCALING, UP_TO_32_OUTPUTS
from reporting import (
    check,
    COLOURS,
    environment,
    finish,
    heading,
    machine,
    MARKERS,
    OUT,
    outermost,
    parse,
    plt,
    save,
    settings_of,
    shown,
    table,
)
from timing import compile_case, cost, measure, memory_added
from updates import quality, update_of

import dfc_jax as dfc


AXES = {
    "width": (128, 256, 512, 1024, 2048),
    "depth": (1, 2, 4, 8, 16, 32),
    "outputs": (10, 16, 17, 32, 64, 100, 200, 500, 1000),
    "batch": (32, 128, 512, 1024),
}
SMALL_AXES = {"width": (32, 64), "depth": (1, 2), "outputs": (10, 40), "batch": (8, 16)}
LABELS = {"width": "width of hidden layers", "depth": "hidden layers", "outputs": "outputs", "batch": "batch"}
LEGEND = (
    "Ratios are of an update's time to that of backprop's gradient in the same setting. Exponent: the slope "
    "of log time against log size; above backprop's: by how much it exceeds backprop's own; at the end: the "
    "same between the last two sizes alone, where what does not grow, as the first layer, weighs least."
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    width: tuple[int, ...] = AXES["width"]
    """Neurons of a hidden layer; at least two sizes, or none to leave the axis out, as of the other three."""
    depth: tuple[int, ...] = AXES["depth"]
    """Hidden layers."""
    outputs: tuple[int, ...] = AXES["outputs"]
    """Neurons of the output layer."""
    batch: tuple[int, ...] = AXES["batch"]
    """Samples of a batch."""
    rounds: int = 9
    """Rounds of measurements."""
    seconds: float = 3.0
    """A method stops taking part after so many seconds of measurements (but not before three rounds)."""
    small: bool = False
    """Small networks, two points an axis and three rounds, whatever else is said."""
    seed: int = 0
    out: pathlib.Path = OUT
    """The folder for the figures; benchmarks/results holds the published ones."""


@outermost
def main(options: Options) -> None:
    """Measure, print and write."""
    base = {"width": 256, "depth": 3, "outputs": 10, "batch": 128}
    if options.small:
        options = dataclasses.replace(options, rounds=3, seconds=1.0, **SMALL_AXES)
        base = {"width": 32, "depth": 2, "outputs": 10, "batch": 8}
    check(options, "scaling")
    axes = {axis: getattr(options, axis) for axis in AXES if getattr(options, axis)}
    for axis, sizes in axes.items():
        if len(set(sizes)) < 2 or sizes != tuple(sorted(sizes)) or sizes[0] < 1:
            raise ValueError(f"`{axis}` is {sizes}; it must be at least two sizes, from small to large.")
    results: dict[str, Any] = {}
    for axis, sizes in axes.items():
        points = {}
        for size in sizes:
            print(f"{axis} {size}")
            points[str(size)] = _measure_point(base | {axis: size}, options)
        results[axis] = {"points": points, "exponents": _exponents(points)}
        results[axis]["last_exponents"] = _exponents(points, -2)
    result = {
        "environment": environment("benchmarks/scaling.py"),
        "settings": settings_of(options) | {"base": base},
        "axes": results,
    }
    _write(result, options.out)


def _measure_point(sizes: dict[str, int], options: Options) -> dict[str, Any]:
    """Every method in one setting."""
    model_key, input_key, label_key, key = jr.split(jr.key(options.seed), 4)
    model = dfc.mlp((784, *[sizes["width"]] * sizes["depth"], sizes["outputs"]), key=model_key)
    x = jr.normal(input_key, (sizes["batch"], 784))
    y = jnp.eye(sizes["outputs"])[jr.randint(label_key, (sizes["batch"],), 0, sizes["outputs"])]
    cases, entries = {}, {}
    for name, method in SCALING.items():
        if sizes["outputs"] > 32 and name in UP_TO_32_OUTPUTS:
            continue
        cases[name] = compile_case(update_of, method, model, x, y, key)
        entries[name] = quality(cases[name].call()[1])
    measure(list(cases.values()), options.rounds, options.seconds)
    for name, case in cases.items():
        entries[name] |= cost("update", case, cases["Backprop"]) | memory_added(case, cases["Backprop"])
    return entries


def _exponents(points: dict[str, Any], start: int = 0) -> dict[str, float]:
    """The slope of log time against log size, from point `start`, of every method measured everywhere."""
    sizes = np.log([int(size) for size in points])
    everywhere = [name for name in SCALING if all(name in entries for entries in points.values())]
    milliseconds = lambda name: [entries[name]["update_milliseconds"] for entries in points.values()]
    times = {name: np.log(milliseconds(name)) for name in everywhere}
    return {name: float(np.polyfit(sizes[start:], logs[start:], 1)[0]) for name, logs in times.items()}


def _write(result: dict[str, Any], folder: pathlib.Path) -> None:
    """The figures as JSON, Markdown and a chart."""
    where, base = result["environment"], result["settings"]["base"]
    hidden = "-".join([str(base["width"])] * base["depth"])
    caption = f"Around 784-{hidden}-{base['outputs']} tanh, batch {base['batch']}, float32, {machine(where)}"
    lines = heading(where, caption, LEGEND)
    for axis, figures in result["axes"].items():
        points, exponents, last = figures["points"], figures["exponents"], figures["last_exponents"]
        rows = []
        for name in SCALING:
            ratios = [shown(p.get(name, {}).get("update_ratio"), ".3g") for p in points.values()]
            slope = exponents.get(name)
            excess = [None if slope is None else e[name] - e["Backprop"] for e in (exponents, last)]
            rows.append([name, *ratios, shown(slope, ".2f"), *(shown(e, "+.2f") for e in excess)])
        columns = [f"{LABELS[axis]}:", *points, "exponent", "above backprop's", "at the end"]
        lines += ["", f"## {axis}", "", *table(columns, rows)]
    outputs = result["axes"].get("outputs", {"points": {}})["points"]
    figure = lambda key, spec: [shown(point["DFC-SS"][key], spec) for point in outputs.values()]
    quality = [
        ["largest residual, relative to the target error", *figure("largest_residual", ".0e")],
        ["samples converged", *figure("converged", ".1%")],
        ["mean number of iterations", *figure("iterations", ".1f")],
    ]
    if outputs:
        lines += ["", "## DFC-SS by outputs", "", *table(["outputs:", *outputs], quality)]
    save(result, lines, folder, "scaling")
    _draw(result["axes"], caption, folder / "scaling.png")


def _draw(axes_figures: dict[str, Any], caption: str, path: pathlib.Path) -> None:
    """A panel an axis: time relative to backprop's in the same setting."""
    size = (2 + 3 * len(axes_figures), 3.8)
    figure, (panels,) = plt.subplots(
        1, len(axes_figures), figsize=size, layout="constrained", sharey=True, squeeze=False
    )
    for panel, (axis, figures) in zip(panels, axes_figures.items(), strict=True):
        for i, name in enumerate(SCALING):
            points = {int(s): e[name]["update_ratio"] for s, e in figures["points"].items() if name in e}
            style = {"marker": MARKERS[i], "color": COLOURS[i], "label": name}
            panel.plot(list(points), list(points.values()), **style)
        panel.set(xscale="log", yscale="log", xlabel=LABELS[axis])
        ticks = [int(size) for size in figures["points"] if size not in ("17",)]
        panel.set_xticks(ticks, ticks)
        panel.xaxis.set_minor_locator(plt.NullLocator())
        panel.yaxis.set_major_formatter("{x:g}")
    panels[0].set_ylabel("time of an update\nrelative to backpropagation")
    figure.suptitle(caption, fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    finish(figure, path)


@outermost
def command() -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, None, __doc__))


if __name__ == "__main__":
    sys.exit(command())
