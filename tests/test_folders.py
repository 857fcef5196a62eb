"""A run folder has one writer; it refuses what is left of other runs, and holds nothing out of date."""

import errno
import json
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import jax
import numpy as np
import pytest
from helpers import records
from small_folders import CONFIG, fit, RECORD, run

import dfc_jax as dfc
from dfc_jax import _lock as lock
from dfc_jax._runs import environment
from dfc_jax._training import resuming


# One writer


HOLDS = """
import fcntl, os, socket, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print(os.getpid(), socket.gethostname(), file=file, flush=True)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def busy(tmp_path: pathlib.Path) -> Iterator[subprocess.Popen]:
    """Another process that is writing to `tmp_path`."""
    command = [sys.executable, "-c", HOLDS, str(tmp_path / ".lock")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("opened", [dfc.RunFolder.create, dfc.RunFolder.reopen])
def test_a_folder_that_another_process_writes_is_refused_until_that_is_gone(
    busy: subprocess.Popen, tmp_path: pathlib.Path, opened: Callable[..., dfc.RunFolder]
) -> None:
    if opened is dfc.RunFolder.reopen:
        (tmp_path / "config.json").write_text(json.dumps({"config": CONFIG}))
    with pytest.raises(ValueError, match=rf"`out` is .*, which process {busy.pid} on \S+ is writing; wait"):
        opened(tmp_path, CONFIG)
    busy.send_signal(signal.SIGKILL)
    busy.wait()
    folder = opened(tmp_path, CONFIG)
    with pytest.raises(ValueError, match="which this very process is writing"):
        lock.Lock(tmp_path, "out")
    del folder
    lock.Lock(tmp_path, "out").release()
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".jsonl"] == ["config.json"]


def test_training_writes_no_checkpoints_beside_another_process(
    busy: subprocess.Popen, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ValueError, match=f"`resume` is .*, which process {busy.pid} on"):
        fit(tmp_path)
    busy.send_signal(signal.SIGKILL)
    busy.wait()
    fit(tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".checkpoint"] * 2


def test_every_process_of_a_job_hears_that_the_folder_is_taken(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would wait for the first for minutes."""
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(resuming, "process_allgather", lambda failed: np.asarray([True, failed]))
    with pytest.raises(ValueError, match=r"`resume` is .*, where the first process cannot write"):
        fit(tmp_path)


def test_what_stops_training_gives_the_folder_back(tmp_path: pathlib.Path) -> None:
    def stop(record: dict, model: dfc.Network) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, on_epoch=stop)
    fit(tmp_path)


RACE = """
import pathlib, sys, time
import dfc_jax as dfc
out, number = pathlib.Path(sys.argv[1]), int(sys.argv[2])

def meet(what):
    (out / f"{what}{number}").touch()
    end = time.monotonic() + 60
    while not (out / f"{what}{1 - number}").exists() and time.monotonic() < end:
        time.sleep(0.001)

meet("ready")
try:
    folder = dfc.RunFolder.create(out / "run", {"seeds": [number], "epochs": 1})
    print("made")
except ValueError as error:
    print("refused", error)
meet("done")
"""


