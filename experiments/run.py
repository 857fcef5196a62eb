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


def table(config: Config, summaries: dict[str, dict[str, Any]]) -> Table:
    """The summaries side by side."""
    metric = next(iter(summaries.values()))["metric"]
    percent = metric == "test_accuracy"
    title = (
        f"{config.dataset}, {config.feedback} feedback, {config.epochs} epochs, {len(config.seeds)} seed(s)"
    )
    columns = (
        "method",
        f"{metric.replace('_', ' ')}{' %' if percent else ''}",
        "last train loss",
        "converged %",
    )
    result = Table(*columns, "s / epoch", title=title)
    for method, summary in summaries.items():
        mean, std = summary["mean"], summary["std"]
        if metric not in mean:
            result.add_row(method, "stopped before the first epoch was over", "", "", "")
            continue
        score = f"{100 * mean[metric]:.2f}" if percent else f"{mean[metric]:.5f}"
        if std:
            score += f" ± {100 * std[metric]:.2f}" if percent else f" ± {std[metric]:.5f}"
        converged, seconds = f"{100 * mean['fraction_converged']:.2f}", f"{mean['seconds_per_epoch']:.2f}"
        result.add_row(method, score, f"{mean['last_train_loss']:.3g}", converged, seconds)
    return result


def main(config: Config) -> int:
    """Run everything; returns the exit status."""
    try:
        config, data, folders = prepare(config)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    summaries = {method: train(config, method, data, folder) for method, folder in folders.items()}
    console = Console()
    console.print(table(config, summaries))
    paths = [folder.path for folder in folders.values()]
    pictures = [paths[0] / "curves.png"] if len(paths) == 1 else [plot_comparison(paths)]
    console.print(f"Results: {pictures[0].parent}   Picture: {pictures[0]}", soft_wrap=True)
    stopped = {
        m: s["stopped"] for m, summary in summaries.items() for s in summary["seeds"].values() if s["stopped"]
    }
    for method, reason in stopped.items():
        print(f"{method} stopped in {reason}", file=sys.stderr)
    return 1 if stopped else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
