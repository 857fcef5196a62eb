"""The figures of the NeurIPS 2021 paper, and of Strong-DFC: `python experiments/figures.py --help`.

    python experiments/figures.py 2                           one figure as published, some in seconds
    python experiments/figures.py 3 --epochs 30               a shorter run
    python experiments/figures.py noise                       weak and strong feedback under noise
    python experiments/figures.py alignment --task mnist --feedback learned --epochs 5

Each writes NAME.png and NAME.pdf, their data as NAME.csv, and NAME.json: the command, the configuration,
versions, seconds and what the figure says in numbers. Configurations: `neurips2021/toy_presets.py`.
"""

import csv
import dataclasses
import json
import sys
import time
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import tyro
from icml2022.figures import Noise, SinglePhase, STRONG_FIGURES
from neurips2021.figures import FIGURES, Options
from report.figure import Rows

import dfc_jax as dfc


def save(options: Options | SinglePhase | Noise, rows: Rows, seconds: float) -> None:
    """The picture, its data, and a note of where both came from."""
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / options.name
    with open(path.with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: _short(value) for name, value in row.items()} for row in rows)
    figure = options.draw(rows)
    for kind in ("png", "pdf"):
        figure.savefig(path.with_suffix(f".{kind}"), dpi=150)
    plt.close(figure)
    note = {
        "figure": options.name,
        "options": {k: v for k, v in dataclasses.asdict(options).items() if k not in ("out", "progress")},
        "configuration": options.configuration(),
        "environment": dfc.environment(),
        "seconds": round(seconds, 1),
        "facts": options.facts(rows),
    }
    path.with_suffix(".json").write_text(json.dumps(note, indent=2, default=_plain) + "\n")


def _short(value: Any) -> Any:
    """Six digits are more than a picture shows."""
    return f"{value:.6g}" if isinstance(value, float | np.floating) else value


def _plain(value: Any) -> Any:
    """What JSON does not know."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value.item()


def main(options: Options | SinglePhase | Noise) -> int:
    """Compute, save and draw one figure; returns the exit status."""
    start = time.perf_counter()
    try:
        rows = options.compute()
        save(options, rows, time.perf_counter() - start)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out / options.name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.extras.subcommand_cli_from_dict(FIGURES | STRONG_FIGURES, description=__doc__)))
