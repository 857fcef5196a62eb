"""Nothing is lost: interrupted and killed runs end as if nothing had happened, damage is said."""

import collections
import dataclasses
import errno
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from config import Config, Controller, from_dict, Solver
from helpers import cast, flat
from run import main

import dfc_jax as dfc
from dfc_jax import checkpoints


ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def data() -> dfc.Dataset:
    digits = dfc.load("digits")
    return eqx.tree_at(lambda d: (d.train.x, d.train.y), digits, (digits.train.x[:96], digits.train.y[:96]))


def fit(data: dfc.Dataset, epochs: int, resume: pathlib.Path | None, seeds: int = 1, **changed: Any) -> list:
    """A short run with both optimisers and learned feedback."""
    keys = [jr.key(seed) for seed in range(seeds)]
    models = [dfc.mlp((64, 8, 10), key=key, feedback=dfc.RandomFeedback()) for key in keys]
    options = {"batch_size": 32, "progress": False, "keys": keys, "resume": resume} | changed
    method, phase = cast((dfc.DFCSS(), dfc.ExpectedSleepPhase()), jnp.float32)
    learning = dfc.FeedbackLearning(optax.adam(1e-3), phase, pretraining_epochs=1)
    optimiser = options.pop("optimiser", optax.adam(1e-2))
    return dfc.fit_many(models, method, data, optimiser, epochs=epochs, feedback_learning=learning, **options)


def without_seconds(records: list[dict]) -> list[dict]:
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def same(a: tuple[dfc.Network, dfc.History], b: tuple[dfc.Network, dfc.History]) -> bool:
    """Bit for bit."""
    (model_a, history_a), (model_b, history_b) = a, b
    return (
        np.array_equal(flat(model_a), flat(model_b))
        and np.array_equal(flat(history_a.best_model), flat(history_b.best_model))
        and history_a.best_epoch == history_b.best_epoch
        and without_seconds(history_a.records) == without_seconds(history_b.records)
    )


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [pytest.param(1, marks=pytest.mark.script), 2])
def test_a_run_interrupted_after_every_epoch_ends_as_if_it_was_not(
    as_users_run, tmp_path, data, seeds
) -> None:
    whole = fit(data, 3, None, seeds)
    heard: list[int] = []
    for epochs in (1, 2, 3):
        found = fit(data, epochs, tmp_path, seeds, on_epoch=lambda _, record: heard.append(record["epoch"]))
    assert all(same(a, b) for a, b in zip(found, whole, strict=True))
    assert heard == sorted([1, 2, 3] * seeds)  # each epoch was run once
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["000002.checkpoint", "000003.checkpoint"]
    again = fit(data, 3, tmp_path, seeds)  # nothing is left to do
    assert all(same(a, b) for a, b in zip(again, whole, strict=True))


@pytest.mark.slow
def test_another_run_is_refused(as_users_run, tmp_path, data) -> None:
    fit(data, 1, tmp_path)
    with pytest.raises(ValueError, match="`key` is not that of the run"):
        fit(data, 2, tmp_path, keys=[jr.key(7)])
    with pytest.raises(ValueError, match="of another model, method or optimiser"):
        fit(data, 2, tmp_path, optimiser=optax.sgd(0.1))


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
    found, facts = checkpoints.newest(tmp_path, jax.tree.map(lambda a: a if a == "kept" else 0 * a, TREE))
    assert bool(eqx.tree_equal(found, TREE)) and found["static"] == "kept" and facts == {"number": 2}
    assert checkpoints.newest(tmp_path / "none") is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_passed_over_or_refused(tmp_path, damage: str) -> None:
    older, newer = make_two(tmp_path)
    DAMAGES[damage](newer)
    with pytest.raises(checkpoints.DamagedCheckpoint, match=f"{newer.name}' is damaged"):
        checkpoints.load(newer, TREE)
    with pytest.warns(UserWarning, match=f"Going on from the one before it, {older.name}"):
        found, facts = checkpoints.newest(tmp_path, TREE)
    assert facts == {"number": 1} and bool(eqx.tree_equal(found, TREE))
    DAMAGES[damage](older)
    with pytest.raises(ValueError, match="No earlier one is left: delete"):
        checkpoints.newest(tmp_path, TREE)


