"""Spread: the sample standard deviation, of what was measured."""

import statistics
import warnings

import numpy as np
from neurips2021.toy import _mean_and_std
from report.spread import spread


def test_spread_is_that_of_a_sample():
    values = [1.0, 2.0, 4.0]
    assert abs(spread(values) - statistics.stdev(values)) < 1e-12
    assert abs(spread([*values, np.nan]) - statistics.stdev(values)) < 1e-12
    assert abs(_mean_and_std({"a": np.array(values)})["a_std"] - statistics.stdev(values)) < 1e-12


def test_one_value_has_no_spread_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(spread([1.0])) and np.isnan(spread([np.nan]))
        found = spread([[1.0, np.nan], [3.0, 5.0]], axis=0)
    assert found[0] == np.sqrt(2) and np.isnan(found[1])
