"""Archives fetched from a server on this machine, which cuts, lies and fails."""

import errno
import functools
import os
import pathlib
import socket

import pytest
from small_archives import (
    assert_fetched,
    expect,
    fetch,
    IMAGES,
    LABELS,
    MNIST,
    refused,
    TEST,
)

import dfc_jax as dfc
from dfc_jax._data import fetching
from dfc_jax._lock import Lock


load = functools.partial(dfc.load, validation_samples=5)


def test_the_folder_is_that_of_the_environment_else_a_cache(server, monkeypatch, tmp_path):
    home, caches, own = (tmp_path / name for name in ("home", "caches", "own"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("DFC_JAX_DATA", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    for folder, variable in (
        (home / ".cache" / "dfc_jax", {}),
        (caches / "dfc_jax", {"XDG_CACHE_HOME": str(caches)}),
        (own, {"DFC_JAX_DATA": str(own)}),
    ):
        for name, value in variable.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(FileNotFoundError):
            load("mnist")
        assert dfc.download("mnist", progress=False) == folder
        assert_fetched(folder)
        assert len(load("mnist").test) == TEST
    assert dfc.download("mnist", "~/elsewhere", progress=False) == home / "elsewhere"


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    fetch(tmp_path)
    assert len(server.asked) == 4
    fetch(tmp_path)
    assert len(server.asked) == 4
    (tmp_path / "mnist" / LABELS).write_bytes(b"damaged")
    fetch(tmp_path)
    assert server.asked[4:] == [(f"/first/{LABELS}", None)]
    assert_fetched(tmp_path)


def test_bars_show_unless_they_are_not_to(server, tmp_path, capsys):
    fetch(tmp_path / "silent")
    assert capsys.readouterr().err == ""
    dfc.download("mnist", tmp_path / "shown")
    assert IMAGES in capsys.readouterr().err


# Connections that break


@pytest.mark.parametrize("reset", [False, True], ids=["ended", "reset"])
def test_a_connection_cut_half_way_is_taken_up_by_a_range(reset, server, tmp_path):
    half = len(MNIST[IMAGES]) // 2
    server.cuts, server.reset = [half, 1000], reset
    fetch(tmp_path)
    assert_fetched(tmp_path)
    (_, first), (_, second), (_, third), *_ = server.asked
    assert [path for path, _ in server.asked[:3]] == [f"/first/{IMAGES}"] * 3
    assert first is None
    begin, later = (int(asked.removeprefix("bytes=").removesuffix("-")) for asked in (second, third))
    assert 0 < begin <= half and begin < later <= begin + 1000
    if not reset:  # which may lose what was on its way
        assert (begin, later) == (half, half + 1000)


def test_a_call_goes_on_where_an_earlier_one_ended(server, tmp_path):
    server.cuts = [5000, 0, 0]
    sentence = refused(tmp_path)
    assert sentence.count(f"the connection ended after 5000 of {len(MNIST[IMAGES])} bytes") == 2
    assert [path.name for path in (tmp_path / "mnist").iterdir()] == [f"{IMAGES}.part"]
    server.asked.clear()
    fetch(tmp_path)
    assert server.asked[0] == (f"/first/{IMAGES}", "bytes=5000-")
    assert_fetched(tmp_path)


def test_another_mirror_goes_on_where_one_ended(server, tmp_path):
    server.cuts = [5000, 0]
    fetch(tmp_path)
    assert server.asked[2] == (f"/second/{IMAGES}", "bytes=5000-")
    assert_fetched(tmp_path)


@pytest.mark.parametrize("says_length", [True, False])
def test_a_server_that_ignores_ranges_serves_too(says_length, server, tmp_path):
    server.knows_ranges, server.says_length = False, says_length
    server.cuts = [5000, 7000]
    fetch(tmp_path)
    assert [asked for _, asked in server.asked[:3]] == [None, "bytes=5000-", "bytes=7000-"]
    assert_fetched(tmp_path)


def test_a_whole_part_is_not_fetched_again(server, tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / f"{IMAGES}.part").write_bytes(MNIST[IMAGES])
    fetch(tmp_path)
    assert f"/first/{IMAGES}" not in [path for path, _ in server.asked]
    assert_fetched(tmp_path)


# Servers that serve something else


def test_a_wrong_checksum_has_the_next_mirror_serve(server, tmp_path):
    server.files[f"/first/{IMAGES}"] = bytes(len(MNIST[IMAGES]))
    fetch(tmp_path)
    assert server.asked[:2] == [(f"/first/{IMAGES}", None), (f"/second/{IMAGES}", None)]
    assert_fetched(tmp_path)


def test_a_wrong_checksum_everywhere_leaves_nothing(server, tmp_path):
    for mirror in ("first", "second"):
        server.files[f"/{mirror}/{IMAGES}"] = bytes(len(MNIST[IMAGES]))
    host = f"127.0.0.1:{server.server_port}: what it serves has another checksum"
    assert f"({IMAGES}: {host}; {host})" in refused(tmp_path)
    assert not list((tmp_path / "mnist").iterdir())


@pytest.mark.parametrize("size", [3000, len(MNIST[IMAGES]), len(MNIST[IMAGES]) + 3000])
def test_a_wrong_part_is_thrown_away(size, server, tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / f"{IMAGES}.part").write_bytes(bytes(size))
    fetch(tmp_path)
    assert (f"/first/{IMAGES}", None) in server.asked and f"/second/{IMAGES}" not in dict(server.asked)
    assert_fetched(tmp_path)


def test_a_page_in_place_of_the_file_is_not_kept(server, tmp_path):
    """As that on which a hotel's network asks for a password."""
    for mirror in ("first", "second"):
        server.files[f"/{mirror}/{IMAGES}"] = b"<html>"
    assert f"it serves 6 bytes where {len(MNIST[IMAGES])} belong" in refused(tmp_path)
    assert all(path.stat().st_size == 0 for path in (tmp_path / "mnist").iterdir())


@pytest.mark.parametrize(
    "said", [f"bytes 4000-9000/{len(MNIST[IMAGES])}", "bytes 5000-5999/6000", "nonsense"]
)
def test_another_part_than_was_asked_for_is_not_taken(said, server, tmp_path):
    server.cuts, server.said_range = [5000], said
    assert f"it serves '{said}' where 5000 to {len(MNIST[IMAGES])} was asked for" in refused(tmp_path)
    assert (tmp_path / "mnist" / f"{IMAGES}.part").read_bytes() == MNIST[IMAGES][:5000]


def test_a_file_that_is_not_there_is_fetched_elsewhere(server, tmp_path):
    del server.files[f"/first/{IMAGES}"]
    fetch(tmp_path)
    assert_fetched(tmp_path)


def test_nowhere_there(server, tmp_path):
    server.files.clear()
    assert "HTTP 404 Not Found" in refused(tmp_path)


def test_offline_the_hosts_are_named(server, monkeypatch, tmp_path):
    with socket.socket() as unheard:  # bound, but nobody listens
        unheard.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{unheard.getsockname()[1]}"
        expect(monkeypatch, "mnist", MNIST, (f"http://{closed}/", "http://no-such-host.invalid/"))
        sentence = refused(tmp_path)
    assert f"{closed}: " in sentence and "no-such-host.invalid: " in sentence
    assert "Connection refused" in sentence or os.name == "nt"
    assert sentence.count("\n") == 0


def test_a_server_that_says_nothing_is_given_up(server, monkeypatch, tmp_path):
    monkeypatch.setattr(fetching, "_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        expect(monkeypatch, "mnist", MNIST, (f"http://127.0.0.1:{silent.getsockname()[1]}/",))
        assert "no answer within 0.05 s" in refused(tmp_path)


# What goes wrong on this machine


def test_a_full_disk(server, tmp_path):
    resource = pytest.importorskip("resource")  # which Windows does not have
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(
            OSError, match=r"mnist' cannot be written \(File too large\): make room there, or"
        ):
            fetch(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(server.asked) == 1  # no mirror can help
    fetch(tmp_path)
    assert_fetched(tmp_path)


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/mnist', which cannot be written .*; name another folder"):
        fetch(tmp_path / "file")
    assert not server.asked


def test_a_folder_that_may_not_be_written(server, tmp_path, monkeypatch):
    """By its mode alone, root would write it."""
    opened = pathlib.Path.open

    def forbid(path, mode="r", *arguments, **named):
        if "a" in mode:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, mode, *arguments, **named)

    monkeypatch.setattr(pathlib.Path, "open", forbid)
    with pytest.raises(PermissionError, match=r"mnist' cannot be written \(Permission denied\): make room"):
        fetch(tmp_path)


def test_one_process_at_a_time_fetches(server, tmp_path):
    lock = Lock(tmp_path / "mnist", "out")
    with pytest.raises(
        ValueError, match=r"`folder` is '.*mnist', which .* is writing; wait until it has ended"
    ):
        fetch(tmp_path)
    lock.release()
    fetch(tmp_path)
    assert_fetched(tmp_path)
