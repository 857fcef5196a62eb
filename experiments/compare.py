"""Runs side by side, from nothing but their folders: `python experiments/compare.py RUN RUN ...`.

Prints a table and writes it, with a picture of the curves, as `table.md` and `comparison.png`; where the
runs measured it, `alignment.png` shows each layer's angle to the gradient. Runs that differ in their seeds
alone are one row. Every row is compared with the first, seed by seed. Of hundreds the screen and the pictures
show the best. The exit status is 1 where a seed diverged or is in doubt, as the table then remarks.
"""

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import options.needed  # noqa: F401
from options.held import options_of
from options.script import outermost, tidied
from report.curves import COLOURS, drawn, plot_alignment, plot_comparison
from report.doubts import judge, remark, WHERE
from report.finished import check_same_epochs, check_told, NONE, read_run
from report.naming import Named, named
from report.paired import as_text, paired_difference
from report.pooling import by_seeds, pool
from report.screen import Screen, written
from report.written import COMMANDS, comparison_in, TABLE
from rich.console import Console
from rich.table import Column, Table


CURVES, ON_SCREEN = 12, 20  # the most runs that a picture and the screen show
LONGEST = 60  # letters of a row's name for several runs: folders have at most 255 bytes, four to a letter
REMARK, DIFFERENCE = "remark", "minus the first"
REMARKS = (
    "A seed that diverged, its numbers no longer finite, counts with its best epoch before that, if there is",
    "one.",
    WHERE,
)
DIFFERENCES = (
    "The last column is the difference of scores over the seeds in common, its 95 % confidence interval",
    "and p, by a paired t-test.",
)


