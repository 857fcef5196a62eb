"""How training goes on after learned feedback: each feedback against NumPy, and the command in small."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import jax.random as jr
import late_rise
import numpy as np
import pytest
from helpers import records, relative_error
from stopped_runs import leave
from weight_transport import branches, foretelling
from weight_transport.branches import angles_of_all, between_inverse_and_transpose, BRANCHES, DAMPINGS
from weight_transport.branches_picture import STYLES

import dfc_jax as dfc


X, Y = jr.normal(jr.key(1), (7, 6)), jnp.eye(3)[jnp.arange(7) % 3]
MODEL = dfc.mlp((6, 5, 4, 3), key=jr.key(0), feedback=dfc.RandomFeedback())


def jacobians(x: jax.Array) -> np.ndarray:
    """(neurons of all layers, outputs) of one sample, by autodiff of the output with respect to what is added
    to every voltage."""

    def output(pushes: list[jax.Array]) -> jax.Array:
        rate = x
        for layer, push in zip(MODEL.layers, pushes, strict=True):
            rate = layer.activation(layer.transform(rate) + push)
        return rate

    blocks = jax.jacobian(output)([jnp.zeros(n) for n in (5, 4, 3)])
    return np.concatenate([np.asarray(block).T for block in blocks])


@pytest.mark.parametrize(
    "name, of_one",
    [
        ("mean-jacobian", lambda J: J),
        ("mean-damped", lambda J: J @ np.linalg.inv(J.T @ J + 10 * np.eye(3))),
        ("mean-inverse", lambda J: np.linalg.pinv(J.T)),
    ],
)
def test_one_feedback_for_all_is_the_mean_of_what_each_sample_would_have(name: str, of_one) -> None:
    wanted = np.mean([of_one(jacobians(x)) for x in X], axis=0)
    found = BRANCHES[name].feedback(MODEL, X)
    assert [weight.shape for weight in found.weights] == [(5, 3), (4, 3), (3, 3)]
    assert relative_error(np.concatenate([np.asarray(weight) for weight in found.weights]), wanted) < 1e-12


def test_where_sleep_has_left_the_feedback_is_told_between_inverse_and_transpose() -> None:
    for name, damping in (("mean-inverse", 0.0), ("mean-damped", 10.0), ("mean-jacobian", 1e4)):
        found = between_inverse_and_transpose(dfc.Network(MODEL.layers, BRANCHES[name].feedback(MODEL, X)), X)
        assert len(found["degrees"]) == len(DAMPINGS)
        position = DAMPINGS.index(damping)
        assert np.argmin(found["degrees"]) == position and found["degrees"][position] < 0.02
    # In the row space of each sample's Jacobian lies the most of the pseudo-inverses' mean.
    assert np.all(np.diff(found["condition_two"]) < 0) and found["degrees"][0] > 1
    P = [J @ np.linalg.pinv(J) for J in map(jacobians, X)]
    Q = np.mean([np.linalg.pinv(J.T) for J in map(jacobians, X)], axis=0)
    wanted = np.mean([np.linalg.norm(projection @ Q) for projection in P]) / np.linalg.norm(Q)
    assert found["condition_two"][0] == pytest.approx(wanted, rel=1e-9)


def test_layered_feedback_is_exact_until_the_forward_weights_learn() -> None:
    layered, exact = (BRANCHES[name].feedback(MODEL, X) for name in ("layered", "exact"))
    updates = [dfc.DFCSS()(dfc.Network(MODEL.layers, each), X, Y)[0].layers for each in (layered, exact)]
    assert relative_error(*updates) < 1e-12
    assert BRANCHES["kept"].feedback(MODEL, X) is MODEL.feedback


def test_the_angles_are_those_of_one_batch_of_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    method, data = dfc.DFCSS(), dfc.Split(np.asarray(X), np.asarray(Y))
    monkeypatch.setattr(branches, "CHUNK", 3)  # of seven: one sample is left over
    found = angles_of_all(MODEL, method, data)
    gradient = dfc.Backprop()(MODEL, X, Y)[0]
    wanted = dfc.update_angles(method(MODEL, X, Y)[0], gradient)
    assert np.allclose(found.layers, wanted.layers, atol=1e-9) and float(found.network) > 5
    assert float(angles_of_all(MODEL, dfc.Backprop(), data).network) < 1e-6


@pytest.mark.usefixtures("as_users_run")
def test_what_else_differs_is_nudge_gain_or_optimiser() -> None:
    adam = late_rise.Options().config().optimiser
    assert (adam.beta2, adam.eps) == (0.99, pytest.approx(7.7565e-5, rel=1e-4))  # published, and scaled
    for name in ("learned", "descent"):
        optimiser = BRANCHES[name].optimiser(adam, 100)
        for size, same in ((1e-9, True), (1e-3, name == "descent")):
            updates = {"w": jnp.full(3, size)}
            change, _ = optimiser.update(updates, optimiser.init(updates), updates)
            assert np.allclose(change["w"], -adam.lr / adam.eps * size, rtol=1e-4) is same
    config = late_rise.Options().config()
    nudged, asleep = (BRANCHES[name].changed(config) for name in ("tenth-nudge", "sleep-gain"))
    assert nudged.nudge == pytest.approx(config.nudge / 10) and asleep.nudge == config.nudge
    assert asleep.feedback_learning.k_p == 3 * config.feedback_learning.k_p


@pytest.mark.parametrize(
    "options, said",
    [
        ({"start": 0}, "`start` is 0"),
        ({"epochs": -1}, "`epochs` is -1"),
        ({"seeds": ()}, "`seeds` is ()"),
        ({"branches": ("kept", "kept")}, "none of them twice"),
        ({"branches": ("frozen",)}, "`branches` holds 'frozen'; they are learned, kept"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(options: dict, said: str, tmp_path, capsys) -> None:
    assert late_rise.main(late_rise.Options(out=tmp_path, **options)) == 2
    assert said in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_seeds_that_stopped_early_are_counted_and_in_no_figure(tmp_path: pathlib.Path) -> None:
    for name, came_to in (("start", (3, 3)), ("kept", (3, 3)), ("exact", (3, 1)), ("layered", (1, 0))):
        leave(tmp_path / name, came_to, 3)
        lines = [
            json.dumps(line | {"validation_largest_mean_logit": 2.0}) for line in records(tmp_path / name)
        ]
        (tmp_path / name / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
        angles = {"network": [60.0, 70.0], "layers": [[95.0, 20.0], [97.0, 40.0]]}
        (tmp_path / name / "angles.json").write_text(json.dumps(angles))
    course = {"growth": [-0.01] * 5 + [3e-4], "train_loss": [1.0] * 5 + [0.2]}
    shorter = {part: values[:3] for part, values in course.items()}
    foretold = {"start": [course, shorter], "end": [shorter, course]}
    whole = {part: [*values[:3], values[-1]] for part, values in course.items()}
    for name, first in (("kept", shorter), ("exact", whole)):
        told = foretold | {
            "start": [course | {"train_loss": first["train_loss"]}, {"growth": [], "train_loss": []}]
        }
        (tmp_path / name / "foretold.json").write_text(json.dumps(told))
    sleep = {"degrees": [30.0] * len(DAMPINGS), "condition_two": [0.7] * len(DAMPINGS), "own": 0.6}
    (tmp_path / "start" / "slept.json").write_text(json.dumps([sleep, sleep | {"own": 0.8}]))
    options = late_rise.Options(epochs=3, seeds=(0, 1), out=tmp_path)
    found = late_rise.collect(options)
    assert list(found) == ["kept", "layered", "exact"]
    assert found["kept"]["last_train_loss"] == found["kept"]["lowest_train_loss"] == [1 / 3, 1 / 3]
    assert found["exact"]["first_train_loss"] == [1.0] and found["exact"]["remark"] == "1 of 2 seeds diverged"
    assert found["layered"]["last_train_loss"] == [] and found["layered"]["largest_mean_logit"] == []
    late_rise.write(options, found)
    table = (tmp_path / "late_rise.md").read_text()
    assert "| one Q: kept as it is | 65 | 96 30 | 1.0e+00 | 3.3e-01 | 3.3e-01 | 2 |" in table
    assert "of then (diverged, scores of 1 of 2 seeds) | 65 | 96 30 |  |  |  |  |" in table
    assert "of Q itself it is 0.700" in table and "| Condition 2 | 0.700 | 0.700 |" in table
    assert (tmp_path / "late_rise.png").read_bytes().startswith(b"\x89PNG")
    assert list(STYLES) == list(BRANCHES)
    of_start, of_end = "+0.30, unsolved | unsolved, unsolved", "unsolved, +0.30"
    assert f"| one Q: kept as it is | {of_start} | 3.3e-01, 3.3e-01 | 1.0, 1.0 | {of_end} |" in table
    assert (
        f"each sample | +0.30, unsolved | 2.0e-01, unsolved | 3.3e-01, stopped | 1.0, stopped | {of_end} |"
        in table
    )
    assert (tmp_path / "foretold.png").read_bytes().startswith(b"\x89PNG")

    shutil.rmtree(tmp_path / "start")
    leave(tmp_path / "start", (3, 2), 3)
    remarks = [row["remark"] for row in late_rise.collect(options).values()]
    begun = "before: 1 of 2 seeds diverged"
    assert remarks == [begun, f"{begun}; diverged, scores of 1 of 2 seeds", f"{begun}; 1 of 2 seeds diverged"]


def test_what_all_branches_go_on_from_is_asked_for_as_long_as_it_is() -> None:
    options = late_rise.Options(start=20, epochs=10)
    assert options.asked("start")["epochs"] == 20  # so that what was interrupted in its 15th goes on
    assert (options.asked("kept")["start"], options.asked("kept")["epochs"]) == (20, 10)
    assert dataclasses.replace(options, epochs=90).asked("start") == options.asked("start")


@pytest.mark.script
@pytest.mark.usefixtures("as_users_run")
def test_the_command_branches_and_goes_on(tmp_path: pathlib.Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(foretelling, "HARD", 60)
    monkeypatch.setattr(foretelling, "OTHERS", 40)
    names = ("kept", "exact", "tenth-nudge", "learned", "sleep-gain")
    options = late_rise.Options(start=2, epochs=1, branches=names, seeds=(3, 5), out=tmp_path, progress=False)
    assert late_rise.main(options) == 0
    assert "| one Q: kept as it is |" in capsys.readouterr().out
    note = json.loads((tmp_path / "late_rise.json").read_text())
    assert list(note["rows"]) == [name for name in BRANCHES if name in names]
    assert len(records(tmp_path / "start")) == 4 and len(records(tmp_path / "sleep-gain")) == 2
    # One set of weights at the start; a small nudge changes nothing but what rounding makes of it.
    rows = note["rows"]
    assert [name for name in rows if "foretold" in rows[name]] == ["kept", "exact"]
    for model in range(2):
        kept, exact = (rows[name]["foretold"] for name in ("kept", "exact"))
        assert kept["start"][model]["train_loss"][0] == exact["start"][model]["train_loss"][0]
        assert kept["end"][model] != exact["end"][model] and kept["end"][model] != kept["start"][model]
    assert rows["kept"]["angles"] == rows["learned"]["angles"] != rows["exact"]["angles"]
    one, other = (rows[name]["last_train_loss"] for name in ("learned", "tenth-nudge"))
    assert np.allclose(one, other, rtol=1e-2) and one != rows["kept"]["last_train_loss"]

    monkeypatch.setattr(dfc, "fit_many", None)  # nothing is left to do
    assert late_rise.main(options) == 0
    assert late_rise.main(dataclasses.replace(options, seeds=(3,))) == 2
    assert "other options" in capsys.readouterr().err
