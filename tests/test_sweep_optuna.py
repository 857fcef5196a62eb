"""Sweeps by Optuna: their journal, trials of killed workers, pruning, and what cannot be."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import optuna
import pytest
import sweep as script
from helpers import records
from small_sweeps import RANGE, runs_of, SHORT, swept
from sweeping import search, study, worker
from sweeping.description import Sweep, sweep_in
from sweeping.report import report
from sweeping.results import result_of
from sweeping.turn import claim, place


ROOT = pathlib.Path(__file__).parent.parent
STATE = optuna.trial.TrialState


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_optuna_goes_on_from_its_journal(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out = tmp_path / "whole", tmp_path / "sweep"
    given = [*RANGE, "--search", "optuna", "--sampling-seed", "3"]
    assert swept(whole, *given, "--trials", "5") == 0
    assert swept(out, *given, "--trials", "2") == 0
    train = worker.train

    def killed(*_: object) -> None:
        raise KeyError("as a fault of the program would be")

    monkeypatch.setattr(worker, "train", killed)
    assert swept(out, "--trials", "5") == 4
    monkeypatch.setattr(worker, "train", train)
    assert swept(out) == 0
    for folder in runs_of(whole):
        ours = out / folder.name
        assert (ours / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()
    held = sweep_in(out)
    assert held is not None
    trials = study.study_of(held, out)[0].get_trials()
    assert [trial.state for trial in trials] == [optuna.trial.TrialState.COMPLETE] * 5
    for trial in trials:
        found = result_of(place(out, trial.number), trial.user_attrs["setting"], held.chosen_by)
        assert found is not None and trial.value == found.validation


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_bad_runs_are_pruned_by_the_validation_score(tmp_path: pathlib.Path) -> None:
    rates = ["1e-2", "9e-3", "8e-3", "7e-3", "6e-3", "1e-6"]
    words = ("--method", "bp", "--optimiser.lr", *rates, *SHORT[:2], "--epochs", "6", "--seeds", "0", "1")
    held = Sweep(words, "optuna", len(rates), prune=True)
    held.write(tmp_path)
    trials, _ = study.study_of(held, tmp_path)
    for rate in rates:
        trials.enqueue_trial({"optimiser.lr": rate})
    worker.work(tmp_path)
    results = [result_of(*place, held.chosen_by) for place in search.begun(held, tmp_path)]
    assert [result.setting["optimiser.lr"] for result in results] == rates
    assert [result.pruned for result in results] == [False] * 5 + [True]
    assert results[-1].epochs == 2  # all seeds in the same epoch, one after the one that was too bad
    assert {record["epoch"] for record in records(results[-1].folder)} == {1, 2}
    states = [trial.state.name for trial in trials.get_trials()]
    assert states == ["COMPLETE"] * 5 + ["PRUNED"]


def asked(out: pathlib.Path, trials: int, *words: str, seed: int = 0) -> Sweep:
    """A sweep whose folder is there."""
    found = Sweep(tuple(words or RANGE), "optuna", trials, seed)
    out.mkdir(exist_ok=True)
    found.write(out)
    return found


def test_what_one_worker_trains_no_other_takes(tmp_path: pathlib.Path) -> None:
    sweep = asked(tmp_path, 3)
    first = study.asked(sweep, tmp_path)
    turn = next(first)
    assert claim(turn.folder) is not None  # this very process's
    script = f"""
