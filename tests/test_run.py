"""The command line: what a run leaves behind, and what it refuses before any work."""

import dataclasses
import errno
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys

import pytest
import tyro
from helpers import records
from options.config import Config
from options.groups import Controller, Feedback, Optimiser, Solver
from run import main

from dfc_jax._runs.folder import summary_of


ROOT = pathlib.Path(__file__).parent.parent
SMALL = ("--epochs", "2", "--hidden", "16", "--batch-size", "419", "--feedback", "fixed", "--no-progress")


def run(*options: str, expect: int = 0) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), *options]
    environment = os.environ | {"MPLBACKEND": "Agg", "COLUMNS": "120"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_several_methods_and_seeds_leave_tables_pictures_and_summaries(tmp_path):
    out = tmp_path / "both"
    done = run(*SMALL, "--method", "dfc-ss", "bp", "--seeds", "3", "5", "--out", str(out))
    assert "dfc-ss" in done.stdout and "test accuracy %" in done.stdout
    assert "digits, 2 epochs, 2 seeds" in done.stdout
    for name in ("comparison.png", "dfc-ss/curves.png", "bp/curves.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    config = json.loads((out / "dfc-ss" / "config.json").read_text())
    assert config["config"]["optimiser"]["lr"] == 3e-3 and config["config"]["hidden"] == [16]
    assert {"versions", "git_revision", "device", "command"} <= set(config["environment"])

    rows = records(out / "dfc-ss")
    assert [(row["seed"], row["epoch"]) for row in rows] == [(3, 1), (5, 1), (3, 2), (5, 2)]
    summary = json.loads((out / "dfc-ss" / "summary.json").read_text())
    best = [
        max(
            (r for r in rows if r["seed"] == s),
            key=lambda r: (r["validation_accuracy"], -r["validation_loss"]),
        )
        for s in (3, 5)
    ]
    scores = [row["test_accuracy"] for row in best]
    assert summary["mean"]["test_accuracy"] == pytest.approx(statistics.fmean(scores))
    assert summary["std"]["test_accuracy"] == pytest.approx(statistics.stdev(scores))
    assert summary["seeds"]["5"]["last_train_loss"] == rows[-1]["train_loss"]
    assert 0 <= summary["mean"]["fraction_converged"] <= 1
    row = next(line for line in (out / "table.md").read_text().splitlines() if line.startswith("| dfc-ss"))
    assert f"{100 * statistics.fmean(scores):.2f} ±" in row
    last = next(line for line in (out / "table.md").read_text().splitlines() if line.startswith("| bp"))
    theirs = [
        max(
            (r for r in records(out / "bp") if r["seed"] == s),
            key=lambda r: (r["validation_accuracy"], -r["validation_loss"]),
        )
        for s in (3, 5)
    ]
    differences = [100 * (a["test_accuracy"] - b["test_accuracy"]) for a, b in zip(theirs, best, strict=True)]
    assert f"{statistics.fmean(differences):+.3g} [" in last and "p = " in last


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            {"method": ("dfc",), "feedback": "exact", "solver": Solver(trajectory="diffrax")},
            marks=pytest.mark.script,
        ),
        pytest.param(
            {"method": ("dfc",), "solver": Solver(trajectory="diffrax", diffrax_solver="ImplicitEuler")},
            marks=pytest.mark.script,
        ),
        pytest.param(
            {"method": ("dfc",), "solver": Solver(trajectory="published", duration=1.0)},
            marks=pytest.mark.script,
        ),
        {"method": ("dfc-ssa", "dfa"), "controller": Controller(leak_on="integrator")},
        pytest.param(
            {"method": ("dfc-ss",), "solver": Solver(steady_state="newton"), "activation": "relu"},
            marks=pytest.mark.script,
        ),
        pytest.param(
            {
                "method": ("dfc-ss",),
                "feedback": "exact",
                "solver": Solver(steady_state="simulated", rtol=1e-3),
            },
            marks=pytest.mark.script,
        ),
        pytest.param(
            {"method": ("dfc-ss",), "dataset": "student_teacher", "optimiser": Optimiser(lr=1e-3, clip=1.0)},
            marks=pytest.mark.script,
        ),
    ],
    ids=lambda options: " ".join(options["method"]),
)
def test_every_kind_of_solver_runs(tmp_path, options):
    options = {"feedback": "fixed", "hidden": (16,), "epochs": 1, "progress": False} | options
    assert main(Config(**options, out=str(tmp_path))) == 0
    summary = json.loads(next(tmp_path.rglob("summary.json")).read_text())
    assert summary["metric"] == ("test_loss" if "dataset" in options else "test_accuracy")
    assert summary["mean"]["fraction_converged"] > 0.95


