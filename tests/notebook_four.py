"""What notebook 4 teaches to write, and what its tests share."""

import json
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax.random as jr
import numpy as np
import pytest
from helpers import Plain
from jaxtyping import Array, PyTree

import dfc_jax as dfc


FOLDER = pathlib.Path(__file__).parents[1] / "experiments" / "notebooks"
EXTENSIONS = ["controller", "layer", "rule", "method", "target", "loss", "equilibrium", "average"]


def quickest(names: Iterable[str], *fast: str) -> list:
    """Parameters of which all but the `fast` ones are slow: each is a program to compile."""
    return [pytest.param(name, marks=[] if name in fast else pytest.mark.slow) for name in names]


def cells_of(name: str) -> list[dict]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]


def tagged(tag: str) -> str:
    """The source of notebook 4's one cell with this tag."""
    (cell,) = (c for c in cells_of("4_write_your_own") if tag in c["metadata"].get("tags", ()))
    return "".join(cell["source"])


def written() -> dict[str, Any]:
    """What the import cell and the tagged cells of notebook 4 define."""
    names = {"__name__": "notebook"}
    for tag in ("imports", *EXTENSIONS):
        exec(compile(tagged(tag), f"notebook 4, {tag}", "exec"), names)
    return names


def by_hand(
    plain: Plain, x: Array, voltages: list, signal: Callable | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The forward rule of one sample in NumPy, phi(v) - phi(v_ff) times r, or another teaching signal."""
    signal = signal or (lambda phi, slope, v, basal: phi(v) - phi(basal))
    rates = plain.rates(voltages)
    parts = zip(plain.phi, plain.slope, voltages, plain.basal(x, rates), strict=True)
    teaching = [signal(*part) for part in parts]
    return [(np.outer(t, r), t) for t, r in zip(teaching, [x, *rates[:-1]], strict=True)]


def mean_update(changes: list, nudge: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Changes of all samples as an update, with the sign and size of a gradient."""
    mean = lambda arrays: -np.mean(np.stack(arrays), axis=0) / nudge
    return [tuple(mean(part) for part in zip(*layer, strict=True)) for layer in zip(*changes, strict=True)]


def transforms(update: dfc.Network) -> list[PyTree]:
    return [layer.transform for layer in update.layers]


def compute(method: Callable, model: dfc.Network, batch: tuple[Array, Array]) -> PyTree:
    return eqx.filter_jit(lambda model: method(model, *batch, key=jr.key(2)))(model)
