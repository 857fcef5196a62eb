"""Data sets by name, as plain float32 arrays split into training, validation and test samples."""

import contextlib
import dataclasses
import difflib
import glob
import importlib
import itertools
import json
import math
import os
from types import ModuleType

import numpy as np
from jaxtyping import Float, UInt8

from dfc_jax._checks import check_count, require
from dfc_jax._data.dataset import Dataset, Split


@dataclasses.dataclass(frozen=True)
class _ImageSet:
    """What turns a TFDS image data set into a `Dataset`: `mean` and `std` are per channel, after x / 255."""

    source: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_samples: int
    test_samples: int = 10_000
    classification: bool = True


_CLASSES = 10

_IMAGE_SETS = {
    "mnist": _ImageSet("mnist", (0.1307,), (0.3081,), 60_000),
    # The published code only divides Fashion-MNIST by 255.
    "fashion_mnist": _ImageSet("fashion_mnist", (0.0,), (1.0,), 60_000),
    "mnist_autoencoder": _ImageSet("mnist", (0.1307,), (0.3081,), 60_000, classification=False),
    "cifar10": _ImageSet("cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 50_000),
}

DATASETS = ("digits", "student_teacher", *_IMAGE_SETS)


def load(
    name: str, *, validation_samples: int | None = None, data_dir: str | os.PathLike | None = None
) -> Dataset:
    """The data set called `name`, one of `DATASETS`; every call gives the same samples in the same splits.

    - `digits`: scikit-learn's 8 x 8 digits, which need no download; standardised.
    - `student_teacher`: see `student_teacher`, here with its default arguments.
    - `mnist`, `cifar10`: standardised, flattened images; CIFAR-10's in (channel, height, width) order.
    - `fashion_mnist`: flattened images in [0, 1], as in the published code.
    - `mnist_autoencoder`: MNIST whose targets are its own standardised pixels.

    **Arguments:**

    - `validation_samples`: how many to hold out of the training samples (`student_teacher`: to draw), by
      default 180 for digits, 1000 for student_teacher, 5000 for images. The test samples stay the same.
    - `data_dir`: where TensorFlow Datasets keeps its prepared images. The default is the environment
      variable TFDS_DATA_DIR, else `~/tensorflow_datasets`. Nothing is ever downloaded.

    >>> load("digits").train.x.shape
    (1257, 64)

    **Raises:** `ValueError` for an argument out of range; for images also `ImportError` (no TFDS),
    `FileNotFoundError` (not prepared), `PermissionError`, `ValueError` (a folder that holds another data set)
    and `RuntimeError` (prepared, but damaged or incomplete).
    """
    options = {} if validation_samples is None else {"validation_samples": validation_samples}
    if name == "digits":
        return _digits(**options)
    if name == "student_teacher":
        return student_teacher(**options)
    if name in _IMAGE_SETS:
        return _images(name, data_dir, **options)
    nearest = difflib.get_close_matches(str(name), DATASETS, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"`name` is {name!r}; it must be one of {', '.join(DATASETS)}.{hint}")


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
    check_count("validation_samples", validation_samples, _CLASSES, len(rest) - _CLASSES)
    strata = labels[rest]
    train, validation = train_test_split(rest, test_size=validation_samples, stratify=strata, random_state=0)
    x = pixels / 16
    x = ((x - x[train].mean()) / x[train].std()).astype(np.float32)
    splits = [Split(x[chosen], _one_hot(labels[chosen])) for chosen in (train, validation, test)]
    return Dataset("digits", *splits, classification=True, image=(1, 8, 8))


def _images(name: str, data_dir: str | os.PathLike | None, validation_samples: int = 5000) -> Dataset:
    spec = _IMAGE_SETS[name]
    check_count("validation_samples", validation_samples, 1, spec.train_samples - 1)
    root = os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    images, labels = _read(spec.source, "train", spec.train_samples, root)
    test_images, test_labels = _read(spec.source, "test", spec.test_samples, root)
    order = np.random.default_rng(0).permutation(len(images))  # fixed: the split must not follow a run's seed
    validation, train = np.split(order, [validation_samples])

    def split(images: UInt8[np.ndarray, "samples height width channels"], labels: np.ndarray) -> Split:
        x = _standardise(images, spec)
        return Split(x, _one_hot(labels) if spec.classification else x)

    splits = split(images[train], labels[train]), split(images[validation], labels[validation])
    splits = *splits, split(test_images, test_labels)
    height, width, channels = images.shape[1:]
    return Dataset(name, *splits, spec.classification, (channels, height, width))


def _standardise(
    images: UInt8[np.ndarray, "samples height width channels"], spec: _ImageSet
) -> Float[np.ndarray, "samples pixels"]:
    x = np.moveaxis(images, -1, 1).reshape(len(images), len(spec.mean), -1).astype(np.float32)
    x /= 255  # in place: CIFAR-10's floats fill 600 MB, and each temporary would be as much again
    x -= np.asarray(spec.mean, np.float32)[:, None]
    x /= np.asarray(spec.std, np.float32)[:, None]
    return x.reshape(len(x), -1)


def _read(source: str, split: str, samples: int, root: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one split, through the part of TFDS that needs no TensorFlow."""
    tfds = _import_tfds()
    folder = os.path.join(root, source)
    forbidden = _forbidden(root, folder)
    if forbidden is not None:
        remedy = "ask its owner for the permission to read it, or use another `data_dir`"
        raise PermissionError(f"{forbidden!r} may not be read by this user: {remedy}.")
    prepare = (  # TFDS writes TFRecord files unless told otherwise, which `data_source` cannot read
        'on a machine with network access, install TensorFlow by `pip install "dfc_jax[data]"` and run '
        f'`python -c "import tensorflow_datasets as tfds; tfds.builder({source!r}, data_dir={root!r}, '
        "file_format='array_record').download_and_prepare()\"`."
    )
    if not os.path.isdir(folder):
        wanted = "Set `data_dir` or the environment variable TFDS_DATA_DIR to a directory that holds it"
        raise FileNotFoundError(f"{source} is not in {root!r}. {wanted}; or, to prepare it there, {prepare}")
    _check_name(folder, source)
    try:
        records = tfds.data_source(source, split=split, data_dir=root, download=False)
        require(len(records) == samples, f"{len(records)} {split} examples where {samples} belong")
        examples = records.__getitems__(range(samples))  # in bulk: three times as fast as one by one
        return np.stack([e["image"] for e in examples]), np.asarray([e["label"] for e in examples])
    except MemoryError:
        raise
    except Exception as error:  # its kind varies with what is damaged: protobuf, array_record, PIL, ...
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        problem = f"{folder!r} is damaged, incomplete or not in the array_record format ({reason})"
        if not _descriptions(folder):
            problem = f"{folder!r} holds nothing that was prepared to the end"
        remedy = f"Use another `data_dir`, or move it away and prepare it again: {prepare}"
        raise RuntimeError(f"{problem}. {remedy}") from error


def _forbidden(root: str, folder: str) -> str | None:
    """What of a prepared data set may not be read: a folder on the way to it, or a file of it."""
    for part in (root, folder):
        if os.path.isdir(part) and not os.access(part, os.R_OK | os.X_OK):
            return part
    for within, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(within, name)
            if not os.access(path, os.R_OK | (os.X_OK if name in folders else 0)):
                return path
    return None


def _descriptions(folder: str) -> list[str]:
    """The descriptions of the versions that a folder holds, but for those left half prepared."""
    found = glob.glob(os.path.join(glob.escape(folder), "*", "dataset_info.json"))
    return [path for path in found if "incomplete" not in os.path.basename(os.path.dirname(path))]


def _check_name(folder: str, source: str) -> None:
    """Raise unless what was prepared in the folder is the data set that its name says."""
    for path in _descriptions(folder):
        held = source
        with open(path, encoding="utf-8") as file, contextlib.suppress(ValueError):  # damage is found later
            held = json.load(file)["name"]
        problem = f"{folder!r} holds the data set {held!r}, not {source!r}"
        require(held == source, f"{problem}: give the folder its own name back, or use another `data_dir`.")


def _import_tfds() -> ModuleType:
    """TFDS, imported only when it is needed: it is optional and takes long."""
    try:
        for needed in ("importlib_resources", "PIL", "array_record"):  # TFDS imports these late or undeclared
            importlib.import_module(needed)
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        message = f'image data sets need the module `{error.name}`; run `pip install "dfc_jax[tfds]"`.'
        raise ImportError(message, name=error.name) from error


def _one_hot(labels: np.ndarray) -> Float[np.ndarray, "samples outputs"]:
    return np.eye(_CLASSES, dtype=np.float32)[labels]
