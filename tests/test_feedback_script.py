"""Which feedback keeps up: its rows, what they learn with, and its command in small."""

import dataclasses
import json
import pathlib

import equinox as eqx
import feedback
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import records, relative_error
from stopped_runs import accuracy, leave, WHY
from weight_transport import picture
from weight_transport.rows import ROWS

import dfc_jax as dfc


SMALL = feedback.Options(channels=(2, 3), hidden=(4,))
OPTIMISER = feedback.make_optimiser(SMALL, dfc.load("digits"))


@pytest.fixture(scope="module")
def models() -> dict[str, dfc.Network]:
    data = dfc.load("digits")
    return {name: feedback.make_model(SMALL, name, data, 3) for name in feedback.LABELS}


def test_forward_weights_are_the_same_in_all_rows(models: dict[str, dfc.Network]) -> None:
    assert all(eqx.tree_equal(model.layers, models["bp"].layers) for model in models.values())
    assert len(models["bp"].layers) == 4 and list(models) == list(picture.STYLES)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.learning is not None])
def test_what_learns_in_a_row_is_of_the_kind_that_its_rule_is_for(
    name: str, models: dict[str, dfc.Network]
) -> None:
    learning = ROWS[name].learning(OPTIMISER)
    assert learning.sleeps or learning.wake is not None
    if learning.wake is not None:
        assert isinstance(models[name].feedback, learning.wake.learns)
    if isinstance(learning.wake, dfc.KolenPollack | dfc.DirectKolenPollack):
        assert learning.optimiser is OPTIMISER  # equal ones, under which differences decay
    if learning.sleeps:
        assert isinstance(models[name].feedback, learning.phase.learns)


def test_angles_are_those_of_a_row(models: dict[str, dfc.Network]) -> None:
    data = dfc.load("digits")
    x, y = jnp.asarray(data.validation.x[:8], float), jnp.asarray(data.validation.y[:8], float)
    found, outputs = {}, {}
    for name in ("bp", "dfa", "layered-initial", "exact", "layered-random"):
        model = jax.tree.map(lambda leaf: leaf.astype(float) if eqx.is_array(leaf) else leaf, models[name])
        outputs[name] = np.asarray(jax.vmap(model)(x))
        angles = feedback._angles(feedback.make_method(SMALL, name), model, x, y)
        found[name] = {k: np.asarray(v) for k, v in angles.items()}
    assert np.all(found["bp"]["angle_to_backprop_by_layer"] < 1e-6) and "condition_two" not in found["bp"]
    assert found["dfa"]["condition_two"] < 0.9
    assert found["dfa"]["angle_to_backprop_by_layer"][-1] < 1e-6
    assert np.all(found["dfa"]["angle_to_backprop_by_layer"][:-1] > 5)
    # Copies of the forward weights are the transposed Jacobian until these learn.
    assert all(found[name]["mean_of_logits"] == pytest.approx(outputs[name].mean()) for name in found)
    for measure, exact in found["exact"].items():
        assert np.allclose(found["layered-initial"][measure], exact, atol=1e-5)
    assert found["exact"]["condition_two"] == pytest.approx(1)
    assert found["exact"]["angle_of_feedback_to_transposed_jacobian"] < 1e-5
    assert found["layered-random"]["angle_of_feedback_to_transposed_jacobian"] > 20


