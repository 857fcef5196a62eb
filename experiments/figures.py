"""The figures of the NeurIPS 2021 paper, one command each: `python experiments/figures.py --help`.

    python experiments/figures.py 3
    python experiments/figures.py alignment --task mnist --feedback learned --epochs 5

Writes the figure as PNG and PDF, its data as CSV, and how it came about as JSON.
"""

import csv
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any, Literal

import matplotlib


matplotlib.use("Agg")
import figure_plots
import matplotlib.pyplot as plt
import numpy as np
import toy
import tyro
from config import Config, Feedback, Solver
from figure_presets import ALIGNMENT, ALIGNMENT_METHODS, AlignmentTask, FIGURE_3_METHODS, SWEEPS
from matplotlib.figure import Figure
from run import prepare, train

import dfc_jax as dfc


Name = Literal["1d", "2", "3", "s1", "s2", "s3", "s4", "alignment"]
Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Options:
    """Which figure, and how long it may take."""

    name: tyro.conf.Positional[Name]
    """1d: output and control of a sample in time. 2: feedback weights in their principal plane.
    3: conditions, stability and alignment in training; s1: the eigenvalues behind them. s2, s3, s4: feedback
    pre-training by damping of the reference, leak and gain. alignment: S5 to S12, layer by layer."""
    epochs: int | None = None
    """Epochs of training (1d, s2 to s4: of feedback pre-training); by default the paper's. Not for 2."""
    seed: int = 42
    task: AlignmentTask = "mnist"
    """alignment: the task, with its hyperparameters of Table 1."""
    feedback: Literal["learned", "fixed"] = "learned"
    """alignment: that of the feedback weights."""
    sleep_epochs: float | None = None
    """alignment: sleep epochs before every wake epoch and as pre-training; by default the paper's."""
    out: pathlib.Path = pathlib.Path("runs/figures")

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"`epochs` is {self.epochs}; it must be at least 1.")


def compute(options: Options) -> Rows:
    """The figure's table."""
    given = {} if options.epochs is None else {"epochs": options.epochs}
    match options.name:
        case "1d":
            return toy.figure_1d(options.seed, **given)
        case "2":
            return toy.figure_2(options.seed)
        case "3" | "s1":
            methods = FIGURE_3_METHODS if options.name == "3" else ("dfc",)
            runs = [(m, f) for m in methods for f in ("learned", "fixed") if (m, f) != ("dfa", "learned")]
            return [row for run in runs for row in toy.figure_3(*run, options.seed, **given)]
        case "alignment":
            return _alignment(options)
        case _:
            return toy.pretraining_sweep(options.name, options.seed, options.epochs)


def draw(name: Name, rows: Rows) -> Figure:
    """The figure of its table."""
    if name in SWEEPS:
        return figure_plots.draw_sweep(name, rows)
    drawing: dict[Name, Callable[[Rows], Figure]] = {
        "1d": figure_plots.draw_1d,
        "2": figure_plots.draw_2,
        "3": figure_plots.draw_3,
        "s1": figure_plots.draw_s1,
        "alignment": figure_plots.draw_alignment,
    }
    return drawing[name](rows)


def _alignment(options: Options) -> Rows:
    """Every method's diagnostics, a row for each epoch and layer."""
    published = ALIGNMENT[options.task, options.feedback]
    rows = []
    for method in ALIGNMENT_METHODS:
        config = Config(
            dataset=options.task,
            method=(method,),
            feedback=options.feedback,
            preset="paper",
            epochs=options.epochs,
            seeds=(options.seed,),
            out=str(options.out / f"alignment-{options.task}-{options.feedback}" / method),
            damping=published.gn_damping,
            diagnostics=1,
            solver=Solver(trajectory="closed-form"),
            feedback_learning=Feedback(
                update="simulated" if options.task == "mnist_autoencoder" else "expected",
                sleep_epochs=options.sleep_epochs,
                pretraining_epochs=options.sleep_epochs,
            ),
            progress=False,
        )
        (run,), data = prepare(config)
        solver = dataclasses.replace(run.config.solver, duration=published.duration)
        train(dataclasses.replace(run.config, solver=solver), method, data, run.folder)
        for line in (run.folder.path / "metrics.jsonl").read_text().splitlines():
            rows += _by_layer(json.loads(line) | {"method": method, "feedback": options.feedback})
    return rows


def _by_layer(record: dict[str, Any]) -> Rows:
    lists = {name: values for name, values in record.items() if isinstance(values, list)}
    single = {name: value for name, value in record.items() if name not in lists}
    layers = len(next(iter(lists.values())))
    return [
        single | {"layer": i} | {name: values[i] for name, values in lists.items()} for i in range(layers)
    ]


def write(options: Options, rows: Rows) -> list[pathlib.Path]:
    """The files of a figure."""
    options.out.mkdir(parents=True, exist_ok=True)
    stem = f"figure-{options.name}"
    if options.name == "alignment":
        stem += f"-{options.task}-{options.feedback}"
    figure = draw(options.name, rows)
    paths = [options.out / f"{stem}.{kind}" for kind in ("png", "pdf", "csv", "json")]
    figure.savefig(paths[0], dpi=160)
    figure.savefig(paths[1])
    plt.close(figure)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(paths[2], "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: _brief(value) for name, value in row.items()} for row in rows)
    about = {name: str(value) for name, value in dataclasses.asdict(options).items()}
    paths[3].write_text(json.dumps({"options": about, "environment": dfc.environment()}, indent=2) + "\n")
    return paths


def _brief(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else value


def main(options: Options) -> int:
    """Compute, draw and write; returns the exit status."""
    try:
        paths = write(options, compute(options))
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(map(str, paths)))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
