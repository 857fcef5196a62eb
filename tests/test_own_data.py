"""Data sets of one's own, made of labels, tables and lists."""

import dataclasses

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pandas as pd
import pytest
from helpers import adam
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

import dfc_jax as dfc


RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 3)) * [1, 10, 0.1] + [5, 0, -2]
LABELS = np.arange(40) % 4
SPLITS = ("train", "validation", "test")


def together(data: dfc.Dataset, part: str) -> np.ndarray:
    return np.concatenate([getattr(getattr(data, split), part) for split in SPLITS])


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (LABELS, (0, 1, 2, 3)),
        (LABELS.astype(np.uint8) + 3, (3, 4, 5, 6)),
        ([10, 20] * 20, (10, 20)),
        (["cat", "ant"] * 20, ("ant", "cat")),
        (np.array(["cat", "ant"] * 20, object), ("ant", "cat")),
        (np.array([20, 10] * 20, object), (10, 20)),
        (np.array([True, False] * 20, object), (False, True)),
        (LABELS > 1, (False, True)),
        (jnp.asarray(LABELS), (0, 1, 2, 3)),
        (pd.Series(["cat", "ant"] * 20), ("ant", "cat")),
        (pd.Series(["cat", "ant"] * 20, dtype="category"), ("ant", "cat")),
        (pd.DataFrame({"label": LABELS}), (0, 1, 2, 3)),
    ],
)
def test_labels_become_one_hot_in_the_order_of_the_classes(labels, classes):
    data = dfc.Dataset.from_arrays(X, labels, standardise=False)
    assert data.classification and data.classes == classes
    label_of = {tuple(x): label for x, label in zip(X.astype(np.float32), np.ravel(labels), strict=True)}
    for split in SPLITS:
        x, y = getattr(data, split).x, getattr(data, split).y
        assert y.dtype == np.float32 and np.array_equal(y.sum(axis=1), np.ones(len(y)))
        found = [classes[i] for i in y.argmax(axis=1)]
        assert found == [label_of[tuple(row)] for row in x]
        np.testing.assert_allclose(y.mean(axis=0), 1 / len(classes), atol=1e-6)  # each class in its share


def test_a_list_of_numbers_and_strings_is_one_of_strings_as_everywhere_in_numpy():
    assert dfc.Dataset.from_arrays(X, [1, "a"] * 20).classes == ("1", "a")


@pytest.mark.parametrize("x", [X, X.tolist(), jnp.asarray(X), pd.DataFrame(X, columns=["a", "b", "c"])])
def test_inputs_of_every_kind(x):
    wanted = dfc.Dataset.from_arrays(X, LABELS)
    found = dfc.Dataset.from_arrays(x, LABELS)
    for split in SPLITS:
        assert getattr(found, split).x.dtype == np.float32
        np.testing.assert_allclose(getattr(found, split).x, getattr(wanted, split).x, rtol=1e-6)


@pytest.mark.parametrize("y", [X[:, 0], X[:, :2], pd.Series(X[:, 0]), X[:, 0].astype(np.float32).tolist()])
def test_floats_are_a_regression(y):
    data = dfc.Dataset.from_arrays(X, y, standardise=False)
    assert not data.classification and data.classes is None
    wanted = np.asarray(y, np.float32).reshape(40, -1)
    order = [np.flatnonzero((X.astype(np.float32) == row).all(axis=1))[0] for row in together(data, "x")]
    assert sorted(order) == list(range(40)) and np.array_equal(together(data, "y"), wanted[order])


def test_splits_are_as_asked_and_the_same_every_time():
    data = dfc.Dataset.from_arrays(X, LABELS, validation=0.1, test=0.3)
    assert [len(getattr(data, split)) for split in SPLITS] == [24, 4, 12]
    again = dfc.Dataset.from_arrays(X, LABELS, validation=0.1, test=0.3)
    other = dfc.Dataset.from_arrays(X, LABELS, validation=0.1, test=0.3, seed=1)
    assert np.array_equal(again.test.x, data.test.x) and not np.array_equal(other.test.x, data.test.x)