def test_without_control_every_row_is_feedback_alignment_or_dfa(models: dict[str, dfc.Network]) -> None:
    options = dataclasses.replace(SMALL, method="feedback-alignment")
    x, y = jnp.ones((2, 64), jnp.float32), jnp.eye(10, dtype=jnp.float32)[:2]
    for name, row in ROWS.items():
        method = feedback.make_method(options, name)
        assert isinstance(method, dfc.DFA if row.direct else dfc.FeedbackAlignment)
        method(models[name], x, y)  # whose feedback it takes
    backprop, exact = (feedback.make_method(options, name)(models[name], x, y)[0] for name in ("bp", "exact"))
    assert relative_error(exact.layers, backprop.layers) < 1e-5


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"rows": ("bp", "direct")}, "`rows` holds 'direct'; they are bp, dfa, direct-initial, "),
        ({"rows": ("bp", "bp")}, "`rows` is .*; it must name one or several, none of them twice"),
        ({"seeds": ()}, "`seeds` is .*; it must name one or several"),
        ({"epochs": 0}, "`epochs` is 0; it must be a whole number of at least 1"),
        ({"weight_decay": -1.0}, "`weight_decay` is -1.0; it must be a finite number at least 0"),
    ],
)
def test_options_that_cannot_be_are_refused(given: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        dataclasses.replace(feedback.Options(), **given).check()


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_written(tmp_path, capsys) -> None:
    assert feedback.main(feedback.Options(batch_size=5000, out=tmp_path, progress=False)) == 2
    assert "`batch_size` is 5000; digits has 1257 samples." in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_seeds_that_stopped_early_are_counted_and_in_no_figure_of_the_last_epoch(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    came_to = {"bp": (3, 3), "dfa": (3, 1), "exact": (2, 1)}
    for name, epochs in came_to.items():
        leave(tmp_path / name, epochs, 3)
    options = feedback.Options(epochs=3, seeds=(0, 1), rows=tuple(came_to), out=tmp_path)
    found = feedback.collect(options)
    remarks = [found[name].get("remark", "") for name in came_to]
    assert remarks == ["", "1 of 2 seeds diverged", "diverged"]
    assert found["dfa"]["last_test_accuracy"] == {"mean": pytest.approx(accuracy(0, 3)), "std": None}
    assert found["dfa"]["angle_by_layer"] == [30, 60]
    assert set(found["exact"]) == {"best_test_accuracy", "remark", "angle_by_layer"}
    assert found["exact"]["angle_by_layer"] == []

    monkeypatch.setattr(feedback, "drawn", lambda *_: None)
    assert feedback.main(options) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[0] == f"dfa, seed 1: stopped in epoch 2: {WHY}"
    assert "| DFA (1 of 2 seeds diverged) | 80.00 |" in said.out
    assert "is in no figure of the last epoch.\nWhat is in doubt, and why, is in" in said.out
    assert feedback.main(dataclasses.replace(options, rows=("bp",))) == 0


def test_the_picture_is_of_the_rows_of_the_table(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, epochs in {"bp": 3, "dfa": 3, "direct-initial": 1, "exact": 0}.items():
        leave(tmp_path / name, (epochs,), 3)
    (tmp_path / "dfa" / "summary.json").unlink()  # an interrupted one
    figures = []
    monkeypatch.setattr(picture.plt, "close", figures.append)
    picture.plot_feedback(tmp_path, feedback.LABELS, tmp_path / "feedback.png")
    monkeypatch.undo()
    said = [text.get_text() for text in figures[0].legends[0].get_texts()]
    picture.plt.close(figures[0])
    found = feedback.collect(feedback.Options(epochs=3, seeds=(0,), out=tmp_path))
    assert list(found) == ["bp", "direct-initial", "exact"]
    assert said == [feedback.LABELS[name] for name in ("bp", "direct-initial")]  # what has an epoch


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_rows_that_diverge_are_in_the_table_of_the_others(tmp_path: pathlib.Path) -> None:
    small = {"epochs": 1, "seeds": (3,), "channels": (2,), "out": tmp_path, "progress": False}
    options = feedback.Options(rows=("bp",), **small)
    assert feedback.main(options) == 0
    broken = {"stopped": "epoch 1: the loss is no longer finite.", "stopped_by": "divergence", "doubts": []}
    broken = {"metric": "test_accuracy", "mean": {}, "std": {}, "seeds": {"3": broken}}
    (tmp_path / "dfa").mkdir()
    (tmp_path / "dfa" / "summary.json").write_text(json.dumps(broken))
    feedback.write(options, feedback.collect(options))
    table = (tmp_path / "feedback.md").read_text().splitlines()
    assert table[0].endswith("1 epoch, 1 seed")
    assert table[4].startswith("| backprop |") and table[5].startswith("| DFA (diverged) |  |")


@pytest.mark.script
@pytest.mark.usefixtures("as_users_run")
def test_the_command_trains_measures_and_goes_on(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ("bp", "dfa", "layered-kolen-pollack", "layered-mirror", "exact")
    options = feedback.Options(
        epochs=3, seeds=(3, 5), channels=(4, 8), rows=rows, out=tmp_path, progress=False
    )
    assert feedback.main(options) == 0
    note = json.loads((tmp_path / "feedback.json").read_text())
    assert list(note["rows"]) == list(rows)
    for name, found in note["rows"].items():
        last = [record for record in records(tmp_path / name) if record["epoch"] == 3]
        scores = [record["test_accuracy"] for record in last]
        assert found["last_test_accuracy"]["mean"] == pytest.approx(np.mean(scores))
        assert found["last_test_accuracy"]["std"] == pytest.approx(np.std(scores, ddof=1))
        angles = [record["angle_to_backprop_by_layer"] for record in last]
        assert found["angle_by_layer"] == pytest.approx(np.mean(angles, axis=0).tolist())
    assert note["rows"]["bp"]["angle_by_layer"] == pytest.approx([0, 0, 0], abs=0.01)
    assert max(note["rows"]["exact"]["angle_by_layer"]) < 30 < note["rows"]["dfa"]["angle_by_layer"][0]
    assert (tmp_path / "feedback.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "feedback.md").read_text()
    assert "| layered, Kolen-Pollack |" in table and str(tmp_path) not in table

    monkeypatch.setattr(dfc, "fit_many", None)  # nothing is left to do
    for name in rows:
        feedback.train(options, name, dfc.load("digits"))
    for changed in ({"seeds": (3,)}, {"epochs": 4}, {"dataset": "mnist"}, {"centred": True}):
        (name,) = changed
        with pytest.raises(ValueError, match=f"`out` is .*, where `{name}` of bp is .*; name another folder"):
            dataclasses.replace(options, rows=("exact",), **changed).check()
    assert all((tmp_path / name / "summary.json").exists() for name in rows)
