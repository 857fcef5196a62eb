"""What a whole training epoch of every method costs, as a ratio to backpropagation's: batches drawn, weights
updated by Adam, validation and test samples evaluated.

    python benchmarks/epoch.py                    # MNIST; needs TFDS_DATA_DIR
    python benchmarks/epoch.py --dataset digits   # no download, seconds; small batches of overhead

Feedback is fixed. Every round trains each method for some epochs from the initial weights, in one order and
the next time in the other; a round's figure is its median epoch, and the median over rounds is reported.
"""

import dataclasses
import pathlib
import statistics
import sys
from typing import Any, Literal

import jax
import optax
from contenders import EPOCHS
from reporting import (
    check,
    COLOURS,
    environment,
    finish,
    heading,
    machine,
    OUT,
    outermost,
    parse,
    plt,
    ranged,
    save,
    settings_of,
    table,
)
from timing import in_turn

import dfc_jax as dfc


LEGEND = (
    "ratio: seconds of an epoch over backprop's in the same round, the median of the rounds and, in "
    "brackets, their range; per second: training samples."
)


@dataclasses.dataclass(frozen=True)
class Options:
    """How long to measure."""

    dataset: Literal["digits", "mnist", "fashion_mnist"] = "mnist"
    rounds: int = 5
    epochs: int = 4
    """Epochs of a round, after one that compiles."""
    seed: int = 0
    out: pathlib.Path = OUT
    """The folder for the figures; benchmarks/results holds the published ones."""


@outermost
def main(options: Options) -> None:
    """Measure, print and write."""
    check(options, "epoch")
    data, optimiser = dfc.load(options.dataset), optax.adam(1e-3)
    model_key, key = jax.random.split(jax.random.key(options.seed))
    model = dfc.mlp((data.input_size, 256, 256, 256, data.output_size), key=model_key)

    def seconds(method: dfc.AbstractMethod, epochs: int) -> float:
        _, history = dfc.fit(model, method, data, optimiser, epochs=epochs, key=key, progress=False)
        return statistics.median(record["seconds"] for record in history.records)

    for method in EPOCHS.values():
        seconds(method, 1)
    rounds = []
    for i in range(options.rounds):
        times = {name: seconds(EPOCHS[name], options.epochs) for name in in_turn(list(EPOCHS), i)}
        rounds.append({name: times[name] for name in EPOCHS})
    ratios = {name: [times[name] / times["Backprop"] for times in rounds] for name in EPOCHS}
    speed = {name: len(data.train) / statistics.median(times[name] for times in rounds) for name in EPOCHS}
    result = {
        "environment": environment("benchmarks/epoch.py"),
        "settings": settings_of(options),
        "ratios": ratios,
        "speed": speed,
    }
    _write(result, options)


def _write(result: dict[str, Any], options: Options) -> None:
    where, ratios = result["environment"], result["ratios"]
    caption = f"{options.dataset}, 3 x 256 tanh, batch 128, float32, {machine(where)}"
    rows = [[name, ranged(ratios[name]), f"{result['speed'][name]:.3g}"] for name in EPOCHS]
    lines = [*heading(where, caption, LEGEND), "", *table(["method", "ratio", "per second"], rows)]
    save(result, lines, options.out, "epoch")
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    names = list(EPOCHS)[::-1]
    axes.barh(names, [statistics.median(ratios[name]) for name in names], color=COLOURS[0])
    for position, name in enumerate(names):
        axes.plot([min(ratios[name]), max(ratios[name])], [position] * 2, color="black", linewidth=1.5)
    axes.set(xlabel="time of an epoch relative to backpropagation (line: smallest to largest)")
    axes.set_title(caption, fontsize=9)
    finish(figure, options.out / "epoch.png")


@outermost
def command() -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, None, __doc__))


if __name__ == "__main__":
    sys.exit(command())
