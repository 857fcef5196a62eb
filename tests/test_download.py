"""Archives fetched from a server on this machine, which cuts, lies and fails, and loaded from there."""

import errno
import functools
import gzip
import os
import pathlib
import socket

import numpy as np
import pytest
import tensorflow_datasets
from helpers import splits
from options.config import Config
from run import prepare
from small_archives import CLASSES, expect, files_of, idx, samples_of, Server, SHAPES, TEST, TRAIN

import dfc_jax as dfc
from dfc_jax._data import archives, fetching, loading
from dfc_jax._lock import Lock


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
MNIST = files_of("mnist")
load = functools.partial(dfc.load, validation_samples=5)


@pytest.fixture
def server(monkeypatch):
    """With all of small MNIST in two folders, of which the library knows in this order: first, second."""
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    server.files = {f"/{mirror}/{name}": c for mirror in ("first", "second") for name, c in MNIST.items()}
    expect(monkeypatch, "mnist", MNIST, (server.address("first/"), server.address("second/")))
    yield server
    server.stop()


def assert_fetched(folder: pathlib.Path) -> None:
    """All of MNIST is there, and nothing else."""
    assert {path.name: path.read_bytes() for path in (folder / "mnist").iterdir()} == MNIST


def fetch(folder: pathlib.Path) -> pathlib.Path:
    return dfc.download("mnist", folder, progress=False)


def refused(folder: pathlib.Path) -> str:
    """The sentence in which the download fails."""
    with pytest.raises(RuntimeError) as caught:
        fetch(folder)
    sentence = str(caught.value)
    assert sentence.startswith(f"mnist could not be fetched to {str(folder / 'mnist')!r} (")
    assert "copy the folder from a machine that has it" in sentence and "TFDS_DATA_DIR" in sentence
    return sentence


# What is fetched is what is loaded


@pytest.mark.parametrize("source", SHAPES)
def test_what_the_archives_hold_is_loaded(source, server, monkeypatch, tmp_path):
    files = files_of(source)
    server.files = {f"/{name}": content for name, content in files.items()}
    expect(monkeypatch, source, files, (server.address(),))
    assert dfc.download(source, str(tmp_path), progress=False) == tmp_path
    assert {path.name: path.read_bytes() for path in (tmp_path / source).iterdir()} == files
    data = load(source, data_dir=tmp_path)
    assert [len(split) for split in splits(data)] == [TRAIN - 5, 5, TEST]
    mean, std = {
        "mnist": ([0.1307], [0.3081]),
        "fashion_mnist": ([0], [1]),
        "cifar10": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
        "cifar100": ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
    }[source]
    together = (
        np.concatenate([data.validation.x, data.train.x]),
        np.concatenate([data.validation.y, data.train.y]),
    )
    order = np.random.default_rng(0).permutation(TRAIN)
    for split, places, (x, y) in (
        ("test", np.arange(TEST), (data.test.x, data.test.y)),
        ("train", order, together),
    ):
        images, labels = samples_of(source, split)
        wanted = ((images[places] / 255 - mean) / std).transpose(0, 3, 1, 2).reshape(len(places), -1)
        np.testing.assert_allclose(x, wanted, atol=2e-6)
        np.testing.assert_array_equal(y, np.eye(CLASSES[source])[labels[places]])


def test_the_autoencoder_is_mnist(server, tmp_path):
    dfc.download("mnist_autoencoder", tmp_path, progress=False)
    assert_fetched(tmp_path)
    data = load("mnist_autoencoder", data_dir=tmp_path)
    assert np.array_equal(data.train.y, data.train.x) and data.output_size == 784 and not data.classification
    assert np.array_equal(data.test.x, load("mnist", data_dir=tmp_path).test.x)


