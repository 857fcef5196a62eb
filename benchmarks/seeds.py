"""What training several seeds as one vmapped program costs, a seed, relative to one alone.

    python benchmarks/seeds.py            # minutes; writes to runs/benchmarks
    python benchmarks/seeds.py --small    # a small network, one and two seeds, for a first look

A round trains every number of seeds from their initial weights, in one order and the next time in the other;
its figure is the median epoch, the first left out, and the median over rounds is reported. The data are
scikit-learn's digits.
"""

import dataclasses
import pathlib
import statistics
import sys
from typing import Any

import jax.random as jr
import optax
from contenders import EPOCHS
from reporting import (
    check,
    environment,
    heading,
    machine,
    OUT,
    outermost,
    parse,
    ranged,
    save,
    settings_of,
    table,
)
from timing import in_turn

import dfc_jax as dfc


METHODS = ("Backprop", "DFC-SSA", "DFC-SS")
LEGEND = (
    "epoch: milliseconds for all seeds; a seed: its share over the epoch of one alone in the same round, the "
    "median and, in brackets, the range of the rounds; accuracy: of the test samples at the end, the mean of "
    "the seeds, in percent."
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    hidden: tuple[int, ...] = (256, 256, 256)
    seeds: tuple[int, ...] = (1, 4, 16, 64)
    """How many at once; one among them."""
    rounds: int = 3
    """Rounds of measurements."""
    epochs: int = 8
    """Epochs of a round."""
    small: bool = False
    """A small network, one and two seeds and two rounds, whatever else is said."""
    seed: int = 0
    out: pathlib.Path = OUT
    """The folder for the figures."""


@outermost
def main(options: Options) -> None:
    """Measure, print and write."""
    if options.small:
        options = dataclasses.replace(options, hidden=(32,), seeds=(1, 2), rounds=2, epochs=2)
    check(options, "seeds")
    if 1 not in options.seeds or min(options.seeds) < 1:
        raise ValueError(f"`seeds` is {options.seeds}; it must be numbers of at least 1, and 1 among them.")
    if options.epochs < 2:
        raise ValueError(f"`epochs` is {options.epochs}; it must be at least 2, for the first is left out.")
    data = dfc.load("digits")
    figures = {}
    for name in METHODS:
        print(name)
        figures[name] = _measured(name, data, options)
    where = environment("benchmarks/seeds.py")
    _write({"environment": where, "settings": settings_of(options), "methods": figures}, options)


def _measured(name: str, data: dfc.Dataset, options: Options) -> dict[str, dict[str, Any]]:
    """The figures of a method for every number of seeds."""
    accuracies = {count: _trained(name, count, data, options)[1] for count in options.seeds}  # compiles, too
    rounds = []
    for turn in range(options.rounds):
        order = in_turn(options.seeds, turn)
        rounds.append({count: _trained(name, count, data, options)[0] for count in order})
    return {
        str(count): {
            "milliseconds": 1e3 * statistics.median(times[count] for times in rounds),
            "ratios": [times[count] / count / times[1] for times in rounds],
            "accuracy": accuracies[count],
        }
        for count in options.seeds
    }


def _trained(name: str, count: int, data: dfc.Dataset, options: Options) -> tuple[float, float]:
    """Seconds of an epoch of so many seeds, and their mean accuracy at the end."""
    model_key, key = jr.split(jr.key(options.seed))
    most = max(options.seeds)
    sizes = (data.input_size, *options.hidden, data.output_size)
    runs = dfc.fit_many(
        [dfc.mlp(sizes, key=k) for k in jr.split(model_key, most)[:count]],
        EPOCHS[name],
        data,
        optax.adam(1e-3),
        epochs=options.epochs,
        keys=jr.split(key, most)[:count],
        progress=False,
    )
    records = [history.records for _, history in runs]
    seconds = [sum(of_one[i]["seconds"] for of_one in records) for i in range(1, options.epochs)]
    return statistics.median(seconds), statistics.mean(r[-1]["test_accuracy"] for r in records)


def _write(result: dict[str, Any], options: Options) -> None:
    """The figures as JSON and Markdown."""
    where = result["environment"]
    hidden = "-".join(map(str, options.hidden))
    caption = f"Digits, 64-{hidden}-10 tanh, batch 128 a seed, float32, {machine(where)}"
    rows = []
    for name, counts in result["methods"].items():
        for count, entry in counts.items():
            ratio = ranged(entry["ratios"])
            rows.append(
                [name, count, f"{entry['milliseconds']:.3g}", ratio, f"{100 * entry['accuracy']:.1f}"]
            )
    columns = ["method", "seeds", "epoch", "a seed", "accuracy"]
    save(result, [*heading(where, caption, LEGEND), "", *table(columns, rows)], options.out, "seeds")


@outermost
def command() -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, None, __doc__))


if __name__ == "__main__":
    sys.exit(command())
