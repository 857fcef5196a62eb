"""Disks of other kinds: what they cannot do is said, and what was written half is cleared."""

import errno
import os
import pathlib
import stat
from typing import Any

import pytest
from small_folders import CONFIG, fit, run

import dfc_jax as dfc
from dfc_jax._runs import checkpoints, files


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
