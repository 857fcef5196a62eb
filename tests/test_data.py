"""Data sets of one's own and those that need no files, against their sources and against closed forms."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import same_data, splits
from sklearn.datasets import load_digits

from dfc_jax._data.dataset import Dataset, Split
from dfc_jax._data.loading import DATASETS, load, student_teacher


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
    images = ("mnist", "fashion_mnist", "mnist_autoencoder", "cifar10", "cifar100")
    assert ("digits", "student_teacher", *images) == DATASETS


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'minst'; .* digits, student_teacher, .* Did you mean 'mnist'"):
        load("minst")
    with pytest.raises(ValueError, match=r"'xyz'; .* cifar100\.$"):
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
    assert same_data(digits, load("digits"))
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
    assert same_data(toy, student_teacher())
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
