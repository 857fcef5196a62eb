"""One equilibrium, four theories: `python experiments/theories.py --help`.

    python experiments/theories.py                                      digits, some minutes
    python experiments/theories.py --dataset mnist --epochs 10 --schedule cosine

Trains the same networks by backprop, DFC-SS, Strong-DFC with idealised feedback, the least-control principle
and predictive coding, and measures the angles between their updates and what Song et al. (2024) call target
alignment and interference. Every method has a folder of its own; then come `theories.md`, `theories.json` and
`theories.png`. After an interruption the same command goes on from the newest epoch. The exit status is 1
where a seed diverged or is in doubt.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import options.needed  # noqa: F401
from jaxtyping import Array, Float
from options.checks import check_seeds
from options.config import Config
from options.groups import Optimiser, Schedule
from options.objects import make_model, make_optimiser, steps_of
from options.script import outermost, parse, resumable
from prospective.measures import angles_between, interference
from prospective.picture import LABELS, plot_theories
from report.curves import drawn, in_epoch, read_curves
from report.doubts import explained, judge, remark, remarked
from report.finished import read_json
from report.spread import cell, mean_and_spread

import dfc_jax as dfc
from dfc_jax._checks import check_count
from dfc_jax._runs.folder import first_difference


RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
SAMPLES = 64  # of validation, for all measurements


def rules() -> dict[str, dfc.AbstractMethod]:
    """What is trained, all with cross-entropy."""
    return {
        "bp": dfc.Backprop(),
        "dfc-ss": dfc.DFCSS(),
        # The state of least control; what teaches is the difference of rates.
        "strong-dfc": dfc.DFCSS(
            controller=dfc.PIController(0.0, dfc.LeastControl.alpha),
            target=dfc.Clamp(1.0),
            equilibrium=dfc.OptimalControl(),
            fallback=dfc.LeakContinuation(),
            teaching=dfc.RateDifference(),
        ),
        "least-control": dfc.LeastControl(),
        "predictive-coding": dfc.PredictiveCoding(alpha=1.0),
    }


def references() -> dict[str, dfc.AbstractMethod]:
    """What the rules' updates are compared with, besides each other."""
    return {"gauss-newton": dfc.GaussNewton(), "minimum-norm": dfc.MinimumNorm()}


def squared_rules() -> dict[str, dfc.AbstractMethod]:
    """Those whose interference is measured."""
    loss = dfc.MeanSquaredError()
    return {"bp": dfc.Backprop(loss), "predictive-coding": dfc.PredictiveCoding(0.0, loss)}


@dataclasses.dataclass(frozen=True)
class Options:
    """What is trained, and how long."""

    dataset: Literal["digits", "mnist", "fashion_mnist"] = "digits"
    """digits needs no download."""
    epochs: int = 20
    """Of every method."""
    schedule: Schedule = "constant"
    """Of the learning rate, which with cosine falls to zero over the epochs."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seeds initialisation and order of samples, the same for all methods."""
    out: pathlib.Path = pathlib.Path("runs/theories")
    """Folder for the runs, the table and the picture."""
    progress: bool = True
    """Show progress bars."""

    def config(self) -> Config:
        """The same for `run.py`: its networks and optimiser, feedback being the transposed Jacobian.

        **Raises:** `ValueError` for what cannot be run.
        """
        check_count("epochs", self.epochs)
        check_seeds("seeds", *self.seeds)
        config = Config(self.dataset, method=("dfc-ss",), feedback="exact", epochs=self.epochs)
        optimiser = Optimiser(schedule=self.schedule)
        return dataclasses.replace(config, seeds=self.seeds, optimiser=optimiser).resolved()


