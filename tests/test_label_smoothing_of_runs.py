"""A run's labels are smoothed by its own options, whatever runs share its data."""

import pathlib

import numpy as np
import pytest
import run
from small_sweeps import SHORT
from sweeping import worker
from sweeping.description import Sweep

import dfc_jax as dfc


pytestmark = pytest.mark.usefixtures("as_users_run")


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> list[dfc.Dataset]:
    """What every run would be trained on, instead of its training."""
    found: list[dfc.Dataset] = []

    def fit_many(models: list, method: dfc.AbstractMethod, data: dfc.Dataset, *_, **__) -> list:
        found.append(data)
        return []

    monkeypatch.setattr(dfc, "fit_many", fit_many)
    monkeypatch.setattr(run, "writes", lambda: False)  # for nothing comes out
    return found


def check_taught(data: dfc.Dataset, whole: dfc.Dataset, part: float) -> None:
    """That all classes share this part of every training label, and of no other."""
    wanted = (1 - part) * whole.train.y + part / whole.output_size
    np.testing.assert_allclose(data.train.y, wanted, rtol=1e-6)
    for name in ("validation", "test"):
        np.testing.assert_array_equal(getattr(data, name).y, getattr(whole, name).y)


def test_every_run_of_a_sweep_has_its_own_labels_of_the_same_data(
    tmp_path: pathlib.Path, taught: list[dfc.Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, loaded = dfc.load("digits"), []
    monkeypatch.setattr(dfc, "load", lambda name: loaded.append(name) or whole)
    words = ("--method", "bp", "strong-dfc", "--label-smoothing", "0.3", "0", "0.1", *SHORT)
    Sweep(words).write(tmp_path)
    worker.work(tmp_path)
    assert loaded == ["digits"]
    for data, part in zip(taught, (0.3, 0, 0.1, 0), strict=True):  # strong-dfc reads no smoothing
        check_taught(data, whole, part)


@pytest.mark.parametrize(
    "parts",
    [{"bp": 0.3, "strong-dfc": 0}, {"strong-dfc": 0, "bp": 0.3}, {"least-control": 0, "dfc-ssa": 0.3}],
)
def test_methods_side_by_side_have_the_labels_that_each_reads(
    parts: dict[str, float], tmp_path: pathlib.Path, taught: list[dfc.Dataset]
) -> None:
    words = ["--label-smoothing", "0.3", "--hidden", "8", "--no-progress", "--out", str(tmp_path / "job")]
    assert run.command(["--method", *parts, *words]) == 0
    whole = dfc.load("digits")
    for data, part in zip(taught, parts.values(), strict=True):
        check_taught(data, whole, part)
