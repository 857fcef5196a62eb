"""Table 1 of the NeurIPS 2021 paper, all of it or any cells: `python experiments/table1.py --help`.

    python experiments/table1.py --tasks mnist --epochs-scale 0.4
    python experiments/table1.py --tasks mnist mnist_autoencoder --rows "DFC-SS" BP --seeds 0 1

Every cell trains all its seeds as one program with the published hyperparameters
(`neurips2021/presets.py`) and writes a folder of its own. After an interruption the same command goes on:
cells that are finished are not run again, one that is not continues from its newest epoch. The table is
written after every cell: `table1.json`, `table1.md` and `table1.csv`. The exit status is 1 where a seed of
these cells diverged or is in doubt.
"""

import csv
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import options.needed  # noqa: F401
from neurips2021.presets import TABLE_1, Task
from neurips2021.printed_table import Column, COLUMNS, Row, ROWS, TASKS
from options.checks import check_each_once, check_seeds
from options.config import Config
from options.groups import Feedback, Sleep, Solver
from options.script import outermost, parse, resumable
from report.doubts import judge, remark, WHERE
from report.finished import read_json
from report.paired import as_text, paired_difference
from report.spread import spread
from run import prepare, train

from dfc_jax._checks import check_number
from dfc_jax._runs.folder import first_difference


EPOCHS = {task: TABLE_1[task].epochs for task in TASKS}


@dataclasses.dataclass(frozen=True)
class Options:
    """Which cells, and how long."""

    tasks: tuple[Task, ...] = TASKS
    """Columns of the table."""
    rows: tuple[Row, ...] = ROWS
    """Rows of the table: methods, with learned or fixed feedback."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of every cell; each seeds initialisation, order of samples and noise."""
    epochs_scale: float = 1.0
    """Part of the paper's epochs (100; the autoencoder's 25) that every cell runs."""
    sleep: Sleep = "expected"
    """How the sleep phase is computed: its mean over all noise, or one draw as in the paper, simulated or
    linearised, which under Adam is another learning rule (see --feedback-learning.update of run.py). That of
    the autoencoder with its 784 outputs is always simulated."""
    sleep_epochs: float | None = None
    """Sleep epochs before every wake epoch; by default the paper's 3."""
    pretraining_epochs: float | None = None
    """Sleep epochs before the first wake epoch; by default the paper's (10 to 20)."""
    out: pathlib.Path = pathlib.Path("runs/table1")
    """Folder for the cells and the table."""
    progress: bool = True
    """Show progress bars."""

    def check(self) -> None:
        """Raise `ValueError` in one sentence for what cannot be."""
        for name in ("tasks", "rows", "seeds"):
            check_each_once(name, getattr(self, name))
        check_seeds("seeds", *self.seeds)
        check_number("epochs_scale", self.epochs_scale, above=0)
        for name in ("sleep_epochs", "pretraining_epochs"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), minimum=0)
        fewest = min(EPOCHS[task] for task in self.tasks)
        if round(self.epochs_scale * fewest) < 1:
            problem = f"`epochs_scale` is {self.epochs_scale}, which leaves no epoch of {fewest}"
            raise ValueError(f"{problem}; make it larger.")


def cell(options: Options, task: Task, row: Row) -> Config:
    """The options of one cell."""
    method = row.partition(" ")[0].lower()
    update = "simulated" if task == "mnist_autoencoder" else options.sleep
    feedback = "fixed" if "fixed" in row or method in ("bp", "dfa") else "learned"
    learning = Feedback(
        update=update, sleep_epochs=options.sleep_epochs, pretraining_epochs=options.pretraining_epochs
    )
    return Config(
        dataset="mnist" if task == "mnist_train_loss" else task,
        method=(method,),
        feedback=feedback,
        preset="paper-train-loss" if task == "mnist_train_loss" else "paper",
        epochs=round(options.epochs_scale * EPOCHS[task]),
        seeds=options.seeds,
        out=str(options.out / task / row.replace(" (fixed)", "-fixed").lower()),
        resume=True,
        solver=Solver(trajectory=_trajectory(task, feedback)) if method == "dfc" else Solver(),
        feedback_learning=learning if feedback == "learned" else Feedback(),
        progress=options.progress,
    )