def train(options: Options, name: str, data: dfc.Dataset) -> None:
    """One method with every seed, unless its folder holds that already.

    **Raises:** `ValueError` if it holds a run with other options.
    """
    config, path = options.config(), options.out / name
    asked = {
        "dataset": options.dataset,
        "rule": " ".join(repr(rules()[name]).split()),
        "epochs": options.epochs,
        "seeds": options.seeds,
        "hidden": config.hidden,
        "batch_size": config.batch_size,
        "optimiser": dataclasses.asdict(config.optimiser),
    }
    if (path / "summary.json").exists():
        held = read_json(path / "config.json")["config"]
        if first_difference(held, asked) is None:
            return
    # Where the learning rate falls over the epochs, their number is no option that may differ.
    folder = dfc.RunFolder.reopen(path, asked, ("epochs",) if options.schedule == "constant" else ())
    found = _fit(config, rules()[name], data, options, options.epochs, folder)
    folder.finish(
        {seed: history for seed, (_, history) in zip(options.seeds, found, strict=True)}, "test_accuracy"
    )


def _fit(
    config: Config,
    method: dfc.AbstractMethod,
    data: dfc.Dataset,
    options: Options,
    epochs: int,
    folder: dfc.RunFolder | None = None,
) -> list[tuple[dfc.Network, dfc.History]]:
    return dfc.fit_many(
        [make_model(config, "dfc-ss", data, seed) for seed in options.seeds],
        method,
        data,
        make_optimiser(config.optimiser, steps_of(config, data)),
        epochs=epochs,
        keys=[jax.random.fold_in(jax.random.key(seed), 1) for seed in options.seeds],
        batch_size=config.batch_size,
        diagnostics=None if folder is None else dfc.Diagnostics(samples=SAMPLES),
        on_epoch=None if folder is None else lambda i, record, _: folder.append(options.seeds[i], record),
        progress=options.progress,
        resume=None if folder is None else folder.checkpoints,
    )


def between(options: Options, data: dfc.Dataset) -> dict[str, dict[str, list[float]]]:
    """Degrees between each two updates, by seed, in networks that backprop has trained for an epoch."""
    trained = _fit(options.config(), rules()["bp"], data, options, 1)
    x, y = _measured(data)
    methods = rules() | references()
    each = [angles_between(model, methods, x, y) for model, _ in trained]
    return {one: {other: [seed[one][other] for seed in each] for other in methods} for one in methods}


def _measured(data: dfc.Dataset) -> tuple[Float[Array, "samples ..."], Float[Array, "samples out"]]:
    return jnp.asarray(data.validation.x[:SAMPLES]), jnp.asarray(data.validation.y[:SAMPLES])


def interfering(options: Options, data: dfc.Dataset) -> dict[str, dict[str, list]]:
    """Of both rules, `own` and `others` (seeds, rates) in networks that backprop has trained for an epoch."""
    trained = _fit(options.config(), squared_rules()["bp"], data, options, 1)
    x, y = _measured(data)
    found = {}
    for name, method in squared_rules().items():
        measured = [interference(model, method, x, y, RATES) for model, _ in trained]
        found[name] = {part: [seed[part].tolist() for seed in measured] for part in ("own", "others")}
    return found


def collect(options: Options) -> dict[str, dict[str, Any]]:
    """Each method's figures, mean and sample standard deviation over the seeds, of which those that
    stopped early are in no figure of the last epoch, and what is to be known of them."""
    found = {}
    for name in rules():
        curves = read_curves(options.out / name)
        summary = read_json(options.out / name / "summary.json")
        seeds = summary["seeds"].values()
        values = {
            "last_test_accuracy": in_epoch(curves, "test_accuracy", options.epochs),
            "best_test_accuracy": [seed["test_accuracy"] for seed in seeds if "test_accuracy" in seed],
            "converged": np.nanmean(curves["converged"], axis=1) if curves else (),
            "angle_to_backprop": in_epoch(curves, "angle_to_backprop", options.epochs),
            "target_alignment": in_epoch(curves, "target_alignment", options.epochs),
        }
        found[name] = {k: mean_and_spread(v) for k, v in values.items() if len(v) > 0}
        found[name] |= {"remark": said} if (said := remark(summary)) else {}
    return found


