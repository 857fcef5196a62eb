"""What runs learn by: method, optimiser and feedback learning, of every run its own or of all the same."""

import dataclasses
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from dfc_jax._methods.base import AbstractMethod
from dfc_jax._network.network import Network
from dfc_jax._training.optimisers import update_by_loss
from dfc_jax._training.sleep_epochs import FeedbackLearning, Learner, learner_of
from dfc_jax._training.traced import Traced


@dataclasses.dataclass(frozen=True)
class Given:
    """A run as `fit_many` is given it."""

    model: Network
    key: Key[Array, ""]
    method: AbstractMethod
    optimiser: optax.GradientTransformation
    learning: FeedbackLearning | None


class Recipe(eqx.Module):
    """The same as compiled epochs take it, model and key apart."""

    method: AbstractMethod
    optimise: Traced
    learner: Learner | None = None
    pretrainer: Learner | None = None
    pretraining_epochs: float | int = eqx.field(default=0, static=True)
    sleep_epochs: float | int = eqx.field(default=0, static=True)


def _recipe(given: Given) -> Recipe:
    """Of one run. **Raises:** `ValueError` if an optimiser asks for more than there is."""
    optimise, learning = update_by_loss(given.optimiser, given.model.layers), given.learning
    if learning is None:
        return Recipe(given.method, optimise)
    feedback = given.model.feedback
    learner = pretrainer = learner_of(learning, learning.optimiser, feedback)
    if learning.to_pretrain is not learning.optimiser:
        pretrainer = learner_of(learning, learning.to_pretrain, feedback)
    epochs = learning.pretraining_epochs, learning.epochs_per_wake_epoch
    return Recipe(given.method, optimise, learner, pretrainer, *epochs)


def recipes_of(runs: Sequence[Given]) -> list[Recipe]:
    """Those of several runs, of each object once."""
    known: dict[tuple[int, ...], Recipe] = {}
    recipes = []
    for run, kind in zip(runs, _kinds([run.model for run in runs]), strict=True):
        parts = kind, id(run.method), id(run.optimiser), id(run.learning)
        if parts not in known:
            known[parts] = _recipe(run)
        recipes.append(known[parts])
    return recipes


def alike(runs: Sequence[Given], recipes: Sequence[Recipe]) -> list[list[int]]:
    """Positions of the runs that one program serves, since they differ in numbers alone."""
    kinds = _kinds([(run.model, recipe) for run, recipe in zip(runs, recipes, strict=True)])
    groups: dict[int, list[int]] = {}
    for position, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(position)
    return list(groups.values())


def _kinds(trees: Sequence[PyTree]) -> list[int]:
    """For each tree a number, the same for those that have the same structure, shapes and static parts."""
    found: list[PyTree] = []
    kinds = []
    for tree in trees:
        shape = eqx.filter_eval_shape(lambda tree=tree: tree)
        same = (i for i, other in enumerate(found) if eqx.tree_equal(shape, other) is True)
        kind = next(same, len(found))
        if kind == len(found):
            found.append(shape)
        kinds.append(kind)
    return kinds


def stacked(trees: Sequence[PyTree]) -> PyTree:
    """Several trees that differ in their arrays alone as one, along a first axis; one as it is."""
    if len(trees) == 1:
        return trees[0]
    arrays, rest = zip(*(eqx.partition(tree, eqx.is_array) for tree in trees), strict=True)
    return eqx.combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays), rest[0])


def own_and_shared(trees: Sequence[PyTree]) -> tuple[PyTree, PyTree]:
    """Of trees that differ in their arrays alone those arrays that differ, along a first axis, and what all
    have: `eqx.combine` puts the two together again."""
    arrays, rest = zip(*(eqx.partition(tree, eqx.is_array) for tree in trees), strict=True)
    same = jax.tree.map(lambda *leaves: all(_same(leaves[0], leaf) for leaf in leaves), *arrays)
    own = jax.tree.map(lambda same, *leaves: None if same else jnp.stack(leaves), same, *arrays)
    shared = jax.tree.map(lambda same, leaf: leaf if same else None, same, arrays[0])
    return own, eqx.combine(shared, rest[0])


def _same(one: Array, other: Array) -> bool:
    return one is other or bool(jnp.array_equal(one, other))
