"""Runs that differ in their seeds alone, as one run: `python experiments/pool.py RUN RUN ... --out FOLDER`.

Seeds of one run train as one program; this is for those trained apart, on several machines say. FOLDER gets
what a run of all their seeds would have left, but for its checkpoints.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence

import options.needed  # noqa: F401
from compare import read_json
from options.config import MAY_DIFFER
from options.script import outermost, tidied
from report.curves import drawn, plot_curves

from dfc_jax._runs.folder import first_difference, summary_of


OWN = ("seeds", *(name for name in MAY_DIFFER if name != "epochs"))


def pool(folders: Sequence[pathlib.Path], out: pathlib.Path) -> None:
    """Write `config.json`, `metrics.jsonl`, `summary.json` and `curves.png` of all `folders` to `out`.

    **Raises:** `ValueError` if they are not finished runs of the same options, or have a seed in common.
    """
    helds, summaries = (
        [read_json(folder / name) for folder in folders] for name in ("config.json", "summary.json")
    )
    for folder, held in zip(folders[1:], helds[1:], strict=True):
        difference = first_difference(helds[0]["config"], held["config"], OWN)
        if difference is not None:
            problem = f"{str(folder)!r} differs from {str(folders[0])!r} in `{difference[0]}`"
            raise ValueError(f"{problem}, not in its seeds alone.")
    seeds = {seed: found for summary in summaries for seed, found in summary["seeds"].items()}
    if len(seeds) < sum(len(summary["seeds"]) for summary in summaries):
        raise ValueError("the runs have a seed in common; pool those of different seeds.")
    if out.exists():
        raise ValueError(f"`out` is {str(out)!r}, which exists; name a new folder.")
    texts = [(folder / "metrics.jsonl").read_text(encoding="utf-8") for folder in folders]
    lines = [line for text in texts for line in text.splitlines()]
    lines.sort(key=lambda line: json.loads(line)["epoch"])
    commands = "; ".join(held["environment"]["command"] for held in helds)
    config = helds[0]["config"] | {"seeds": [int(seed) for seed in seeds], "out": str(out)}
    environment = helds[0]["environment"] | {"command": commands}
    summary = summary_of(seeds, summaries[0]["metric"])
    out.mkdir(parents=True)
    for name, text in (
        ("config.json", json.dumps({"config": config, "environment": environment}, indent=2)),
        ("metrics.jsonl", "".join(f"{line}\n" for line in lines)),
        ("summary.json", json.dumps(summary, indent=2)),
    ):
        (out / name).write_text(text, encoding="utf-8")
    drawn("curves.png", plot_curves, out)


@outermost
def command(arguments: Sequence[str] | None = None) -> None:
    """The whole command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a new folder")
    given = parser.parse_args(tidied(arguments))
    pool(given.runs, given.out)


if __name__ == "__main__":
    sys.exit(command())
