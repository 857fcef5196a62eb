"""Archives loaded: what they hold, and what is said of those that are damaged, forbidden or not there."""

import functools
import gzip
import os
import pathlib

import numpy as np
import pytest
import tensorflow_datasets
from helpers import splits
from options.config import Config
from run import prepare
from small_archives import (
    assert_fetched,
    CLASSES,
    expect,
    fetch,
    files_of,
    idx,
    LABELS,
    MNIST,
    refused,
    samples_of,
    SHAPES,
    TEST,
    TRAIN,
)

import dfc_jax as dfc
from dfc_jax._data import archives, loading


load = functools.partial(dfc.load, validation_samples=5)


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
