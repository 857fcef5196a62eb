"""What a training step of every method costs, as a ratio to backpropagation's on the same batch.

    python benchmarks/training_step.py            # minutes; writes to runs/benchmarks
    python benchmarks/training_step.py --small    # a small network, for a first look
    python benchmarks/training_step.py --channels 32 64 --sizes 128 10 --methods Backprop DFA DFC-SSA \
        "DFC-SS, Broyden"                         # a convolutional network on images of 3 x 32 x 32

Every round times every method, in one order and the next time in the other, and takes its ratio to
backpropagation in the same round; the median of the rounds is reported. The network is the initial one; the
images are scikit-learn's digits, enlarged to 28 x 28, for convolutions with a margin and three times.
"""

import dataclasses
import pathlib
import sys
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import optax
from contenders import METHODS
from jaxtyping import Array, PyTree
from regimes import coloured_digits, digits
from reporting import (
    check,
    environment,
    finish,
    heading,
    machine,
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
from updates import angle_degrees, as_vector, learned, quality, update_of

import dfc_jax as dfc


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
    out: pathlib.Path = OUT
    """The folder for the figures; benchmarks/results holds the published ones."""


@outermost
def main(options: Options) -> None:
    """Measure, print and write."""
    if options.small:
        options = dataclasses.replace(options, sizes=(784, 32, 32, 10), batch_size=16, rounds=3, seconds=3.0)
    file = "training_step_conv" if options.channels else "training_step"
    check(options, file)
    if not {BASELINE, REFERENCE} <= set(options.methods) <= set(METHODS):
        wanted = f"some of {', '.join(METHODS)}, {BASELINE} and {REFERENCE} among them"
        raise ValueError(f"`methods` is {options.methods}; it must name {wanted}.")
    model, x, y, key = _problem(options)
    updates, steps, figures = {}, {}, {}
    for name in options.methods:
        method = METHODS[name]
        print(f"compiling {name}")
        updates[name] = compile_case(update_of, method, model, x, y, key)
        state = OPTIMISER.init(learned(method, model))
        steps[name] = compile_case(step, method, model, x, y, key, state)
        figures[name] = _figures(*updates[name].call())
    measure([*updates.values(), *steps.values()], options.rounds, options.seconds)
    reference = figures[REFERENCE]["vector"]
    for name, entry in figures.items():
        entry["angle_degrees"] = angle_degrees(entry.pop("vector"), reference)
        entry |= cost("update", updates[name], updates[BASELINE])
        entry |= cost("step", steps[name], steps[BASELINE])
        entry["compile_seconds"] = updates[name].compile_seconds
        entry |= memory_added(updates[name], updates[BASELINE])
    result = {
        "environment": environment("benchmarks/training_step.py"),
        "settings": settings_of(options),
        "methods": figures,
    }
    _write(result, options.out, file)


def _problem(options: Options) -> tuple[dfc.Network, Array, Array, Array]:
    """The initial network and a batch of digits as images."""
    model_key, key = jr.split(jr.key(options.seed))
    if options.channels:
        model = dfc.convnet((3, 32, 32), options.channels, options.sizes, key=model_key)
        return model, *jax.device_put(coloured_digits(options.batch_size)), key
    x, y = digits(options.batch_size)
    if options.sizes[0] != 784 or options.sizes[-1] != 10:
        raise ValueError(f"`sizes` is {options.sizes}; the digits need 784 inputs and 10 outputs.")
    return dfc.mlp(options.sizes, key=model_key), *jax.device_put((x, y)), key


def step(
    method: eqx.Module, model: dfc.Network, x: Array, y: Array, key: Array, state: PyTree
) -> tuple[PyTree, PyTree, PyTree]:
    """The method and Adam."""
    update, report = update_of(method, model, x, y, key)
    change, state = OPTIMISER.update(update, state)
    return optax.apply_updates(learned(method, model), change), state, report


def _figures(update: PyTree, report: dfc.Report | None) -> dict[str, Any]:
    """The update as a vector, and how well its steady states were found, where there are any."""
    entry = dict.fromkeys(("vector", "converged", "largest_residual", "iterations")) | quality(report)
    if report is not None:
        entry["vector"] = as_vector(update.layers if isinstance(update, dfc.Network) else update)
    return entry


def _write(result: dict[str, Any], folder: pathlib.Path, file: str) -> None:
    """The figures as JSON, Markdown and a chart."""
    settings, where = result["settings"], result["environment"]
    sizes = "-".join(map(str, settings["sizes"]))
    maps = "".join(f"{number} feature maps, " for number in settings["channels"])
    network = f"{maps}{sizes} tanh, batch {settings['batch_size']}"
    caption = f"{network}, float32, {machine(where)}"
    rows = [
        [name, *(shown(figures[key], spec) for key, spec in COLUMNS.values())]
        for name, figures in result["methods"].items()
    ]
    lines = [*heading(where, caption, LEGEND), "", *table(["method", *COLUMNS], rows)]
    save(result, lines, folder, file)
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
    axes.legend(loc="upper right", frameon=False)
    finish(figure, path)


@outermost
def command() -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, None, __doc__))


if __name__ == "__main__":
    sys.exit(command())
