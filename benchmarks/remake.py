"""Every committed table of the benchmarks, made again on one revision, one after another.

    python benchmarks/remake.py                           # an hour of an idle machine; to runs/benchmarks
    python benchmarks/remake.py --tables sleep solvers    # these alone

The checkout must be clean, since every table names the revision that it was measured at: `out` is a folder
that git does not follow, from which the tables are copied in the end. What it already holds of this
revision and command is left as it is, so that the same call goes on where the last one ended; a script that
fails stops no other. Three tables need MNIST, by TFDS_DATA_DIR or DFC_JAX_DATA. Not among them is what
mutation testing found, which takes hours: `python benchmarks/mutation.py`.
"""

import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import sys
from typing import get_args, Literal

import jax
from reporting import environment, OUT, outermost, parse


Table = Literal[
    "training_step",
    "training_step_conv",
    "solvers",
    "epoch",
    "sleep",
    "scaling",
    "gains",
    "devices",
    "feedback_cost",
    "feedback_cost_dense",
    "optimal_control",
    "predictive_coding",
    "reliability",
]
HERE = pathlib.Path(__file__).parent
# The command of each table, as it stands at its head.
COMMANDS: dict[Table, str] = {
    "training_step": "training_step.py --rounds 15 --seconds 8",
    "training_step_conv": (
        "training_step.py --channels 32 64 --sizes 128 10 --methods Backprop DFA DFC-SSA 'DFC-SS, Broyden' "
        "'Sleep phase, expected' 'Sleep phase, linearised' --rounds 11 --seconds 10"
    ),
    "solvers": "solvers.py --rounds 11 --seconds 1.0",
    "epoch": "epoch.py",
    "sleep": "sleep.py",
    "scaling": "scaling.py --rounds 5 --seconds 1.5",
    "gains": "gains.py",
    "devices": "devices.py --rounds 7 --seconds 6",
    "feedback_cost": "feedback_cost.py",
    "feedback_cost_dense": (
        "feedback_cost.py --channels --hidden 256 256 256 --activation tanh --rounds 9 --epochs 6"
    ),
    "optimal_control": "optimal_control.py",
    "predictive_coding": "predictive_coding.py",
    "reliability": "reliability.py",
}
# Devices of a CPU, whose number is fixed when JAX starts.
FLAGS: dict[Table, str] = {"devices": "--xla_force_host_platform_device_count=8"}


@dataclasses.dataclass(frozen=True)
class Options:
    """Which tables, and where they go."""

    tables: tuple[Table, ...] = get_args(Table)
    """The tables to make, in this order."""
    out: pathlib.Path = OUT
    """The folder for the figures; not benchmarks/results, where the first would change the checkout."""


@outermost
def main(options: Options) -> int:
    """Make what is not there yet; returns 1 if anything failed."""
    jax.config.update("jax_platforms", "cpu")  # a GPU, with all its memory, is for the scripts
    revision = environment("benchmarks/remake.py")["revision"]
    if revision is None or revision.endswith("-dirty"):
        problem = "this is no checkout" if revision is None else f"the checkout is not clean ({revision})"
        raise ValueError(f"{problem}, and every table names its revision; commit first.")
    if options.out.resolve() == HERE / "results":
        raise ValueError(
            f"`out` is {options.out}, which git follows; name another folder, and copy the tables."
        )
    failed = []
    for table in options.tables:
        file = options.out / f"{table}.json"
        if _made(file) == (revision, COMMANDS[table]):
            print(f"{table}: skipped, {file} is of {revision}", flush=True)
            continue
        print(f"{table}: {COMMANDS[table]}", flush=True)
        file.unlink(missing_ok=True)  # or the script would compare its settings with those in it
        if subprocess.run(_command(table, options.out), env=_variables(table), check=False).returncode:
            failed.append(table)
            print(f"{table}: failed", flush=True)
    if failed:
        print(
            f"error: {', '.join(failed)} failed; the same command goes on with what is missing.",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _made(file: pathlib.Path) -> tuple[str, str] | None:
    """The revision and the command, without its folder, that a table's JSON names, if it can be read."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))["environment"]
        _, script, *words = shlex.split(held["command"])
        if "--out" in words:
            place = words.index("--out")
            del words[place : place + 2]
        return held["revision"], shlex.join([pathlib.Path(script).name, *words])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _command(table: Table, out: pathlib.Path) -> list[str]:
    script, *arguments = shlex.split(COMMANDS[table])
    return [sys.executable, str(HERE / script), *arguments, "--out", str(out)]


def _variables(table: Table) -> dict[str, str]:
    flags = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS.get(table, '')}".strip()
    return os.environ | ({"XLA_FLAGS": flags} if flags else {})


@outermost
def command() -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, None, __doc__))


if __name__ == "__main__":
    sys.exit(command())
