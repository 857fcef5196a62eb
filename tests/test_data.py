"""Data sets against their sources, against closed forms, and against TFDS directories written here."""

import dataclasses
import io
import itertools
import os
import pathlib
import shutil
import sys

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

from dfc_jax._data import loading as data
from dfc_jax._data.dataset import Dataset, Split
from dfc_jax._data.loading import DATASETS, load, student_teacher


IMAGES = ("mnist", "fashion_mnist", "mnist_autoencoder", "cifar10")
SHAPES = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
TRAIN, TEST = 24, 10


def splits(dataset: Dataset) -> tuple[Split, Split, Split]:
    return dataset.train, dataset.validation, dataset.test


def same(a: Dataset, b: Dataset) -> bool:
    pairs = zip(splits(a), splits(b), strict=True)
    return all(np.array_equal(p.x, q.x) and np.array_equal(p.y, q.y) for p, q in pairs)


@pytest.fixture
def unchecked(monkeypatch):
    """As users run: without the tests' type checker, which would be the first to complain."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# Split and Dataset


def make_split(samples=3, inputs=(4,), outputs=2) -> Split:
    return Split(np.ones((samples, *inputs), np.float32), np.ones((samples, outputs), np.float32))


def test_own_arrays_make_a_dataset():
    dataset = Dataset("mine", make_split(5, (2, 3)), make_split(1, (2, 3)), make_split(2, (2, 3)), False)
    assert [len(split) for split in splits(dataset)] == [5, 1, 2]
    assert (dataset.input_size, dataset.output_size) == (6, 2)


def test_jax_arrays_make_a_split():
    assert len(Split(jnp.ones((3, 4)), jnp.ones((3, 2)))) == 3


FLOATS, NAN = np.ones((3, 2), np.float32), np.array([[1, np.nan], [np.inf, 0]], np.float32)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (FLOATS, FLOATS[:2], "`x` has 3 samples and `y` has 2; they must be equally many"),
        (FLOATS[:0], FLOATS[:0], r"`x` has shape \(0, 2\); it needs at least one sample"),
        (FLOATS[0, 0], FLOATS, r"`x` has shape \(\); it needs at least one sample"),
        (FLOATS, FLOATS[:, 0], r"`y` has shape \(3,\); it must be \(samples, outputs\), with one-hot"),
        (FLOATS, np.ones(3, np.int64), "`y` holds int64 values; make them floats"),
        (FLOATS.astype(np.uint8), FLOATS, "`x` holds uint8 values"),
        (NAN, FLOATS[:2], "`x` has 2 NaN or infinite entries"),
        (FLOATS[:2], NAN, "`y` has 2 NaN or infinite entries"),
    ],
)
def test_unusable_arrays_are_refused(x, y, message, unchecked):
    with pytest.raises(ValueError, match=message):
        Split(x, y)


@pytest.mark.parametrize(
    ("validation", "test", "message"),
    [
        (
            make_split(inputs=(5,)),
            make_split(),
            r"`validation.x` .* \(5,\); it must be \(4,\) as in `train`",
        ),
        (make_split(), make_split(inputs=(2, 2)), r"`test.x` has .* \(2, 2\); it must be \(4,\)"),
        (make_split(outputs=1), make_split(), r"`validation.y` has .* \(1,\); it must be \(2,\)"),
        (make_split(), make_split(outputs=3), r"`test.y` has .* \(3,\); it must be \(2,\)"),
    ],
)
def test_splits_of_different_sizes_are_refused(validation, test, message):
    with pytest.raises(ValueError, match=message):
        Dataset("mine", make_split(), validation, test, True)


# load


def test_the_names():
    assert DATASETS == ("digits", "student_teacher", "mnist", "fashion_mnist", "mnist_autoencoder", "cifar10")


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'minst'; .* digits, student_teacher, .* Did you mean 'mnist'"):
        load("minst")
    with pytest.raises(ValueError, match=r"'xyz'; .* cifar10\.$"):
        load("xyz")


@pytest.mark.parametrize(
    ("name", "number", "allowed"),
    [
        *[("digits", number, "between 10 and 1427") for number in (9, 1428, 0.1)],
        *[("student_teacher", number, "of at least 1") for number in (0, -1)],
        *[("mnist", number, "between 1 and 59999") for number in (0, 60_000)],
        ("cifar10", 50_000, "between 1 and 49999"),
    ],
)
def test_validation_samples_out_of_range(name, number, allowed, unchecked):
    message = f"`validation_samples` is {number}; it must be a whole number {allowed}"
    with pytest.raises(ValueError, match=message):
        load(name, validation_samples=number)


# digits


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def test_digits_are_those_of_scikit_learn_each_once(digits):
    pixels, labels = load_digits(return_X_y=True)
    assert [len(split) for split in splits(digits)] == [1257, 180, 360]
    assert (digits.input_size, digits.output_size, digits.classification) == (64, 10, True)
    x = np.concatenate([split.x for split in splits(digits)])
    y = np.concatenate([split.y for split in splits(digits)])
    assert x.dtype == y.dtype == np.float32
    # Standardisation maps equal steps of grey to equal steps: undo it by the extremes, 0 and 16.
    grey = np.rint((x - x.min()) / (x.max() - x.min()) * 16).astype(int)
    assert np.array_equal(np.unique(y), [0, 1]) and np.array_equal(y.sum(1), np.ones(1797))
    found = sorted((*row, label) for row, label in zip(grey.tolist(), y.argmax(1).tolist(), strict=True))
    wanted = sorted(
        (*row, label) for row, label in zip(pixels.astype(int).tolist(), labels.tolist(), strict=True)
    )
    assert len(set(wanted)) == 1797  # no image occurs twice, so equal lists mean disjoint splits
    assert found == wanted


def test_digits_are_standardised_by_the_training_samples_alone(digits):
    assert abs(digits.train.x.mean(dtype=np.float64)) < 1e-6
    assert abs(digits.train.x.std(dtype=np.float64) - 1) < 1e-6
    assert abs(digits.test.x.mean(dtype=np.float64)) > 1e-5


def test_digits_are_stratified(digits):
    for split in splits(digits):
        assert np.abs(split.y.mean(0) - 0.1).max() < 0.01


def test_digits_depend_on_no_seed_and_the_test_split_on_nothing(digits):
    np.random.seed(5)
    assert same(digits, load("digits"))
    other = load("digits", validation_samples=437)
    assert [len(split) for split in splits(other)] == [1000, 437, 360]
    assert np.array_equal(other.test.y, digits.test.y)


# student and teacher


@pytest.fixture(scope="module")
def toy() -> Dataset:
    return load("student_teacher")


def test_student_teacher_sizes_and_inputs(toy):
    assert [len(split) for split in splits(toy)] == [5000, 1000, 1000]
    assert (toy.input_size, toy.output_size, toy.classification) == (15, 5, False)
    assert toy.train.x.dtype == toy.train.y.dtype == np.float32
    for split in splits(toy):
        assert np.abs(split.x).max() <= 1
        assert np.abs(split.x).max() > 0.999
        assert abs(split.x.mean()) < 5 / np.sqrt(3 * split.x.size)
        assert abs(split.x.var() - 1 / 3) < 0.02
    assert not np.isin(toy.test.x[:, 0], toy.train.x[:, 0]).all()


def test_one_teacher_without_biases_for_all_splits():
    # Without biases a ReLU network of one input is exactly y = |x| y(sign x): two constants for each output.
    toy = student_teacher(input_size=1, train_samples=40, validation_samples=30, test_samples=20)
    slopes = [split.y / np.abs(split.x) for split in splits(toy)]
    for sign in (-1, 1):
        each = [
            slope[np.sign(split.x[:, 0]) == sign] for slope, split in zip(slopes, splits(toy), strict=True)
        ]
        assert min(len(rows) for rows in each) > 0
        for rows in each:
            np.testing.assert_allclose(rows, np.broadcast_to(each[0][0], rows.shape), rtol=2e-6)


def test_teacher_has_the_published_depth_width_and_gain():
    # Xavier's variance is 18 / (fan_in + fan_out); a ReLU halves the second moment of what it passes on.
    outputs, widths = 500, (15, 1000, 1000, 1000, 1000, 500)
    moment = 2 / 3  # of the uniform inputs, doubled because no ReLU comes before the first layer
    for fan_in, fan_out in itertools.pairwise(widths):
        moment *= 18 / (fan_in + fan_out) * fan_in / 2
    samples = {"train_samples": 200, "validation_samples": 1, "test_samples": 1}
    measured = []
    for seed in range(3):
        toy = student_teacher(output_size=outputs, seed=seed, **samples)
        measured.append(np.mean(toy.train.y**2))
    # One layer more or less is a factor of 4.5, and half the width one of 8; single teachers vary by a third.
    assert abs(np.mean(measured) / moment - 1) < 0.3


def test_student_teacher_is_fixed_by_its_seed(toy):
    assert same(toy, student_teacher())
    other = student_teacher(seed=1, train_samples=2, validation_samples=2, test_samples=2)
    assert not np.isclose(other.train.y, toy.train.y[:2]).any()
    fewer = student_teacher(train_samples=7, validation_samples=3)
    assert np.array_equal(fewer.test.y, toy.test.y)
    np.testing.assert_allclose(fewer.train.y, toy.train.y[:7], rtol=1e-5)
    assert len(load("student_teacher", validation_samples=3).validation) == 3


@pytest.mark.parametrize(
    "name", ["input_size", "output_size", "train_samples", "validation_samples", "test_samples"]
)
def test_student_teacher_refuses_nothing_at_all(name):
    with pytest.raises(ValueError, match=f"`{name}` is 0; it must be a whole number of at least 1"):
        student_teacher(**{name: 0})


# TFDS


def raw(source: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of a tiny data set: the image is random, its first pixel counts the samples."""
    samples = {"train": TRAIN, "test": TEST}[split]
    images = np.random.default_rng(samples).integers(0, 256, (samples, *SHAPES[source]), np.uint8)
    images[:, 0, 0, 0] = np.arange(samples)
    return images, np.arange(samples) % 10


