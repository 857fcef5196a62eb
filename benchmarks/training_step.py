"""What a training step of every method costs, as a ratio to backpropagation's on the same batch.

    python benchmarks/training_step.py            # minutes; writes to benchmarks/results
    python benchmarks/training_step.py --small    # a small network, for a first look
    python benchmarks/training_step.py --channels 32 64 --sizes 128 10 --methods Backprop DFA DFC-SSA \
        "DFC-SS, Broyden"                         # a convolutional network on images of 3 x 32 x 32

Every round times every method, in one order and the next time in the other, and takes its ratio to
backpropagation in the same round; the median of the rounds is reported. The network is the initial one; the
images are scikit-learn's digits, enlarged to 28 x 28, for convolutions with a margin and three times.
"""

import dataclasses
import json
import math
import pathlib
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import matplotlib
import numpy as np
import optax
import rich.console
import tyro
from contenders import METHODS
from jaxtyping import Array, PyTree
from regimes import digits
from rich.box import SIMPLE
from rich.table import Column, Table

import dfc_jax as dfc


matplotlib.use("Agg")
from matplotlib import pyplot as plt


HERE = pathlib.Path(__file__).parent
BASELINE, REFERENCE = "Backprop", "DFC-SS, Broyden"
COLUMNS = {  # what a figure is called in the tables and in the JSON file, and how it is shown
    "update": ("update_ratio", ".3g"),
    "step": ("step_ratio", ".3g"),
    "compile": ("compile_seconds", ".2f"),
    "memory": ("memory_added_mib", ".2f"),
    "angle": ("angle_degrees", ".2g"),
    "converged": ("converged", ".0%"),
    "residual": ("largest_residual", ".0e"),
    "iterations": ("iterations", ".1f"),
}
LEGEND = (
    "update: time of the method alone, over backprop's; step: the same with Adam; compile: seconds of "
    "wall-clock on this machine; memory: MiB of temporary memory that XLA plans for the update beyond "
    f"backprop's; angle: of the update to that of {REFERENCE}, in degrees; residual: the batch's largest, "
    "relative to the target error; iterations: the mean of sweeps, root-finder steps or time steps."
)
OPTIMISER = optax.adam(1e-3)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    sizes: tuple[int, ...] = (784, 256, 256, 256, 10)
    """Layer sizes; the digits need 784 inputs and 10 outputs. After convolutions, the dense layers alone."""
    channels: tuple[int, ...] = ()
    """Feature maps of convolutions, with pooling, before the dense layers; images are then 3 x 32 x 32."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Which ones; backprop and DFC-SS by Broyden's method, which others are compared with, among them."""
    batch_size: int = 128
    rounds: int = 31
    """Rounds of measurements."""
    seconds: float = 20.0
    """A method stops taking part after so many seconds of measurements (but not before three rounds)."""
    small: bool = False
    """A small network, a small batch and three rounds, whatever else is said."""
    seed: int = 0
    out: pathlib.Path = HERE / "results"
    """The folder for the figures."""


@dataclasses.dataclass
class Case:
    """A compiled program, ready to be timed."""

    call: Callable[[], PyTree]
    on: Callable[..., PyTree]  # the same with other arguments, of the same shapes
    compile_seconds: float
    temporary_bytes: int
    calls: int  # in a row, so that a round is long enough for the clock
    times: dict[int, float] = dataclasses.field(default_factory=dict)  # seconds of one call, by round

    def with_arguments(self, *arguments: PyTree) -> "Case":
        """The same program with other arguments, of the same shapes, and no times yet."""
        call = lambda: jax.block_until_ready(self.on(*arguments))
        return dataclasses.replace(self, call=call, times={})


