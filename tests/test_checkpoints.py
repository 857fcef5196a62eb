"""Nothing is lost: interrupted training ends as if nothing had happened, damage is said."""

import errno
import json
import os
import pathlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import small_folders
from helpers import adam, cast, few_digits, flat, sgd
from small_runs import without_times

import dfc_jax as dfc
from dfc_jax._runs import checkpoints, model_description


ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def data() -> dfc.Dataset:
    return few_digits()


def fit(data: dfc.Dataset, epochs: int, resume: pathlib.Path | None, seeds: int = 1, **changed: Any) -> list:
    """A short run with both optimisers and learned feedback."""
    keys = [jr.key(seed) for seed in range(seeds)]
    models = [dfc.mlp((64, 8, 10), key=key, feedback=dfc.RandomFeedback()) for key in keys]
    options = {"batch_size": 32, "progress": False, "keys": keys, "resume": resume} | changed
    method, phase = cast((dfc.DFCSS(), dfc.ExpectedSleepPhase()), jnp.float32)
    learning = dfc.FeedbackLearning(adam(1e-3), phase, pretraining_epochs=1)
    optimiser = options.pop("optimiser", adam(1e-2))
    return dfc.fit_many(models, method, data, optimiser, epochs=epochs, feedback_learning=learning, **options)


def same(a: tuple[dfc.Network, dfc.History], b: tuple[dfc.Network, dfc.History]) -> bool:
    """Bit for bit."""
    (model_a, history_a), (model_b, history_b) = a, b
    return (
        np.array_equal(flat(model_a), flat(model_b))
        and np.array_equal(flat(history_a.best_model), flat(history_b.best_model))
        and history_a.best_epoch == history_b.best_epoch
        and without_times(history_a) == without_times(history_b)
    )


@pytest.mark.script
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_run_interrupted_after_every_epoch_ends_as_if_it_was_not(
    as_users_run, tmp_path, data, seeds
) -> None:
    whole = fit(data, 3, None, seeds)
    heard: list[int] = []
    for epochs in (1, 2, 3):
        found = fit(
            data, epochs, tmp_path, seeds, on_epoch=lambda _, record, model: heard.append(record["epoch"])
        )
    assert all(same(a, b) for a, b in zip(found, whole, strict=True))
    assert heard == sorted([1, 2, 3] * seeds)  # each epoch was run once
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["000002.checkpoint", "000003.checkpoint"]
    again = fit(data, 3, tmp_path, seeds)  # nothing is left to do
    assert all(same(a, b) for a, b in zip(again, whole, strict=True))


def test_another_run_is_refused(tmp_path) -> None:
    small_folders.fit(tmp_path, 1)
    with pytest.raises(ValueError, match="`key` is not that of the run"):
        small_folders.fit(tmp_path, 2, key=jr.key(7))


TREE = {"a": jnp.arange(6.0).reshape(2, 3), "n": jnp.asarray(3, jnp.int32), "static": "kept"}


def make_two(folder: pathlib.Path) -> list[pathlib.Path]:
    for number in (1, 2):
        checkpoints.save(folder, number, TREE, {"number": number})
    return sorted(folder.iterdir())


def cut(path: pathlib.Path, at: int) -> None:
    path.write_bytes(path.read_bytes()[:at])


def flip(path: pathlib.Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "empty": lambda path: cut(path, 0),
    "cut in the first line": lambda path: cut(path, 30),
    "cut in the header": lambda path: cut(path, 120),
    "cut in the arrays": lambda path: cut(path, -1),
    "altered first line": lambda path: flip(path, 40),
    "altered header": lambda path: flip(path, 110),
    "altered array": lambda path: flip(path, -5),
}


def test_a_checkpoint_holds_its_arrays_and_facts(tmp_path) -> None:
    make_two(tmp_path)
    held = checkpoints.newest(tmp_path)
    found = held.tree(jax.tree.map(lambda a: a if a == "kept" else 0 * a, TREE))
    assert bool(eqx.tree_equal(found, TREE)) and found["static"] == "kept" and held.facts == {"number": 2}
    assert checkpoints.newest(tmp_path / "none") is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_passed_over_or_refused(tmp_path, damage: str) -> None:
    older, newer = make_two(tmp_path)
    DAMAGES[damage](newer)
    with pytest.raises(checkpoints.DamagedCheckpoint, match=f"{newer.name}' is damaged"):
        checkpoints.load(newer)
    with pytest.warns(UserWarning, match=f"Going on from the one before it, {older.name}"):
        found = checkpoints.newest(tmp_path)
    assert found.facts == {"number": 1} and bool(eqx.tree_equal(found.tree(TREE), TREE))
    DAMAGES[damage](older)
    with pytest.raises(ValueError, match="No earlier one is left: name a new folder"):
        checkpoints.newest(tmp_path)


