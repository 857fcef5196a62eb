"""Data sets by name, as plain float32 arrays split into training, validation and test samples."""

import dataclasses
import difflib
import itertools
import math
import os
import pathlib

import numpy as np
from jaxtyping import Float, UInt8

from dfc_jax._checks import check_count, check_type, require
from dfc_jax._data import archives, tfds
from dfc_jax._data.dataset import Dataset, Split
from dfc_jax._data.folders import cache_folder, tfds_folder
from dfc_jax._data.formats import Splits


@dataclasses.dataclass(frozen=True)
class _ImageSet:
    """What turns images and labels into a `Dataset`: `mean` and `std` are per channel, after x / 255."""

    source: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_samples: int
    test_samples: int = 10_000
    classes: int = 10
    classification: bool = True


_IMAGE_SETS = {
    "mnist": _ImageSet("mnist", (0.1307,), (0.3081,), 60_000),
    # The published code only divides Fashion-MNIST by 255.
    "fashion_mnist": _ImageSet("fashion_mnist", (0.0,), (1.0,), 60_000),
    "mnist_autoencoder": _ImageSet("mnist", (0.1307,), (0.3081,), 60_000, classification=False),
    "cifar10": _ImageSet("cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 50_000),
    "cifar100": _ImageSet(
        "cifar100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), 50_000, classes=100
    ),
}

DATASETS = ("digits", "student_teacher", *_IMAGE_SETS)


def load(
    name: str, *, validation_samples: int | None = None, data_dir: str | os.PathLike | None = None
) -> Dataset:
    """The data set called `name`, one of `DATASETS`; every call gives the same samples in the same splits.

    - `digits`: scikit-learn's 8 x 8 digits, which need no download; standardised.
    - `student_teacher`: see `student_teacher`, here with its default arguments.
    - `mnist`, `cifar10`, `cifar100` (its 100 classes, not their 20 superclasses): standardised, flattened
      images; CIFAR's in (channel, height, width) order.
    - `fashion_mnist`: flattened images in [0, 1], as in the published code.
    - `mnist_autoencoder`: MNIST whose targets are its own standardised pixels.

    Images are read from the archives that `download` has fetched, or where there are none, from what
    TensorFlow Datasets has prepared. The test samples are the same, in another order; which of the others
    train and which validate differs, for the split is one of positions. Nothing is downloaded here.

    **Arguments:**

    - `validation_samples`: how many to hold out of the training samples (`student_teacher`: to draw), by
      default 180 for digits, 1000 for student_teacher, 5000 for images. The test samples stay the same.
    - `data_dir`: the folder that was given to `download`, or that of TensorFlow Datasets. By default first
      that of `download`, then the environment variable TFDS_DATA_DIR, else `~/tensorflow_datasets`.

    >>> load("digits").train.x.shape
    (1257, 64)

    **Raises:** `ValueError` for an argument out of range; for images also `FileNotFoundError` (not
    there), `PermissionError` and `RuntimeError` (damaged or incomplete), and from TensorFlow Datasets
    `ImportError` (not installed) and `ValueError` (a folder that holds another data set).
    """
    check_type("data_dir", data_dir, str, os.PathLike, type(None))
    options = {} if validation_samples is None else {"validation_samples": validation_samples}
    if name == "digits":
        return _digits(**options)
    if name == "student_teacher":
        return student_teacher(**options)
    _check_name(name, DATASETS)
    return _images(name, data_dir, **options)


def download(name: str, folder: str | os.PathLike | None = None, *, progress: bool = True) -> pathlib.Path:
    """Fetch the images called `name`, for `load`, from the archives that their authors publish.

    Goes on where a call was cut off. A file is kept only if its checksum is the published one; if it is
    not, or if an address does not answer, the next of several serves.

    **Arguments:**

    - `folder`: which gets a folder of the data set, to be given to `load` as `data_dir`. By default the
      environment variable DFC_JAX_DATA, else `dfc_jax` in XDG_CACHE_HOME or `~/.cache`: where `load` looks.
    - `progress`: show bars.

    **Returns:** `folder`.

    **Raises:** `ValueError` for a `name` that needs no download, or while another process fetches the same;
    `OSError` where `folder` cannot be written or is full; `RuntimeError` where no address serves a file.
    """
    _check_name(name, tuple(_IMAGE_SETS))
    check_type("folder", folder, str, os.PathLike, type(None))
    root = cache_folder() if folder is None else os.path.expanduser(folder)
    archives.download(_IMAGE_SETS[name].source, root, progress=progress)
    return pathlib.Path(root)


def _check_name(name: str, names: tuple[str, ...]) -> None:
    nearest = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    problem = f"`name` is {name!r}{', which needs no download' if name in DATASETS else ''}"
    require(name in names, f"{problem}; it must be one of {', '.join(names)}.{hint}")


def student_teacher(
    *,
    input_size: int = 15,
    output_size: int = 5,
    train_samples: int = 5000,
    validation_samples: int = 1000,
    test_samples: int = 1000,
    seed: int = 0,
) -> Dataset:
    """Regression onto a random teacher network, the toy task of the first DFC paper (NeurIPS 2021).

    Inputs are uniform in [-1, 1]. The teacher has four hidden layers of 1000 ReLU units, a linear output, no
    biases and Xavier-normal weights of gain 3. `seed` fixes it and all samples; more samples of one split
    change no other. (The published code draws a teacher per split, so that its test error means nothing.)
    """
    check_count("input_size", input_size)
    check_count("output_size", output_size)
    check_count("train_samples", train_samples)
    check_count("validation_samples", validation_samples)
    check_count("test_samples", test_samples)
    check_count("seed", seed, 0)
    teacher_rng, *split_rngs = np.random.default_rng(seed).spawn(4)
    widths = (input_size, 1000, 1000, 1000, 1000, output_size)
    weights = [
        teacher_rng.normal(scale=3 * math.sqrt(2 / (fan_in + fan_out)), size=(fan_in, fan_out))
        for fan_in, fan_out in itertools.pairwise(widths)
    ]

    def draw(rng: np.random.Generator, samples: int) -> Split:
        x = rng.uniform(-1, 1, (samples, input_size)).astype(np.float32)
        hidden = x.astype(np.float64)
        for weight in weights[:-1]:
            hidden = np.maximum(hidden @ weight, 0)
        return Split(x, (hidden @ weights[-1]).astype(np.float32))

    splits = map(draw, split_rngs, (train_samples, validation_samples, test_samples))
    return Dataset("student_teacher", *splits, classification=False)


def _digits(validation_samples: int = 180) -> Dataset:
    # scikit-learn takes a second to import, which only this data set should cost.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    # A fixed `random_state`, not a run's seed; the test samples first, free of `validation_samples`.
    rest, test = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
    check_count("validation_samples", validation_samples, 10, len(rest) - 10)  # one a class
    strata = labels[rest]
    train, validation = train_test_split(rest, test_size=validation_samples, stratify=strata, random_state=0)
    x = pixels / 16
    x = ((x - x[train].mean()) / x[train].std()).astype(np.float32)
    splits = [Split(x[chosen], _one_hot(labels[chosen], 10)) for chosen in (train, validation, test)]
    return Dataset("digits", *splits, classification=True, image=(1, 8, 8))


def _images(name: str, data_dir: str | os.PathLike | None, validation_samples: int = 5000) -> Dataset:
    spec = _IMAGE_SETS[name]
    check_count("validation_samples", validation_samples, 1, spec.train_samples - 1)
    (images, labels), (test_images, test_labels) = _read(spec, data_dir)
    order = np.random.default_rng(0).permutation(len(images))  # fixed: the split must not follow a run's seed
    validation, train = np.split(order, [validation_samples])

    def split(images: UInt8[np.ndarray, "samples height width channels"], labels: np.ndarray) -> Split:
        x = _standardise(images, spec)
        return Split(x, _one_hot(labels, spec.classes) if spec.classification else x)

    splits = split(images[train], labels[train]), split(images[validation], labels[validation])
    splits = *splits, split(test_images, test_labels)
    height, width, channels = images.shape[1:]
    return Dataset(name, *splits, spec.classification, (channels, height, width))


def _read(spec: _ImageSet, data_dir: str | os.PathLike | None) -> Splits:
    """From the archives where they are, else through TFDS."""
    source, samples = spec.source, (spec.train_samples, spec.test_samples)
    given = None if data_dir is None else os.path.expanduser(data_dir)
    cache, prepared = given or cache_folder(), given or tfds_folder()
    if archives.are_there(source, cache):
        return archives.read(source, cache, samples, spec.classes)
    if tfds.is_there(source, prepared):
        return tfds.read(source, prepared, samples)
    places = " or ".join(repr(place) for place in dict.fromkeys((cache, prepared)))
    first = f"{source} is not in {places}: {archives.how_to_download(source, cache)} fetches it"
    wanted = "the environment variable DFC_JAX_DATA or TFDS_DATA_DIR to a directory that holds it"
    last = f"to prepare it with TensorFlow Datasets, {tfds.how_to_prepare(source, prepared)}"
    raise FileNotFoundError(f"{first}. Or set `data_dir`, {wanted}; or, {last}")


def _standardise(
    images: UInt8[np.ndarray, "samples height width channels"], spec: _ImageSet
) -> Float[np.ndarray, "samples pixels"]:
    x = np.moveaxis(images, -1, 1).reshape(len(images), len(spec.mean), -1).astype(np.float32)
    x /= 255  # in place: CIFAR-10's floats fill 600 MB, and each temporary would be as much again
    x -= np.asarray(spec.mean, np.float32)[:, None]
    x /= np.asarray(spec.std, np.float32)[:, None]
    return x.reshape(len(x), -1)


def _one_hot(labels: np.ndarray, classes: int) -> Float[np.ndarray, "samples outputs"]:
    return np.eye(classes, dtype=np.float32)[labels]
