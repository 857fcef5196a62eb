"""Checkpoints of training runs: each is one file, which is there as a whole or not at all.

A file holds a line with the format and the SHA-256 of all that follows, a line of JSON, and the bytes of the
arrays. Orbax is made for arrays sharded over many hosts and written in the background; here a few megabytes
must be safely on disk before the next epoch, and silent damage must be noticed: that takes no more.
"""

import hashlib
import json
import math
import pathlib
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PyTree

from dfc_jax._checks import require, warn
from dfc_jax._runs.files import clear_parts, delete, write_whole


FORMAT = 1
KEPT = 2
_MAGIC = "dfc_jax-checkpoint"


class DamagedCheckpoint(ValueError):
    """A file that is no whole checkpoint."""


class Checkpoint(NamedTuple):
    """What one file holds."""

    path: pathlib.Path
    facts: dict[str, Any]
    shapes: list[tuple[str, tuple[int, ...]]]  # and dtypes, of the arrays
    payload: bytes  # of the arrays, one after the other

    def tree(self, like: PyTree) -> PyTree:
        """The tree that was saved, of the structure of `like`.

        **Raises:** `ValueError` if its arrays are others than those of `like`.
        """
        return self._tree(like, len(self.shapes))

    def first(self, like: PyTree) -> PyTree:
        """As `tree`, of the first arrays alone: as many as `like` has."""
        return self._tree(like, len(jax.tree.leaves(eqx.filter(like, eqx.is_array))))

    def check_precision(self) -> None:
        """Raise `ValueError` if JAX is not set to the precision of the arrays, and would cut them short."""
        wide = {dtype for dtype, _ in self.shapes if jax.dtypes.canonicalize_dtype(dtype) != jnp.dtype(dtype)}
        problem = f"{str(self.path)!r} holds {', '.join(sorted(wide))} arrays, which JAX is not set to"
        require(not wide, f"{problem}: jax.config.update('jax_enable_x64', True), before models are made.")

    def _tree(self, like: PyTree, number: int) -> PyTree:
        self.check_precision()
        arrays, rest = eqx.partition(like, eqx.is_array)
        wanted, structure = jax.tree.flatten(arrays)
        if self.shapes[:number] != [_shape(_plain(leaf)) for leaf in wanted]:
            raise ValueError(
                f"{str(self.path)!r} is of another model, method or optimiser: its arrays have other shapes. "
                "Resume with the options of that run, or name another folder."
            )
        found, position = [], 0
        for leaf, (dtype, shape) in zip(wanted, self.shapes, strict=False):
            array = np.frombuffer(self.payload, jnp.dtype(dtype), math.prod(shape), position).reshape(shape)
            found.append(_like(jnp.asarray(array), leaf))
            position += array.nbytes
        return eqx.combine(jax.tree.unflatten(structure, found), rest)


def save(folder: pathlib.Path, number: int, tree: PyTree, facts: dict[str, Any]) -> None:
    """Write the arrays of `tree`, and `facts`, as checkpoint `number`; all but the newest `KEPT` are deleted.

    It is on disk when this returns. What stops it on the way leaves the earlier ones as they are.

    **Raises:** `OSError` if the file cannot be written.
    """
    path = folder / f"{number:06d}.checkpoint"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(path, tree, facts)
    except OSError as error:
        reason = error.strerror or error
        problem = f"{str(path)!r} could not be written ({reason})"
        raise OSError(f"{problem}; earlier checkpoints are intact.") from error
    clear_parts(folder)
    for old in _files(folder)[KEPT:]:
        delete(old)


def write(path: pathlib.Path, tree: PyTree, facts: dict[str, Any]) -> None:
    """Write the arrays of `tree`, and `facts`, to a file that is there as a whole or not at all."""
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    arrays = [np.asarray(_plain(leaf)) for leaf in leaves]
    header = json.dumps({"facts": facts, "arrays": [_shape(array) for array in arrays]}).encode() + b"\n"
    body = b"".join([header, *(array.tobytes() for array in arrays)])
    first = f"{_MAGIC} {FORMAT} {hashlib.sha256(body).hexdigest()}\n".encode()
    write_whole(path, first + body)


def load(path: pathlib.Path) -> Checkpoint:
    """What a file holds.

    **Raises:** `DamagedCheckpoint` for a file that was cut short or altered, `ValueError` for one of another
    format.
    """
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
    return Checkpoint(path, *_parsed(path, header, len(payload)), payload)


def newest(folder: pathlib.Path) -> Checkpoint | None:
    """The newest intact checkpoint of a folder, None if it has none. Warns of every damaged one passed over.

    Going on from an older one costs its epochs once more and changes nothing else.

    **Raises:** as `load`; `DamagedCheckpoint` if there are checkpoints and all of them are damaged.
    """
    damage: list[DamagedCheckpoint] = []
    for path in _files(folder):
        try:
            found = load(path)
        except DamagedCheckpoint as error:
            damage.append(error)
            continue
        for error in damage:
            warn(f"{error} Going on from the one before it, {path.name}.")
        return found
    if damage:
        raise DamagedCheckpoint(f"{damage[0]} No earlier one is left: name a new folder.")
    return None


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The checkpoints, the newest first."""
    return sorted(folder.glob("*.checkpoint"), reverse=True)


def _parsed(path: pathlib.Path, header: bytes, size: int) -> tuple[dict, list]:
    """Facts, dtypes and shapes, as somebody may have made them up: arrays that fill `size` bytes."""
    try:
        held = json.loads(header)
        facts, arrays = held["facts"], held["arrays"]
        shapes = [(str(dtype), tuple(int(length) for length in shape)) for dtype, shape in arrays]
        needed = sum(jnp.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in shapes)
        fine = isinstance(facts, dict) and all(length >= 0 for _, shape in shapes for length in shape)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{str(path)!r} is no checkpoint: its second line cannot be read: {error}."
        ) from error
    require(fine, f"{str(path)!r} is no checkpoint: its `facts` or its `arrays` are none.")
    require(needed == size, f"{str(path)!r} is no checkpoint: {needed} bytes of arrays are {size}.")
    return facts, shapes


def _plain(leaf: Array) -> Array:
    """A key as the numbers it consists of; other arrays as they are."""
    return jr.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _like(found: Array, leaf: Array) -> Array:
    """As `leaf`, which may be a key."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jr.wrap_key_data(found, impl=jr.key_impl(leaf)) if is_key else found


def _shape(array: Array | np.ndarray) -> tuple[str, tuple[int, ...]]:
    return array.dtype.name, array.shape
