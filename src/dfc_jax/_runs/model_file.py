"""A network in a file of its own, and what a file says of the network in it."""

import json
import os
import pathlib

from dfc_jax._checks import check_type, require
from dfc_jax._network.network import Network
from dfc_jax._runs import checkpoints, model_description
from dfc_jax._runs.identity import difference


_KIND = "model"


def save_model(path: str | os.PathLike, model: Network) -> None:
    """Write `model` to the file `path`, with its architecture; `load_model` reads it back, bit for bit.

    The file is there as a whole or not at all, and takes the place of another of this name.

    **Raises:** `OSError` if it cannot be written.
    """
    check_type("path", path, str, os.PathLike)
    check_type("model", model, Network)
    facts = {"kind": _KIND, "model": model_description.describe(model)}
    checkpoints.write(pathlib.Path(path), model, facts)


def load_model(path: str | os.PathLike, like: Network | None = None) -> Network:
    """The model that `save_model` wrote, without the code that made it; nothing of the file is executed.

    Networks with layers or activations of the user's own need a model of the same architecture in `like`.

    >>> import tempfile, jax
    >>> from dfc_jax import mlp
    >>> path = os.path.join(tempfile.mkdtemp(), "model")
    >>> save_model(path, mlp((4, 5, 3), key=jax.random.key(0)))
    >>> load_model(path)(jax.numpy.ones(4)).shape
    (3,)

    **Raises:** `ValueError` if the file was damaged or holds no model, or one of a precision that JAX is not
    set to, or `like` is needed or wrong; `OSError` if it cannot be read.
    """
    check_type("path", path, str, os.PathLike)
    found = checkpoints.load(pathlib.Path(path))
    problem = f"{str(path)!r} is no file of `save_model`"
    require(found.facts.get("kind") == _KIND, f"{problem}; `load_run` reads the folder of a run.")
    model = described(found) if like is None else like
    check_architecture(found, model)
    return found.tree(model)


def check_architecture(checkpoint: checkpoints.Checkpoint, like: Network) -> None:
    """Raise unless `like` is of the architecture that the checkpoint describes, if both can be described."""
    there, now = checkpoint.facts.get("model"), json.loads(json.dumps(model_description.describe(like)))
    differs = None if there is None or now is None else difference(there, now, "like")
    require(differs is None, f"{differs}: {str(checkpoint.path)!r} is of another architecture.")


def described(checkpoint: checkpoints.Checkpoint) -> Network:
    """A network of the architecture that the checkpoint describes."""
    description = checkpoint.facts.get("model")
    problem = "`like` is None, but the run's network has layers or activations of the user's own"
    require(description is not None, f"{problem}: give a model of its architecture.")
    checkpoint.check_precision()
    try:
        return model_description.build(description, len(checkpoint.payload))
    except ValueError as error:
        raise ValueError(f"{str(checkpoint.path)!r} describes no network: {error}") from error