def shared(labels: np.ndarray, **fractions: float) -> tuple[list[list[int]], dfc.Dataset]:
    """How many of each class every split has; and the data set, whose inputs are numbers of the samples."""
    x = np.arange(len(labels))[:, None]
    data = dfc.Dataset.from_arrays(x, labels, standardise=False, **fractions)
    return [getattr(data, split).y.sum(axis=0).astype(int).tolist() for split in SPLITS], data


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("times", "fractions"),
    [
        ((97, 3), {}),
        ((97, 3), {"test": 0.6, "validation": 0.2}),
        ((97, 3), {"test": 0.02, "validation": 0.02}),
        ((97, 3), {"test": 0.02, "validation": 0.96}),
        ((3, 3, 3, 3), {"test": 0.3, "validation": 0.3}),
        ((200, 4, 3, 3, 3, 5), {"test": 0.9, "validation": 0.05}),
        ((200, 4, 3, 3, 3, 5), {"test": 0.05, "validation": 0.9}),
    ],
)
def test_rare_classes_are_in_every_split(times, fractions, seed):
    labels = np.repeat(np.arange(len(times)), times)
    counts, data = shared(labels, seed=seed, **fractions)
    assert np.min(counts) >= 1
    held = [round(fractions.get(name, 0.2) * len(labels)) for name in ("validation", "test")]
    assert np.sum(counts, axis=1).tolist() == [len(labels) - sum(held), *held]
    numbers = together(data, "x").ravel().astype(int)
    assert sorted(numbers) == list(range(len(labels)))  # each once, and with its own label
    assert np.array_equal(together(data, "y").argmax(axis=1), labels[numbers])
    again = shared(labels, seed=seed, **fractions)[1]
    assert np.array_equal(together(again, "x"), together(data, "x"))


def test_splits_that_have_every_class_are_those_of_scikit_learn():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    data = shared(labels)[1]
    rest, test = train_test_split(np.arange(100), test_size=20, stratify=labels, random_state=0)
    train, validation = train_test_split(rest, test_size=20, stratify=labels[rest], random_state=0)
    assert np.array_equal(together(data, "x").ravel(), [*train, *validation, *test])


