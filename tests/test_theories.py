"""One equilibrium, four theories: its measures against formulas of a linear network; its command in small."""

import dataclasses
import json
import pathlib
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import theories
from helpers import cast, records
from prospective.measures import angles_between, interference
from stopped_runs import accuracy, leave, WHY

import dfc_jax as dfc


RATES = (1e-3, 0.1)
SQUARED = dfc.MeanSquaredError()
METHODS = {"bp": dfc.Backprop(SQUARED), "predictive-coding": dfc.PredictiveCoding(0.0, SQUARED)}


@pytest.fixture(scope="module")
def linear() -> tuple[dfc.Network, jax.Array, jax.Array]:
    """Two linear layers, two samples."""
    model = dfc.mlp((4, 6, 3), key=jax.random.key(0), activation=dfc.Linear())
    return model, jax.random.normal(jax.random.key(1), (2, 4)), jnp.eye(3)[:2]


def changes(model: dfc.Network, x: np.ndarray, target: np.ndarray, name: str) -> list[tuple[np.ndarray, ...]]:
    """What either rule adds to weights and biases of the two layers, by its formula, in NumPy.

    Backprop: e = 2 (y - r) / n comes down by W^T. Predictive coding: the least |eps_1|^2 + |eps_2|^2 that
    brings the output to its target is eps = J^T u with (W W^T + I) u = y - r.
    """
    (W1, b1), (W2, b2) = weights(model)
    hidden = W1 @ x + b1
    error = target - (W2 @ hidden + b2)
    if name == "bp":
        top = 2 * error / len(error)
        below = W2.T @ top
        presynaptic = hidden
    else:
        top = np.linalg.solve(W2 @ W2.T + np.eye(len(error)), error)
        below = W2.T @ top
        presynaptic = hidden + below
    return [(np.outer(below, x), below), (np.outer(top, presynaptic), top)]


def weights(model: dfc.Network) -> list[tuple[np.ndarray, np.ndarray]]:
    pairs = [(layer.transform.weight, layer.transform.bias) for layer in model.layers]
    return [tuple(np.asarray(array, np.float64) for array in pair) for pair in pairs]


def output(parts: list[tuple[np.ndarray, np.ndarray]], x: np.ndarray) -> np.ndarray:
    (W1, b1), (W2, b2) = parts
    return W2 @ (W1 @ x + b1) + b2


def moved(model: dfc.Network, x: np.ndarray, target: np.ndarray, name: str, rate: float) -> np.ndarray:
    """The change of the output by one step."""
    before, step = weights(model), changes(model, x, target, name)
    after = [
        tuple(w + rate * d for w, d in zip(*pair, strict=True)) for pair in zip(before, step, strict=True)
    ]
    return output(after, x) - output(before, x)


@pytest.mark.parametrize("name", ["bp", pytest.param("predictive-coding", marks=pytest.mark.slow)])
def test_target_alignment_is_that_of_a_small_step(linear, name: str) -> None:
    model, x, y = linear
    found = dfc.target_alignment(METHODS[name], model, x, y)
    for cosine, one, target in zip(found, np.asarray(x, np.float64), np.asarray(y), strict=True):
        change = moved(model, one, target, name, 1e-7)
        way = target - output(weights(model), one)
        wanted = change @ way / np.linalg.norm(change) / np.linalg.norm(way)
        assert 1 - cosine == pytest.approx(1 - wanted, rel=0.01)


def test_angles_between_are_those_of_the_formulas(linear) -> None:
    model, x, y = linear
    found = angles_between(model, METHODS, x, y)
    samples = list(zip(np.asarray(x, np.float64), np.asarray(y), strict=True))
    flat = lambda parts: np.concatenate([np.ravel(array) for pair in parts for array in pair])
    one, other = (sum(flat(changes(model, *sample, name)) for sample in samples) for name in METHODS)
    wanted = np.degrees(np.arccos(one @ other / np.linalg.norm(one) / np.linalg.norm(other)))
    assert found["bp"]["predictive-coding"] == pytest.approx(wanted, rel=1e-3) and wanted > 5
    assert found["predictive-coding"]["bp"] == pytest.approx(wanted, rel=1e-3)
    assert found["bp"]["bp"] == 0


@pytest.mark.parametrize("name", METHODS)
def test_interference_is_what_a_step_by_hand_does(linear, name: str) -> None:
    model, x, y = linear
    found = interference(model, METHODS[name], x, y, RATES)
    for i, rate in enumerate(RATES):
        own, others = [], []
        for one, label in zip(np.asarray(x, np.float64), (0, 1), strict=True):
            before = output(weights(model), one)
            target = np.where(np.arange(3) == label, 1, before)
            change = moved(model, one, target, name, rate) / (1 - before[label])
            own.append(change[label])
            others.append(np.linalg.norm(np.delete(change, label)))
        assert found["own"][i] == pytest.approx(np.mean(own), rel=2e-3)
        assert found["others"][i] == pytest.approx(np.mean(others), rel=2e-3)


@pytest.mark.slow
def test_one_layer_does_not_interfere() -> None:
    model = dfc.mlp((4, 3), key=jax.random.key(0), activation=dfc.Linear())
    x, y = jax.random.normal(jax.random.key(1), (2, 4)), jnp.eye(3)[:2]
    for method in METHODS.values():
        found = interference(model, method, x, y, (0.1,))
        assert found["others"][0] < 1e-5 < 0.01 < found["own"][0]


@pytest.mark.slow
def test_strong_dfc_is_in_the_state_of_least_control() -> None:
    strong, least = (theories.rules()[name] for name in ("strong-dfc", "least-control"))
    model = dfc.mlp((4, 5, 3), key=jax.random.key(0), feedback=dfc.ExactFeedback())
    x, y = jax.random.normal(jax.random.key(1), (2, 4)), jnp.eye(3)[:2]
    controls = [method(model, x, y)[1].control for method in (strong, least)]
    assert np.allclose(*controls, rtol=1e-4)


