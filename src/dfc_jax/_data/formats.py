"""The formats in which images are published: gzipped IDX files, and CIFAR's records in a tar archive.

Nothing is unpickled or unpacked to disk, and no more is read than belongs there.
"""

import contextlib
import gzip
import math
import tarfile
from collections.abc import Generator, Mapping
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8

from dfc_jax._checks import require


# Images (samples, height, width, channels) and labels (samples,), to train and to test.
Splits: TypeAlias = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

_BYTES = 0x08  # what an IDX file says of unsigned bytes
_PIXELS = (3, 32, 32)
_BLOCK = 2**20


def read_idx(path: str, shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """The array of bytes of a gzipped IDX file, which must be of this shape.

    **Raises:** `ValueError` for anything else.
    """
    wanted = bytes((0, 0, _BYTES, len(shape))) + np.asarray(shape, ">u4").tobytes()
    size = len(wanted) + math.prod(shape)
    with _damage_named(path), gzip.open(path) as file:
        content = file.read(size + 1)  # the one more has gzip compare its checksum
        header = content[: len(wanted)]
        require(header == wanted, f"its header is {header.hex()} where {wanted.hex()} belongs")
        require(len(content) <= size, f"more follows the {size} bytes that belong there")
        require(len(content) == size, f"it ends after {len(content)} of {size} bytes")
    return np.frombuffer(content, np.uint8, offset=len(wanted)).reshape(shape)


def read_cifar(
    path: str, members: Mapping[str, int], label_bytes: int
) -> dict[str, tuple[UInt8[np.ndarray, "samples 32 32 3"], UInt8[np.ndarray, " samples"]]]:
    """Images and labels of the `members` of a gzipped tar archive, names with their numbers of samples.

    A record is of `label_bytes` labels, the last of them the one that counts, and 3 x 32 x 32 pixels.

    **Raises:** `ValueError` for anything else.
    """
    record = label_bytes + math.prod(_PIXELS)
    found = {}
    # As a stream, once from end to end: to seek in it would be to unpack it once more.
    with _damage_named(path), gzip.open(path) as file:
        with tarfile.open(fileobj=file, mode="r|") as archive:
            for member in archive:
                if member.name in members:
                    size = members[member.name] * record
                    require(member.name not in found, f"it holds {member.name!r} twice")
                    found[member.name] = _content(archive, member, size).reshape(-1, record)
        while file.read(_BLOCK):  # for gzip to compare its checksum
            pass
        for name in members:
            require(name in found, f"it lacks {name!r}")
    return {
        name: (np.moveaxis(rows[:, label_bytes:].reshape(-1, *_PIXELS), 1, -1), rows[:, label_bytes - 1])
        for name, rows in found.items()
    }


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, size: int) -> UInt8[np.ndarray, " size"]:
    file = archive.extractfile(member) if member.isreg() else None
    if file is None:
        raise ValueError(f"{member.name!r} is no regular file")
    require(member.size == size, f"{member.name!r} has {member.size} bytes where {size} belong")
    return np.frombuffer(file.read(), np.uint8)


@contextlib.contextmanager
def _damage_named(path: str) -> Generator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # its kind varies with what is damaged: gzip, zlib, tarfile, ...
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path!r} is damaged or another file ({reason})") from error