@pytest.mark.slow
def test_of_two_that_start_at_once_one_is_refused(tmp_path: pathlib.Path) -> None:
    commands = [[sys.executable, "-c", RACE, str(tmp_path), number] for number in ("0", "1")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    said = [process.communicate()[0].split()[0] for process in processes]
    assert sorted(said) == ["made", "refused"]
    held = json.loads((tmp_path / "run" / "config.json").read_text())
    assert held["config"]["seeds"] == [said.index("made")]


def test_where_nothing_can_be_locked_that_is_said(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_lock", fails)
    with pytest.warns(UserWarning, match="cannot be locked"):
        held = lock.Lock(tmp_path, "out")
    held.release()
    (tmp_path / ".lock").write_text(f"1 {lock.socket.gethostname()}")  # a process that is surely there
    with pytest.raises(ValueError, match="which process 1 on"):
        lock.Lock(tmp_path, "out")


# What is left of other runs


@pytest.mark.parametrize("left", ["metrics.jsonl", "checkpoints/000001.checkpoint"])
def test_what_is_left_of_a_run_is_not_taken_for_a_new_one(tmp_path: pathlib.Path, left: str) -> None:
    run(tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    for opened in (dfc.RunFolder.create, dfc.RunFolder.reopen):
        with pytest.raises(ValueError, match=r"of a run without its config\.json; name a new folder"):
            opened(tmp_path / "run", CONFIG | {"lr": 0.5})


def test_metrics_are_not_emptied_where_no_checkpoint_is_left(tmp_path: pathlib.Path) -> None:
    run(tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"holds 2 lines in metrics\.jsonl but no checkpoint to go on from"):
        dfc.RunFolder.reopen(tmp_path / "run", CONFIG)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_summary_is_of_the_run_as_it_is(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run"
    run(path)
    assert json.loads((path / "summary.json").read_text())["seeds"]["0"]["epochs"] == 2
    before = {name: (path / name).read_bytes() for name in ("config.json", "metrics.jsonl", "summary.json")}
    folder = dfc.RunFolder.reopen(path, CONFIG | {"epochs": 3})
    # `fit` may still refuse to go on.
    assert {name: (path / name).read_bytes() for name in before} == before
    folder.append(0, records(path)[-1] | {"epoch": 3, "seconds": 1.0})
    assert not (path / "summary.json").exists() and len(records(path)) == 3
    assert json.loads((path / "config.json").read_text())["config"]["epochs"] == 3
    del folder
    run(path, 3)
    assert json.loads((path / "summary.json").read_text())["seeds"]["0"]["epochs"] == 3


def test_what_a_script_adds_to_its_records_stays_when_the_run_goes_on(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run"
    folder = dfc.RunFolder.create(path, CONFIG)
    fit(
        folder.checkpoints,
        on_epoch=lambda record, _: folder.append(0, record | {"mine": [record["epoch"], 0.5]}),
    )
    whole = (path / "metrics.jsonl").read_bytes()
    assert whole.count(b'"mine": [') == 2
    # An epoch that has no checkpoint, one of another seed, what is no record, and a torn one.
    left = b'{"seed": 0, "epoch": 3, "mine": 9}\n{"seed": 7, "epoch": 1, "mine": 9}\n5\n{}\n{"seed": 0, "ep'
    (path / "metrics.jsonl").write_bytes(whole + left)
    folder._lock.release()
    dfc.RunFolder.reopen(path, CONFIG)
    assert (path / "metrics.jsonl").read_bytes() == whole


def test_fewer_epochs_than_are_done_are_refused(tmp_path: pathlib.Path) -> None:
    run(tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    with pytest.raises(ValueError, match=r"`epochs` is 1, but '.*run' holds 2 already; ask for as many"):
        dfc.RunFolder.reopen(tmp_path / "run", CONFIG | {"epochs": 1})
    with pytest.raises(ValueError, match=r"`epochs` is 1, but '.*checkpoints' holds 2 already"):
        fit(tmp_path / "run" / "checkpoints", 1)
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")} == before


# Where and with what


def test_every_session_says_where_it_was(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["again.py"])
    for count in (1, 2):
        with jax.enable_x64(False), jax.default_matmul_precision("float32"):
            folder = dfc.RunFolder.reopen(tmp_path / "run", CONFIG)
        folder.append(0, RECORD | {"epoch": 3})
        held = json.loads((tmp_path / "run" / "config.json").read_text())
        assert len(held["resumed"]) == count
    assert held["environment"]["x64"] is True and held["environment"]["matmul_precision"] is None
    assert held["resumed"][0]["x64"] is False and held["resumed"][0]["matmul_precision"] == "float32"
    assert held["resumed"][0]["command"] == "python again.py" != held["environment"]["command"]


def test_the_revision_is_that_of_the_source(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of a checkout that a copy of it happens to lie in; that of the script is another."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a", "-C", str(tmp_path)]
    copy = tmp_path / "site-packages" / "dfc_jax" / "environment.py"
    copy.parent.mkdir(parents=True)
    copy.write_text("")
    subprocess.run([*git, "init"], check=True, capture_output=True)
    subprocess.run([*git, "commit", "--allow-empty", "-m", "theirs"], check=True, capture_output=True)
    monkeypatch.setattr(environment, "__file__", str(copy))
    script = tmp_path / "script.py"
    script.write_text("")
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert environment.environment()["git_revision"] is None
    assert environment.environment()["script_revision"] is None
    subprocess.run([*git, "add", str(script)], check=True, capture_output=True)
    subprocess.run([*git, "commit", "-m", "the script"], check=True, capture_output=True)
    found = environment.environment()
    assert found["git_revision"] is None and re.fullmatch("[0-9a-f]{12}", found["script_revision"])
    subprocess.run([*git, "add", "."], check=True, capture_output=True)
    subprocess.run([*git, "commit", "-m", "ours"], check=True, capture_output=True)
    shown = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    found = environment.environment()
    assert shown.startswith(found["git_revision"]) and shown.startswith(found["script_revision"])
    script.write_text("changed")
    assert environment.environment()["script_revision"] == f"{found['script_revision']}-dirty"


def test_a_run_that_is_stopped_before_a_new_epoch_goes_on_with_the_options_of_now(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "run"
    run(path)
    dfc.RunFolder.reopen(path, CONFIG | {"epochs": 5}).go_on()
    assert json.loads((path / "config.json").read_text())["config"]["epochs"] == 5
    assert not (path / "summary.json").exists() and len(records(path)) == 2


def test_a_checkpoint_of_another_run_is_not_gone_on_from(tmp_path: pathlib.Path) -> None:
    """Nor read: its losses are not those that were noted."""
    path, other = tmp_path / "run", tmp_path / "other"
    run(path)
    fit(other, key=jax.random.key(7))
    (newest,) = sorted(other.glob("*.checkpoint"))[-1:]
    (path / "checkpoints" / newest.name).write_bytes(newest.read_bytes())
    before = (path / "metrics.jsonl").read_bytes()
    for opened in (dfc.load_run, lambda path: dfc.RunFolder.reopen(path, CONFIG)):
        with pytest.raises(
            ValueError, match=r"no checkpoint of this run: in epoch 1 of seed 0 its loss is not"
        ):
            opened(path)
    assert (path / "metrics.jsonl").read_bytes() == before and (path / "summary.json").exists()