def test_seeds_that_stopped_early_are_counted_and_in_no_figure_of_the_last_epoch(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    came_to = {"bp": (3, 3), "dfc-ss": (3, 1), "strong-dfc": (1, 2), "least-control": (0, 0)}
    for name in theories.rules():
        leave(tmp_path / name, came_to.get(name, (3, 3)), 3)
    options = theories.Options(epochs=3, seeds=(0, 1), out=tmp_path)
    found = theories.collect(options)
    assert found["bp"]["last_test_accuracy"]["mean"] == pytest.approx(accuracy(0, 3) + 0.005)
    assert "remark" not in found["bp"] and found["dfc-ss"]["remark"] == "1 of 2 seeds diverged"
    assert found["dfc-ss"]["last_test_accuracy"] == {"mean": pytest.approx(accuracy(0, 3)), "std": None}
    assert found["dfc-ss"]["best_test_accuracy"]["mean"] == pytest.approx(accuracy(0, 2) + 0.005)
    assert set(found["strong-dfc"]) == {"best_test_accuracy", "converged", "remark"}
    assert found["least-control"] == {"remark": "diverged"}

    for name in ("train", "between", "interfering"):
        monkeypatch.setattr(theories, name, lambda *_: {})
    monkeypatch.setattr(theories, "drawn", lambda *_: None)
    assert theories.main(options) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[0] == f"dfc-ss, seed 1: stopped in epoch 2: {WHY}"
    assert len(said.err.splitlines()) == 5
    assert "| DFC-SS (1 of 2 seeds diverged) | 80.00 | 70.50 ± " in said.out
    assert "| least control (diverged) |  |  |  |  |  |" in said.out
    assert "is in no figure of the last epoch.\nWhat is in doubt, and why, is in" in said.out
    for name in ("dfc-ss", "strong-dfc", "least-control"):
        shutil.rmtree(tmp_path / name)
        leave(tmp_path / name, (3, 3), 3)
    assert theories.main(options) == 0


@pytest.mark.script
@pytest.mark.usefixtures("as_users_run")
def test_the_command_trains_measures_and_goes_on(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(theories, "SAMPLES", 8)
    options = theories.Options(epochs=2, seeds=(3, 5), out=tmp_path, progress=False)
    assert theories.main(options) == 0
    note = json.loads((tmp_path / "theories.json").read_text())
    assert list(note["methods"]) == list(theories.rules())
    for name, found in note["methods"].items():
        last = [record for record in records(tmp_path / name) if record["epoch"] == 2]
        scores = [record["test_accuracy"] for record in last]
        assert found["last_test_accuracy"]["mean"] == pytest.approx(np.mean(scores))
        assert found["last_test_accuracy"]["std"] == pytest.approx(np.std(scores, ddof=1))
        assert found["converged"]["mean"] == 1 and found["best_test_accuracy"]["mean"] > 0.7
        assert found["target_alignment"]["mean"] > 0.5
    assert note["methods"]["bp"]["angle_to_backprop"]["mean"] < 1e-3
    angles = note["angles"]
    assert list(angles) == list(angles["bp"]) == [*theories.rules(), *theories.references()]
    assert (
        np.allclose(angles["bp"]["gauss-newton"], angles["gauss-newton"]["bp"])
        and len(angles["bp"]["bp"]) == 2
    )
    # One state; what differs is the slope of the activation.
    assert np.all(np.array(angles["strong-dfc"]["least-control"]) < angles["strong-dfc"]["bp"])
    for name in theories.squared_rules():
        others = np.array(note["interference"][name]["others"])
        assert others.shape == (2, len(theories.RATES)) and np.all(others > 0)
    assert (tmp_path / "theories.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "theories.md").read_text()
    assert "| predictive coding |" in table and "| Gauss-Newton |" in table and str(tmp_path) not in table

    monkeypatch.setattr(theories, "_fit", None)  # nothing is left to do
    for name in theories.rules():
        theories.train(options, name, None)
    with pytest.raises(ValueError, match=r"`epochs` is 1, but .* holds 2 already|other options"):
        theories.train(dataclasses.replace(options, seeds=(3,)), "bp", None)


@pytest.mark.usefixtures("as_users_run")
def test_tiny_updates_are_measured_and_those_that_are_zero_left_out(linear) -> None:
    model, x, y = cast(linear, jnp.float32)  # in which the square of 1e-25 is zero
    silent = eqx.tree_at(lambda model: model.layers[1].transform.weight, model, replace_fn=jnp.zeros_like)
    method, tiny = METHODS["bp"], jnp.stack([1e-25 * y[0], 0 * y[1]])
    alignment = dfc.target_alignment(method, silent, x, tiny)
    unseen = dfc.null_space_fraction(method, silent, x, tiny)
    # The output layer alone learns, and all of its update moves the output straight to the target.
    np.testing.assert_allclose(alignment, [1, np.nan], rtol=1e-6)
    np.testing.assert_allclose(unseen, [0, np.nan], atol=1e-3)
    update, _ = method(silent, x, tiny)
    angles = dfc.update_angles(update, jax.tree.map(lambda leaf: -1e10 * leaf, update))
    assert float(angles.layers[1]) == float(angles.network) == 180
    for each in (method, dfc.DFCSSA(loss=SQUARED)):
        record = dfc.Diagnostics(samples=2)(silent, each, dfc.Split(np.asarray(x), np.asarray(tiny)))
        assert record["target_alignment"] == pytest.approx(1, rel=1e-5)
    assert 0 <= record["null_space_fraction"] < 1
