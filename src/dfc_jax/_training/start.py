"""What the runs of one program start from, as compiled epochs take it."""

import dataclasses
import os
from collections.abc import Callable, Mapping

import equinox as eqx
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from dfc_jax._analysis.diagnostics import Diagnostics
from dfc_jax._data.dataset import Dataset
from dfc_jax._network.network import Network
from dfc_jax._runs.history import Record
from dfc_jax._training.batches import Augmentation, Batches, traced_augmentation
from dfc_jax._training.evaluation import Metric
from dfc_jax._training.optimisers import initial_state
from dfc_jax._training.recipes import Given, own_and_shared, Recipe, stacked
from dfc_jax._training.state import State


OnEpoch = Callable[[int, Record, Network], bool | None]


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments of `fit_many` that all runs share."""

    data: Dataset
    epochs: int
    batch_size: int
    augment: Augmentation | None
    mesh: Mesh | None
    diagnostics: Diagnostics | None
    best: str
    patience: int | None
    metrics: Mapping[str, Metric]
    on_epoch: OnEpoch | None
    progress: bool
    resume: str | os.PathLike | None
    min_converged: float


class Start(eqx.Module):
    """One run, or several along the first axis, before anything is learnt; and what they share."""

    batches: Batches
    state: State
    key: Key[Array, "*runs"]
    own: PyTree
    shared: Recipe


def start_of(given: list[Given], recipes: list[Recipe], data: Dataset, options: Options) -> Start:
    """Of runs that differ in numbers alone, all but the `data`, which are on their devices, on the default
    one."""
    key = stacked([run.key for run in given])
    augment = traced_augmentation(options.augment, data.train.x, key)
    batches = Batches(data.train, options.batch_size, augment, options.mesh)
    state = stacked([_initial_state(run) for run in given])
    return Start(batches, state, key, *own_and_shared(recipes))


def _initial_state(run: Given) -> State:
    asleep = None if run.learning is None else initial_state(run.model.feedback, run.learning.optimiser)
    return State(run.model, initial_state(run.model.layers, run.optimiser), asleep)


def _pretraining_state(run: Given) -> PyTree:
    assert run.learning is not None  # since there is to be pre-training
    return initial_state(run.model.feedback, run.learning.to_pretrain)


def pretraining_state_of(given: list[Given]) -> PyTree:
    """The states of the optimisers of feedback pre-training."""
    return stacked([_pretraining_state(run) for run in given])