def test_the_folder_is_that_of_the_environment_else_a_cache(server, monkeypatch, tmp_path):
    home, caches, own = (tmp_path / name for name in ("home", "caches", "own"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("DFC_JAX_DATA", raising=False)
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


# What load says


def test_load_fetches_nothing_and_says_how(server, monkeypatch, tmp_path):
    monkeypatch.setenv("DFC_JAX_DATA", str(tmp_path / "archives"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    with pytest.raises(FileNotFoundError) as caught:
        load("mnist_autoencoder")
    places = f"{str(tmp_path / 'archives')!r} or {str(tmp_path / 'prepared')!r}"
    assert str(caught.value).startswith(
        f"mnist is not in {places}: `dfc.download('mnist')` fetches it. Or set"
    )
    assert not server.asked and not list(tmp_path.iterdir())
    server.cuts = [5000, 0, 0]
    refused(tmp_path)  # which leaves a part: still not there
    with pytest.raises(
        FileNotFoundError, match=rf"mnist is not in '{tmp_path}': .*download\('mnist', '{tmp_path}"
    ):
        load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("name", MNIST)
def test_another_file_in_the_place_of_an_archive_is_refused(name, server, tmp_path):
    fetch(tmp_path)
    path = tmp_path / "mnist" / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    remedy = rf"`dfc.download\('mnist', '{tmp_path}'\)` replaces what is"
    with pytest.raises(
        RuntimeError, match=rf"{name}' is damaged or another file \(by its checksum\); {remedy}"
    ):
        load("mnist", data_dir=tmp_path)
    fetch(tmp_path)
    load("mnist", data_dir=tmp_path)


def test_labels_beyond_the_classes_are_refused(server, monkeypatch, tmp_path):
    files = MNIST | {LABELS: gzip.compress(idx(np.full(TRAIN, 10, np.uint8)))}
    (tmp_path / "mnist").mkdir()
    for name, content in files.items():
        (tmp_path / "mnist" / name).write_bytes(content)
    expect(monkeypatch, "mnist", files, ())
    with pytest.raises(RuntimeError, match="mnist' holds the label 10, of 10 classes"):
        load("mnist", data_dir=tmp_path)


def test_an_archive_that_may_not_be_read_is_not_called_damage(server, monkeypatch, tmp_path):
    fetch(tmp_path)
    forbidden, access = tmp_path / "mnist" / LABELS, os.access  # by its mode alone, root would read it
    monkeypatch.setattr(
        os, "access", lambda path, mode: pathlib.Path(path) != forbidden and access(path, mode)
    )
    for call in (load, dfc.download):
        with pytest.raises(
            PermissionError, match=f"{forbidden}' may not be read by this user: ask its owner"
        ):
            call("mnist", **{"data_dir" if call is load else "folder": tmp_path})


def test_names_that_need_no_download(unchecked):
    with pytest.raises(
        ValueError, match="`name` is 'digits', which needs no download; it must be one of mnist"
    ):
        dfc.download("digits")
    with pytest.raises(ValueError, match=r"`name` is 'cifar1000'; .* Did you mean 'cifar100'"):
        dfc.download("cifar1000")


# The published archives


def test_sizes_and_checksums_are_those_of_tensorflow_datasets():
    folder = pathlib.Path(tensorflow_datasets.__file__).parent / "url_checksums"
    for source, held in archives.SOURCES.items():
        lines = [line.split() for line in (folder / f"{source}.txt").read_text().splitlines()]
        theirs = {url: (int(size), checksum) for url, size, checksum, *_ in lines}
        ours = {each.mirrors[0] + each.name: (each.size, each.sha256) for each in held.archives}
        assert ours == theirs
        assert all(mirror.endswith("/") for each in held.archives for mirror in each.mirrors)
    assert set(archives.SOURCES) == {spec.source for spec in loading._IMAGE_SETS.values()}


# The command line


def test_the_command_fetches_first_where_it_is_told_to(server, monkeypatch, tmp_path):
    monkeypatch.setenv("DFC_JAX_DATA", str(tmp_path / "archives"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(loading, "_images", functools.partial(loading._images, validation_samples=5))
    options = {"method": ("bp",), "dataset": "mnist", "out": str(tmp_path / "run"), "batch_size": 5}
    with pytest.raises(FileNotFoundError, match=r"mnist is not in .* Or give --download\.$"):
        prepare(Config(**options, progress=False))
    assert not server.asked
    (run,), data = prepare(Config(**options, download=True, progress=False))
    assert_fetched(tmp_path / "archives")
    assert run.config.download and len(data.test) == TEST
    prepare(Config(**options, resume=True, progress=False))  # the same run, whether or not it fetches
