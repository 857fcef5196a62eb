"""What learning costs with every kind of feedback, a step, as a ratio to backpropagation's.

    python benchmarks/feedback_cost.py                    # convolutions, 3 x 32 x 32; five minutes
    python benchmarks/feedback_cost.py --channels --hidden 256 256 256 --activation tanh    # dense layers
    python benchmarks/feedback_cost.py --small            # a small network, for a first look

The rows are those of `experiments/feedback.py`, trained as there: batches drawn, the method, AdamW, and what
of an epoch the feedback weights learn in. Every round trains each of them for some epochs from the initial
weights, in one order and the next time in the other; a round's figure is its median epoch, the first left
out, and the median over rounds is reported. The images are scikit-learn's digits, enlarged.
"""

import dataclasses
import pathlib
import statistics
import sys
from typing import Any

import jax
from regimes import coloured_digits, digits
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


# isort: split
# Of the experiments, which `reporting` has put on the path.
import feedback
from feedback import BASELINES, LABELS, make_method, make_model, make_optimiser, ROWS

import dfc_jax as dfc


LEGEND = (
    "step: seconds of an epoch, sleep included, over backprop's in the same round, the median of the rounds "
    "and, in brackets, their range; converged: of the samples of the last epoch. Sleep before the first "
    "epoch is not in it."
)
SAMPLES = 1257  # all that there are to train with
FEW = 16  # of validation and of test, which are evaluated in every epoch


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    channels: tuple[int, ...] = (32, 64, 128)
    """Feature maps of each convolution; none for dense layers alone, and images of 28 x 28."""
    hidden: tuple[int, ...] = ()
    """Sizes of the dense hidden layers."""
    activation: str = "leaky-relu"
    rows: tuple[str, ...] = tuple(LABELS)
    """Which kinds of feedback, backprop among them."""
    batch_size: int = 128
    rounds: int = 3
    """Rounds of measurements."""
    epochs: int = 3
    """Epochs of a round, the first of which is left out."""
    small: bool = False
    """Small networks and two rounds, whatever else is said."""
    seed: int = 0
    out: pathlib.Path = OUT
    """The folder for the figures; benchmarks/results holds the published ones."""


@outermost
def main(options: Options) -> None:
    """Measure, print and write."""
    if options.small:
        sizes = {"channels": (2, 3) if options.channels else (), "hidden": (8,) if options.hidden else ()}
        options = dataclasses.replace(options, **sizes, rounds=2, epochs=2)
    name = "feedback_cost" if options.channels else "feedback_cost_dense"
    check(options, name)
    if not {"bp"} <= set(options.rows) <= set(LABELS):
        raise ValueError(
            f"`rows` is {options.rows}; it must name some of {', '.join(LABELS)}, bp among them."
        )
    if options.epochs < 2:
        raise ValueError(f"`epochs` is {options.epochs}; it must be at least 2, for the first is left out.")
    asked, data = _experiment(options), _data(options)
    asked.check()
    for row in options.rows:
        print(f"compiling {LABELS[row]}")
        _trained(row, asked, data, 1)
    rounds, converged = [], {}
    for turn in range(options.rounds):
        times = {}
        for row in in_turn(options.rows, turn):
            times[row], converged[row] = _trained(row, asked, data, options.epochs)
        rounds.append(times)
    result = {
        "environment": environment("benchmarks/feedback_cost.py"),
        "settings": settings_of(options),
        "rows": {
            row: {"ratios": [times[row] / times["bp"] for times in rounds], "converged": converged[row]}
            for row in options.rows
        },
    }
    _write(result, options, name)


def _experiment(options: Options) -> feedback.Options:
    """What `experiments/feedback.py` would train."""
    names = ("channels", "hidden", "activation", "batch_size", "epochs")
    given = {name: getattr(options, name) for name in names}
    return feedback.Options(**given, seeds=(options.seed,), out=pathlib.Path("nowhere"))


def _data(options: Options) -> dfc.Dataset:
    shape = (3, 32, 32) if options.channels else (1, 28, 28)
    x, y = (coloured_digits if options.channels else digits)(SAMPLES)
    few = dfc.Split(x[:FEW], y[:FEW])
    return dfc.Dataset("digits", dfc.Split(x, y), few, few, classification=True, image=shape)


def _trained(row: str, asked: feedback.Options, data: dfc.Dataset, epochs: int) -> tuple[float, float]:
    """Seconds of an epoch, the first left out where there are more, and what converged in the last."""
    optimiser = make_optimiser(asked, data)
    learning = None if row in BASELINES else ROWS[row].learning
    (seed,) = asked.seeds
    _, history = dfc.fit(
        make_model(asked, row, data, seed),
        make_method(asked, row),
        data,
        optimiser,
        epochs=epochs,
        key=jax.random.fold_in(jax.random.key(seed), 1),
        batch_size=asked.batch_size,
        feedback_learning=None if learning is None else learning(optimiser),
        progress=False,
    )
    *_, last = history.records
    seconds = [record["seconds"] for record in history.records[1:] or history.records]
    return statistics.median(seconds), last["converged"]


def _write(result: dict[str, Any], options: Options, name: str) -> None:
    """The figures as JSON, Markdown and a chart."""
    where, rows = result["environment"], result["rows"]
    network = "-".join(map(str, (*options.channels, *options.hidden, 10)))
    kind = "convolutions, 3 x 32 x 32" if options.channels else "784 inputs"
    network += f" {options.activation}, {kind}, DFC-SS, batch {options.batch_size}, float32"
    cells = [
        [LABELS[row], ranged(found["ratios"]), f"{found['converged']:.0%}"] for row, found in rows.items()
    ]
    lines = [
        *heading(where, f"{network}, {machine(where)}", LEGEND),
        "",
        *table(["feedback", "step", "converged"], cells),
    ]
    save(result, lines, options.out, name)
    figure, axes = plt.subplots(figsize=(8, 0.36 * len(rows) + 1.2), layout="constrained")
    for place, (row, found) in enumerate(rows.items()):
        axes.barh(place, statistics.median(found["ratios"]), color=COLOURS[6 if row in BASELINES else 0])
        axes.plot([min(found["ratios"]), max(found["ratios"])], [place] * 2, color="black", linewidth=1.5)
    axes.set_yticks(range(len(rows)), [LABELS[row] for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel="time of a step over backprop's (line: its range)")
    figure.suptitle(f"{network}\n{machine(where)}", fontsize=9)
    finish(figure, options.out / f"{name}.png")


@outermost
def command() -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, None, __doc__))


if __name__ == "__main__":
    sys.exit(command())
