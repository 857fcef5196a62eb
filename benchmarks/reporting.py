"""How the benchmarks write their figures: the same heading, tables and files for all of them."""

import dataclasses
import json
import pathlib
import shlex
import sys
from typing import Any

import matplotlib

import dfc_jax as dfc


matplotlib.use("Agg")
from matplotlib import pyplot as plt


RESULTS = pathlib.Path(__file__).parent / "results"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442", "#999999")
MARKERS = "osD^vPX*h"


def environment(script: str) -> dict[str, Any]:
    """Enough to know what a figure was measured on."""
    where = dfc.environment()
    return {
        "device": where["processor"] if where["device"] == "cpu" else where["device"],
        "cores": where["cores"],
        "versions": {"python": where["python"]} | where["versions"],
        "revision": where["git_revision"],
        "date": where["started"].partition("T")[0],
        "command": shlex.join(["python", script, *sys.argv[1:]]),
    }


def settings_of(options: Any) -> dict[str, Any]:
    """What was asked for, apart from where the results go."""
    return {name: value for name, value in dataclasses.asdict(options).items() if name != "out"}


def heading(environment: dict[str, Any], caption: str, legend: str) -> list[str]:
    """The command, what was measured on what, and what the columns mean."""
    versions = ", ".join(f"{name} {number}" for name, number in environment["versions"].items())
    where = f"{caption}; {versions}; revision {environment['revision']}; {environment['date']}."
    return [f"`{environment['command']}`", "", where, "", legend]


def machine(environment: dict[str, Any]) -> str:
    """The device and its cores."""
    return f"{environment['device']}, {environment['cores']} cores"


def table(columns: list[str], rows: list[list[str]], texts: int = 1) -> list[str]:
    """A Markdown table, the first `texts` columns of it text."""
    head = f"| {' | '.join(columns)} |"
    rule = "|---" * texts + "|---:" * (len(columns) - texts) + "|"
    return [head, rule, *(f"| {' | '.join(row)} |" for row in rows)]


def shown(value: float | None, spec: str) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else format(value, spec)


def save(result: dict[str, Any], lines: list[str], folder: pathlib.Path, name: str) -> None:
    """Write the JSON and the Markdown, and print the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text("\n".join([*lines, ""]))
    (folder / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print("\n".join(lines))


def finish(figure: plt.Figure, path: pathlib.Path) -> None:
    """Take off what no reader needs and write the picture."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
