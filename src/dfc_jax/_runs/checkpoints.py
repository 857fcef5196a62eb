"""Checkpoints of training runs: each is one file, which is there as a whole or not at all.

A file holds a line with the format and the SHA-256 of all that follows, a line of JSON, and the bytes of the
arrays. Orbax is made for arrays sharded over many hosts and written in the background; here a few megabytes
must be safely on disk before the next epoch, and silent damage must be noticed: that takes no more.
"""

import hashlib
import json
import os
import pathlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from dfc_jax._checks import warn


FORMAT = 1
KEPT = 2
_MAGIC = "dfc_jax-checkpoint"


class DamagedCheckpoint(ValueError):
    """A file that is no whole checkpoint."""


def save(folder: pathlib.Path, number: int, tree: PyTree, facts: dict[str, Any]) -> None:
    """Write the arrays of `tree`, and `facts`, as checkpoint `number`; all but the newest `KEPT` are deleted.

    It is on disk when this returns. What stops it on the way leaves the earlier ones as they are.

    **Raises:** `OSError` if the file cannot be written.
    """
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]
    shapes = [[array.dtype.name, list(array.shape)] for array in arrays]
    header = json.dumps({"facts": facts, "arrays": shapes}).encode() + b"\n"
    body = b"".join([header, *(array.tobytes() for array in arrays)])
    first = f"{_MAGIC} {FORMAT} {hashlib.sha256(body).hexdigest()}\n".encode()
    path = folder / f"{number:06d}.checkpoint"
    temporary = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(first + body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        reason = error.strerror or error
        problem = f"{str(path)!r} could not be written ({reason})"
        raise OSError(f"{problem}; earlier checkpoints are intact.") from error
    for old in _files(folder)[KEPT:]:
        old.unlink()


def load(path: pathlib.Path, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """The tree of a checkpoint and its facts. The file may hold more arrays than `like`, after its own.

    **Raises:** `DamagedCheckpoint` for a file that was cut short or altered, `ValueError` for one of another
    format or with other arrays than `like`.
    """
    facts, shapes, payload = _read(path)
    arrays, rest = eqx.partition(like, eqx.is_array)
    wanted, structure = jax.tree.flatten(arrays)
    expected = [[leaf.dtype.name, list(leaf.shape)] for leaf in wanted]
    if shapes[: len(expected)] != expected:
        raise ValueError(
            f"{str(path)!r} is of another model, method or optimiser: its arrays have other shapes. Resume "
            "with the options of that run, or name another folder."
        )
    found, position = [], 0
    for dtype, shape in expected:
        count = int(np.prod(shape, dtype=int))
        array = np.frombuffer(payload, dtype, count, position).reshape(shape)
        found.append(jnp.asarray(array))
        position += array.nbytes
    return eqx.combine(jax.tree.unflatten(structure, found), rest), facts


def newest(folder: pathlib.Path, like: PyTree = None) -> tuple[PyTree, dict[str, Any]] | None:
    """The newest intact checkpoint of a folder, None if it has none. Warns of every damaged one passed over.

    Going on from an older one costs its epochs once more and changes nothing else.

    **Raises:** as `load`; `DamagedCheckpoint` if there are checkpoints and all of them are damaged.
    """
    damage: list[DamagedCheckpoint] = []
    for path in _files(folder):
        try:
            found = load(path, like)
        except DamagedCheckpoint as error:
            damage.append(error)
            continue
        for error in damage:
            warn(f"{error} Going on from the one before it, {path.name}.")
        return found
    if damage:
        raise DamagedCheckpoint(f"{damage[0]} No earlier one is left: delete {str(folder)!r} to start anew.")
    return None


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The checkpoints, the newest first."""
    return sorted(folder.glob("*.checkpoint"), reverse=True)


def _read(path: pathlib.Path) -> tuple[dict[str, Any], list[list], bytes]:
    """Facts, dtypes and shapes, and the arrays' bytes."""
    first, _, body = path.read_bytes().partition(b"\n")
    words = first.decode("ascii", "replace").split(" ")
    if len(words) != 3 or words[0] != _MAGIC:
        raise DamagedCheckpoint(f"{str(path)!r} is damaged: it does not begin as a checkpoint does.")
    if words[1] != str(FORMAT):
        raise ValueError(
            f"{str(path)!r} is of checkpoint format {words[1]}, this version of dfc_jax reads {FORMAT}: use "
            "the version that wrote it."
        )
    if words[2] != hashlib.sha256(body).hexdigest():
        raise DamagedCheckpoint(f"{str(path)!r} is damaged: it was cut short or altered.")
    header, _, payload = body.partition(b"\n")
    found = json.loads(header)
    return found["facts"], found["arrays"], payload


def _sync(folder: pathlib.Path) -> None:
    """Make a renaming in the folder last through a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