def test_another_format_is_refused(tmp_path) -> None:
    _, newer = make_two(tmp_path)
    newer.write_bytes(newer.read_bytes().replace(b"checkpoint 1 ", b"checkpoint 9 ", 1))
    with pytest.raises(ValueError, match="is of checkpoint format 9, this version of dfc_jax reads 1"):
        checkpoints.newest(tmp_path, TREE)


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
    assert checkpoints.newest(tmp_path, TREE)[1] == {"number": 2}


SMALL = Config(method=("dfc-ss",), hidden=(8,), epochs=2, feedback="fixed", progress=False)


def cli(config: Config, out: pathlib.Path, **changed: Any) -> int:
    return main(dataclasses.replace(config, out=str(out), **changed))


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_what_stops_the_command_line_is_said_and_resumed(tmp_path, monkeypatch, capsys) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert cli(SMALL, whole) == 0
    save = checkpoints.save

    def stopping(error: BaseException):
        def after_one_epoch(folder, number, *rest):
            save(folder, number, *rest)
            if number == 1:
                raise error

        return after_one_epoch

    monkeypatch.setattr(checkpoints, "save", stopping(KeyboardInterrupt()))
    assert cli(SMALL, out) == 130
    assert f"--out {out} --resume goes on" in capsys.readouterr().err
    monkeypatch.setattr(checkpoints, "save", save)
    with open(out / "metrics.jsonl", "a") as file:
        file.write('{"seed": 0, "epoch": 2, "torn')
    assert cli(SMALL, out) == 2  # without --resume a run is never touched
    assert "holds a run already; name a new folder, or resume it" in capsys.readouterr().err
    assert cli(SMALL, out, resume=True, nudge=0.2) == 2
    assert "holds a run with other options: `nudge` is 0.1 there and 0.2 now" in capsys.readouterr().err
    assert main(Config(out=str(out), resume=True, progress=False)) == 0  # the options are those of the run
    assert_same_runs(out, whole)
    assert cli(SMALL, out, resume=True) == 0
    assert_same_runs(out, whole)
    assert cli(SMALL, out, resume=True, epochs=3) == 0  # and further than was asked for at first
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.usefixtures("as_users_run")
def test_a_disk_that_fills_up_is_one_sentence(tmp_path, monkeypatch, capsys) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert cli(SMALL, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "No space left on device" in error


def test_options_survive_json() -> None:
    config = Config(method=("dfc",), seeds=(3, 5), solver=Solver(dt=0.5), preset="paper").resolved()
    assert from_dict(Config, json.loads(json.dumps(dataclasses.asdict(config)))) == config
    with pytest.raises(ValueError, match="Config has no option `speed`"):
        from_dict(Config, {"speed": 1})


def test_resume_needs_a_folder(capsys) -> None:
    assert main(Config(method=("bp",), resume=True)) == 2
    assert "`resume` is given without `out`" in capsys.readouterr().err


class Cubic(dfc.Tanh):
    """An activation of the user's own."""


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_runs_load_without_their_script(tmp_path) -> None:
    assert cli(SMALL, tmp_path, seeds=(3, 5), feedback="exact") == 0
    run = dfc.load_run(tmp_path)
    assert run.config["nudge"] == 0.1 and list(run.models) == list(run.best_models) == [3, 5]
    last = run.records[5][-1]
    data = dfc.load("digits")
    found = dfc.evaluate(run.models[5], dfc.CrossEntropy(), data.test, classification=True)
    assert float(found["accuracy"]) == pytest.approx(last["test_accuracy"], abs=1e-6)
    with pytest.raises(ValueError, match="holds no run"):
        dfc.load_run(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"config": {')
    with pytest.raises(ValueError, match=r"config\.json' is damaged"):
        dfc.load_run(tmp_path)


def test_networks_with_parts_of_the_users_own_need_a_model(as_users_run, tmp_path, data) -> None:
    model = dfc.mlp((64, 8, 10), key=jr.key(0), activation=Cubic())
    options = {"epochs": 1, "key": jr.key(1), "batch_size": 32, "progress": False}
    trained, _ = dfc.fit(
        model, dfc.Backprop(), data, optax.sgd(0.1), resume=tmp_path / "checkpoints", **options
    )
    (tmp_path / "config.json").write_text(json.dumps({"config": {"seeds": [0]}}))
    with pytest.raises(ValueError, match="`like` is None, but the run's network has"):
        dfc.load_run(tmp_path)
    assert np.array_equal(flat(dfc.load_run(tmp_path, model).models[0]), flat(trained))
    with pytest.raises(ValueError, match="its arrays have other shapes"):
        dfc.load_run(tmp_path, dfc.mlp((64, 9, 10), key=jr.key(0)))


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_too_few_converged_samples_are_no_quiet_success(tmp_path, capsys, data) -> None:
    hasty = cast(dfc.DFCSS(equilibrium=dfc.Simulated(t1=0.2), fallback=None), jnp.float32)
    model = dfc.mlp((64, 8, 10), key=jr.key(0))
    options = {"epochs": 2, "key": jr.key(1), "batch_size": 32, "progress": False}
    with pytest.warns(UserWarning) as warned:
        _, history = dfc.fit(model, hasty, data, optax.sgd(0.1), **options)
    assert sum("of the samples converged in epoch 1" in str(w.message) for w in warned) == 1
    assert history.doubts[0] == "Only 0.0% of the samples converged in epoch 1."
    assert "`t1` is 0.2, too short" in history.doubts[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, trusting = dfc.fit(model, hasty, data, optax.sgd(0.1), min_converged=0.0, **options)
        solver = Solver(trajectory="published", duration=0.1)
        assert cli(SMALL, tmp_path, method=("dfc",), controller=Controller(k_p=0.0), solver=solver) == 1
    assert trusting.doubts == []
    assert "dfc, seed 0: Only 0.0% of the samples converged in epoch 1." in capsys.readouterr().err
    assert json.loads((tmp_path / "summary.json").read_text())["seeds"]["0"]["doubts"]


def assert_same_runs(a: pathlib.Path, b: pathlib.Path) -> None:
    """Metrics, models and summaries, but for seconds."""
    read = lambda folder: [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert without_seconds(read(a)) == without_seconds(read(b))
    runs = [dfc.load_run(folder) for folder in (a, b)]
    for name in ("models", "best_models"):
        assert np.array_equal(flat(getattr(runs[0], name)), flat(getattr(runs[1], name)))
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (a, b)]
    for summary in summaries:
        for part in (summary["mean"], summary["std"], *summary["seeds"].values()):
            part.pop("seconds_per_epoch", None)
    assert summaries[0] == summaries[1]


@pytest.mark.script
def test_a_run_killed_again_and_again_ends_as_if_it_was_not(
    tmp_path, record_property, kills: int = 20
) -> None:
    """SIGKILL at random moments, some while a checkpoint is being written; two seeds, learned feedback."""
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), "--method", "dfc-ss", "--hidden", "16"]
    command += ["--seeds", "0", "1", "--epochs", str(4 * kills), "--no-progress"]
    command += ["--feedback-learning.pretraining-epochs", "2", "--resume", "--out"]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    cache["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    environment = os.environ | cache | {"MPLBACKEND": "Agg"}
    whole, out = tmp_path / "whole", tmp_path / "run"
    subprocess.run([*command, str(whole)], check=True, capture_output=True, env=environment)
    rng, survived, kinds = random.Random(0), 0, collections.Counter()
    while survived < kills:
        process = subprocess.Popen([*command, str(out)], stderr=subprocess.PIPE, env=environment)
        kinds[wait_for_a_bad_moment(out, process, rng)] += 1
        assert process.poll() is None, f"ended after {survived} kills: {process.stderr.read()}"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        survived += 1
    subprocess.run([*command, str(out)], check=True, capture_output=True, env=environment)
    assert_same_runs(out, whole)
    record_property("kills survived", survived)
    for kind, number in sorted(kinds.items()):
        record_property(f"of them {kind}", number)


def wait_for_a_bad_moment(out: pathlib.Path, process: subprocess.Popen, rng: random.Random) -> str:
    """Any time since its start, soon after an epoch's end, or while a checkpoint is being written."""
    any_time, epoch, writing = "at any time", "just after an epoch", "while a checkpoint was written"
    kind = rng.choice([any_time, epoch, writing])
    if kind == any_time:
        time.sleep(rng.uniform(0, 8))
        return kind
    lines = lambda: (
        len((out / "metrics.jsonl").read_bytes().splitlines()) if (out / "metrics.jsonl").exists() else 0
    )
    begun, parts = lines(), out / "checkpoints"
    while process.poll() is None:
        if kind == epoch and lines() > begun:
            time.sleep(rng.uniform(0, 0.1))
            return kind
        if kind == writing and any(parts.glob("*.part")):
            return kind
    return kind
