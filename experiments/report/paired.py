"""Paired statistics over seeds."""

import numpy as np
from scipy import stats


def paired_difference(values: dict[int, float], baseline: dict[int, float] | None) -> dict[str, float] | None:
    """The `mean` difference over common seeds, its 95 % confidence interval (`low`, `high`) and `p`.

    By a paired t-test; None with fewer than two common seeds, or where all differences are the same.
    """
    common = sorted(set(values) & set(baseline or {}))
    if len(common) < 2:
        return None
    differences = [values[seed] - baseline[seed] for seed in common]
    if np.ptp(differences) == 0:  # no variance to test against
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