def _trajectory(task: Task, feedback: Literal["learned", "fixed"]) -> Literal["closed-form", "implicit"]:
    """How DFC's average is computed: some of the published trajectories are too short for the closed form.

    So are the autoencoder's of 20 tau_u: with random feedback, half of its samples are then up to 31 % from
    rest.
    """
    dynamics = (TABLE_1[task].trained if feedback == "learned" else TABLE_1[task].fixed)[1]
    long_enough = dynamics.dt_di[0] * dynamics.tmax_di[0] >= 5 and task != "mnist_autoencoder"
    return "closed-form" if long_enough else "implicit"


def run_cell(config: Config) -> None:
    """Train one cell unless its folder holds it already.

    **Raises:** `ValueError` if the folder holds a cell with other options.
    """
    folder = pathlib.Path(config.out)
    if (folder / "summary.json").exists():
        held, asked = (
            json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"],
            _asked(config),
        )
        learning = {name: held["feedback_learning"][name] for name in asked["feedback_learning"]}
        held = {name: held[name] for name in asked} | {"feedback_learning": learning}
        difference = first_difference(held, asked)
        if difference is not None:
            name, there, wanted = difference
            raise ValueError(f"`out` holds {folder} with {name} = {there}, not {wanted}; name a new folder.")
        return
    (run,), data = prepare(config)
    train(run.config, run.method, data, run.folder)


def _asked(config: Config) -> dict[str, Any]:
    """What a finished cell must have been trained with; the preset fills in what is None."""
    learns, learning = config.feedback == "learned", config.feedback_learning
    names = ("update", "sleep_epochs", "pretraining_epochs") if learns else ()
    given = {name: getattr(learning, name) for name in names if getattr(learning, name) is not None}
    return {"epochs": config.epochs, "seeds": config.seeds, "feedback_learning": given}


def collect(out: pathlib.Path) -> list[dict[str, Any]]:
    """Every finished cell below `out`: its figures beside the paper's, in the paper's order."""
    cells = []
    for task, column in COLUMNS.items():
        baseline = None
        for row, paper in zip(ROWS, column.paper, strict=True):
            folder = out / task / row.replace(" (fixed)", "-fixed").lower()
            if not (folder / "summary.json").exists():
                continue
            found = _cell(folder, column)
            baseline = found["values"] if row == "BP" else baseline
            difference = None if row == "BP" else paired_difference(found["values"], baseline)
            cells.append(
                {"task": task, "row": row, "paper_mean": paper[0], "paper_std": paper[1], **found}
                | {"minus_bp": difference}
            )
    return cells


def _cell(folder: pathlib.Path, column: Column) -> dict[str, Any]:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    held = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config, environment = held["config"], held["environment"]
    learned = config["feedback"] == "learned"
    seeds = {int(seed): found for seed, found in summary["seeds"].items() if column.metric in found}
    judged = {seed: found[column.metric] for seed, found in seeds.items() if _reached(found, column, config)}
    values = {seed: float(column.shown(np.asarray(value))) for seed, value in judged.items()}
    std = spread(list(values.values()))
    return {
        "mean": float(np.mean(list(values.values()))) if values else None,
        "std": None if np.isnan(std) else float(std),
        "values": values,
        "epochs": config["epochs"],
        "sleep": config["feedback_learning"]["update"] if learned else None,
        "sleep_epochs": config["feedback_learning"]["sleep_epochs"] if learned else 0,
        "converged": summary["mean"].get("fraction_converged"),
        "seconds": sum(found["epochs"] * found["seconds_per_epoch"] for found in seeds.values()),
        "device": f"{environment['processor']}, {environment['cores']} cores; JAX on {environment['device']}",
        "revision": environment["git_revision"],
        "remark": remark(summary),
    }


