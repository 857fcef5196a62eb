"""Sweeps: what they leave, how they go on, and that their runs are those of `run.py`."""

import csv
import json
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import pytest
from helpers import records
from run import command as run
from small_sweeps import GRID, runs_of, SHORT, swept
from sweeping import search, worker
from sweeping.description import Sweep
from sweeping.results import ranked, Result, sensitivity

from dfc_jax._lock import Lock


ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a whole grid of two seeds."""
    out = tmp_path_factory.mktemp("grid") / "sweep"
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert swept(out, *GRID, "--seeds", "0", "1") == 0
    return out


@pytest.mark.slow
def test_a_grid_leaves_ordinary_runs_a_table_and_pictures(grid: pathlib.Path) -> None:
    assert len(runs_of(grid)) == 6  # backprop reads no nudge
    with open(grid / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = [float(row["validation"]) for row in rows]
    assert len(rows) == 6 and scores == sorted(scores, reverse=True)
    for row in rows:
        config = json.loads((grid / row["run"] / "config.json").read_text())["config"]
        summary = json.loads((grid / row["run"] / "summary.json").read_text())
        assert config["method"] == [row["method"]] and config["seeds"] == [0, 1]
        assert config["optimiser"]["lr"] == float(row["optimiser.lr"])
        assert row["nudge"] == "" or config["nudge"] == float(row["nudge"])
        assert float(row["test"]) == pytest.approx(summary["mean"]["test_accuracy"])
        best = [
            max(r["validation_accuracy"] for r in records(grid / row["run"]) if r["seed"] == s)
            for s in (0, 1)
        ]
        assert float(row["validation"]) == pytest.approx(sum(best) / 2)
    text = (grid / "table.md").read_text()
    assert "| dfc-ssa | 4 |" in text and "| bp | 2 |" in text
    for name in ("settings.png", "parallel.png", "best.png"):
        assert (grid / name).stat().st_size > 10_000


def result(
    number: int, score: float | None, metric: str = "accuracy", pruned: bool = False, diverged: bool = False
) -> Result:
    folder, setting = pathlib.Path(f"{number:03d}"), {"method": "bp", "nudge": str(number)}
    return Result(folder, setting, metric, score, None, score, None, 3, pruned, diverged, (), "")


def test_runs_that_diverged_come_last_whatever_their_score() -> None:
    runs = [result(0, 0.5), result(1, None), result(2, 0.9, diverged=True), result(3, 0.6)]
    assert [found.folder.name for found in ranked(runs)] == ["003", "000", "002", "001"]
    losses = [result(0, 0.5, "loss"), result(1, 0.1, "loss", diverged=True), result(2, 0.4, "loss")]
    assert [found.folder.name for found in ranked(losses)] == ["002", "000", "001"]


def test_how_much_depends_on_the_choice_counts_runs_without_a_score() -> None:
    runs = [result(i, score) for i, score in enumerate((0.9, None, 0.895, 0.5, None))]
    runs.append(result(5, 0.99, pruned=True))  # which was not trained as long
    assert sensitivity(runs) == [["bp", "5", "000", "90.00", "90.00", "50.00", "0.00", "2 of 5"]]
    runs = [result(i, score, "loss") for i, score in enumerate((2.0, 1.0, 1.05))]
    assert sensitivity(runs) == [["bp", "3", "001", "1.00000", "1.00000", "1.05000", "2.00000", "2 of 3"]]


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_runs_are_those_of_run_py(grid: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """To the bit, for it is the same program."""
    for number, options in ((3, ["dfc-ssa", "--nudge", "0.2"]), (4, ["bp"])):
        rate = "1e-2" if number == 3 else "1e-3"
        given = ["--method", *options, "--optimiser.lr", rate, *SHORT, "--seeds", "0", "1", "--no-progress"]
        assert run([*given, "--out", str(tmp_path / str(number))]) == 0
        alone, of_sweep = tmp_path / str(number), grid / f"{number:03d}"
        assert (alone / "metrics.jsonl").read_bytes() == (of_sweep / "metrics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_a_run_of_a_sweep_goes_on_by_run_py(grid: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(grid / "005", tmp_path / "005")
    assert run(["--out", str(tmp_path / "005"), "--resume", "--epochs", "4", "--no-progress"]) == 0
    assert {record["epoch"] for record in records(tmp_path / "005")} == {1, 2, 3, 4}


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_a_finished_sweep_trains_nothing_and_another_one_is_refused(
    grid: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(worker, "train", None)
    before = {file: file.stat().st_mtime_ns for file in grid.glob("*/metrics.jsonl")}
    assert swept(grid) == 0 and swept(grid, *GRID, "--seeds", "0", "1") == 0
    assert {file: file.stat().st_mtime_ns for file in grid.glob("*/metrics.jsonl")} == before
    capsys.readouterr()
    for arguments, sentence in (
        ((*GRID, "--seeds", "0"), "`seeds` is ['0', '1'] there and ['0'] now"),
        (("--search", "random", "--trials", "3"), "`search` is 'grid' there and 'random' now"),
        (("--workers", "0"), "`workers` is 0"),
        (("--slurm", "partition=gpu"), "`slurm` is given, but `where` is here"),
        (("--where", "slurm", "--slurm", "partition"), "'partition' must be NAME=VALUE"),
    ):
        assert swept(grid, *arguments) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.usefixtures("as_users_run")
def test_a_folder_of_other_runs_is_refused(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "bp").mkdir()
    (tmp_path / "bp" / "config.json").write_text("{}")
    assert swept(tmp_path, *GRID) == 2
    assert "holds runs that no sweep has made" in capsys.readouterr().err


@pytest.mark.usefixtures("as_users_run")
def test_two_sweeps_at_once_in_a_folder_are_refused(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    script = f"""
import pathlib, sys
from dfc_jax._lock import Lock
held = Lock(pathlib.Path({str(tmp_path)!r}), "out")
print("held", flush=True)
sys.stdin.read()
"""
    call, pipe = [sys.executable, "-c", script], subprocess.PIPE
    with subprocess.Popen(call, stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        assert swept(tmp_path, *GRID) == 2
        assert f"process {other.pid}" in capsys.readouterr().err
        assert not runs_of(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run", "ctrl_c")
def test_an_interrupted_sweep_reports_and_goes_on(
    grid: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    train, begun = worker.train, []

    def interrupted(config, *rest):
        begun.append(config.out)
        if len(begun) == 3:
            signal.raise_signal(signal.SIGINT)
        return train(config, *rest)

    monkeypatch.setattr(worker, "train", interrupted)
    assert swept(tmp_path, *GRID, "--seeds", "0", "1") == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert (tmp_path / "table.md").read_text().startswith("# Sweep: digits, 6 runs, 2 of them finished")
    assert swept(tmp_path) == 0
    assert len(begun) == 7 and begun[2] == begun[3]
    for folder in runs_of(grid):
        ours = tmp_path / folder.name
        assert (ours / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_a_run_that_another_worker_has_is_left_to_it(tmp_path: pathlib.Path) -> None:
    words = ("--method", "bp", "--optimiser.lr", "1e-3", "1e-2", *SHORT)
    Sweep(words).write(tmp_path)
    folder = search.place(tmp_path, 0)
    held = Lock(folder, "out")  # not known to this process's own
    done = lambda: [file.parent.name for file in tmp_path.glob("*/summary.json")]
    worker.work(tmp_path)
    assert done() == ["001"]
    held.release()
    worker.work(tmp_path)
    assert sorted(done()) == ["000", "001"]


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_a_sweep_that_goes_on_keeps_the_order_of_its_options(
    grid: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """By which its runs are numbered."""
    shutil.copytree(grid, tmp_path / "sweep")
    table = (grid / "table.csv").read_bytes()
    names = ("--optimiser.lr", "1e-3", "1e-2", "--nudge", "0.05", "0.2")
    assert swept(tmp_path / "sweep", *names, *GRID[:3], *SHORT, "--seeds", "0", "1") == 0
    assert (tmp_path / "sweep" / "table.csv").read_bytes() == table


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_runs_that_diverge_come_last_and_are_no_reason_to_stop(tmp_path: pathlib.Path) -> None:
    words = ["--method", "bp", "--optimiser.lr", "1e-2", "1e38", *SHORT]
    assert swept(tmp_path, *words) == 0  # since the best is beyond doubt
    with open(tmp_path / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["optimiser.lr"] for row in rows] == ["1e-2", "1e38"] and rows[1]["doubts"]
    assert rows[1]["diverged"] == "True" and "| diverged" in (tmp_path / "table.md").read_text()