def write(source: str, root: pathlib.Path) -> None:
    """Prepare `raw(source, ...)` with TFDS's own builder, from PNG files: to encode, it needs TensorFlow."""

    def examples(split: str):
        for i, (image, label) in enumerate(zip(*raw(source, split), strict=True)):
            file = io.BytesIO()
            Image.fromarray(image.squeeze()).save(file, "PNG")
            file.seek(0)
            named = {"id": f"{split}_{i}"} if source == "cifar10" else {}
            yield i, {"image": file, "label": int(label), **named}

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


@pytest.fixture
def tiny(monkeypatch):
    """Let the library expect the tiny data sets' numbers of samples."""
    for name in IMAGES:
        spec = dataclasses.replace(data._IMAGE_SETS[name], train_samples=TRAIN, test_samples=TEST)
        monkeypatch.setitem(data._IMAGE_SETS, name, spec)


def published_pixels(name: str, images: np.ndarray) -> np.ndarray:
    x = images / 255
    if name == "cifar10":
        x = (x - [0.4914, 0.4822, 0.4465]) / [0.2470, 0.2435, 0.2616]
        return np.stack([x[..., channel].reshape(len(x), -1) for channel in range(3)], 1).reshape(len(x), -1)
    return (x if name == "fashion_mnist" else (x - 0.1307) / 0.3081).reshape(len(x), -1)