def write(
    options: Options,
    methods: dict[str, dict[str, Any]],
    angles: dict[str, dict[str, list[float]]],
    moved: dict[str, dict[str, list]],
) -> None:
    """`theories.json`, `theories.md` and `theories.png`."""
    given = {k: v for k, v in dataclasses.asdict(options).items() if k not in ("out", "progress")}
    note = {"options": given, "environment": dfc.environment(), "methods": methods}
    note |= {"angles": angles, "interference": {"rates": RATES, "samples": SAMPLES, **moved}}
    (options.out / "theories.json").write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    lines = [*_trained(options, methods), *_angles(angles), *_interference(moved)]
    text = "\n".join(lines) + "\n"
    (options.out / "theories.md").write_text(text, encoding="utf-8")
    drawn("theories.png", plot_theories, options.out, moved, options.out / "theories.png")


def _trained(options: Options, methods: dict[str, dict[str, Any]]) -> list[str]:
    falling = ", cosine schedule" if options.schedule == "cosine" else ""
    lines = [
        f"# Four theories: {options.dataset}, {options.epochs} epochs{falling}, {len(options.seeds)} seeds",
        "",
        "| method | test accuracy %, last epoch | at the best validation epoch | converged % "
        "| to backprop, degrees | target alignment |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in methods.items():
        cells = [remarked(LABELS[name], found)]
        cells += [cell(found, "last_test_accuracy", 100), cell(found, "best_test_accuracy", 100)]
        cells += [cell(found, "converged", 100), cell(found, "angle_to_backprop", digits=1)]
        cells += [cell(found, "target_alignment", digits=3)]
        lines.append("| " + " | ".join(cells) + " |")
    return [
        *lines,
        "",
        "Mean ± sample standard deviation over seeds. Converged is of the samples of all epochs; angle and",
        f"target alignment are of the first {SAMPLES} validation samples after the last epoch.",
        *explained(methods),
    ]


def _angles(angles: dict[str, dict[str, list[float]]]) -> list[str]:
    labels = LABELS | {"gauss-newton": "Gauss-Newton", "minimum-norm": "minimum norm"}
    lines = [
        "",
        f"Degrees between the updates by the first {SAMPLES} validation samples, mean over seeds, in",
        "networks that backprop has trained for an epoch:",
        "",
        "| | " + " | ".join(labels[name] for name in angles) + " |",
        "|---" + "|---:" * len(angles) + "|",
    ]
    for name, row in angles.items():
        cells = ("" if other == name else f"{np.mean(values):.1f}" for other, values in row.items())
        lines.append(f"| {labels[name]} | " + " | ".join(cells) + " |")
    return lines


def _interference(moved: dict[str, dict[str, list]]) -> list[str]:
    lines = [
        "",
        "Interference: one output of one sample learns, in one step; how far it goes, and the others, in",
        "parts of what it was to go (squared error, predictive coding with alpha 0; networks that backprop",
        "has trained for an epoch).",
        "",
        "| learning rate | backprop: the output | the others | predictive coding: the output | the others |",
        "|---:|---:|---:|---:|---:|",
    ]
    for i, rate in enumerate(RATES):
        columns = [np.mean(moved[name][part], axis=0)[i] for name in moved for part in ("own", "others")]
        lines.append(f"| {rate:g} | " + " | ".join(f"{value:.3g}" for value in columns) + " |")
    return lines


@outermost
def main(options: Options) -> int:
    """Run what is missing and write the results; returns the exit status."""
    options = dataclasses.replace(options, out=pathlib.Path(options.out))
    options.config()
    data = dfc.load(options.dataset)
    with resumable():
        for name in rules():
            train(options, name, data)
        write(options, collect(options), between(options, data), interfering(options, data))
    print((options.out / "theories.md").read_text(encoding="utf-8"))
    return judge({name: read_json(options.out / name / "summary.json") for name in rules()})


@outermost
def command(arguments: Sequence[str] | None = None) -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, arguments, __doc__))


if __name__ == "__main__":
    sys.exit(command())
