"""The command line resumes interrupted and killed runs as if nothing had happened, and says what stopped."""

import collections
import dataclasses
import errno
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import cast, few_digits, flat, sgd
from options.config import Config
from options.groups import Controller, Optimiser, Solver
from options.held import check_same, options_of, options_to_go_on
from options.objects import make_optimiser, steps_of
from options.read_back import from_dict
from run import command, main, prepare

import dfc_jax as dfc
from dfc_jax._runs import checkpoints
from dfc_jax._runs.programs import newest


ROOT = pathlib.Path(__file__).parent.parent

SMALL = Config(method=("dfc-ss",), hidden=(8,), epochs=2, batch_size=419, feedback="fixed", progress=False)


def cli(config: Config, out: pathlib.Path, **changed: Any) -> int:
    return main(dataclasses.replace(config, out=str(out), **changed))


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run", "ctrl_c")
def test_what_stops_the_command_line_is_said_and_resumed(tmp_path, monkeypatch, capsys) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert cli(SMALL, whole) == 0
    save = checkpoints.save

    def interrupted(folder, number, *rest):
        save(folder, number, *rest)
        if number == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(checkpoints, "save", interrupted)
    assert cli(SMALL, out) == 130
    assert f"--out {out} --resume goes on" in capsys.readouterr().err
    monkeypatch.setattr(checkpoints, "save", save)
    with open(out / "metrics.jsonl", "a") as file:
        file.write('{"seed": 0, "epoch": 2, "torn')
    assert cli(SMALL, out) == 2  # without --resume a run is never touched
    assert "holds a run already; name a new folder, or resume it" in capsys.readouterr().err
    assert cli(SMALL, out, resume=True, nudge=0.2) == 2
    assert "holds a run with other options: `nudge` is 0.1 there and 0.2 now" in capsys.readouterr().err
    assert command(["--out", str(out), "--resume", "--no-progress"]) == 0  # the options are those of the run
    assert_same_runs(out, whole)
    assert cli(SMALL, out, resume=True) == 0
    assert_same_runs(out, whole)
    assert cli(SMALL, out, resume=True, epochs=3) == 0  # and further than was asked for at first
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.usefixtures("as_users_run")
def test_one_run_that_is_left_of_several_is_resumed_where_it_is(tmp_path):
    prepare(dataclasses.replace(SMALL, method=("bp", "dfa"), out=str(tmp_path)))
    shutil.rmtree(tmp_path / "dfa")
    given = dataclasses.replace(SMALL, method=("bp",))
    going_on = ["--out", str(tmp_path), "--resume"]
    for options, arguments in ((given, None), (Config(), going_on)):
        options = dataclasses.replace(options, out=str(tmp_path), resume=True)
        (run,), _ = prepare(options, arguments)
        assert run.folder.path == tmp_path / "bp"
    assert not (tmp_path / "config.json").exists()


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(("epochs", "stays"), [(2, True), (3, False)])
def test_a_stop_leaves_what_had_ended(tmp_path, monkeypatch, epochs, stays) -> None:
    """The other method's run, unless more epochs of it are asked for."""
    both = dataclasses.replace(SMALL, method=("bp", "dfa"), out=str(tmp_path))
    prepare(both)
    (tmp_path / "bp" / "summary.json").write_text("{}")

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("run.train", stopped)
    assert main(dataclasses.replace(both, epochs=epochs, resume=True)) == 130
    assert (tmp_path / "bp" / "summary.json").exists() == stays
    assert options_of(tmp_path / "dfa").epochs == epochs


def test_event_files_are_written_on(tmp_path) -> None:
    """They are an option of the run, unlike the progress bar."""
    folder = written(tmp_path / "bp", Config(method=("bp",), tensorboard=True, progress=False))
    config = options_to_go_on({"bp": folder}, lambda untouched: untouched)["bp"]
    assert config.tensorboard and config.progress


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


def written(folder: pathlib.Path, config: Config, *without: str) -> pathlib.Path:
    """A run's `config.json` of a version that did not have these options, of which the last ones are the
    optimiser's."""
    held = dataclasses.asdict(config.resolved())
    for name in without:
        del (held if name in held else held["optimiser"])[name]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"config": held}))
    return folder


def test_a_run_of_before_layered_feedback_stays_what_it_was(tmp_path) -> None:
    """Today's defaults for CIFAR-10 are layered feedback, decay and a rate that falls."""
    was = Config("cifar10", method=("dfc-ss",), layered=False, centred=False)
    was = dataclasses.replace(was, optimiser=Optimiser(weight_decay=0.0, schedule="constant"))
    for i, without in enumerate([(), ("layered", "centred", "weight_decay", "schedule")]):
        folder = written(tmp_path / str(i), was, *without)
        assert options_of(folder) == was.resolved() != Config("cifar10", method=("dfc-ss",)).resolved()


@pytest.mark.parametrize(("schedule", "refused"), [("cosine", True), ("constant", False)])
def test_a_rate_that_falls_over_the_epochs_knows_no_more_of_them(tmp_path, schedule, refused) -> None:
    config = Config(method=("bp",), epochs=4, optimiser=Optimiser(schedule=schedule)).resolved()
    folder = written(tmp_path / "run", config)
    check_same(folder, config)
    more = dataclasses.replace(config, epochs=5)
    with pytest.raises(ValueError, match="`epochs` is 4 there and 5 now") if refused else nullcontext():
        check_same(folder, more)


