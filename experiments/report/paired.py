"""Paired statistics over seeds."""

import numpy as np
from scipy import stats


ROUNDING = 1e-6  # of a value in single precision, with room for the operations that it came from


def paired_difference(values: dict[int, float], baseline: dict[int, float] | None) -> dict[str, float] | None:
    """The `mean` difference over common seeds, its 95 % confidence interval (`low`, `high`) and `p`.

    By a paired t-test; None with fewer than two common seeds, or where all differences are the same but for
    the rounding of the values.
    """
    common = sorted(set(values) & set(baseline or {}))
    if len(common) < 2:
        return None
    first, second = (np.array([of[seed] for seed in common]) for of in (values, baseline))
    differences = first - second
    if np.ptp(differences) <= ROUNDING * np.max(np.abs([first, second])):  # no variance to test against
        return None
    test = stats.ttest_1samp(differences, 0)
    low, high = test.confidence_interval(0.95)
    return {
        "mean": float(np.mean(differences)),
        "low": float(low),
        "high": float(high),
        "p": float(test.pvalue),
    }


def as_text(difference: dict[str, float]) -> str:
    """In a table's cell."""
    return "{mean:+.3g} [{low:+.3g}, {high:+.3g}], p = {p:.2g}".format(**difference)