@pytest.mark.usefixtures("as_users_run")
def test_a_run_that_diverges_says_so_and_fails(tmp_path, capsys):
    options = {"method": ("bp",), "hidden": (16,), "epochs": 2, "progress": False}
    assert main(Config(**options, optimiser=Optimiser(lr=1e38), out=str(tmp_path / "run"))) == 1
    error = capsys.readouterr().err
    assert re.search(r"bp, seed 0: stopped in epoch \d: the loss or a weight is no longer finite", error)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["seeds"]["0"]["stopped"]


@pytest.mark.script
def test_the_same_command_twice_leaves_the_same_bytes(tmp_path):
    """Two seeds, learned feedback, drawn noise; two processes."""
    options = ["--method", "dfc-ss", "strong-dfc", "--seeds", "0", "1", "--epochs", "2", "--hidden", "16"]
    options += ["--feedback-learning.pretraining-epochs", "1", "--feedback-learning.update", "simulated"]
    options += ["--strong.steps", "50", "--no-progress"]
    for name in ("once", "again"):
        run(*options, "--out", str(tmp_path / name))
    for method in ("dfc-ss", "strong-dfc"):
        once, again = (tmp_path / name / method / "metrics.jsonl" for name in ("once", "again"))
        assert len(once.read_text().splitlines()) == 4
        assert once.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--nudges", "0.1"], "--nudge"),
        (["--nudge", "much"], "--nudge"),
        (["--epochs", "1.5"], "--epochs"),
        (["--seeds", "one"], "--seeds"),
        (["--dataset", "mnits"], "--dataset"),
        (["--method", "backprop"], "--method"),
        (["--controller.k-p"], "--controller.k-p"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_malformed_options_are_refused(arguments, named, capsys):
    with pytest.raises(SystemExit) as stopped:
        tyro.cli(Config, args=arguments)
    assert stopped.value.code == 2 and named in capsys.readouterr().err


@pytest.mark.parametrize("remains", ["incomplete.ABC_3.0.1", "3.0.1"])
def test_a_half_downloaded_data_set_is_refused(remains, tmp_path, monkeypatch, capsys):
    (tmp_path / "mnist" / remains).mkdir(parents=True)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DFC_JAX_DATA", str(tmp_path / "empty"))
    assert main(Config(method=("bp",), dataset="mnist", out=str(tmp_path / "run"))) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "mnist' holds nothing that was prepared to the end" in error
    assert "download_and_prepare()" in error and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(nudge=0.0), "`nudge` is 0.0; it must be a finite number greater than 0"),
        (Config(epochs=0), "`epochs` is 0; it must be a whole number of at least 1"),
        (Config(method=()), "`method` is ()"),
        (Config(seeds=(1, 1)), "`seeds` is (1, 1)"),
        (Config(seeds=(-1,)), "`seeds` is -1; it must be a whole number between 0 and 4294967295"),
        (Config(batch_size=0), "`batch_size` is 0"),
        (Config(batch_size=5000), "`batch_size` is 5000; digits has 1257 samples"),
        (Config(hidden=(16, 0)), "every size must be an integer of at least 1"),
        (
            Config(controller=Controller(alpha=-1.0)),
            "`controller.alpha` is -1.0; it must be a finite number at least 0",
        ),
        (Config(solver=Solver(rtol=0.0)), "`solver.rtol` is 0.0"),
        (Config(method=("dfc",), solver=Solver(tau_v=0.0)), "`solver.tau_v` is 0.0"),
        (
            Config(solver=Solver(steady_state="simulated", diffrax_solver="Euler")),
            "needs an explicit solver with adaptive steps",
        ),
        (Config(optimiser=Optimiser(clip=0.0)), "`optimiser.clip` is 0.0"),
        (Config(optimiser=Optimiser(lr=-1.0)), "`optimiser.lr` is -1.0"),
        (Config(feedback_learning=Feedback(sigma=0.0)), "`feedback_learning.sigma` is 0.0"),
        (Config(feedback_learning=Feedback(steps=1)), "`feedback_learning.steps` is 1"),
        (Config(method=("dfa",), feedback="exact"), "uses fixed random feedback"),
        (Config(dataset="mnist"), "mnist is not in"),
        (
            Config(preset="paper"),
            "`preset` is paper, which exists for mnist, fashion_mnist, mnist_autoencoder",
        ),
        (Config(dataset="mnist", preset="paper", nudge=0.2), "`nudge` is 0.2; the preset paper sets it"),
        (Config(dataset="mnist", preset="paper", feedback="exact"), "`feedback` is exact; the preset paper"),
        (Config(dataset="mnist", preset="paper", feedback="signs"), "`feedback` is signs; the preset paper"),
        (Config(dataset="mnist", preset="paper", method=("mn",)), "`method` is mn, which the preset"),
        (Config(method=("bp", "bp")), "`method` is ('bp', 'bp')"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_run_is_refused_in_one_sentence(tmp_path, monkeypatch, capsys, config, message):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "empty"))
    monkeypatch.setenv("DFC_JAX_DATA", str(tmp_path / "empty"))
    out = tmp_path / "run"
    assert main(dataclasses.replace(config, out=str(out))) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not out.exists()


