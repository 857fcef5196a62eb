"""Images against TFDS directories written here, and against the real ones where they are."""

import dataclasses
import gzip
import io
import os
import pathlib
import shutil
import sys
from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import same_data, splits
from PIL import Image
from small_archives import CLASSES, expect, files_of, idx, SHAPES, TEST, TRAIN

from dfc_jax._data import loading as data
from dfc_jax._data.dataset import Split
from dfc_jax._data.loading import load
from dfc_jax._runs.identity import described


IMAGES = ("mnist", "fashion_mnist", "mnist_autoencoder", "cifar10", "cifar100")


def raw(source: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of a tiny data set: the image is random, its first pixel counts the samples."""
    samples = {"train": TRAIN, "test": TEST}[split]
    images = np.random.default_rng(samples).integers(0, 256, (samples, *SHAPES[source]), np.uint8)
    images[:, 0, 0, 0] = np.arange(samples)
    return images, np.arange(samples) % CLASSES[source]


def write(source: str, root: pathlib.Path) -> None:
    """Prepare `raw(source, ...)` with TFDS's own builder, from PNG files: to encode, it needs TensorFlow."""

    def examples(split: str):
        for i, (image, label) in enumerate(zip(*raw(source, split), strict=True)):
            file = io.BytesIO()
            Image.fromarray(image.squeeze()).save(file, "PNG")
            file.seek(0)
            named = {"id": f"{split}_{i}"} if source.startswith("cifar") else {}
            coarse = {"coarse_label": i % 20} if source == "cifar100" else {}
            yield i, {"image": file, "label": int(label), **named, **coarse}

    def generators(builder, download_manager):
        return {split: examples(split) for split in ("train", "test")}

    with pytest.MonkeyPatch.context() as patch:
        builder = tfds.builder_cls(source)
        patch.setattr(builder, "_split_generators", generators)
        builder(data_dir=root, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("tfds")
    for source in SHAPES:
        write(source, root)
    return root


@pytest.fixture(autouse=True)
def no_archives(monkeypatch, tmp_path_factory):
    """Whatever this machine has in its cache."""
    monkeypatch.setenv("DFC_JAX_DATA", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def tiny(monkeypatch):
    """Let the library expect the tiny data sets' numbers of samples."""
    for name in IMAGES:
        spec = dataclasses.replace(data._IMAGE_SETS[name], train_samples=TRAIN, test_samples=TEST)
        monkeypatch.setitem(data._IMAGE_SETS, name, spec)


def published_pixels(name: str, images: np.ndarray) -> np.ndarray:
    x = images / 255
    if name.startswith("cifar"):
        mean, std = {
            "cifar10": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
            "cifar100": ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
        }[name]
        x = (x - mean) / std
        return np.stack([x[..., channel].reshape(len(x), -1) for channel in range(3)], 1).reshape(len(x), -1)
    return (x if name == "fashion_mnist" else (x - 0.1307) / 0.3081).reshape(len(x), -1)


def assert_holds(split: Split, name: str, images: np.ndarray, labels: np.ndarray) -> None:
    np.testing.assert_allclose(split.x, published_pixels(name, images), atol=2e-6)
    y = split.x if name == "mnist_autoencoder" else labels[:, None] == np.arange(CLASSES[name])
    np.testing.assert_array_equal(split.y, y)


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_read_and_preprocessed_as_published(name, prepared, tiny):
    source = name.removesuffix("_autoencoder")
    dataset = load(name, validation_samples=5, data_dir=prepared)
    assert [len(split) for split in splits(dataset)] == [TRAIN - 5, 5, TEST]
    assert dataset.input_size == np.prod(SHAPES[source])
    assert dataset.output_size == (784 if name == "mnist_autoencoder" else CLASSES[name])
    assert dataset.classification == (name != "mnist_autoencoder")
    assert dataset.train.x.dtype == dataset.train.y.dtype == np.float32
    images, labels = raw(source, "train")
    x = published_pixels(name, images)
    used = []
    for split in (dataset.train, dataset.validation):
        order = np.abs(split.x[:, None] - x).max(-1).argmin(1)  # which image each sample is
        assert_holds(split, name, images[order], labels[order])
        used += order.tolist()
    assert sorted(used) == list(range(TRAIN)) and used != sorted(used)
    # TFDS stores samples in the order of hashed keys, so the counting pixel says which is which.
    test_images, test_labels = raw(source, "test")
    order = np.abs(dataset.test.x[:, None] - published_pixels(name, test_images)).max(-1).argmin(1)
    assert sorted(order) == list(range(TEST))
    assert_holds(dataset.test, name, test_images[order], test_labels[order])


def test_images_reshape_to_channels_first(prepared, tiny):
    images, _ = raw("cifar10", "test")
    x = load("cifar10", validation_samples=5, data_dir=prepared).test.x.reshape(-1, 3, 32, 32)
    blue = (images[..., 2] / 255 - 0.4465) / 0.2616
    assert all(np.isclose(sample, blue, atol=2e-6).all((1, 2)).sum() == 1 for sample in x[:, 2])


def test_image_splits_are_the_same_in_every_run(prepared, tiny):
    first = load("mnist", validation_samples=5, data_dir=prepared)
    np.random.seed(3)
    assert same_data(first, load("mnist", validation_samples=5, data_dir=str(prepared)))
    more = load("mnist", validation_samples=8, data_dir=prepared)
    assert np.array_equal(more.validation.x[:5], first.validation.x)
    assert np.array_equal(more.test.x, first.test.x)


def test_data_dir_defaults_to_the_environment_then_to_the_home_folder(prepared, tiny, monkeypatch, tmp_path):
    wanted = load("mnist", validation_samples=5, data_dir=prepared)
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert same_data(wanted, load("mnist", validation_samples=5))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert same_data(wanted, load("mnist", validation_samples=5, data_dir=prepared))
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tensorflow_datasets").symlink_to(prepared)
    assert same_data(wanted, load("mnist", validation_samples=5))


def test_reading_needs_no_tensorflow(prepared, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # an import of it now fails
    assert len(load("mnist", validation_samples=5, data_dir=prepared).test) == TEST


@pytest.mark.parametrize("module", ["tensorflow_datasets", "importlib_resources", "PIL", "array_record"])
def test_a_missing_module_is_named(module, prepared, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'module `{module}`; run `pip install "dfc_jax\[tfds\]"`'):
        load("mnist", validation_samples=5, data_dir=prepared)


def test_unprepared_data_say_where_was_searched_and_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load("mnist_autoencoder", data_dir=tmp_path)
    message = str(caught.value)
    assert (
        f"mnist is not in {str(tmp_path)!r}: `dfc.download('mnist', {str(tmp_path)!r})` fetches it" in message
    )
    assert "Or set `data_dir`, the environment variable DFC_JAX_DATA or TFDS_DATA_DIR" in message
    assert 'pip install "dfc_jax[data]"' in message
    builder = f"tfds.builder('mnist', data_dir={str(tmp_path)!r}, file_format='array_record')"
    assert f'python -c "import tensorflow_datasets as tfds; {builder}.download_and_prepare()"' in message
    assert not list(tmp_path.iterdir())  # nothing was downloaded


def truncate(folder: pathlib.Path) -> None:
    os.truncate(next(folder.glob("*/*-train.*")), 1000)


def lose_examples(folder: pathlib.Path) -> None:
    next(folder.glob("*/*-test.*")).unlink()


def garble_description(folder: pathlib.Path) -> None:
    next(folder.glob("*/dataset_info.json")).write_text("{")


def leave_unfinished(folder: pathlib.Path) -> None:
    next(folder.iterdir()).rename(folder / "incomplete.ABC_3.0.1")


WHAT_IS_WRONG = {
    truncate: "is damaged,",
    lose_examples: "is damaged,",
    garble_description: "is damaged,",
    leave_unfinished: "holds nothing that was prepared to the end.",
}


@pytest.mark.parametrize("damage", WHAT_IS_WRONG)
def test_damaged_data_are_to_be_prepared_again(damage, prepared, tiny, tmp_path):
    shutil.copytree(prepared / "mnist", tmp_path / "mnist")
    damage(tmp_path / "mnist")
    remedy = r".*Use another `data_dir`, or move it away and prepare it again: .* tfds.builder\("
    with pytest.raises(RuntimeError, match=f"{tmp_path}/mnist' {WHAT_IS_WRONG[damage]}{remedy}") as caught:
        load("mnist", validation_samples=5, data_dir=tmp_path)
    assert "elete" not in str(caught.value)


@pytest.mark.parametrize("part", [".", "mnist", "mnist/3.0.1", "mnist/3.0.1/dataset_info.json"])
def test_what_may_not_be_read_is_not_called_damage(part, prepared, tiny, monkeypatch):
    forbidden, access = prepared / part, os.access  # by its mode alone, root would read it
    monkeypatch.setattr(
        os, "access", lambda path, mode: pathlib.Path(path) != forbidden and access(path, mode)
    )
    with pytest.raises(PermissionError, match=rf"{forbidden}' may not be read by this user: ask its owner"):
        load("mnist", validation_samples=5, data_dir=prepared)


def test_a_data_set_in_the_folder_of_another_is_refused(prepared, tiny, tmp_path):
    shutil.copytree(prepared / "mnist", tmp_path / "fashion_mnist")
    with pytest.raises(ValueError, match="fashion_mnist' holds the data set 'mnist', not 'fashion_mnist'"):
        load("fashion_mnist", validation_samples=5, data_dir=tmp_path)


def test_too_few_examples_are_damage(prepared):
    with pytest.raises(
        RuntimeError, match=f"incomplete .*{TRAIN} train examples where 60000 belong.*Use another"
    ):
        load("mnist", data_dir=prepared)


def test_out_of_memory_is_not_called_damage(prepared, tiny, monkeypatch):
    def exhausted(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(tfds, "data_source", exhausted)
    with pytest.raises(MemoryError):
        load("mnist", validation_samples=5, data_dir=prepared)


def test_archives_go_before_what_is_prepared(prepared, tiny, monkeypatch, tmp_path):
    """Both may be in one folder; a run tells the one from the other."""
    shutil.copytree(prepared / "mnist", tmp_path / "mnist")
    theirs = load("mnist", validation_samples=5, data_dir=tmp_path)
    files = files_of("mnist")
    expect(monkeypatch, "mnist", files, ())
    for name, content in files.items():
        assert same_data(theirs, load("mnist", validation_samples=5, data_dir=tmp_path))
        (tmp_path / "mnist" / name).write_bytes(content)
    ours = load("mnist", validation_samples=5, data_dir=tmp_path)
    assert described(ours) != described(theirs)
    monkeypatch.setenv("DFC_JAX_DATA", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert same_data(ours, load("mnist", validation_samples=5))
    assert same_data(theirs, load("mnist", validation_samples=5, data_dir=prepared))


# The real data sets, as far as TFDS_DATA_DIR holds them


def really_there() -> list[str]:
    root = os.environ.get("TFDS_DATA_DIR")
    names = [name for name in IMAGES if root and os.path.isdir(f"{root}/{name.removesuffix('_autoencoder')}")]
    return ["digits", *names]


@pytest.mark.parametrize("name", really_there())
def test_real_data_have_the_sizes_and_statistics_of_the_papers(name):
    dataset = load(name)
    pixels, train, validation, test = {
        "digits": (64, 1257, 180, 360),
        "cifar10": (3072, 45_000, 5000, 10_000),
        "cifar100": (3072, 45_000, 5000, 10_000),
    }.get(name, (784, 55_000, 5000, 10_000))
    assert [len(split) for split in splits(dataset)] == [train, validation, test]
    assert dataset.input_size == pixels
    mean, std = (0.286, 0.353) if name == "fashion_mnist" else (0, 1)
    assert abs(dataset.train.x.mean() - mean) < 0.01 and abs(dataset.train.x.std() - std) < 0.01
    if dataset.classification:
        assert np.abs(dataset.train.y.mean(0) * dataset.output_size - 1).max() < 0.2


@pytest.mark.skipif("mnist" not in really_there(), reason="TFDS_DATA_DIR holds no MNIST")
def test_archives_of_the_real_images_give_the_same_images(monkeypatch, tmp_path):
    """At full size: what is prepared, written as archives, differs in the order of its samples alone."""
    pixels = [
        tfds.data_source("mnist", split=split, data_dir=os.environ["TFDS_DATA_DIR"])
        for split in ("train", "test")
    ]
    files = {}
    for prefix, records in zip(("train", "t10k"), pixels, strict=True):
        examples = records.__getitems__(range(len(records)))[::-1]
        images, labels = np.stack([e["image"][..., 0] for e in examples]), [e["label"] for e in examples]
        files[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(idx(images), 1)
        files[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(idx(np.array(labels, np.uint8)))
    expect(monkeypatch, "mnist", files, (), samples=(60_000, 10_000))
    (tmp_path / "mnist").mkdir()
    for name, content in files.items():
        (tmp_path / "mnist" / name).write_bytes(content)
    ours, theirs = load("mnist", data_dir=tmp_path), load("mnist")
    assert np.array_equal(ours.test.x, theirs.test.x[::-1])
    assert np.array_equal(ours.test.y, theirs.test.y[::-1])
    assert not np.array_equal(ours.train.x, theirs.train.x)
    every = [np.concatenate([data.train.x, data.validation.x]) for data in (ours, theirs)]
    assert Counter(map(bytes, every[0])) == Counter(map(bytes, every[1]))
