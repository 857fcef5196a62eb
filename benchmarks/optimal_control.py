"""Least control on MNIST, early and late in training: whether every sample converges, and what a step costs.

    python benchmarks/optimal_control.py            # MNIST, by TFDS_DATA_DIR; figures go to runs/benchmarks
    python benchmarks/optimal_control.py --small    # a small network and digits, for a first look

The network is trained by the method itself, with Adam, and measured before it, after one epoch and after the
last. What converges is counted over many batches in float32; time is that of the first, a ratio to backprop's
in the same round.
"""

import dataclasses
import pathlib
import sys
from typing import Any, Literal

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array
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
from timing import Case, compile_case, cost, measure
from training_step import OPTIMISER, step
from updates import learned, update_of

import dfc_jax as dfc


COLUMNS = {
    "update": ("update_ratio", ".3g"),
    "step": ("step_ratio", ".3g"),
    "converged": ("converged", ".2%"),
    "by the fallback": ("fallback", ".2%"),
    "residual": ("largest_residual", ".0e"),
    "turns": ("iterations", ".1f"),
}
LEGEND = (
    "update: time of the method alone, over backprop's; step: the same with Adam; converged: of the samples "
    "of all batches, to 1e-5; by the fallback: those that the iteration left to it; residual: the largest of "
    "all; turns: pairs of sweeps of the iteration, the mean."
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    dataset: Literal["digits", "mnist"] = "mnist"
    hidden: tuple[int, ...] = (256, 256, 256)
    """Sizes of the hidden layers."""
    alphas: tuple[float, ...] = (1.0, 0.1, 0.01)
    """Leaks of the controller, each with a network of its own."""
    epochs: int = 10
    """Of training in all; there is one measurement after the first."""
    batches: int = 40
    """Batches whose samples are counted."""
    batch_size: int = 128
    rounds: int = 15
    """Rounds of measurements."""
    seconds: float = 5.0
    """A method stops taking part after so many seconds of measurements (but not before three rounds)."""
    small: bool = False
    """A small network, digits, three epochs, small batches and three rounds, whatever else is said."""
    seed: int = 0
    out: pathlib.Path = OUT
    """The folder for the figures; benchmarks/results holds the published ones."""


SMALL = {"dataset": "digits", "hidden": (32, 32), "epochs": 3, "batches": 3, "batch_size": 16, "rounds": 3}


@outermost
def main(options: Options) -> None:
    """Train, measure, print and write."""
    if options.small:
        options = dataclasses.replace(options, seconds=1.0, **SMALL)
    check(options, "optimal_control")
    data = dfc.load(options.dataset)
    asked = options.batches * options.batch_size
    if asked > len(data.train):
        held = f"`batches` of `batch_size` are {asked} samples, of {len(data.train)} of {data.name}"
        raise ValueError(f"{held}; give fewer.")
    kinds = {}
    for alpha in options.alphas:
        method = dfc.LeastControl(alpha)
        for name, model in _stages(method, data, options).items():
            print(f"alpha {alpha:g}, {name}")
            kinds[f"{name}, alpha {alpha:g}"] = _measured(method, model, data, options)
    result = {
        "environment": environment("benchmarks/optimal_control.py"),
        "settings": settings_of(options),
        "networks": kinds,
    }
    _write(result, options.out)


def _stages(method: dfc.LeastControl, data: dfc.Dataset, options: Options) -> dict[str, dfc.Network]:
    """The network as it starts, after one epoch, and after the last."""
    model_key, key = jr.split(jr.key(options.seed))
    sizes = data.input_size, *options.hidden, data.output_size
    kept = {0: dfc.mlp(sizes, key=model_key)}
    given = {"epochs": options.epochs, "key": key, "batch_size": options.batch_size, "progress": False}
    keep = lambda record, model: kept.update({record["epoch"]: model})
    dfc.fit(kept[0], method, data, OPTIMISER, on_epoch=keep, **given)
    names = {0: "initial", options.epochs: f"after {options.epochs} epochs", 1: "after 1 epoch"}
    return {names[epoch]: kept[epoch] for epoch in sorted(names)}


def _measured(
    method: dfc.LeastControl, model: dfc.Network, data: dfc.Dataset, options: Options
) -> dict[str, Any]:
    """Convergence over the batches, and the time of an update and of a step on the first."""
    size = options.batch_size
    many = [slice(start, start + size) for start in range(0, options.batches * size, size)]
    x, y = (jnp.asarray(part[many[0]]) for part in (data.train.x, data.train.y))
    updates = {name: compile_case(update_of, m, model, x, y, None) for name, m in _both(method).items()}
    steps = {name: _step_case(m, model, x, y) for name, m in _both(method).items()}
    reports = []
    for part in many:
        batch = jnp.asarray(data.train.x[part]), jnp.asarray(data.train.y[part])
        reports.append(updates["least control"].on(method, model, *batch, None)[1])
    measure([*updates.values(), *steps.values()], options.rounds, options.seconds)
    whole = lambda name: np.concatenate([np.asarray(getattr(report, name)) for report in reports])
    found = {name: float(np.mean(whole(name))) for name in ("converged", "fallback", "iterations")}
    found["largest_residual"] = float(np.max(whole("residual")))
    found |= cost("update", updates["least control"], updates["backprop"])
    return found | cost("step", steps["least control"], steps["backprop"])


def _both(method: dfc.LeastControl) -> dict[str, dfc.AbstractMethod]:
    return {"backprop": dfc.Backprop(), "least control": method}


def _step_case(method: dfc.AbstractMethod, model: dfc.Network, x: Array, y: Array) -> Case:
    return compile_case(step, method, model, x, y, None, OPTIMISER.init(learned(method, model)))


def _write(result: dict[str, Any], folder: pathlib.Path) -> None:
    """The figures as JSON, Markdown and a chart."""
    settings, where = result["settings"], result["environment"]
    sizes = "-".join(map(str, settings["hidden"]))
    samples = settings["batches"] * settings["batch_size"]
    network = f"{settings['dataset']}, hidden layers {sizes} tanh, batch {settings['batch_size']}"
    caption = f"{network}, {samples} samples, float32, {machine(where)}"
    rows = [
        [name, *(shown(figures[key], spec) for key, spec in COLUMNS.values())]
        for name, figures in result["networks"].items()
    ]
    lines = [*heading(where, caption, LEGEND), "", *table(["network", *COLUMNS], rows)]
    save(result, lines, folder, "optimal_control")
    _draw(result["networks"], caption, folder / "optimal_control.png")


def _draw(networks: dict[str, Any], caption: str, path: pathlib.Path) -> None:
    """A step's time over training, a line a leak."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    stages, alphas = (
        list(dict.fromkeys(part)) for part in zip(*(n.split(", ") for n in networks), strict=True)
    )
    for alpha, marker, colour in zip(alphas, MARKERS, COLOURS, strict=False):
        ratios = [networks[f"{stage}, {alpha}"]["step_ratio"] for stage in stages]
        axes.plot(stages, ratios, marker=marker, color=colour, label=alpha)
    axes.set(ylim=(0, None), ylabel="time of a step relative to backpropagation")
    axes.set_title(caption.split(", float32")[0], fontsize=10)
    axes.legend(frameon=False)
    finish(figure, path)


@outermost
def command() -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, None, __doc__))


if __name__ == "__main__":
    sys.exit(command())