def test_a_folder_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "config.json").write_text("mine")
    assert main(Config(method=("bp",), out=str(tmp_path))) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == "mine"


@pytest.mark.parametrize("problem", ["under a file", "read-only"])
def test_a_folder_that_cannot_be_written_is_refused(problem, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    out = tmp_path / ("file" if problem == "under a file" else "kept") / "run"
    if problem == "read-only":  # the superuser, as whom a container runs, may write anywhere: so we pretend

        def refuse(path: pathlib.Path, **_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    assert main(Config(method=("bp",), out=str(out))) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: `out` is {str(out)!r}, which cannot be written (")
    assert said.rstrip().endswith("name another folder, or free it.")


def test_a_seed_that_stopped_at_once_is_not_averaged():
    fine = {"test_accuracy": 0.5, "epochs": 3, "stopped": None}
    stopped = {"stopped": "epoch 1", "doubts": []}
    for seeds in ({"0": fine, "1": stopped}, {"0": stopped, "1": fine}):
        summary = summary_of(seeds, "test_accuracy")
        assert summary["mean"] == {"test_accuracy": 0.5} and summary["std"] == {}
        assert summary["seeds"] == seeds
    assert summary_of({"0": stopped}, "test_accuracy")["mean"] == {}


@pytest.mark.usefixtures("as_users_run")
def test_a_run_whose_validation_loss_is_never_finite_is_a_run_without_a_score(tmp_path, capsys):
    options = Config(dataset="student_teacher", method=("bp",), hidden=(4,), batch_size=5000, epochs=2)
    fast = dataclasses.replace(options, optimiser=Optimiser(lr=1e20), progress=False)
    assert main(dataclasses.replace(fast, out=str(tmp_path / "run"))) == 1
    assert "stopped in epoch 2" in capsys.readouterr().err
    (found,) = json.loads((tmp_path / "run" / "summary.json").read_text())["seeds"].values()
    assert found["epochs"] == 1 and "test_loss" not in found
    assert "| bp | none | no score |" in (tmp_path / "run" / "table.md").read_text()
