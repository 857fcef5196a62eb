"""What makes a training run the one that a folder holds: all that its numbers depend on."""

import hashlib
import re
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import optax
from jaxtyping import PyTree

from dfc_jax._data.dataset import Dataset
from dfc_jax._runs.identity import described
from dfc_jax._training.batches import Batches
from dfc_jax._training.optimisers import update_alone
from dfc_jax._training.recipes import Given, Recipe
from dfc_jax._training.sleep_epochs import FeedbackLearning
from dfc_jax._training.traced import Traced


def identity_of(runs: list[Given], recipes: list[Recipe], data: Dataset, batches: Batches) -> dict[str, Any]:
    """All that the numbers of runs depend on, their keys and devices apart, ready for JSON.

    What all of them have stands there once, otherwise as a list.

    Optimisers and augmentations are described by what they compute, as one version of JAX and of Optax
    writes it: those of another version are not compared.
    """
    models = [run.model for run in runs]
    model = {"model": described(models[0])} if len(models) == 1 else {"models": described(models)}
    learnings = [run.learning for run in runs]
    return {
        "jax_enable_x64": jax.config.jax_enable_x64,  # ty: ignore[missing-attribute]
        "batch_size": batches.size,
        "method": _once([run.method for run in runs], described),
        "data": described(data),
        **model,
        "optimiser": _once([recipe.optimise for recipe in recipes], _described),
        "augment": None if batches.augment is None else _described(batches.augment),
        "feedback_learning": _once(learnings, lambda given: given and _learning(given, models[0].feedback)),
    }


def _once(parts: list[Any], describe: Callable[[Any], Any]) -> Any:
    """The description of what all runs have, or a list of those that each has."""
    first, *others = parts
    if all(part is first for part in others):
        return describe(first)
    found = [describe(part) for part in parts]
    return found[0] if all(one == found[0] for one in found) else found


def _learning(learning: FeedbackLearning, feedback: PyTree) -> dict[str, Any]:
    names = ("pretraining_epochs", "epochs_per_wake_epoch", "freeze_output", "phase", "wake")
    described_parts = {name: described(getattr(learning, name)) for name in names}

    def optimiser(given: optax.GradientTransformation | None) -> dict[str, Any] | None:
        return None if given is None else _described(update_alone("feedback_learning", given, feedback))

    return described_parts | {
        "optimiser": optimiser(learning.optimiser),
        "pretraining_optimiser": optimiser(learning.pretraining_optimiser),
    }


def _described(function: Traced) -> dict[str, Any]:
    """What a function computes, and its numbers."""
    text = re.sub(r" at 0x[0-9a-f]+", "", function.program.text)
    versions = f"jax {version('jax')}, optax {version('optax')}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return {versions: {"steps": digest, "numbers": described(function.numbers)}}