def test_another_format_is_refused(tmp_path) -> None:
    _, newer = make_two(tmp_path)
    newer.write_bytes(newer.read_bytes().replace(b"checkpoint 1 ", b"checkpoint 9 ", 1))
    with pytest.raises(ValueError, match="is of checkpoint format 9, this version of dfc_jax reads 1"):
        checkpoints.newest(tmp_path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, call: str) -> None:
    older, _ = make_two(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match=r"could not be written \(No space left on device\); earlier"):
        checkpoints.save(tmp_path, 3, TREE, {"number": 3})
    monkeypatch.undo()
    assert older.exists() and not list(tmp_path.glob("*.part"))
    assert checkpoints.newest(tmp_path).facts == {"number": 2}


class Cubic(dfc.Tanh):
    """An activation of the user's own."""


def test_a_part_that_the_library_does_not_know_is_named() -> None:
    with pytest.raises(ValueError, match="it holds a 'Cubic', which"):
        model_description.build([{"kind": "Cubic"}], 0)


def test_a_run_is_not_read_into_another_architecture(as_users_run, tmp_path, data) -> None:
    """Though its arrays have the same shapes."""
    options = {"epochs": 1, "key": jr.key(1), "batch_size": 32, "progress": False}
    model = dfc.mlp((64, 8, 10), key=jr.key(0))
    dfc.fit(model, dfc.Backprop(), data, sgd(0.1), resume=tmp_path / "checkpoints", **options)
    (tmp_path / "config.json").write_text(json.dumps({"config": {"seeds": [0]}}))
    dfc.load_run(tmp_path, model)
    other = dfc.mlp((64, 8, 10), key=jr.key(0), activation=dfc.ReLU())
    with pytest.raises(ValueError, match=r"`like\.layers\[0\]\.activation` is 'Tanh' there and 'ReLU' now"):
        dfc.load_run(tmp_path, other)


def test_a_folder_of_fit_alone_is_read_back(as_users_run, tmp_path, data) -> None:
    found = fit(data, 2, tmp_path, seeds=2)
    run = dfc.load_run(tmp_path)
    assert run.config == {} and list(run.models) == list(run.records) == [0, 1]
    for i, (model, history) in enumerate(found):
        assert np.array_equal(flat(run.models[i]), flat(model)) and run.records[i] == history.records
        assert np.array_equal(flat(run.best_models[i]), flat(history.best_model))


@pytest.mark.parametrize("config", [{}, {"seeds": 3}, {"seeds": []}, {"seeds": [1, 1]}])
def test_a_run_folder_needs_seeds_before_anything_is_written(tmp_path, config) -> None:
    for opened in (dfc.RunFolder.create, dfc.RunFolder.reopen):
        with pytest.raises(ValueError, match="'config' is no configuration of a run: `seeds` is"):
            opened(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_networks_with_parts_of_the_users_own_need_a_model(as_users_run, tmp_path, data) -> None:
    model = dfc.mlp((64, 8, 10), key=jr.key(0), activation=Cubic())
    options = {"epochs": 1, "key": jr.key(1), "batch_size": 32, "progress": False}
    trained, _ = dfc.fit(model, dfc.Backprop(), data, sgd(0.1), resume=tmp_path / "checkpoints", **options)
    (tmp_path / "config.json").write_text(json.dumps({"config": {"seeds": [0]}}))
    with pytest.raises(ValueError, match="`like` is None, but the run's network has"):
        dfc.load_run(tmp_path)
    assert np.array_equal(flat(dfc.load_run(tmp_path, model).models[0]), flat(trained))
    with pytest.raises(ValueError, match="its arrays have other shapes"):
        dfc.load_run(tmp_path, dfc.mlp((64, 9, 10), key=jr.key(0)))
