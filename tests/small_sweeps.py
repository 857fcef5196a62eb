"""Sweeps that take a moment."""

import pathlib

import sweep


SHORT = ["--hidden", "8", "--epochs", "3", "--batch-size", "419", "--feedback", "fixed"]
GRID = ["--method", "dfc-ssa", "bp", "--nudge", "0.05", "0.2", "--optimiser.lr", "1e-3", "1e-2", *SHORT]
RANGE = ["--method", "bp", "--optimiser.lr", "log", "1e-4", "1e-1", *SHORT]


def swept(out: pathlib.Path, *arguments: str) -> int:
    return sweep.command(["--no-progress", *arguments, "--out", str(out)])


def runs_of(out: pathlib.Path) -> list[pathlib.Path]:
    return sorted(file.parent for file in out.glob("*/config.json"))
