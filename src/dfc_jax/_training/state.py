"""What training knows while it goes on: of every run, and what the next epoch starts from."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from dfc_jax._network.network import Network
from dfc_jax._runs.history import History, Record, StoppedBy
from dfc_jax._training.devices import everywhere


@dataclasses.dataclass
class Run:
    """What is known of one run so far."""

    model: Network  # the last good one
    best_model: Network
    records: list[Record] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    stopped: str | None = None
    stopped_by: StoppedBy | None = None
    doubts: list[str] = dataclasses.field(default_factory=list)
    unstable: bool = False  # as one of the doubts says

    def add(self, record: Record, model: Network, best: str) -> None:
        self.model = model
        self.records.append(record)
        held = None if self.best_epoch == 0 else _rank(self.records[self.best_epoch - 1], best)
        rank = _rank(record, best)
        if rank is not None and (held is None or rank > held):
            self.best_epoch, self.best_model = record["epoch"], model

    def stop(self, by: StoppedBy, why: str) -> None:
        self.stopped, self.stopped_by = why, by

    def facts(self) -> dict[str, Any]:
        """All but the models, ready for JSON."""
        names = ("records", "best_epoch", "stopped", "stopped_by", "doubts", "unstable")
        return {name: getattr(self, name) for name in names}

    def result(self) -> tuple[Network, History]:
        history = History(
            self.records, self.best_epoch, self.best_model, self.stopped, self.stopped_by, self.doubts
        )
        return self.model, history


class State(eqx.Module):
    """What the next epoch starts from; of several runs along the first axis."""

    model: Network
    weights_state: PyTree
    feedback_state: PyTree


def each(tree: PyTree, number: int) -> list[PyTree]:
    """The runs of a tree, one by one, each on one device."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    if any(len(leaf.sharding.device_set) > 1 for leaf in jax.tree.leaves(arrays)):
        arrays = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), arrays)
    if number == 1:
        return [eqx.combine(arrays, rest)]
    return [eqx.combine(jax.tree.map(lambda leaf, i=i: leaf[i], arrays), rest) for i in range(number)]


def some(tree: PyTree, rows: Sequence[int], mesh: Mesh | None = None) -> PyTree:
    """Some of several runs of a tree; of one the tree that it would have alone."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(_picked(arrays, jnp.asarray(rows[0] if len(rows) == 1 else rows), mesh), rest)


@eqx.filter_jit  # which serves arrays of several processes too
def _picked(arrays: PyTree, rows: Int[Array, "*rows"], mesh: Mesh | None) -> PyTree:
    return everywhere(jax.tree.map(lambda leaf: leaf[rows], arrays), mesh)


def _rank(record: Record, best: str) -> tuple[float, float] | None:
    """What the best epoch has most of: of equals by another metric than the loss, the one of the smaller
    loss. None without a finite number."""
    loss = record["validation_loss"]
    score = -loss if best == "validation_loss" else record[best]
    return (score, -math.inf if math.isnan(loss) else -loss) if math.isfinite(score) else None
