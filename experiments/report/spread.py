"""The one measure of spread in tables and in the bands of curves."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def spread(values: ArrayLike, axis: int | None = None) -> np.ndarray:
    """The sample standard deviation (of n - 1) of the values that are not NaN; NaN where there are fewer
    than two."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanstd(values, axis=axis, ddof=1)


def mean_and_spread(values: ArrayLike) -> dict[str, float | None]:
    """Of one number a seed, ready for JSON: None for the spread of one seed."""
    std = spread(np.asarray(values))
    return {"mean": float(np.mean(values)), "std": None if np.isnan(std) else float(std)}


def shown(found: dict[str, float | None], factor: float = 1, digits: int = 2) -> str:
    """Those two, times a factor, in a table's cell."""
    std = "" if found["std"] is None else f" ± {factor * found['std']:.{digits}f}"
    return f"{factor * found['mean']:.{digits}f}{std}"


def cell(found: Mapping[str, Any], measure: str, factor: float = 1, digits: int = 2) -> str:
    """The same of one of several measures; empty where it is not there."""
    return shown(found[measure], factor, digits) if measure in found else ""
