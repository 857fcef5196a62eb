"""A run folder has one writer; it refuses what is left of other runs, and holds nothing out of date."""

import errno
import json
import os
import pathlib
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.random as jr
import numpy as np
import pytest
from helpers import records, sgd

import dfc_jax as dfc
from dfc_jax import _lock as lock
from dfc_jax._runs import checkpoints, environment, files
from dfc_jax._training import resuming


CONFIG = {"seeds": [0], "epochs": 2, "lr": 0.1, "optimiser": {"clip": None}}
RECORD = {"epoch": 1, "train_loss": 0.5, "seconds": 1.0}


def data() -> dfc.Dataset:
    x, y = np.random.default_rng(0).standard_normal((12, 4)), np.eye(3)[np.arange(12) % 3]
    splits = [dfc.Split(x[part], y[part]) for part in (slice(6), slice(6, 9), slice(9, 12))]
    return dfc.Dataset("noise", *splits, classification=True)


def fit(folder: pathlib.Path, epochs: int = 2, **options: Any) -> tuple[dfc.Network, dfc.History]:
    options = {"key": jr.key(1), "batch_size": 3, "progress": False} | options
    model = dfc.mlp((4, 3, 3), key=jr.key(0))
    return dfc.fit(model, dfc.Backprop(), data(), sgd(0.1), epochs=epochs, resume=folder, **options)


def run(path: pathlib.Path, epochs: int = 2, **changed: Any) -> None:
    """What a script does: a new run, or the same one further."""
    config = CONFIG | {"epochs": epochs} | changed
    folder = (dfc.RunFolder.reopen if path.exists() else dfc.RunFolder.create)(path, config)
    _, history = fit(folder.checkpoints, epochs, on_epoch=lambda record, _: folder.append(0, record))
    folder.finish({0: history}, "test_accuracy")


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
    with pytest.raises(ValueError, match=r"holds 2 epochs in metrics\.jsonl but no checkpoint to go on from"):
        dfc.RunFolder.reopen(tmp_path / "run", CONFIG)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_summary_is_of_the_run_as_it_is(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run"
    run(path)
    assert json.loads((path / "summary.json").read_text())["seeds"]["0"]["epochs"] == 2
    dfc.RunFolder.reopen(path, CONFIG | {"epochs": 3})
    assert not (path / "summary.json").exists() and len(records(path)) == 2
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
            dfc.RunFolder.reopen(tmp_path / "run", CONFIG)
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


# Disks of other kinds


def folders_fail(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """As on Windows, SMB and some FUSE file systems: folders are not opened, or not synchronised."""
    fsync, opened = os.fsync, os.open

    def no_fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    def no_open(path: Any, *rest: Any, **named: Any) -> int:
        if pathlib.Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *rest, **named)

    monkeypatch.setattr(os, call, {"fsync": no_fsync, "open": no_open}[call])


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_disk_that_cannot_be_sure_is_said_once_and_the_run_goes_on(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    folders_fail(monkeypatch, call)
    with pytest.warns(UserWarning) as warned:
        fit(tmp_path)
    assert [str(w.message).split(" is on a file")[0] for w in warned] == [repr(str(tmp_path))]
    assert checkpoints.newest(tmp_path).facts["epoch"] == 2


def test_an_old_checkpoint_that_cannot_be_deleted_is_said_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = pathlib.Path.unlink

    def busy(path: pathlib.Path, missing_ok: bool = False) -> None:
        if path.name == "000000.checkpoint":
            raise PermissionError(errno.EACCES, "it is open elsewhere")
        unlink(path, missing_ok)

    monkeypatch.setattr(pathlib.Path, "unlink", busy)
    with pytest.warns(UserWarning, match="could not be deleted") as warned:
        fit(tmp_path, 4)
    assert len(warned) == 1 and checkpoints.newest(tmp_path).facts["epoch"] == 4
    assert len(list(tmp_path.iterdir())) == 3


def test_what_a_killed_writer_left_is_cleared(tmp_path: pathlib.Path) -> None:
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoints"):
        folder.mkdir()
        (folder / "000001.abcdef01.part").write_bytes(b"half")
    folder = dfc.RunFolder.create(tmp_path / "run", CONFIG)
    fit(folder.checkpoints)
    assert not list((tmp_path / "run").rglob("*.part"))


@pytest.mark.parametrize("name", ["config.json", "summary.json", "metrics.jsonl"])
def test_a_file_is_on_disk_before_it_takes_the_place_of_another(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    happened: list[str] = []
    replace, sync = os.replace, files.sync
    monkeypatch.setattr(files, "sync", lambda d, path: (happened.append(path.name), sync(d, path)))
    monkeypatch.setattr(os, "replace", lambda a, b: (happened.append("!" + b.name), replace(a, b)))
    run(tmp_path / "run")
    run(tmp_path / "run")
    assert happened[happened.index("!" + name) - 1] == name
