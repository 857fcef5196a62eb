"""What a training step of every method costs, as a ratio to backpropagation's on the same batch.

    python benchmarks/training_step.py            # minutes; writes to benchmarks/results
    python benchmarks/training_step.py --small    # a small network, for a first look

Every round times every method once, in one order and the next time in the other, and takes its ratio to
backpropagation in the same round; what is reported is the median of the rounds. `update` is the method alone,
`step` is the method and Adam. Compile time is wall-clock on this machine; memory is the temporary memory that
XLA plans for the compiled update, beyond what backpropagation needs. The images are scikit-learn's digits,
enlarged to 28 x 28, and the network is the initial one.
"""

import dataclasses
import datetime
import json
import math
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import dfc_jax as dfc
import equinox as eqx
import jax
import jax.random as jr
import matplotlib
import numpy as np
import optax
import rich
import tyro
from jaxtyping import Array, PyTree
from rich.table import Table


matplotlib.use("Agg")
from matplotlib import pyplot as plt


METHODS = {
    "Backprop": dfc.Backprop(),
    "DFA": dfc.DFA(),
    "DFC-SSA": dfc.DFCSSA(),
    "DFC-SS, Broyden": dfc.DFCSS(),
    "DFC-SS, Newton": dfc.DFCSS(equilibrium=dfc.RootFind()),
    "DFC-SS, simulated by Tsit5": dfc.DFCSS(equilibrium=dfc.Simulated()),
    "DFC, implicit Euler": dfc.DFC(average=dfc.ImplicitAverage()),
    "DFC, published Euler": dfc.DFC(average=dfc.PublishedAverage(dfc.PublishedEuler(dt=0.02, states=500))),
    "DFC, Tsit5": dfc.DFC(average=dfc.DiffraxAverage()),
    "Feedback learning, sleep phase": dfc.SleepPhase(),
}
BASELINE, REFERENCE = "Backprop", "DFC-SS, Broyden"
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    sizes: tuple[int, ...] = (784, 256, 256, 256, 10)
    """Layer sizes; the digits need 784 inputs and 10 outputs."""
    batch_size: int = 128
    rounds: int = 31
    """Rounds of measurements."""
    seconds: float = 20.0
    """A method stops taking part after so many seconds of measurements (but not before three rounds)."""
    small: bool = False
    """A small network, a small batch and three rounds, whatever else is said."""
    seed: int = 0
    out: pathlib.Path = pathlib.Path(__file__).parent / "results"
    """The folder for the figures."""


@dataclasses.dataclass
class Case:
    """A compiled program, ready to be timed."""

    call: Callable[[], PyTree]
    compile_seconds: float
    temporary_bytes: int
    calls: int  # in a row, so that a round is long enough for the clock
    times: dict[int, float] = dataclasses.field(default_factory=dict)  # seconds of one call, by round


def main(options: Options) -> dict[str, Any]:
    """Measure, print and write; returns what the JSON file holds."""
    command = _command(options)
    if options.small:
        options = dataclasses.replace(options, sizes=(784, 32, 32, 10), batch_size=16, rounds=3, seconds=3.0)
    model, x, y, key = _problem(options)
    updates, steps, figures = {}, {}, {}
    for name, method in METHODS.items():
        rich.print(f"compiling {name}")
        updates[name] = _compile(_update, method, model, x, y, key)
        state = _optimiser().init(_learned(method, model))
        steps[name] = _compile(_step, method, model, x, y, key, state)
        figures[name] = _quality(*updates[name].call())
    reference = figures[REFERENCE]["update"]
    _measure([*updates.values(), *steps.values()], options)
    for name, entry in figures.items():
        entry["angle_degrees"] = _angle(entry.pop("update"), reference)
        entry |= _cost("update", updates[name], updates[BASELINE]) | _cost(
            "step", steps[name], steps[BASELINE]
        )
        extra = updates[name].temporary_bytes - updates[BASELINE].temporary_bytes
        entry |= {"compile_seconds": updates[name].compile_seconds, "memory_added_mib": extra / MIB}
    result = {
        "command": command,
        "environment": _environment(),
        "settings": _settings(options),
        "methods": figures,
    }
    _write(result, options.out)
    return result