import pathlib, sys
sys.path.insert(0, {str(ROOT / "experiments")!r})
from sweeping import study
from sweeping.description import sweep_in
out = pathlib.Path({str(tmp_path)!r})
print(next(study.asked(sweep_in(out), out)).folder.name)
"""
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert other.stdout == "001\n", other.stderr
    first.close()
    again = [next(study.asked(sweep, tmp_path)) for _ in range(2)]  # what both have left
    assert [(found.folder.name, found.setting) for found in again] == [("000", turn.setting)] * 2


def test_a_trial_that_another_worker_has_told_of_is_passed_by(tmp_path: pathlib.Path) -> None:
    sweep = asked(tmp_path, 2)
    turns = study.asked(sweep, tmp_path)
    turn = next(turns)
    trials, _ = study.study_of(sweep, tmp_path)
    trials.tell(0, 0.5)
    (turn.folder / "summary.json").write_text('{"seeds": {}}')
    assert next(turns).folder.name == "001"


def test_a_line_that_was_not_written_whole_is_cut_off(tmp_path: pathlib.Path) -> None:
    sweep = asked(tmp_path, 4)
    next(study.asked(sweep, tmp_path))
    journal = tmp_path / "study" / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines()[-1][:20])
    for _ in range(2):
        assert [folder.name for folder, _ in search.begun(sweep, tmp_path)] == ["000"]
    next(study.asked(sweep, tmp_path))
    assert journal.read_bytes().startswith(whole) and journal.read_bytes()[-1:] == b"\n"


def test_other_seeds_of_sampling_are_other_searches(tmp_path: pathlib.Path) -> None:
    drawn = []
    for seed in (0, 1):
        sweep = asked(tmp_path / str(seed), 6, seed=seed)
        trials, _ = study.study_of(sweep, tmp_path / str(seed))
        for _ in range(6):
            turn = study._new(sweep, trials, tmp_path / str(seed))[1]
            drawn.append(float(turn.setting["optimiser.lr"]))
    assert len(set(drawn)) == 12 and np.log10(drawn).std() > 0.5


def test_what_cannot_be_together_is_told_and_passed_by(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    words = (
        "--method dfc-ss --feedback fixed --solver.steady-state broyden published --solver.duration 5 0.01"
    )
    sweep = asked(tmp_path, 8, *words.split())
    trials, _ = study.study_of(sweep, tmp_path)
    for duration in ("0.01", "5"):
        trials.enqueue_trial({"solver.steady_state": "published", "solver.duration": duration})
    turn = next(study.asked(sweep, tmp_path))
    assert turn.setting["solver.duration"] == "5" and turn.folder.name == "001"
    assert "trial 0 cannot be: `solver.duration` is 0.01" in capsys.readouterr().err
    assert trials.get_trials()[0].state == STATE.FAIL


def test_settings_that_could_not_be_are_no_runs_and_are_said(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = "--method dfc-ss --feedback fixed --solver.steady-state published --solver.duration 5 6 0.01 0.02"
    held = asked(tmp_path, 4, *words.split())
    trials, _ = study.study_of(held, tmp_path)
    for duration in ("0.01", "5", "6", "0.02"):
        trials.enqueue_trial({"solver.duration": duration})
    turns = study.asked(held, tmp_path)
    summary = {"metric": "test_accuracy", "mean": {}, "std": {}, "seeds": {}}  # that of no epoch
    (next(turns).folder / "summary.json").write_text(json.dumps(summary))
    assert (search.number_of_runs(held, tmp_path), search.finished(tmp_path)) == (3, 1)
    (next(turns).folder / "summary.json").write_text(json.dumps(summary))
    assert next(turns, None) is None
    assert search.number_of_runs(held, tmp_path) == search.finished(tmp_path) == 2
    monkeypatch.setattr(script, "work", None)  # nothing is left to do
    script.train(script.Options(progress=False), held, tmp_path)
    monkeypatch.setattr("sweeping.report.drawn", lambda *_: None)
    report(held, tmp_path)
    said = "2 runs, 2 of them finished; 2 settings could not be"
    assert (tmp_path / "table.md").read_text().startswith(f"# Sweep: digits, {said}\n")
    assert said in capsys.readouterr().out


@pytest.mark.script
def test_optuna_in_processes_that_are_killed_loses_and_repeats_nothing(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, str(ROOT / "experiments" / "sweep.py"), "--method", "bp", "--hidden", "8"]
    command += ["--optimiser.lr", "log", "1e-4", "1e-1", "--epochs", "linear", "200", "600", "--no-progress"]
    command += ["--search", "optuna", "--trials", "8", "--where", "processes", "--workers", "2"]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "MPLBACKEND": "Agg"}
    environment = os.environ | cache | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    out, rng = tmp_path / "sweep", random.Random(0)
    for _ in range(10):
        process = subprocess.Popen(
            [*command, "--out", "sweep"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(5, 12))
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(
        [*command, "--out", "sweep"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sweep = sweep_in(out)
    trials = study.study_of(sweep, out)[0].get_trials()
    assert [trial.state for trial in trials] == [STATE.COMPLETE] * 8 and len(runs_of(out)) == 8
    for trial in trials:
        folder, setting = place(out, trial.number), trial.user_attrs["setting"]
        config = json.loads((folder / "config.json").read_text())["config"]
        assert config["optimiser"]["lr"] == float(setting["optimiser.lr"])
        assert [record["epoch"] for record in records(folder)] == list(range(1, 1 + int(setting["epochs"])))
        assert trial.value == result_of(folder, setting, sweep.chosen_by).validation
