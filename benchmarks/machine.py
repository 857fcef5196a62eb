"""What a machine is: its device and driver, how long a program takes to start there, and what JAX's default
makes of a product.

    python benchmarks/machine.py            # seconds; writes to runs/benchmarks
    python benchmarks/machine.py --small    # a small product

Packages that the benchmarks need and that are not there are named, each in a sentence (exit status 2).
Figures of another device in the same folder are not replaced.
"""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import installed  # noqa: F401  # before what may be missing
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from reporting import check, environment, heading, machine, OUT, outermost, parse, save, settings_of, table
from timing import compile_case, measure


PRODUCTS = {"JAX's default": None, "float32": "float32"}
LEGEND = (
    "start: microseconds of a program that adds one to a number, from its call until its result is there; "
    "product: milliseconds of a square one in float32; error: its largest, relative to the largest entry, by "
    "float64 on the CPU. Operands of 11 bits (TF32) make it about 1e-4, float32 about 1e-6."
)
DRIVER = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    size: int = 4096
    """Rows and columns of the product."""
    rounds: int = 11
    """Rounds of measurements."""
    small: bool = False
    """A product of 256 rows, whatever else is said."""
    seed: int = 0
    out: pathlib.Path = OUT
    """The folder for the figures."""


@outermost
def main(options: Options) -> None:
    """Measure, print and write."""
    if options.small:
        options = dataclasses.replace(options, size=256, rounds=3)
    check(options, "machine")
    where = environment("benchmarks/machine.py")
    _check_device(where["device"], options.out)
    a, b = jr.normal(jr.key(options.seed), (2, options.size, options.size))
    exact = np.asarray(a, float) @ np.asarray(b, float)
    # One call at a time, for its result is waited for.
    start = dataclasses.replace(compile_case(lambda number: number + 1, jnp.zeros(())), calls=1)
    cases, figures = {}, {}
    for name, precision in PRODUCTS.items():
        with jax.default_matmul_precision(precision):
            cases[name] = compile_case(jnp.matmul, a, b)
        error = float(np.max(np.abs(np.asarray(cases[name].call()) - exact)) / np.max(np.abs(exact)))
        figures[name] = {"relative_error": error}
    measure([start, *cases.values()], options.rounds, seconds=5.0)
    for name, case in cases.items():
        figures[name]["milliseconds"] = 1e3 * float(np.median(list(case.times.values())))
    result = {
        "environment": where | {"devices": [str(device) for device in jax.devices()], "driver": _driver()},
        "settings": settings_of(options),
        "start_microseconds": 1e6 * float(np.median(list(start.times.values()))),
        "products": figures,
    }
    _write(result, options)


def _check_device(device: str, folder: pathlib.Path) -> None:
    """Raise `ValueError` if the folder holds figures of another device."""
    file = folder / "machine.json"
    held = json.loads(file.read_text(encoding="utf-8"))["environment"]["device"] if file.exists() else device
    if held != device:
        raise ValueError(f"`out` is {folder}, which holds figures of {held}; name another for {device}.")


def _driver() -> str | None:
    """What the driver of NVIDIA's cards says; None without one."""
    if shutil.which(DRIVER[0]) is None:
        return None
    done = subprocess.run(DRIVER, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _write(result: dict[str, Any], options: Options) -> None:
    """The figures as JSON and Markdown."""
    where, start = result["environment"], result["start_microseconds"]
    caption = f"Products of {options.size} x {options.size}, {machine(where)}"
    rows = [
        [name, f"{figures['milliseconds']:.3g}", f"{figures['relative_error']:.0e}"]
        for name, figures in result["products"].items()
    ]
    facts = (
        f"Devices: {', '.join(where['devices'])}. Driver: {where['driver'] or 'none'}. Start: {start:.0f}."
    )
    lines = [*heading(where, caption, LEGEND), "", facts, ""]
    save(result, [*lines, *table(["product", "time", "error"], rows)], options.out, "machine")


@outermost
def command() -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, None, __doc__))


if __name__ == "__main__":
    sys.exit(command())