def assert_holds(split: Split, name: str, images: np.ndarray, labels: np.ndarray) -> None:
    np.testing.assert_allclose(split.x, published_pixels(name, images), atol=2e-6)
    y = split.x if name == "mnist_autoencoder" else labels[:, None] == np.arange(10)
    np.testing.assert_array_equal(split.y, y)


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_read_and_preprocessed_as_published(name, prepared, tiny):
    source = name.removesuffix("_autoencoder")
    dataset = load(name, validation_samples=5, data_dir=prepared)
    assert [len(split) for split in splits(dataset)] == [TRAIN - 5, 5, TEST]
    assert dataset.input_size == np.prod(SHAPES[source])
    assert dataset.output_size == (784 if name == "mnist_autoencoder" else 10)
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
    assert same(first, load("mnist", validation_samples=5, data_dir=str(prepared)))
    more = load("mnist", validation_samples=8, data_dir=prepared)
    assert np.array_equal(more.validation.x[:5], first.validation.x)
    assert np.array_equal(more.test.x, first.test.x)


def test_data_dir_defaults_to_the_environment_then_to_the_home_folder(prepared, tiny, monkeypatch, tmp_path):
    wanted = load("mnist", validation_samples=5, data_dir=prepared)
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert same(wanted, load("mnist", validation_samples=5))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert same(wanted, load("mnist", validation_samples=5, data_dir=prepared))
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tensorflow_datasets").symlink_to(prepared)
    assert same(wanted, load("mnist", validation_samples=5))


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
        f"mnist is not in {str(tmp_path)!r}. Set `data_dir` or the environment variable TFDS_DATA_DIR"
        in message
    )
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
    }.get(name, (784, 55_000, 5000, 10_000))
    assert [len(split) for split in splits(dataset)] == [train, validation, test]
    assert dataset.input_size == pixels
    mean, std = (0.286, 0.353) if name == "fashion_mnist" else (0, 1)
    assert abs(dataset.train.x.mean() - mean) < 0.01 and abs(dataset.train.x.std() - std) < 0.01
    if dataset.classification:
        assert np.abs(dataset.train.y.mean(0) - 0.1).max() < 0.02
