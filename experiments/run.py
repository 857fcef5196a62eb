"""Train networks by one or several methods and compare them: `python experiments/run.py --help`.

    python experiments/run.py                                    DFC-SS beside backprop on digits
    python experiments/run.py --dataset mnist --method dfc-ssa --feedback fixed --seeds 0 1 2

Every run writes a folder: `config.json`, `metrics.jsonl`, `summary.json` and `curves.png`.
"""

import dataclasses
import datetime
import pathlib
import sys
from typing import Any

import jax
import tyro
from config import Config, make_feedback_learning, make_method, make_model, make_optimiser
from plots import plot_comparison, plot_curves
from rich.console import Console
from rich.table import Table

import dfc_jax as dfc


def train(config: Config, method: str, data: dfc.Dataset, folder: dfc.RunFolder) -> dict[str, Any]:
    """One run: `method` with every seed. Returns its summary."""
    loss = dfc.CrossEntropy() if data.classification else dfc.MeanSquaredError()
    learns = config.feedback == "learned" and method in ("dfc", "dfc-ss", "dfc-ssa")
    histories = {}
    for seed in config.seeds:
        _, histories[seed] = dfc.fit(
            make_model(config, method, (data.input_size, data.output_size), seed),
            make_method(config, method, loss),
            data,
            make_optimiser(config.optimiser),
            epochs=config.epochs,
            key=jax.random.fold_in(jax.random.key(seed), 1),
            batch_size=config.batch_size,
            feedback_learning=make_feedback_learning(config.feedback_learning, loss) if learns else None,
            on_epoch=lambda record, seed=seed: folder.append(seed, record),
            progress=config.progress,
        )
    metric = "test_accuracy" if data.classification else "test_loss"
    summary = folder.finish(histories, metric)
    plot_curves(folder.path)
    return summary


def prepare(config: Config) -> tuple[Config, dfc.Dataset, dict[str, dfc.RunFolder]]:
    """Check every value, load the data and make the folders: all that can fail before any work."""
    config = config.resolved()
    for method in config.method:
        make_method(config, method, dfc.CrossEntropy())
        make_model(config, method, (1, 1), 0)
    make_optimiser(config.optimiser)
    make_feedback_learning(config.feedback_learning, dfc.CrossEntropy())
    data = dfc.load(config.dataset)
    if config.batch_size > len(data.train):
        raise ValueError(f"`batch_size` is {config.batch_size}; {data.name} has {len(data.train)} samples.")
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    out = pathlib.Path(config.out or f"runs/{config.dataset}-{now}")
    alone = len(config.method) == 1
    folders = {}
    for method in config.method:
        resolved = dataclasses.asdict(dataclasses.replace(config, method=(method,), out=str(out)))
        folders[method] = dfc.RunFolder.create(out if alone else out / method, resolved)
    return config, data, folders


def table(config: Config, summaries: dict[str, dict[str, Any]]) -> tuple[str, list[str], list[list[str]]]:
    """The summaries side by side: title, column names and rows."""
    metric = next(iter(summaries.values()))["metric"]
    percent = metric == "test_accuracy"
    seeds = f"{len(config.seeds)} seed{'s' if len(config.seeds) > 1 else ''}"
    title = f"{config.dataset}, {config.feedback} feedback, {config.epochs} epochs, {seeds}"
    score = f"{metric.replace('_', ' ')}{' %' if percent else ''}"
    rows = []
    for method, summary in summaries.items():
        if metric not in summary["mean"]:
            rows.append([method, "stopped in the first epoch", "", "", ""])
            continue
        numbers = {"loss": ("last_train_loss", 1, ".3g"), "converged": ("fraction_converged", 100, ".2f")}
        numbers |= {"score": (metric, 100, ".2f") if percent else (metric, 1, ".5f")}
        numbers |= {"seconds": ("seconds_per_epoch", 1, ".2f")}
        texts = {key: _mean_and_std(summary, *number) for key, number in numbers.items()}
        rows.append([method, *(texts[key] for key in ("score", "loss", "converged", "seconds"))])
    return title, ["method", score, "last train loss", "converged %", "s / epoch"], rows


def _mean_and_std(summary: dict[str, Any], name: str, factor: float, style: str) -> str:
    text = f"{factor * summary['mean'][name]:{style}}"
    return text + (f" ± {factor * summary['std'][name]:{style}}" if name in summary["std"] else "")


def write_markdown(path: pathlib.Path, title: str, columns: list[str], rows: list[list[str]]) -> None:
    """The table as Markdown, with the command and the environment it came from."""
    where = dfc.environment()
    lines = [f"# {title}", "", f"`{where['command']}`", ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows)]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    machine = f"{where['processor']}, {where['cores']} cores, JAX device {where['device']}"
    lines += [
        "",
        "Scores are those of the epoch with the best validation score; mean ± standard deviation over seeds.",
        "Seconds are wall-clock on a shared machine, so no figures to compare with others'.",
        f"Python {where['python']}, {versions}; revision {where['git_revision']}; {machine}.",
    ]
    path.write_text("\n".join(lines) + "\n")


def main(config: Config) -> int:
    """Run everything; returns the exit status."""
    try:
        config, data, folders = prepare(config)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    summaries = {method: train(config, method, data, folder) for method, folder in folders.items()}
    title, columns, rows = table(config, summaries)
    paths = [folder.path for folder in folders.values()]
    picture = paths[0] / "curves.png" if len(paths) == 1 else plot_comparison(paths)
    write_markdown(picture.parent / "table.md", title, columns, rows)
    shown = Table(*columns, title=title)
    for row in rows:
        shown.add_row(*row)
    console = Console()
    console.print(shown)
    console.print(f"Results: {picture.parent}   Picture: {picture}", soft_wrap=True)
    stopped = {
        m: s["stopped"] for m, summary in summaries.items() for s in summary["seeds"].values() if s["stopped"]
    }
    for method, reason in stopped.items():
        print(f"{method} stopped in {reason}", file=sys.stderr)
    return 1 if stopped else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