def main(options: Options) -> None:
    """Measure, print and write."""
    if options.small:
        options = dataclasses.replace(options, sizes=(784, 32, 32, 10), batch_size=16, rounds=3, seconds=3.0)
    if not {BASELINE, REFERENCE} <= set(options.methods) <= set(METHODS):
        wanted = f"some of {', '.join(METHODS)}, {BASELINE} and {REFERENCE} among them"
        raise ValueError(f"`methods` is {options.methods}; it must name {wanted}.")
    model, x, y, key = _problem(options)
    updates, steps, figures = {}, {}, {}
    for name in options.methods:
        method = METHODS[name]
        rich.print(f"compiling {name}")
        updates[name] = compile_case(update_of, method, model, x, y, key)
        state = OPTIMISER.init(_learned(method, model))
        steps[name] = compile_case(_step, method, model, x, y, key, state)
        figures[name] = _quality(*updates[name].call())
    measure([*updates.values(), *steps.values()], options.rounds, options.seconds)
    reference = figures[REFERENCE]["vector"]
    for name, entry in figures.items():
        entry["angle_degrees"] = angle_degrees(entry.pop("vector"), reference)
        entry |= cost("update", updates[name], updates[BASELINE])
        entry |= cost("step", steps[name], steps[BASELINE])
        extra = updates[name].temporary_bytes - updates[BASELINE].temporary_bytes
        entry |= {"compile_seconds": updates[name].compile_seconds, "memory_added_mib": extra / 2**20}
    settings = {name: value for name, value in dataclasses.asdict(options).items() if name != "out"}
    result = {
        "environment": environment("benchmarks/training_step.py"),
        "settings": settings,
        "methods": figures,
    }
    _write(result, options.out, "training_step_conv" if options.channels else "training_step")


def _problem(options: Options) -> tuple[dfc.Network, Array, Array, Array]:
    """The initial network and a batch of digits as images."""
    model_key, key = jr.split(jr.key(options.seed))
    x, y = digits(options.batch_size)
    if options.channels:
        framed = np.pad(x.reshape(-1, 1, 28, 28), ((0, 0), (0, 0), (2, 2), (2, 2)))
        x = np.repeat(framed, 3, axis=1).reshape(len(x), -1)
        model = dfc.convnet((3, 32, 32), options.channels, options.sizes, key=model_key)
        return model, *jax.device_put((x, y)), key
    if options.sizes[0] != 784 or options.sizes[-1] != 10:
        raise ValueError(f"`sizes` is {options.sizes}; the digits need 784 inputs and 10 outputs.")
    return dfc.mlp(options.sizes, key=model_key), *jax.device_put((x, y)), key


def _learned(method: eqx.Module, network: dfc.Network) -> PyTree:
    """The part of a network, or of its update, that a method learns."""
    if isinstance(method, dfc.AbstractSleepPhase):
        part = network.feedback
    else:
        part = network if method.learns_feedback else network.layers
    return eqx.filter(part, eqx.is_inexact_array)


def update_of(
    method: eqx.Module, model: dfc.Network, x: Array, y: Array, key: Array
) -> tuple[PyTree, PyTree]:
    """The method alone: its update and its report, where there is one."""
    result = method(model, x, y, key=key)
    update, report = (result, None) if isinstance(method, dfc.AbstractSleepPhase) else result
    return _learned(method, update), report


def _step(
    method: eqx.Module, model: dfc.Network, x: Array, y: Array, key: Array, state: PyTree
) -> tuple[PyTree, PyTree, PyTree]:
    """The method and Adam."""
    update, report = update_of(method, model, x, y, key)
    change, state = OPTIMISER.update(update, state)
    return optax.apply_updates(_learned(method, model), change), state, report


def compile_case(function: Callable[..., PyTree], *arguments: PyTree) -> Case:
    """Compile ahead of time: what is called afterwards spends next to no time in Python."""
    arrays, static = eqx.partition(arguments, eqx.is_array)
    start = time.perf_counter()
    compiled = jax.jit(lambda given: function(*eqx.combine(given, static))).lower(arrays).compile()
    seconds = time.perf_counter() - start
    call = lambda: jax.block_until_ready(compiled(arrays))
    on = lambda *others: compiled(eqx.filter(others, eqx.is_array))
    call()
    calls = math.ceil(0.02 / _seconds(call, 2))
    return Case(call, on, seconds, compiled.memory_analysis().temp_size_in_bytes, min(calls, 50))