def _problem(options: Options) -> tuple[dfc.Network, Array, Array, Array]:
    """The initial network and a batch of digits as images of 28 x 28."""
    data, (model_key, key) = dfc.load("digits"), jr.split(jr.key(options.seed))
    if options.sizes[0] != 784 or options.sizes[-1] != len(data.train.y[0]):
        raise ValueError(f"`sizes` is {options.sizes}; the digits need 784 inputs and 10 outputs.")
    if not 1 <= options.batch_size <= len(data.train):
        raise ValueError(f"`batch_size` is {options.batch_size}; it must be 1 to {len(data.train)}.")
    images = data.train.x[: options.batch_size].reshape(-1, 8, 8)
    large = np.kron(images, np.ones((1, 3, 3), images.dtype))
    padded = np.pad(large, ((0, 0), (2, 2), (2, 2)), constant_values=data.train.x.min())
    x, y = jax.device_put((padded.reshape(len(padded), -1), data.train.y[: options.batch_size]))
    return dfc.mlp(options.sizes, key=model_key), x, y, key


def _optimiser() -> optax.GradientTransformation:
    return optax.adam(1e-3)


def _learned(method: eqx.Module, network: dfc.Network) -> PyTree:
    """The part of a network, or of its update, that a method learns: the sleep phase the feedback weights."""
    part = network.feedback if isinstance(method, dfc.SleepPhase) else network.layers
    return eqx.filter(part, eqx.is_inexact_array)


def _update(method: eqx.Module, model: dfc.Network, x: Array, y: Array, key: Array) -> tuple[PyTree, PyTree]:
    """The method alone: its update and its report, where there is one."""
    result = method(model, x, y, key=key)
    update, report = (result, None) if isinstance(method, dfc.SleepPhase) else result
    return _learned(method, update), report


def _step(
    method: eqx.Module, model: dfc.Network, x: Array, y: Array, key: Array, state: PyTree
) -> tuple[PyTree, PyTree, PyTree]:
    """The method and Adam."""
    update, report = _update(method, model, x, y, key)
    change, state = _optimiser().update(update, state)
    return optax.apply_updates(_learned(method, model), change), state, report


def _compile(function: Callable[..., PyTree], *arguments: PyTree) -> Case:
    """Compile ahead of time: what is called afterwards spends next to no time in Python."""
    arrays, static = eqx.partition(arguments, eqx.is_array)
    start = time.perf_counter()
    compiled = jax.jit(lambda given: function(*eqx.combine(given, static))).lower(arrays).compile()
    seconds = time.perf_counter() - start
    call = lambda: jax.block_until_ready(compiled(arrays))
    call()
    calls = math.ceil(0.02 / _seconds(call, 2))
    return Case(call, seconds, compiled.memory_analysis().temp_size_in_bytes, min(calls, 50))


def _seconds(call: Callable[[], PyTree], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def _measure(cases: list[Case], options: Options) -> None:
    """Time all cases in turn, in one order and then in the other; the slow ones drop out first."""
    spent = dict.fromkeys(range(len(cases)), 0.0)
    for turn in range(options.rounds):
        order = [i for i in spent if turn < 3 or spent[i] < options.seconds]
        for i in order if turn % 2 == 0 else reversed(order):
            cases[i].times[turn] = _seconds(cases[i].call, cases[i].calls)
            spent[i] += cases[i].times[turn] * cases[i].calls


def _cost(kind: str, case: Case, baseline: Case) -> dict[str, Any]:
    """Median time, and quartiles of the ratio to the baseline in the same round."""
    ratios = [seconds / baseline.times[turn] for turn, seconds in case.times.items()]
    lower, median, upper = np.percentile(ratios, [25, 50, 75]).tolist()
    milliseconds = 1e3 * float(np.median(list(case.times.values())))
    cost = {"ratio": median, "ratio_quartiles": [lower, upper], "milliseconds": milliseconds}
    return {f"{kind}_{name}": value for name, value in (cost | {"rounds": len(ratios)}).items()}


def _quality(update: PyTree, report: dfc.Report | None) -> dict[str, Any]:
    """The update as one vector, and how well its steady states were found, where there are any."""
    entry: dict[str, Any] = {"update": None, "converged": None, "largest_residual": None, "iterations": None}
    if report is None:
        return entry
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(update)]
    entry["update"] = np.concatenate(leaves)
    if np.any(report.iterations > 0):
        entry["converged"] = float(np.mean(report.converged))
        entry["largest_residual"] = float(np.max(report.residual))
        entry["iterations"] = float(np.mean(report.iterations))
    return entry


def _angle(update: np.ndarray | None, reference: np.ndarray) -> float | None:
    """In degrees, by the half-angle: exact for small angles too."""
    if update is None:
        return None
    a, b = update / np.linalg.norm(update), reference / np.linalg.norm(reference)
    return float(np.degrees(2 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b))))


def _settings(options: Options) -> dict[str, Any]:
    settings = dataclasses.asdict(options) | {"dtype": "float32", "data": "digits", "activation": "tanh"}
    del settings["out"]
    return settings


