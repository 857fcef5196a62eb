"""The report of a sweep: on the screen its best runs, in its folder all of them as tables and pictures."""

import pathlib
from collections.abc import Sequence

from compare import machine
from report.curves import drawn, plot_comparison
from report.finished import read_json
from report.screen import Screen, written
from rich.table import Column, Table
from sweeping.description import FILE, Sweep
from sweeping.pictures import plot_parallel, plot_settings
from sweeping.results import cells, columns, ranked, Result, result_of, searched, sensitivity, write_csv
from sweeping.search import begun, left_out, planned


BEST = 5  # whose curves are drawn
ON_SCREEN = 10
SENSITIVITY = [
    "method",
    "runs",
    "best run",
    "its validation",
    "its test",
    "median run",
    "lower quartile",
    "near",
]
NEAR = {
    "accuracy": "within a percentage point of the best validation accuracy",
    "loss": "with a validation loss of at most 1.1 times the best",
}


def report(sweep: Sweep, out: pathlib.Path) -> Result | None:
    """Write what is known so far, and print the best; returns the best run, if there is one."""
    found = [result_of(folder, setting, sweep.chosen_by) for folder, setting in begun(sweep, out)]
    results = ranked([result for result in found if result is not None])
    if not results:
        return None
    impossible = left_out(sweep, out)
    title = f"{planned(sweep) - impossible} runs, {len(results)} of them finished"
    if impossible:
        title += f"; {impossible} {'setting' if impossible == 1 else 'settings'} could not be"
    write_csv(out / "table.csv", results)
    _write_markdown(out / "table.md", f"{sweep.fixed.get('dataset', 'digits')}, {title}", results, out)
    scored = [result for result in results if result.validation is not None]
    drawn("settings.png", plot_settings, scored, out / "settings.png")
    drawn("parallel.png", plot_parallel, scored, out / "parallel.png")
    drawn("best.png", plot_comparison, [result.folder for result in scored[:BEST]], out / "best.png")
    with written(out):
        screen = Screen()
        screen.table(_on_screen(results))
        screen.print(f"{title}.\nResults: {out}", soft_wrap=True)
    return results[0] if scored else None


def _on_screen(results: Sequence[Result]) -> Table:
    """The best runs, what was searched in one column, for a screen is narrow."""
    shown = f"The best of {len(results)} runs" if len(results) > ON_SCREEN else "The runs, the best first"
    heading = columns(results)
    first, *_, validation, test, epochs, remark = heading
    wide = [Column(name, no_wrap=True) for name in (validation, test, epochs)]
    table = Table(first, Column("setting", overflow="fold"), *wide, remark, title=shown)
    for result in results[:ON_SCREEN]:
        told = ", ".join(f"{name} {value or 'none'}" for name, value in result.setting.items())
        table.add_row(result.folder.name, told, *cells(result, [])[1:])
    return table


def _write_markdown(path: pathlib.Path, title: str, results: Sequence[Result], out: pathlib.Path) -> None:
    metric, environment = results[0].metric, read_json(out / FILE)["environment"]
    lines = [
        f"# Sweep: {title}",
        "",
        "Scores are those of the epoch with the best validation score, mean ± sample standard deviation over",
        f"seeds. Near: runs {NEAR[metric]}.",
        "",
        *_markdown(SENSITIVITY, sensitivity(results)),
        "",
        *_markdown(columns(results), [cells(result, searched(results)) for result in results]),
        "",
        f"- `{environment['command']}`",
        f"- {machine(environment)}",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (heading, ["---"] * len(heading), *rows)]
