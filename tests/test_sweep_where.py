"""Where a sweep's workers are: processes, a cluster's jobs, submitit's local ones; killed, queued again."""

import itertools
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
import submitit
from helpers import records
from small_sweeps import GRID, runs_of, SHORT, swept
from sweeping import cluster
from sweeping.description import Sweep


ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_processes_share_the_work(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, str(ROOT / "experiments" / "sweep.py"), *GRID, "--seeds", "0", "1"]
    command += ["--where", "processes", "--workers", "2", "--no-progress", "--out", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert len(runs_of(tmp_path)) == 6 and all(
        (folder / "summary.json").exists() for folder in runs_of(tmp_path)
    )
    command_of = json.loads((tmp_path / "000" / "config.json").read_text())["environment"]["command"]
    assert "sweep.py" in command_of and "--where processes" in command_of


@pytest.fixture
def fake_slurm(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A cluster that runs its jobs on this machine; the folder that notes them."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(jobs))
    monkeypatch.setenv("PATH", f"{ROOT / 'tests' / 'fake_slurm'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(cluster, "SECONDS", 0.2)
    return jobs


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_jobs_of_a_cluster_work_and_are_queued_again(
    fake_slurm: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, sent = tmp_path / "sweep", []
    words = ["--method", "bp", "--optimiser.lr", "1e-3", "3e-3", "1e-2", *SHORT[:2], "--epochs", "150"]

    def preempt() -> None:
        """As the scheduler does: once, in the midst of a run."""
        for file in out.glob("*/.lock"):
            if not sent and (file.parent / "metrics.jsonl").exists():
                sent.append(int(file.read_text().split()[0]))
                os.kill(sent[0], signal.SIGUSR2)

    slurm = cluster.slurm
    monkeypatch.setattr(cluster, "slurm", lambda *a: slurm(*a[:3], lambda: (preempt(), a[3]())))
    assert (
        swept(out, *words, "--where", "slurm", "--workers", "1", "--slurm", "time=60", "partition=gpu") == 0
    )
    assert sent and (fake_slurm / "requeued").read_text() == "1\n"
    script = (fake_slurm / "1.sh").read_text()
    assert "--partition=gpu" in script and "--time=60" in script
    for folder in runs_of(out):
        assert [record["epoch"] for record in records(folder)] == list(range(1, 151))
    resumed = [json.loads((folder / "config.json").read_text()).get("resumed") for folder in runs_of(out)]
    assert sum(bool(sessions) for sessions in resumed) == 1 and len(resumed) == 3


@pytest.mark.usefixtures("as_users_run")
def test_without_a_cluster_it_is_said(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")
    assert swept(tmp_path, *GRID, "--where", "slurm") == 2
    assert "`where` is slurm, which is not here" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_submitits_local_executor_does_the_same(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["experiments/sweep.py", "--some", "words"])
    out = tmp_path / "sweep"
    out.mkdir()
    Sweep(("--method", "bp", "--optimiser.lr", "1e-3", "1e-2", *SHORT)).write(out)
    executor = submitit.LocalExecutor(out / cluster.LOGS)
    executor.update_parameters(timeout_min=10)
    cluster.wait_for(cluster.submit(executor, out, 2), lambda: None, 0.2)
    assert len(runs_of(out)) == 2 and all((folder / "summary.json").exists() for folder in runs_of(out))
    held = json.loads((out / "000" / "config.json").read_text())
    assert held["environment"]["command"].endswith("sweep.py --some words")


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_a_job_that_fails_is_said(tmp_path: pathlib.Path) -> None:
    executor = submitit.LocalExecutor(tmp_path / cluster.LOGS)  # where there is no sweep
    executor.update_parameters(timeout_min=10)
    with pytest.raises(ChildProcessError, match="1 of 1 jobs failed; see"):
        cluster.wait_for(cluster.submit(executor, tmp_path, 1), lambda: None, 0.2)


@pytest.mark.script
def test_a_sweep_killed_again_and_again_loses_and_repeats_nothing(
    tmp_path: pathlib.Path, kills: int = 20
) -> None:
    """SIGKILL at random moments of a sweep in processes, whose workers end with it."""
    rates = ["1e-3", "2e-3", "3e-3", "4e-3", "5e-3", "6e-3"]
    command = [
        sys.executable,
        str(ROOT / "experiments" / "sweep.py"),
        "--method",
        "dfc-ssa",
        "--optimiser.lr",
    ]
    command += [*rates, "--hidden", "8", "--feedback", "fixed", "--epochs", "600", "--seeds", "0", "1"]
    command += ["--no-progress", "--where", "processes", "--workers", "2", "--out"]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "MPLBACKEND": "Agg"}
    environment = os.environ | cache | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    whole, out, rng = tmp_path / "whole", tmp_path / "sweep", random.Random(0)
    subprocess.run([*command, str(whole)], check=True, capture_output=True, env=environment)
    done: list[set[str]] = []
    for _ in range(kills):
        process = subprocess.Popen([*command, str(out)], stderr=subprocess.DEVNULL, env=environment)
        time.sleep(rng.uniform(2, 9))
        assert process.poll() is None, "it has ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        done.append({folder.name for folder in runs_of(out) if (folder / "summary.json").exists()})
    subprocess.run([*command, str(out)], check=True, capture_output=True, env=environment)
    assert all(before <= after for before, after in itertools.pairwise(done))
    assert [folder.name for folder in runs_of(out)] == [folder.name for folder in runs_of(whole)]
    for folder in runs_of(whole):
        assert (out / folder.name / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()