def compare(folders: Sequence[pathlib.Path], out: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Print the table of these runs, those that differ in their seeds alone as one; write it and the pictures
    to the folder `out`. Returns the summary of every row, by what it is called.

    **Raises:** `ValueError` if a folder holds no finished run, or the runs are of different data sets.
    """
    loaded = {folder: _load(folder) for folder in folders}
    with tempfile.TemporaryDirectory() as away:
        pooled = [
            group[0] if len(group) == 1 else pool(group, pathlib.Path(away) / _together(row, group))
            for row, group in enumerate(by_seeds(folders), start=1)
        ]
        runs = [loaded[folder] if folder in loaded else _load(folder) for folder in pooled]
        return _compare(pooled, runs, out)


def _compare(
    folders: Sequence[pathlib.Path], runs: list[dict[str, Any]], out: pathlib.Path
) -> dict[str, dict[str, Any]]:
    names, unnamed = named(folders)
    datasets = sorted({run["config"]["dataset"] for run in runs})
    if len(datasets) > 1:
        raise ValueError(f"the runs are of {', '.join(datasets)}; compare runs of one data set.")
    title, columns, rows = _table(runs, names)
    out.mkdir(parents=True, exist_ok=True)
    _write_markdown(out / TABLE, title, columns, rows, runs, unnamed)
    drawn_ones = [folders[i] for i in _best(runs, CURVES)]
    picture = drawn("comparison.png", plot_comparison, drawn_ones, out / "comparison.png")
    drawn("alignment.png", plot_alignment, drawn_ones, out / "alignment.png")
    shown = _best(runs, ON_SCREEN)
    lines = [f"Results: {out}" + (f"   Picture: {picture}" if picture else "")]
    if len(shown) < len(runs):
        lines.insert(0, f"These are the first and the best of {len(runs)}; all are in {out / TABLE}")
    with written(out):
        _show(title, columns, [rows[i] for i in shown], [names[i] for i in shown], lines)
    return {_called(name): run["summary"] for name, run in zip(names, runs, strict=True)}


def _show(
    title: str, columns: list[str], rows: list[list[str]], names: list[Named], lines: list[str]
) -> None:
    """The table on the screen, and then some lines."""
    width = columns.index(DIFFERENCE) if DIFFERENCE in columns else len(columns)
    # Differences have a line each: a screen is narrow.
    screen = Screen()
    screen.table(_fitting(screen, title, columns[:width], [row[:width] for row in rows], names))
    differences = [
        f"{_called(name)} minus {_called(names[0])}: {row[width]}"
        for name, row in zip(names, rows, strict=True)
        if row[width:] and row[width]
    ]
    for line in [*differences, *lines]:
        screen.print(line, soft_wrap=True)


def _together(row: int, group: Sequence[pathlib.Path]) -> str:
    """A name for runs in one row, that no other row has."""
    return f"{row}-{'+'.join(folder.name for folder in group)}"[:LONGEST]


def _best(runs: Sequence[dict[str, Any]], most: int) -> list[int]:
    """Positions of all runs, or, of more than so many, of the first and the best of the others, as they
    stand."""
    if len(runs) <= most:
        return list(range(len(runs)))
    metric = runs[0]["summary"]["metric"]
    sign = -1 if metric == "test_accuracy" else 1
    scores = [sign * run["summary"]["mean"].get(metric, sign * np.inf) for run in runs]
    return sorted([0, *sorted(range(1, len(runs)), key=scores.__getitem__)[: most - 1]])


def _fitting(
    console: Console, title: str, columns: list[str], rows: list[list[str]], names: list[Named]
) -> Table:
    """The table on a screen: where it is too wide, one column says what tells runs apart, and wraps."""
    whole = Table(*(Column(name, overflow="fold") for name in columns), title=title)
    for row in rows:
        whole.add_row(*row)
    anywhere = console.options.update(max_width=sys.maxsize)
    if console.measure(whole, options=anywhere).maximum <= console.width:
        return whole
    first = 2 + len(names[0].told)
    scores = [row[first:] for row in rows]
    cells = zip(columns[first:], *scores, strict=True)
    narrow = [_narrow(*cell) for cell in cells]
    short = Table(Column("run", overflow="fold", min_width=8), *narrow, title=title)
    for name, row in zip(names, scores, strict=True):
        short.add_row(_called(name), *row)
    return short


def _narrow(name: str, *found: str) -> Column:
    """A column as wide as its longest number; a remark wraps."""
    if name == REMARK:
        words = (word for text in (name, *found) for word in text.split())
        return Column(name, overflow="fold", min_width=max(map(len, words)))
    return Column(name, width=max(map(len, (*name.split(), *found))))


def _load(folder: pathlib.Path) -> dict[str, Any]:
    """The configuration, environment and summary of a run.

    **Raises:** `ValueError` if it has not finished, or a file is not what a run writes.
    """
    run = read_run(folder)
    method = run["config"].get("method")
    if not isinstance(method, list) or method[:1] not in [[name] for name in COLOURS]:
        said = method[0] if isinstance(method, list) and method else method
        problem = f"{str(folder)!r} {NONE}: `method` is {said!r} in {str(folder / 'config.json')!r}"
        raise ValueError(f"{problem}; it must be a list with one of {', '.join(COLOURS)}.")
    options = options_of(folder)  # which says what else they cannot be
    check_same_epochs(folder, options.seeds, run["summary"])
    check_told(folder, run)
    return run


def _called(run: Named) -> str:
    """A run in a sentence."""
    feedback = f"{'no' if run.feedback == 'none' else run.feedback} feedback"
    told = [f"{name} {run.told[name]}" for name in run.differs]
    return f"{run.method} ({', '.join([feedback, *told])})"


def _table(runs: list[dict[str, Any]], names: list[Named]) -> tuple[str, list[str], list[list[str]]]:
    metric = runs[0]["summary"]["metric"]
    percent = metric == "test_accuracy"
    rows = []
    for run, name in zip(runs, names, strict=True):
        mean = run["summary"]["mean"]
        row = [name.method, name.feedback, *name.told.values()]
        if metric in mean:
            row.append(_score(run["summary"], metric, percent))
            row.append(f"{mean['last_train_loss']:.3g}")
            row.append(f"{100 * mean['fraction_converged']:.2f}")
            row.append(f"{mean['seconds_per_epoch']:.2f}")
        else:
            row += ["no score", "", "", ""]
        row.append(remark(run["summary"]))
        row.append(_difference(run, runs[0], metric, 100 if percent else 1))
        rows.append(row)
    epochs = _range([run["config"]["epochs"] for run in runs])
    seeds = _range([len(run["config"]["seeds"]) for run in runs])
    title = f"{runs[0]['config']['dataset']}, {_counted(epochs, 'epoch')}, {_counted(seeds, 'seed')}"
    score = "test accuracy %" if percent else "test loss"
    columns = ["method", "feedback", *names[0].told, score, "train loss", "converged %", "s / epoch"]
    columns += [REMARK, DIFFERENCE]
    always = len(columns) - 2
    shown = [i for i in range(len(columns)) if i < always or any(row[i] for row in rows)]
    return title, [columns[i] for i in shown], [[row[i] for i in shown] for row in rows]


def _difference(run: dict[str, Any], first: dict[str, Any], metric: str, factor: int) -> str:
    """The score's difference to the first run's over common seeds, with a 95 % confidence interval and p."""
    if run is first:
        return ""
    values, baseline = (
        {int(s): factor * f[metric] for s, f in r["summary"]["seeds"].items() if metric in f}
        for r in (run, first)
    )
    found = paired_difference(values, baseline)
    return "" if found is None else as_text(found)


def _counted(number: str, name: str) -> str:
    return f"{number} {name}" if number == "1" else f"{number} {name}s"


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _score(summary: dict[str, Any], metric: str, percent: bool) -> str:
    factor, style = (100, ".2f") if percent else (1, ".5f")
    text = f"{factor * summary['mean'][metric]:{style}}"
    return text + (f" ± {factor * summary['std'][metric]:{style}}" if metric in summary["std"] else "")


def _write_markdown(
    path: pathlib.Path,
    title: str,
    columns: list[str],
    rows: list[list[str]],
    runs: list[dict[str, Any]],
    unnamed: list[str],
) -> None:
    """The table as Markdown, with the commands and environments it came from."""
    lines = [f"# {title}", ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows)]
    lines += [
        "",
        "Scores are those of the epoch with the best validation score, mean ± sample standard deviation over",
        "seeds; train loss is the mean over the last epoch; converged is the fraction of samples in all",
        "epochs.",
        *(REMARKS if REMARK in columns else ()),
        *(DIFFERENCES if DIFFERENCE in columns else ()),
        *([f"The runs differ in {', '.join(f'`{name}`' for name in unnamed)}, too."] if unnamed else ()),
        "Seconds an epoch are wall-clock on a shared machine, feedback learning included: no figures to",
        "compare with those of other machines.",
        "",
        COMMANDS,
        "",
    ]
    lines += dict.fromkeys(f"- `{run['environment']['command']}`" for run in runs)
    lines += dict.fromkeys(f"- {machine(run['environment'])}" for run in runs)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def machine(environment: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in environment["versions"].items())
    machine = f"{environment['processor']}, {environment['cores']} cores, JAX on {environment['device']}"
    revision = environment["git_revision"] or environment.get("script_revision")
    return f"{machine}; Python {environment['python']}, {versions}; revision {revision}"


def main(runs: Sequence[pathlib.Path], out: pathlib.Path | None) -> int:
    """Compare, and write to `out`, or to the folder around the first run, unless it has a comparison already;
    returns the exit status.

    **Raises:** `ValueError` if there is.
    """
    around = runs[0].resolve().parent if out is None else out
    if out is None and (there := comparison_in(around)):
        problem = f"`out` is not given, and {str(around)!r} holds {there} already"
        raise ValueError(f"{problem}; give a folder, that one if it is to be replaced.")
    return judge(compare(runs, around))


@outermost
def command(arguments: Sequence[str] | None = None) -> int:
    """The whole command; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        help="where to write, in place of a table there (default: the folder around RUN, if it has none)",
    )
    given = parser.parse_args(tidied(arguments))
    return main([run.expanduser() for run in given.runs], given.out)


if __name__ == "__main__":
    sys.exit(command())