def test_inputs_are_standardised_by_the_training_samples_and_new_ones_likewise():
    x = np.concatenate([X, np.full((40, 1), 7.0)], axis=1)
    data, raw = dfc.Dataset.from_arrays(x, LABELS), dfc.Dataset.from_arrays(x, LABELS, standardise=False)
    np.testing.assert_allclose(data.train.x.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(data.train.x.std(axis=0), [1, 1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(data.inputs(raw.test.x), data.test.x, atol=1e-5)
    assert np.array_equal(raw.inputs(raw.test.x), raw.test.x)
    with pytest.raises(ValueError, match=r"`x` has samples of shape \(3,\); it must be \(4,\) as in `train`"):
        data.inputs(X)


def test_small_units_are_standardised_too():
    data = dfc.Dataset.from_arrays(1e-15 * X, LABELS)
    np.testing.assert_allclose(data.train.x.std(axis=0), 1, atol=1e-6)


@pytest.mark.parametrize("flat", [True, False])
def test_images_are_standardised_by_channel(flat):
    images = RNG.standard_normal((30, 2, 3, 3)) * np.array([1, 5])[:, None, None]
    data = dfc.Dataset.from_arrays(
        images.reshape(30, -1) if flat else images, ["a", "b"] * 15, image=(2, 3, 3)
    )
    channels = data.train.x.reshape(len(data.train), 2, -1)
    np.testing.assert_allclose(channels.mean(axis=(0, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(channels.std(axis=(0, 2)), 1, atol=1e-5)
    assert data.image == (2, 3, 3) and data.train.x.ndim == (2 if flat else 4)


ONE_HOT = np.eye(4)[LABELS]


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (X[:, 0], LABELS, {}, r"`x` has shape \(40,\); it must be \(samples, features\)"),
        (X, 0.5, {}, "`y` is 0.5; it must hold a label or a number for each sample"),
        (X[:9], LABELS, {}, "`x` has 9 samples and `y` has 40; they must be equally many"),
        ([[1, 2], [3]], [0, 1], {}, "`x` is no array of numbers"),
        ([["a", 2]] * 40, LABELS, {}, "`x` holds <U21 values; it must hold numbers"),
        (pd.DataFrame({"a": ["x", None] * 20}), LABELS, {}, "`x` is no array of numbers: could not convert"),
        (np.where(X > 6, np.nan, X), LABELS, {}, "`x` has [0-9]+ NaN or infinite entries"),
        (X, ONE_HOT, {}, r"`y` holds one-hot rows; give the labels, as y\.argmax\(axis=1\)"),
        (X, ONE_HOT.astype(int), {}, r"`y` has shape \(40, 4\) and holds int64 values; give one label a"),
        (X, np.array([1, "a"] * 20, object), {}, "labels must be all integers, all strings or all booleans"),
        (X, np.array([None, "a"] * 20, object), {}, "labels must be all integers, all strings or all"),
        (X, [None] * 40, {}, r"`y` has shape \(40,\) and holds object values; labels must be all"),
        (X, np.array([b"a", "b"] * 20, object), {}, "labels must be all integers, all strings or all"),
        (X, X[:, 0] * 1j, {}, "`y` .* holds complex128 values; labels must be"),
        (X, np.zeros(40, int), {}, r"`y` has the labels \(0,\); there must be at least two classes"),
        (X, [0] * 38 + [1] * 2, {}, "`y` has the label 1 2 times; every split needs one at least"),
        (
            X,
            np.arange(40),
            {},
            "40 samples leave 8 for the validation split, which needs at least 40, one a c",
        ),
        (X[:4], X[:4, 0], {"test": 0.1}, "4 samples leave 0 for the test split, which needs at least 1"),
        (X, LABELS, {"test": 0.9}, "`validation` and `test` are 0.2 and 0.9; none is left to train"),
        (
            X,
            LABELS,
            {"validation": 0},
            "`validation` is 0; it must be a finite number greater than 0 and at mo",
        ),
        (X, LABELS, {"test": 8}, "`test` is 8; it must be a finite number"),
        (X, LABELS, {"test": np.array([0.2, 0.3])}, r"`test` is \[0.2 0.3\]; it must be one number"),
        (X, LABELS, {"validation": np.array([0.2])}, r"`validation` is \[0.2\]; it must be one number"),
        (X, LABELS, {"standardise": "no"}, "`standardise` is 'no'; it must be of the type bool"),
        (X, LABELS, {"seed": -1}, "`seed` is -1; it must be a whole number of at least 0"),
        (X, LABELS, {"image": (1, 2, 2)}, r"`x` has images of shape \(3,\); they must be \(1, 2, 2\)"),
    ],
)
def test_what_makes_no_data_set_is_one_sentence(x, y, options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        dfc.Dataset.from_arrays(x, y, **options)


@pytest.mark.parametrize("wrong", [X.tolist(), pd.DataFrame(X), LABELS, pd.Series(LABELS)])
def test_splits_send_tables_lists_and_labels_to_from_arrays(wrong, unchecked):
    for arrays in ((wrong, X), (X, wrong)):
        with pytest.raises(
            ValueError, match=r"^`[xy]` .* Dataset\.from_arrays takes labels, tables and lists"
        ):
            dfc.Split(*arrays)


@pytest.mark.parametrize("wrong", [X.tolist(), pd.DataFrame(X), (X, X)])
@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_data_sets_of_anything_but_splits_are_one_sentence(wrong, name, unchecked):
    splits = dict.fromkeys(("train", "validation", "test"), dfc.Split(X, X)) | {name: wrong}
    message = rf"^`{name}` is a .*; it must be a Split\. Dataset\.from_arrays takes"
    with pytest.raises(ValueError, match=message):
        dfc.Dataset("wrong", **splits, classification=False)


def test_targets_of_a_regression_are_not_evaluated_as_classes():
    model, split = dfc.mlp((3, 3), key=jr.key(0)), dfc.Split(X, X)
    with pytest.raises(ValueError, match=r"`split\.y` has \d+ rows that are no distribution"):
        dfc.evaluate(model, dfc.CrossEntropy(), split, classification=True)


def test_iris_is_learned_and_its_new_flowers_named(as_users_run):
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    data = dfc.Dataset.from_arrays(x, names)
    model = dfc.mlp((4, 16, 3), key=jr.key(0))
    options = {"epochs": 60, "batch_size": 15, "key": jr.key(1), "progress": False}
    _, history = dfc.fit(model, dfc.DFCSSA(), data, adam(1e-2), **options)
    named = dfc.predict(history.best_model, data.inputs(x[::10]), data.classes)
    assert np.mean(named == names[::10]) > 0.9
    assert dataclasses.replace(data, name="iris").classes == data.classes
