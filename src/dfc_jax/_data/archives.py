"""Image data sets in the archives that their authors publish: where they are, and what they hold."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

import numpy as np

from dfc_jax._checks import require
from dfc_jax._data.fetching import Archive, fetch, Unserved
from dfc_jax._data.folders import cache_folder, check_readable
from dfc_jax._data.formats import read_cifar, read_idx, Splits
from dfc_jax._lock import Lock


@dataclasses.dataclass(frozen=True)
class Source:
    """Archives, and how they are read: from a folder, with the numbers of samples to train and to test."""

    read: Callable[[pathlib.Path, int, int], Splits]
    archives: tuple[Archive, ...]


def _idx(folder: pathlib.Path, train: int, test: int) -> Splits:
    def split(prefix: str, samples: int) -> tuple[np.ndarray, np.ndarray]:
        images = read_idx(str(folder / f"{prefix}-images-idx3-ubyte.gz"), (samples, 28, 28))
        return images[..., None], read_idx(str(folder / f"{prefix}-labels-idx1-ubyte.gz"), (samples,))

    return split("train", train), split("t10k", test)


def _cifar10(folder: pathlib.Path, train: int, test: int) -> Splits:
    batches = [f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)]
    held_out = "cifar-10-batches-bin/test_batch.bin"
    members = dict.fromkeys(batches, train // len(batches)) | {held_out: test}
    found = read_cifar(str(folder / "cifar-10-binary.tar.gz"), members, label_bytes=1)
    images, labels = zip(*(found[batch] for batch in batches), strict=True)
    return (np.concatenate(images), np.concatenate(labels)), found[held_out]


def _cifar100(folder: pathlib.Path, train: int, test: int) -> Splits:
    members = {"cifar-100-binary/train.bin": train, "cifar-100-binary/test.bin": test}
    # Two labels a record: the superclass, and the class.
    found = read_cifar(str(folder / "cifar-100-binary.tar.gz"), members, label_bytes=2)
    return found["cifar-100-binary/train.bin"], found["cifar-100-binary/test.bin"]


def _archives(mirrors: tuple[str, ...], published: str) -> tuple[Archive, ...]:
    """From lines of names, sizes and checksums."""
    lines = [line.split() for line in published.split("\n") if line]
    return tuple(Archive(name, int(size), sha256, mirrors) for name, size, sha256 in lines)


# Sizes and checksums as TensorFlow Datasets has them, too.
_MNIST = _archives(
    (
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    """
train-images-idx3-ubyte.gz 9912422 440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609
train-labels-idx1-ubyte.gz 28881 3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c
t10k-images-idx3-ubyte.gz 1648877 8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6
t10k-labels-idx1-ubyte.gz 4542 f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6
""",
)
_FASHION_MNIST = _archives(
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    """
train-images-idx3-ubyte.gz 26421880 3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84
train-labels-idx1-ubyte.gz 29515 a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845
t10k-images-idx3-ubyte.gz 4422102 346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073
t10k-labels-idx1-ubyte.gz 5148 67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5
""",
)
_CIFAR = (
    "https://www.cs.toronto.edu/~kriz/",
    "https://cave.cs.toronto.edu/kriz/",
    "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/",
)
_CIFAR10 = _archives(
    _CIFAR,
    """
cifar-10-binary.tar.gz 170052171 c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd
""",
)
_CIFAR100 = _archives(
    _CIFAR,
    """
cifar-100-binary.tar.gz 168513733 58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec
""",
)

SOURCES = {
    "mnist": Source(_idx, _MNIST),
    "fashion_mnist": Source(_idx, _FASHION_MNIST),
    "cifar10": Source(_cifar10, _CIFAR10),
    "cifar100": Source(_cifar100, _CIFAR100),
}


def are_there(source: str, root: str) -> bool:
    """Whether a folder holds all archives of a data set."""
    return all(os.path.exists(os.path.join(root, source, each.name)) for each in SOURCES[source].archives)


def read(source: str, root: str, samples: tuple[int, int], classes: int) -> Splits:
    """Images and labels of so many samples to train and to test.

    **Raises:** `PermissionError`, and `RuntimeError` for archives that are not those published.
    """
    folder, held = pathlib.Path(root, source), SOURCES[source]
    check_readable(root, str(folder))
    try:
        for archive in held.archives:
            path = folder / archive.name
            require(archive.is_in(path), f"{str(path)!r} is damaged or another file (by its checksum)")
        train, test = held.read(folder, *samples)
        largest = int(max(train[1].max(), test[1].max()))
        require(largest < classes, f"{str(folder)!r} holds the label {largest}, of {classes} classes")
    except ValueError as error:
        raise RuntimeError(f"{error}; {how_to_download(source, root)} replaces what is.") from error
    return train, test


def download(source: str, root: str, *, progress: bool) -> None:
    """Fetch what a folder lacks of the archives of a data set.

    **Raises:** `ValueError` if another process is doing so; `OSError` if the folder cannot be written, and
    `RuntimeError` if no mirror gives what is lacking.
    """
    folder, archives = pathlib.Path(root, source), SOURCES[source].archives
    check_readable(root, str(folder))
    lacking = [archive for archive in archives if not archive.is_in(folder / archive.name)]
    if not lacking:
        return
    lock = Lock(folder, "folder")
    try:
        for archive in lacking:
            fetch(archive, folder, progress=progress)
    except Unserved as unserved:
        remedy = (
            "run this again where there is a network, which goes on where this ended, copy the folder from "
            "a machine that has it, or let `data_dir` or TFDS_DATA_DIR be a folder of TensorFlow Datasets"
        )
        problem = f"{source} could not be fetched to {str(folder)!r} ({unserved})"
        raise RuntimeError(f"{problem}: {remedy}.") from unserved
    except OSError as error:
        problem = f"{str(folder)!r} cannot be written ({error.strerror or error})"
        raise type(error)(f"{problem}: make room there, or name another `folder`.") from error
    finally:
        lock.release()


def how_to_download(source: str, root: str) -> str:
    """A call in a sentence."""
    folder = "" if root == cache_folder() else f", {root!r}"
    return f"`dfc.download({source!r}{folder})`"
