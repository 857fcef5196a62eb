"""Where the committed results are, and which runs each table of `compare.py` has."""

import json
import pathlib
from typing import Any


ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
BENCHMARKS = ROOT / "benchmarks" / "results"

FIVE = ("bp", "dfa", "dfc", "dfc-ss", "dfc-ssa")
COMPARED = {
    "digits-fixed": FIVE,
    "digits-learned": FIVE,
    "mnist-fixed": FIVE,
    "mnist-learned": FIVE,
    "cifar10-fixed": ("bp", "dfc-ss", "dfc-ssa"),
    "strong/mnist": ("dfc-ss", "strong-dfc", "strong-dfc-2phase", "bp"),
    "strong/fashion_mnist": ("dfc-ss", "strong-dfc", "strong-dfc-2phase", "bp"),
    "strong/controls": (
        "../mnist/strong-dfc-2phase",
        "after-t-cosine",
        "../mnist/strong-dfc-2phase-at-rest",
        "rest-slow",
        "rest-cosine",
        "rest-value-0.9",
        "rest-exact-cosine",
        "rest-leak-0.4",
        "rest-leak-1",
    ),
    "theories/mnist-30-epochs": ("bp", "least-control", "least-control-6.4"),
}


def read(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
