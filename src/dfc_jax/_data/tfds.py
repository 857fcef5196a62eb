"""Image data sets that TensorFlow Datasets has prepared, read by the part of it that needs no TensorFlow."""

import contextlib
import glob
import json
import os
from types import ModuleType

import numpy as np

from dfc_jax._checks import import_extra, require
from dfc_jax._data.folders import check_readable
from dfc_jax._data.formats import Splits


def is_there(source: str, root: str) -> bool:
    """Whether a folder holds what may have been prepared; `read` says what is wrong with it."""
    try:
        with os.scandir(os.path.join(root, source)) as entries:
            return any(entry.is_dir() for entry in entries)
    except PermissionError:
        return True
    except OSError:
        return False


def read(source: str, root: str, samples: tuple[int, int]) -> Splits:
    """Images and labels of so many samples to train and to test.

    **Raises:** `ImportError` (no TFDS), `PermissionError`, `ValueError` (a folder that holds another data
    set) and `RuntimeError` (damaged or incomplete).
    """
    tfds = _import_tfds()
    folder = os.path.join(root, source)
    check_readable(root, folder)
    _check_name(folder, source)
    try:
        train, test = (
            _split(tfds, source, split, root, number)
            for split, number in zip(("train", "test"), samples, strict=True)
        )
        return train, test
    except MemoryError:
        raise
    except Exception as error:  # its kind varies with what is damaged: protobuf, array_record, PIL, ...
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        problem = f"{folder!r} is damaged, incomplete or not in the array_record format ({reason})"
        if not _descriptions(folder):
            problem = f"{folder!r} holds nothing that was prepared to the end"
        remedy = "Use another `data_dir`, or move it away and prepare it again"
        raise RuntimeError(f"{problem}. {remedy}: {how_to_prepare(source, root)}") from error


def how_to_prepare(source: str, root: str) -> str:
    """A command in a sentence. TFDS writes TFRecord files unless told otherwise, which cannot be read so."""
    return (
        'on a machine with network access, install TensorFlow by `pip install "dfc_jax[data]"` and run '
        f'`python -c "import tensorflow_datasets as tfds; tfds.builder({source!r}, data_dir={root!r}, '
        "file_format='array_record').download_and_prepare()\"`."
    )


def _split(
    tfds: ModuleType, source: str, split: str, root: str, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    records = tfds.data_source(source, split=split, data_dir=root, download=False)
    require(len(records) == samples, f"{len(records)} {split} examples where {samples} belong")
    examples = records.__getitems__(range(samples))  # in bulk: three times as fast as one by one
    return np.stack([e["image"] for e in examples]), np.asarray([e["label"] for e in examples])


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
    needed = ("importlib_resources", "PIL", "array_record")  # which TFDS imports late or undeclared
    *_, tfds = (import_extra(name, "image data sets", "tfds") for name in (*needed, "tensorflow_datasets"))
    return tfds
