"""The figures of the NeurIPS 2021 paper, and of Strong-DFC: `python experiments/figures.py --help`.

    python experiments/figures.py 2                           one figure as published, some in seconds
    python experiments/figures.py 3 --epochs 30               a shorter run
    python experiments/figures.py noise                       weak and strong feedback under noise
    python experiments/figures.py noise-bias                  what noise adds to the mean update
    python experiments/figures.py alignment --task mnist --feedback learned --epochs 5

Each writes NAME.png and NAME.pdf, their data as NAME.csv, and NAME.json: the command, the configuration,
versions, seconds and what the figure says in numbers. Configurations: `neurips2021/toy_presets.py`. After an
interruption the same command goes on with the next curve. The published figures lie in
`experiments/results/figures`, which is written to if it is given as --out.
"""

import csv
import dataclasses
import io
import json
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import options.needed  # noqa: F401
from icml2022.bias import NoiseBias
from icml2022.figures import Noise, SinglePhase
from icml2022.states import States
from neurips2021.figures import FIGURES, Options
from options.script import outermost, parse, resumable
from report.figure import Curves, plain, Rows
from report.pictures import plt

import dfc_jax as dfc


StrongFigure = SinglePhase | Noise | NoiseBias | States

STRONG_FIGURES = {
    "single-phase": SinglePhase,
    "noise": Noise,
    "noise-bias": NoiseBias,
    "strong-states": States,
}


def save(options: Options | StrongFigure, rows: Rows, seconds: float) -> None:
    """The picture, its data, and a note of where both came from; nothing is written before all is there."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(rows[0]))
    writer.writeheader()
    writer.writerows({name: _short(value) for name, value in row.items()} for row in rows)
    files = {"csv": table.getvalue().encode()}
    figure = options.draw(rows)
    for kind in ("png", "pdf"):
        picture = io.BytesIO()
        figure.savefig(picture, format=kind, dpi=150)
        files[kind] = picture.getvalue()
    plt.close(figure)
    note = {
        "figure": options.name,
        "options": options.given(),
        "configuration": options.configuration(),
        "environment": dfc.environment(),
        "seconds": round(seconds, 1),
        "facts": options.facts(rows),
    }
    files["json"] = (json.dumps(note, indent=2, default=plain) + "\n").encode()
    path = options.out / options.name
    options.out.mkdir(parents=True, exist_ok=True)
    for kind, content in files.items():
        path.with_suffix(f".{kind}").write_bytes(content)


def _short(value: Any) -> Any:
    """Six digits are more than a picture shows."""
    return f"{value:.6g}" if isinstance(value, float | np.floating) else value


@outermost
def main(options: Options | StrongFigure) -> int:
    """Compute, save and draw one figure; returns the exit status."""
    options = dataclasses.replace(options, out=pathlib.Path(options.out))
    options.check()
    start = time.perf_counter()
    curves = Curves(options.out / options.name, options)
    with resumable():
        rows = options.compute(curves)
        save(options, rows, time.perf_counter() - start)
    curves.forget()
    print(f"{options.out / options.name}.png")
    return 0


@outermost
def command(arguments: Sequence[str] | None = None) -> int:
    """The whole command; returns the exit status."""
    return main(parse(FIGURES | STRONG_FIGURES, arguments, __doc__))


if __name__ == "__main__":
    sys.exit(command())
