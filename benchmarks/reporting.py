"""How the benchmarks write their figures: the same heading, tables and files for all of them."""

import dataclasses
import json
import pathlib
import shlex
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

import dfc_jax as dfc
from dfc_jax._checks import check_count, check_number


sys.path.append(str(pathlib.Path(__file__).parents[1] / "experiments"))
import options.needed  # noqa: F401
from options.checks import check_seeds
from options.script import outermost, parse
from report.pictures import plt
from report.written import check_held


__all__ = ["outermost", "parse", "plt"]  # what scripts share with the experiments
OUT = pathlib.Path("runs/benchmarks")
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442", "#999999")
MARKERS = "osD^vPX*h"
COUNTS = ("rounds", "batch_size", "epochs", "draws")


def environment(script: str) -> dict[str, Any]:
    """Enough to know what a figure was measured on."""
    where = dfc.environment()
    return {
        "device": where["processor"] if where["device"] == "cpu" else where["device"],
        "cores": where["cores"],
        "matmul_precision": where["matmul_precision"],
        "versions": {"python": where["python"]} | where["versions"],
        "revision": where["git_revision"],
        "date": where["started"].partition("T")[0],
        "command": shlex.join(["python", script, *sys.argv[1:]]),
    }


def settings_of(options: Any) -> dict[str, Any]:
    """What was asked for, apart from where the results go."""
    return {name: value for name, value in dataclasses.asdict(options).items() if name != "out"}


def check(options: Any, name: str) -> None:
    """Raise `ValueError` for numbers that cannot be, or if `options.out` holds other settings' figures."""
    for count in COUNTS:
        if hasattr(options, count):
            check_count(count, getattr(options, count))
    if hasattr(options, "seconds"):
        check_number("seconds", options.seconds, above=0)
    if hasattr(options, "seed"):
        check_seeds("seed", options.seed)
    file = options.out / f"{name}.json"
    if file.exists():
        held = json.loads(file.read_text(encoding="utf-8")).get("settings") or {}
        check_held(file, held, settings_of(options), settings_of(type(options)()))


def heading(environment: dict[str, Any], caption: str, legend: str) -> list[str]:
    """The command, what was measured on what, and what the columns mean."""
    versions = ", ".join(f"{name} {number}" for name, number in environment["versions"].items())
    products = environment.get("matmul_precision")
    set_to = "" if products is None else f"; JAX's default products set to {products}"
    where = f"{caption}{set_to}; {versions}; revision {environment['revision']}; {environment['date']}."
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


def ranged(ratios: Sequence[float]) -> str:
    """The median of the rounds and, in brackets, their range."""
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def save(result: dict[str, Any], lines: list[str], folder: pathlib.Path, name: str) -> None:
    """Write the JSON and the Markdown, and print the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    (folder / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("\n".join(lines))


def finish(figure: plt.Figure, path: pathlib.Path) -> None:
    """Take off what no reader needs and write the picture."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        for axis in (axes.xaxis, axes.yaxis):
            lowest, highest = axis.get_view_interval()
            if axis.get_scale() == "log" and highest < 100 * lowest:  # few powers of ten, or none, to label
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axis.set_minor_locator(NullLocator())
    figure.savefig(path, dpi=130)
    plt.close(figure)
