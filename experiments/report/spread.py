"""The one measure of spread in tables and in the bands of curves."""

import warnings

import numpy as np
from numpy.typing import ArrayLike


def spread(values: ArrayLike, axis: int | None = None) -> np.ndarray:
    """The sample standard deviation (of n - 1) of the values that are not NaN; NaN where there are fewer
    than two."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanstd(values, axis=axis, ddof=1)