def _reached(found: dict[str, Any], column: Column, config: dict[str, Any]) -> bool:
    """Whether a seed has come as far as the column's figure: to the last epoch, where it is of that."""
    return not column.metric.startswith("last_") or found["epochs"] == config["epochs"]


def write(cells: list[dict[str, Any]], out: pathlib.Path) -> None:
    """`table1.json`, `table1.md` and `table1.csv` from the finished cells."""
    (out / "table1.json").write_text(json.dumps(cells, indent=2) + "\n", encoding="utf-8")
    (out / "table1.md").write_text("\n".join(_markdown(cells)) + "\n", encoding="utf-8")
    names = ["task", "row", "mean", "std", "paper_mean", "paper_std", "minus_bp", "low", "high", "p"]
    names += ["seeds", "epochs", "sleep", "sleep_epochs", "seconds", "converged", "device", "revision"]
    with open(out / "table1.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        for found in cells:
            difference = found["minus_bp"] or {}
            paired = {name: difference.get(name) for name in ("low", "high", "p")}
            seeds = " ".join(map(str, found["values"]))
            writer.writerow(found | paired | {"minus_bp": difference.get("mean"), "seeds": seeds})


def _markdown(cells: list[dict[str, Any]]) -> list[str]:
    by_place = {(c["task"], c["row"]): c for c in cells}
    tasks = [task for task in TASKS if any(c["task"] == task for c in cells)]
    lines = [
        "# Table 1 of the NeurIPS 2021 paper",
        "",
        "Ours, then (the paper's); mean ± standard deviation.",
        "",
    ]
    lines.append("| method | " + " | ".join(COLUMNS[task].title for task in tasks) + " |")
    lines.append("|---|" + "---:|" * len(tasks))
    for row in ROWS:
        shown = [_shown(by_place.get((task, row))) for task in tasks]
        lines.append(f"| {row} | " + " | ".join(shown) + " |")
    lines += [
        "",
        "Test values are those of the epoch with the best validation score, train loss is the last epoch's.",
        "Minus BP: mean difference over common seeds, its 95 % confidence interval and p (paired t-test).",
        "Seconds are wall-clock of all seeds, feedback learning included, on a shared machine.",
        *([WHERE] if any(found["remark"] for found in cells) else []),
        "",
        "| task | method | seeds | epochs | sleep epochs | minus BP | converged (%) | seconds | revision |",
        "|---|---|---:|---:|---:|---|---:|---:|---|",
    ]
    for found in cells:
        difference = found["minus_bp"]
        compared = "" if difference is None else as_text(difference)
        converged = "" if found["converged"] is None else f"{100 * found['converged']:.2f}"
        asleep = " ".join(filter(None, [f"{found['sleep_epochs']:.3g}", found["sleep"]]))
        lines.append(
            f"| {found['task']} | {found['row']} | {len(found['values'])} | {found['epochs']} | "
            f"{asleep} | {compared} | {converged} | "
            f"{found['seconds']:.0f} | {found['revision']} |"
        )
    return [*lines, "", *sorted({f"- {found['device']}" for found in cells})]


def _shown(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    if found["mean"] is None:
        return found["remark"]
    std = "" if found["std"] is None else f" ± {found['std']:.2g}"
    said = f", {found['remark']}" if found["remark"] else ""
    return f"{found['mean']:.3g}{std} ({found['paper_mean']:.3g} ± {found['paper_std']:.2g}){said}"


@outermost
def main(options: Options) -> int:
    """Run what is missing and write the table; returns the exit status."""
    options.check()
    cells = {f"{task}, {row}": cell(options, task, row) for task in options.tasks for row in options.rows}
    with resumable():
        for config in cells.values():
            run_cell(config)
            write(collect(options.out), options.out)
    print((options.out / "table1.md").read_text(encoding="utf-8"))
    return judge({name: read_json(pathlib.Path(of.out) / "summary.json") for name, of in cells.items()})


@outermost
def command(arguments: Sequence[str] | None = None) -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, arguments, __doc__))


if __name__ == "__main__":
    sys.exit(command())