def _environment() -> dict[str, Any]:
    """Enough to know what a figure was measured on."""
    device = jax.devices()[0]
    processors = pathlib.Path("/proc/cpuinfo")
    lines = processors.read_text().splitlines() if processors.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.processor() or platform.machine()
    packages = ("jax", "jaxlib", "equinox", "diffrax", "optimistix", "lineax", "optax", "dfc_jax")
    return {
        "device": processor if device.platform == "cpu" else device.device_kind,
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "revision": _git("describe", "--always", "--dirty"),
        "date": datetime.date.today().isoformat(),
    }


def _git(*arguments: str) -> str | None:
    folder = pathlib.Path(__file__).parent
    try:
        answer = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def _command(options: Options) -> str:
    """The command line that asks for these options, apart from the folder."""
    words = ["python benchmarks/training_step.py"]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name != "out" and value != field.default:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{field.name.replace('_', '-')}", *(str(v) for v in values if v is not True)]
    return " ".join(words)


COLUMNS = {
    "update / backprop": lambda m: f"{m['update_ratio']:.3g}",
    "step / backprop": lambda m: f"{m['step_ratio']:.3g}",
    "compile (s)": lambda m: f"{m['compile_seconds']:.2f}",
    "memory added (MiB)": lambda m: f"{m['memory_added_mib']:.2f}",
    f"angle to {REFERENCE} (deg)": lambda m: _or_dash(m["angle_degrees"], ".3g"),
    "converged": lambda m: _or_dash(m["converged"], ".1%"),
    "largest residual": lambda m: _or_dash(m["largest_residual"], ".1e"),
    "iterations": lambda m: _or_dash(m["iterations"], ".1f"),
}


def _or_dash(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def _write(result: dict[str, Any], folder: pathlib.Path) -> None:
    """The table on the screen, and the same figures as JSON, Markdown and a chart."""
    rows = [[name, *(show(m) for show in COLUMNS.values())] for name, m in result["methods"].items()]
    table = Table("method", title=_caption(result))
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    rich.print(table)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "training_step.json").write_text(json.dumps(result, indent=2) + "\n")
    (folder / "training_step.md").write_text(_markdown(result, rows))
    _draw(result, folder / "training_step.png")


def _caption(result: dict[str, Any]) -> str:
    settings, environment = result["settings"], result["environment"]
    network = "-".join(map(str, settings["sizes"]))
    where = f"{environment['device']}, {environment['cores']} cores"
    return f"{network} tanh, batch {settings['batch_size']}, float32, {where}"


def _markdown(result: dict[str, Any], rows: list[list[str]]) -> str:
    environment = result["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in environment["versions"].items())
    lines = [
        f"`{result['command']}`",
        "",
        f"{_caption(result)}; {versions}; revision {environment['revision']}; {environment['date']}.",
        "Medians of interleaved rounds. Update: the method alone. Step: the method and Adam. Compile time is",
        "wall-clock on this machine. Memory is the temporary memory of the compiled update beyond backprop's.",
        "",
        "| " + " | ".join(["method", *COLUMNS]) + " |",
        "|---" + "|---:" * len(COLUMNS) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _draw(result: dict[str, Any], path: pathlib.Path) -> None:
    """Bars of the update's ratio with its quartiles, and a diamond for the whole step's."""
    methods = list(result["methods"].values())
    middle = np.asarray([m["update_ratio"] for m in methods])
    quartiles = np.asarray([m["update_ratio_quartiles"] for m in methods]).T
    spread, places = np.abs(quartiles - middle), np.arange(len(methods))
    figure, axes = plt.subplots(figsize=(9, 0.42 * len(methods) + 1.4), layout="constrained")
    left = 0.5 * min(1, middle.min())
    axes.barh(places, middle - left, left=left, color="#56B4E9", label="update (line: quartiles)")
    axes.errorbar(middle, places, xerr=spread, fmt="none", ecolor="#0072B2")
    axes.plot([m["step_ratio"] for m in methods], places, "D", color="#D55E00", label="step with Adam")
    for place, method in zip(places, methods, strict=True):
        end = max(method["step_ratio"], method["update_ratio_quartiles"][1])
        axes.annotate(
            f"{method['update_ratio']:.3g}", (end, place), (8, 0), textcoords="offset points", va="center"
        )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlim=(left, 3 * middle.max()), yticks=places, yticklabels=result["methods"])
    axes.set_xlabel(
        "time relative to backpropagation's update or step (log scale; the number is the update's)"
    )
    axes.set_title(_caption(result), fontsize=10)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
