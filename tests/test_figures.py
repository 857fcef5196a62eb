"""The figures' commands in small, their tables against closed forms, and the presets against the formulas."""

import csv
import json
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import toy
from figure_presets import ALIGNMENT, FIGURE_1D, FIGURE_3
from figures import main, Options
from helpers import Plain
from presets import BATCH_SIZE

import dfc_jax as dfc


SCRIPT = pathlib.Path(__file__).parents[1] / "experiments" / "figures.py"


def table(path: pathlib.Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def run(name: str, out: pathlib.Path, *options: str) -> list[dict[str, str]]:
    """The table that a command writes, beside a picture twice and its origin."""
    command = [sys.executable, str(SCRIPT), name, "--out", str(out), *options]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    assert (out / f"figure-{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (out / f"figure-{name}.pdf").read_bytes().startswith(b"%PDF")
    about = json.loads((out / f"figure-{name}.json").read_text())
    assert about["options"]["name"] == name and "git_revision" in about["environment"]
    return table(out / f"figure-{name}.csv")


def test_figure_2_has_both_inverses_at_the_ends_of_the_damping(as_users_run) -> None:
    rows = toy.figure_2(42, matrices=50)
    place = {kind: [(r["pc1"], r["pc2"]) for r in rows if r["kind"] == kind] for kind in ("random", "damped")}
    ends = [(r["pc1"], r["pc2"]) for r in rows if r["kind"] in ("pseudo_inverse", "transpose")]
    assert len(place["random"]) == 50 and len(place["damped"]) == 100
    assert np.allclose(place["damped"][0], ends[0], atol=1e-3)
    assert np.allclose(place["damped"][-1], ends[1], atol=2e-2)
    assert not np.allclose(ends[0], ends[1], atol=0.05)


@pytest.mark.slow
def test_figure_1d_ends_at_rest(as_users_run) -> None:
    rows = toy.figure_1d(1, epochs=1)
    assert len(rows) == FIGURE_1D.tmax_di and rows[0]["control"] == 0
    last = rows[-1]
    assert last["time"] == pytest.approx(10, abs=0.01)
    error = last["target_change"] - last["output_change"]
    assert 0 < error / last["target_change"] < 0.005  # alpha u, and what is left of the slowest mode
    assert error / last["control"] == pytest.approx(FIGURE_1D.alpha_di, abs=2e-3)
    assert last["target"] - last["output"] == pytest.approx(error, abs=1e-6)


def test_a_step_of_the_toy_preset_is_the_published_one(as_users_run) -> None:
    """-lr 2 / B sum_b (phi(v) - phi(v_ff)) r^T, the target error being that of the batch-mean loss."""
    model = toy.toy_model(FIGURE_3, 0, dfc.ProductOfWeights())
    data = dfc.student_teacher(train_samples=BATCH_SIZE, validation_samples=1, test_samples=1)
    x, y = data.train.x, data.train.y
    update, _ = FIGURE_3.method("dfc-ss")(model, jnp.asarray(x), jnp.asarray(y))
    optimiser = FIGURE_3.optimiser()
    change, _ = optimiser.update(update.layers, optimiser.init(model.layers))

    plain, alpha = Plain(model), FIGURE_3.alpha_di
    wanted = [np.zeros_like(W) for W in plain.W]
    for sample, label in zip(x.astype(float), y.astype(float), strict=True):
        voltages, rates = plain.settle(sample)
        delta = FIGURE_3.target_stepsize * 2 * (label - rates[-1]) / (BATCH_SIZE * label.size)
        u = np.linalg.solve(plain.gain(voltages) + alpha * np.eye(label.size), delta)
        for _ in range(5):  # Newton's method with the Jacobian of the start
            moved = plain.settle(sample, u)[1][-1] - rates[-1]
            u = u + np.linalg.solve(
                plain.gain(voltages) + alpha * np.eye(label.size), delta - moved - alpha * u
            )
        controlled, reached = plain.settle(sample, u)
        basal = plain.basal(sample, reached)
        taught = [phi(v) - phi(b) for phi, v, b in zip(plain.phi, controlled, basal, strict=True)]
        for W, t, r in zip(wanted, taught, [sample, *reached[:-1]], strict=True):
            W += FIGURE_3.lr * 2 / BATCH_SIZE * np.outer(t, r)
    for layer, W in zip(change, wanted, strict=True):
        assert np.allclose(layer.transform.weight, W, rtol=1e-3, atol=1e-4 * np.max(np.abs(W)))


@pytest.mark.slow
def test_figure_3_has_every_method(tmp_path: pathlib.Path) -> None:
    rows = run("3", tmp_path, "--epochs", "2")
    assert len({(r["method"], r["feedback"]) for r in rows}) == 7 and len(rows) == 14
    for row in rows:
        assert 0 < float(row["angle_to_gauss_newton"]) < 90
        if row["method"] != "dfa":
            assert 0 < float(row["condition_two"]) <= 1 + 1e-6
            assert float(row["eigenvalue_whole_mean"]) < 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s2", "s3"])
def test_feedback_learning_has_a_curve_for_each_value(name: str, tmp_path: pathlib.Path) -> None:
    rows = run(name, tmp_path, "--epochs", "1")
    assert {r["hidden"] for r in rows} == {"linear", "tanh"}
    curves = {(r["hidden"], r["value"]) for r in rows}
    assert len(curves) == 2 * (7 if name == "s2" else 6) and len(rows) == 8 * len(curves)
    first = {r["condition_two"] for r in rows if r["iteration"] == "0" and r["hidden"] == "tanh"}
    assert len(first) == 1  # all start from the same weights
    learned = [r for r in rows if r["iteration"] == "35"]
    assert all(float(r["condition_two"]) > float(next(iter(first))) for r in learned if r["hidden"] == "tanh")


@pytest.mark.slow
def test_the_alignment_figure_has_every_layer(as_users_run, monkeypatch, tmp_path: pathlib.Path) -> None:
    """On random images in place of MNIST."""
    x = np.random.default_rng(0).standard_normal((256, 784)).astype(np.float32)
    split = dfc.Split(x, np.eye(10, dtype=np.float32)[np.arange(256) % 10])
    small = dfc.Dataset("mnist", split, split, split, classification=True)
    monkeypatch.setattr(dfc, "load", lambda name: small)
    assert main(Options("alignment", epochs=1, feedback="fixed", out=tmp_path)) == 0
    rows = table(tmp_path / "figure-alignment-mnist-fixed.csv")
    assert {r["method"] for r in rows} == {"dfa", "dfc-ssa", "dfc-ss", "dfc"}
    assert {r["layer"] for r in rows} == {"0", "1", "2", "3"} and len(rows) == 16
    assert all(0 <= float(r["angle_to_minimum_norm_by_layer"]) < 180 for r in rows)
    config = json.loads((tmp_path / "alignment-mnist-fixed" / "dfc" / "config.json").read_text())["config"]
    assert config["damping"] == ALIGNMENT["mnist", "fixed"].gn_damping


def test_wrong_epochs_are_refused() -> None:
    with pytest.raises(ValueError, match="`epochs` is 0"):
        Options("3", epochs=0)