def _seconds(call: Callable[[], PyTree], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def measure(cases: list[Case], rounds: int, seconds: float) -> None:
    """Time all cases in turn, in one order and then in the other; the slow ones drop out first."""
    spent = dict.fromkeys(range(len(cases)), 0.0)
    for turn in range(rounds):
        order = [i for i in spent if turn < 3 or spent[i] < seconds]
        for i in order if turn % 2 == 0 else reversed(order):
            cases[i].times[turn] = _seconds(cases[i].call, cases[i].calls)
            spent[i] += cases[i].times[turn] * cases[i].calls


def cost(kind: str, case: Case, baseline: Case) -> dict[str, Any]:
    """Median time, and quartiles of the ratio to the baseline in the same round."""
    ratios = [case.times[turn] / baseline.times[turn] for turn in case.times.keys() & baseline.times.keys()]
    lower, median, upper = np.percentile(ratios, [25, 50, 75]).tolist()
    milliseconds = 1e3 * float(np.median(list(case.times.values())))
    cost = {"ratio": median, "ratio_quartiles": [lower, upper], "milliseconds": milliseconds}
    return {f"{kind}_{name}": value for name, value in (cost | {"rounds": len(ratios)}).items()}


def _quality(update: PyTree, report: dfc.Report | None) -> dict[str, Any]:
    """The update as a vector, and how well its steady states were found, where there are any."""
    entry = dict.fromkeys(("vector", "converged", "largest_residual", "iterations"))
    if report is not None:
        entry["vector"] = as_vector(update.layers if isinstance(update, dfc.Network) else update)
        if np.any(report.iterations > 0):
            entry["converged"] = float(np.mean(report.converged))
            entry["largest_residual"] = float(np.max(report.residual))
            entry["iterations"] = float(np.mean(report.iterations))
    return entry


def as_vector(update: PyTree) -> np.ndarray:
    """All numbers of an update."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(update)], dtype=float)


def angle_degrees(update: np.ndarray | None, reference: np.ndarray) -> float | None:
    """In degrees, by the half-angle: exact for small angles too. None for an update that has no direction."""
    if update is None or not 0 < np.linalg.norm(update) < np.inf:
        return None
    a, b = update / np.linalg.norm(update), reference / np.linalg.norm(reference)
    return float(np.degrees(2 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b))))


def environment(script: str) -> dict[str, Any]:
    """Enough to know what a figure was measured on."""
    where = dfc.environment()
    return {
        "device": where["processor"] if where["device"] == "cpu" else where["device"],
        "cores": where["cores"],
        "versions": {"python": where["python"]} | where["versions"],
        "revision": where["git_revision"],
        "date": where["started"].partition("T")[0],
        "command": shlex.join(["python", script, *sys.argv[1:]]),
    }


def _write(result: dict[str, Any], folder: pathlib.Path, file: str) -> None:
    """The table on the screen, and the same figures as JSON, Markdown and a chart."""
    settings, environment = result["settings"], result["environment"]
    sizes = "-".join(map(str, settings["sizes"]))
    maps = "".join(f"{number} feature maps, " for number in settings["channels"])
    network = f"{maps}{sizes} tanh, batch {settings['batch_size']}"
    caption = f"{network}, float32, {environment['device']}, {environment['cores']} cores"
    table = Table(Column("method", no_wrap=True), *COLUMNS, title=caption, caption=LEGEND, box=SIMPLE)
    lines = [" | ".join(["| method", *COLUMNS]) + " |", "|---" + "|---:" * len(COLUMNS) + "|"]
    for name, figures in result["methods"].items():
        shown = ((figures[key], spec) for key, spec in COLUMNS.values())
        row = [name, *("-" if value is None else format(value, spec) for value, spec in shown)]
        table.add_row(*row)
        lines.append(f"| {' | '.join(row)} |")
    rich.console.Console(width=100).print(table)
    versions = ", ".join(f"{name} {number}" for name, number in environment["versions"].items())
    where = f"{caption}; {versions}; revision {environment['revision']}; {environment['date']}."
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join([f"`{environment['command']}`\n", f"{where}\n", f"{LEGEND}\n", *lines, ""])
    (folder / f"{file}.md").write_text(text)
    (folder / f"{file}.json").write_text(json.dumps(result, indent=2) + "\n")
    _draw(result["methods"], caption, folder / f"{file}.png")


def _draw(methods: dict[str, dict[str, Any]], caption: str, path: pathlib.Path) -> None:
    """Bars of the update's ratio, and a diamond for the whole step's."""
    updates, steps = ([m[f"{kind}_ratio"] for m in methods.values()] for kind in ("update", "step"))
    figure, axes = plt.subplots(figsize=(9, 0.42 * len(methods) + 1.4), layout="constrained")
    left = 0.5 * min(updates + steps)
    axes.barh(list(methods), [u - left for u in updates], left=left, color="#56B4E9", label="update")
    axes.plot(steps, list(methods), "D", color="#D55E00", label="step: update and Adam")
    for i, (update, step) in enumerate(zip(updates, steps, strict=True)):
        place = (max(update, step), i)
        # Its background hides the line at 1 where the two meet.
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.annotate(f"{update:.3g}", place, (8, 0), textcoords="offset points", va="center", bbox=box)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlim=(left, 3 * max(updates)), title=caption)
    axes.set_xlabel("time relative to backpropagation (log scale; the number is the update's)")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.title.set_fontsize(10)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
