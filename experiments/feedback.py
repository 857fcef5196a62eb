"""Which feedback keeps up with the forward weights: `python experiments/feedback.py --help`.

    python experiments/feedback.py                                       digits, some minutes
    python experiments/feedback.py --dataset mnist --channels --hidden 256 256 256 --epochs 10
    python experiments/feedback.py --dataset cifar10 --channels 32 64 128 --epochs 30    hours without a GPU

Trains the same network by backprop, by direct feedback alignment and by DFC with every kind of feedback, all
with the same optimiser and epochs, and follows the angle between each layer's update and the gradient. Every
row has a folder of its own; then come `feedback.md`, `feedback.json` and `feedback.png` of all rows that are
finished. After an interruption the same command goes on from the newest epoch. The exit status is 1 where a
seed of these rows diverged or is in doubt.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import options.needed  # noqa: F401
from options.checks import check_batch, check_each_once, check_seeds
from options.defaults import Activation, ACTIVATIONS
from options.script import outermost, parse, resumable
from report.curves import drawn, in_epoch, read_curves
from report.doubts import explained, judge, remark, remarked
from report.finished import read_json
from report.spread import cell, mean_and_spread
from weight_transport.picture import plot_feedback
from weight_transport.rows import ROWS

import dfc_jax as dfc
from dfc_jax._checks import check_count, check_number
from dfc_jax._runs.folder import first_difference


BASELINES = ("bp", "dfa")
LABELS = {"bp": "backprop", "dfa": "DFA"} | {name: row.label for name, row in ROWS.items()}
MEASURES = ("train_loss", "angle_to_backprop", "condition_two", "angle_of_feedback_to_transposed_jacobian")
SAMPLES = 128  # of validation, for the angles


@dataclasses.dataclass(frozen=True)
class Options:
    """What is trained, and how long."""

    dataset: Literal["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"] = "digits"
    """digits needs no download."""
    method: Literal["dfc-ss", "dfc-ssa", "feedback-alignment"] = "dfc-ss"
    """The method of every row but backprop and DFA. feedback-alignment: no control, the error itself comes
    down the feedback; where that is direct, by DFA's rule."""
    rows: tuple[str, ...] = (*BASELINES, *ROWS)
    """Which rows to train."""
    epochs: int = 20
    """Of every row."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seeds initialisation and order of samples, the same for all rows."""
    channels: tuple[int, ...] = (16, 32)
    """Feature maps of each convolution of 3 x 3, with a mean over 2 x 2 after it; none for dense layers
    alone."""
    hidden: tuple[int, ...] = ()
    """Sizes of the dense hidden layers."""
    activation: Activation = "tanh"
    """Of all hidden layers."""
    centred: bool = False
    """Take their mean off the logits, to which cross-entropy is blind and which wanders under DFC."""
    batch_size: int = 128
    """Samples of a step."""
    lr: float = 1e-3
    """Learning rate of AdamW at the start; it falls to zero as a cosine."""
    weight_decay: float = 0.1
    """Of AdamW: a step takes this times the learning rate from every weight. It is also what makes
    Kolen-Pollack's feedback approach the forward weights."""
    out: pathlib.Path = pathlib.Path("runs/feedback")
    """Folder for the runs, the table and the picture."""
    progress: bool = True
    """Show progress bars."""

    def check(self) -> None:
        """Raise `ValueError` in one sentence for what cannot be run."""
        for name in ("epochs", "batch_size"):
            check_count(name, getattr(self, name))
        check_number("lr", self.lr, above=0)
        check_number("weight_decay", self.weight_decay, minimum=0)
        check_seeds("seeds", *self.seeds)
        for name in ("rows", "seeds"):
            check_each_once(name, getattr(self, name))
        for name in self.rows:
            if name not in LABELS:
                raise ValueError(f"`rows` holds {name!r}; they are {', '.join(LABELS)}.")
        for name in filter(self.holds, LABELS):
            held = read_json(self.out / name / "config.json")["config"]
            if (difference := first_difference(held, self.of_row(name))) is not None:
                option, there, now = difference
                problem = (
                    f"`out` is {str(self.out)!r}, where `{option}` of {name} is {there!r} and not {now!r}"
                )
                raise ValueError(f"{problem}; name another folder.")

    def holds(self, name: str) -> bool:
        """Whether there is a run of a row in `out`, finished or not."""
        return (self.out / name / "config.json").exists()

    def of_row(self, name: str) -> dict[str, Any]:
        """What a row's folder says of it."""
        given = {k: v for k, v in dataclasses.asdict(self).items() if k not in ("rows", "out", "progress")}
        if not self.centred:  # as rows of before there was the option
            del given["centred"]
        return {"row": name} | given