@pytest.mark.usefixtures("as_users_run")
def test_a_cosine_ends_at_zero_in_the_last_step() -> None:
    config = dataclasses.replace(Config("digits", epochs=3), optimiser=Optimiser(lr=0.5, schedule="cosine"))
    steps = steps_of(config, dfc.load("digits"))
    assert steps == 3 * 10  # 1257 samples in batches of 128, the last one smaller
    weights = jnp.zeros(())
    optimiser = make_optimiser(config.resolved().optimiser, steps)
    state, moved = optimiser.init(weights), []
    for _ in range(steps):
        update, state = optimiser.update(jnp.ones(()), state, weights)
        moved.append(-float(update))  # Adam's, of a constant gradient: the rate
    wanted = 0.25 * (1 + np.cos(np.pi * np.arange(steps) / steps))
    assert np.allclose(moved, wanted, atol=1e-5)


def test_resume_needs_a_folder(capsys) -> None:
    assert main(Config(method=("bp",), resume=True)) == 2
    assert "`resume` is given without `out`" in capsys.readouterr().err


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


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("methods", [("dfa",), ("dfa", "bp")])
def test_tables_and_pictures_of_fewer_epochs_do_not_stay(methods, tmp_path, monkeypatch) -> None:
    """Should a run that goes on be killed before it has made new ones."""
    config = dataclasses.replace(SMALL, method=methods)
    assert cli(config, tmp_path / "run") == 0
    derived = lambda: {path.name for path in (tmp_path / "run").rglob("*") if path.suffix in (".md", ".png")}
    assert derived() == {"curves.png", "table.md", "comparison.png"}
    monkeypatch.setattr("run.drawn", lambda *_: None)
    monkeypatch.setattr("run._compare", lambda *_: None)
    assert cli(config, tmp_path / "run", resume=True) == 0
    assert derived() == {"curves.png", "table.md", "comparison.png"}  # no epoch was left
    assert cli(config, tmp_path / "run", epochs=3, resume=True) == 0
    assert derived() == set()


@pytest.fixture
def old_run(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two epochs of a 64-6-10 network with learned feedback, as revision 9df9ecf left them."""
    return shutil.copytree(pathlib.Path(__file__).parent / "old_run", tmp_path / "run")


@pytest.mark.usefixtures("as_users_run")
def test_a_run_of_an_earlier_version_loads(old_run: pathlib.Path) -> None:
    """The numbers that were recorded are those of the model that is read."""
    run = dfc.load_run(old_run)
    assert run.config["feedback"] == "learned" and [r["epoch"] for r in run.records[0]] == [1, 2]
    assert not any("stable" in record for record in run.records[0])  # it was Condition 3
    test = dfc.load("digits").test
    found = dfc.evaluate(run.models[0], dfc.CrossEntropy(), test, classification=True)
    assert found["accuracy"] == pytest.approx(run.records[0][-1]["test_accuracy"], abs=1e-6)
    assert found["loss"] == pytest.approx(run.records[0][-1]["test_loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_a_run_of_an_earlier_version_goes_on(old_run: pathlib.Path) -> None:
    before, config = (old_run / "metrics.jsonl").read_text(), from_dict(Config, dfc.load_run(old_run).config)
    assert cli(config, old_run, epochs=3, resume=True) == 0
    *kept, third = (old_run / "metrics.jsonl").read_text().splitlines()
    wanted = [json.loads(line) for line in before.splitlines()]
    assert all(record.pop("stable") == 1 for record in wanted)  # Condition 3, which has that name now
    assert [json.loads(line) for line in kept] == wanted
    third = json.loads(third)
    assert third["epoch"] == 3 and np.isfinite(third["train_loss"])
    assert third["stable"] == 1 and third["condition_three"] == 1
    ((_, checkpoint),) = newest(old_run / "checkpoints")
    (run,) = checkpoint.facts["runs"]
    assert ["stable" in record for record in run["records"]] == [False, False, True]


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_too_few_converged_samples_are_no_quiet_success(tmp_path, capsys) -> None:
    data = few_digits()
    hasty = cast(dfc.DFCSS(equilibrium=dfc.Simulated(t1=0.2), fallback=None), jnp.float32)
    model = dfc.mlp((64, 8, 10), key=jr.key(0))
    options = {"epochs": 2, "key": jr.key(1), "batch_size": 32, "progress": False}
    with pytest.warns(UserWarning) as warned:
        _, history = dfc.fit(model, hasty, data, sgd(0.1), **options)
    assert sum("of the samples converged in epoch 1" in str(w.message) for w in warned) == 1
    assert history.doubts[0] == "Only 0.0% of the samples converged in epoch 1."
    assert "`t1` is 0.2, too short" in history.doubts[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, trusting = dfc.fit(model, hasty, data, sgd(0.1), min_converged=0.0, **options)
        solver = Solver(trajectory="published", duration=0.1)
        assert cli(SMALL, tmp_path, method=("dfc",), controller=Controller(k_p=0.0), solver=solver) == 1
    assert trusting.doubts == []
    assert "dfc, seed 0: Only 0.0% of the samples converged in epoch 1." in capsys.readouterr().err
    assert json.loads((tmp_path / "summary.json").read_text())["seeds"]["0"]["doubts"]


def assert_same_runs(a: pathlib.Path, b: pathlib.Path) -> None:
    """Metrics, models and summaries; of the latter, seconds may differ."""
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
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
