"""Runs that differ in their seeds alone, as one run: `python experiments/pool.py RUN RUN ... --out FOLDER`.

Seeds of one run train as one program; this is for those trained apart, on several machines say. FOLDER gets
what a run of all their seeds would have left, but for its checkpoints. The exit status is 1 where a seed
diverged or is in doubt.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import options.needed  # noqa: F401
from options.script import outermost, tidied
from report.curves import drawn, plot_curves
from report.doubts import judge
from report.finished import read_json
from report.pooling import pool


@outermost
def command(arguments: Sequence[str] | None = None) -> int:
    """The whole command; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a new folder")
    given = parser.parse_args(tidied(arguments))
    out = pool(given.runs, given.out)
    if "out" in read_json(out / "config.json")["config"]:  # other scripts have pictures of their own
        drawn("curves.png", plot_curves, out)
    return judge({str(out): read_json(out / "summary.json")})


if __name__ == "__main__":
    sys.exit(command())