def make_method(options: Options, name: str) -> dfc.AbstractMethod:
    """The method of a row."""
    if name in BASELINES:
        return {"bp": dfc.Backprop, "dfa": dfc.DFA}[name]()
    if options.method == "feedback-alignment":
        return dfc.DFA() if ROWS[name].direct else dfc.FeedbackAlignment()
    return {"dfc-ss": dfc.DFCSS, "dfc-ssa": dfc.DFCSSA}[options.method]()


def make_model(options: Options, name: str, data: dfc.Dataset, seed: int) -> dfc.Network:
    """The network of a row: its forward weights are the same in all rows."""
    starts = {"bp": dfc.ProductOfWeights(), "dfa": dfc.RandomFeedback()}
    activation = ACTIVATIONS[options.activation]
    given: dict[str, Any] = {"key": jax.random.fold_in(jax.random.key(seed), 0), "activation": activation}
    given["centred"] = options.centred
    given["feedback"] = starts[name] if name in BASELINES else ROWS[name].start
    sizes = (*options.hidden, data.output_size)
    if options.channels:
        assert data.image is not None  # all data sets here are of images
        return dfc.convnet(data.image, options.channels, sizes, **given)
    return dfc.mlp((data.input_size, *sizes), **given)


def make_optimiser(options: Options, data: dfc.Dataset) -> optax.GradientTransformation:
    """AdamW whose rate falls as a cosine, to zero in the last step."""
    steps = options.epochs * -(-len(data.train) // options.batch_size)
    return optax.adamw(optax.cosine_decay_schedule(options.lr, steps), weight_decay=options.weight_decay)


def train(options: Options, name: str, data: dfc.Dataset) -> None:
    """One row with every seed, unless its folder holds that already."""
    asked, path = options.of_row(name), options.out / name
    if (path / "summary.json").exists():  # of these options, as `check` has found
        return
    method = make_method(options, name)
    models = [make_model(options, name, data, seed) for seed in options.seeds]
    # The learning rate falls over the epochs, whose number is then no option that may differ.
    folder = dfc.RunFolder.reopen(path, asked, may_differ=())
    x, y = (jnp.asarray(part[:SAMPLES]) for part in (data.validation.x, data.validation.y))
    optimiser = make_optimiser(options, data)
    learning = None if name in BASELINES else ROWS[name].learning

    def on_epoch(position: int, record: dfc.Record, model: dfc.Network) -> None:
        angles = {k: np.asarray(v).tolist() for k, v in _angles(method, model, x, y).items()}
        folder.append(options.seeds[position], record | angles)

    found = dfc.fit_many(
        models,
        method,
        data,
        optimiser,
        epochs=options.epochs,
        keys=[jax.random.fold_in(jax.random.key(seed), 1) for seed in options.seeds],
        batch_size=options.batch_size,
        feedback_learning=None if learning is None else learning(optimiser),
        augment=dfc.CropAndFlip(data.image) if options.dataset.startswith("cifar") else None,
        on_epoch=on_epoch,
        progress=options.progress,
        resume=folder.checkpoints,
    )
    histories = {seed: history for seed, (_, history) in zip(options.seeds, found, strict=True)}
    folder.finish(histories, "test_accuracy")


@eqx.filter_jit
def _angles(
    method: dfc.AbstractMethod, model: dfc.Network, x: jax.Array, y: jax.Array
) -> dict[str, jax.Array]:
    """Between the update and the gradient, all layers together and each; between Q and J^T; condition 2; and
    the mean of all logits, which wanders unless they are centred."""
    angles = dfc.update_angles(method(model, x, y)[0], dfc.Backprop(method.loss)(model, x, y)[0])
    found = {"angle_to_backprop": angles.network, "angle_to_backprop_by_layer": jnp.stack(angles.layers)}
    found["mean_of_logits"] = jnp.mean(jax.vmap(model)(x))
    if not isinstance(method, dfc.Backprop):
        found["angle_of_feedback_to_transposed_jacobian"] = jnp.mean(dfc.feedback_angles(model, x))
        found["condition_two"] = jnp.mean(dfc.condition_two(model, x))
    return found


def collect(options: Options) -> dict[str, dict[str, Any]]:
    """The figures of every row that is finished: mean and sample standard deviation over the seeds, of which
    those that stopped early are in no figure of the last epoch, and what is to be known of them."""
    found = {}
    for name in LABELS:
        if not (options.out / name / "summary.json").exists():
            continue
        curves = read_curves(options.out / name)
        summary = read_json(options.out / name / "summary.json")
        seeds = summary["seeds"].values()
        values = {
            "last_test_accuracy": in_epoch(curves, "test_accuracy", options.epochs),
            "best_test_accuracy": [seed["test_accuracy"] for seed in seeds if "test_accuracy" in seed],
        }
        for measure in MEASURES:
            values[measure] = in_epoch(curves, measure, options.epochs)
        found[name] = {k: mean_and_spread(v) for k, v in values.items() if len(v) > 0}
        found[name] |= {"remark": said} if (said := remark(summary)) else {}
        found[name]["angle_by_layer"] = _by_layer(options.out / name, options.epochs)
    return found


def _by_layer(folder: pathlib.Path, epochs: int) -> list[float]:
    """Degrees between each layer's update and the gradient in the last epoch, the mean over the seeds that
    reached it; empty if none did."""
    layers = read_curves(folder, of_layers="angle_to_backprop_by_layer")
    angles = [in_epoch(layers, str(i), epochs) for i in range(len(layers))]
    reached = any(len(found) > 0 for found in angles)
    return [float(np.mean(found)) if len(found) > 0 else np.nan for found in angles if reached]


def write(options: Options, rows: dict[str, dict[str, Any]]) -> None:
    """`feedback.json`, `feedback.md` and `feedback.png`."""
    given = {k: v for k, v in dataclasses.asdict(options).items() if k not in ("out", "progress", "rows")}
    note = {"options": given, "environment": dfc.environment(), "rows": rows}
    (options.out / "feedback.json").write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    (options.out / "feedback.md").write_text("\n".join(_table(options, rows)) + "\n", encoding="utf-8")
    drawn("feedback.png", plot_feedback, options.out, LABELS, options.out / "feedback.png")


def _table(options: Options, rows: dict[str, dict[str, Any]]) -> list[str]:
    network = "-".join(map(str, (*options.channels, *options.hidden)))
    lines = [
        f"# Feedback: {options.dataset}, {network} {options.activation}, {options.method}, "
        f"{_number(options.epochs, 'epoch')}, {_number(len(options.seeds), 'seed')}",
        "",
        "| feedback | test accuracy %, last epoch | at the best validation epoch | train loss "
        "| to the gradient, degrees | of each layer | Q to J^T, degrees | condition 2 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in rows.items():
        cells = [
            remarked(LABELS[name], found),
            cell(found, "last_test_accuracy", 100),
            cell(found, "best_test_accuracy", 100),
            cell(found, "train_loss", digits=3),
            cell(found, "angle_to_backprop", digits=0),
            " ".join(f"{angle:.0f}" for angle in found.get("angle_by_layer", ())),
            cell(found, "angle_of_feedback_to_transposed_jacobian", digits=0),
            cell(found, "condition_two"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [
        *lines,
        "",
        f"Mean ± sample standard deviation over seeds. Angles and condition 2: of the first {SAMPLES} "
        "validation",
        "samples after the last epoch. Every row has the same optimiser, AdamW with a rate that falls as a "
        "cosine.",
        *explained(rows),
    ]


def _number(count: int, what: str) -> str:
    return f"{count} {what}" + ("s" if count != 1 else "")


@outermost
def main(options: Options) -> int:
    """Run what is missing and write the results; returns the exit status."""
    options = dataclasses.replace(options, out=pathlib.Path(options.out))
    options.check()
    data = dfc.load(options.dataset)
    check_batch(options.batch_size, data)
    with resumable():
        for name in options.rows:
            train(options, name, data)
        write(options, collect(options))
    print((options.out / "feedback.md").read_text(encoding="utf-8"))
    return judge({name: read_json(options.out / name / "summary.json") for name in options.rows})


@outermost
def command(arguments: Sequence[str] | None = None) -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, arguments, __doc__))


if __name__ == "__main__":
    sys.exit(command())
