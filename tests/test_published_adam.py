"""The presets' optimisers, step by step, against Adam in NumPy with the published digits and updates."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import relative_error
from neurips2021.presets import paper, TABLE_1
from options.config import Config
from options.objects import make_feedback_learning, make_optimiser

import dfc_jax as dfc


STEPS, WEIGHTS = 30, [np.linspace(-0.3, 0.3, 12).reshape(3, 4), np.linspace(-0.1, 0.2, 12)]
Clip = Callable[[list[np.ndarray]], list[np.ndarray]]


class Adam:
    """Of the published code's framework: decay joins the gradient, eps the root of the mean square."""

    def __init__(self, lr: float, eps: float, decay: float = 0.0) -> None:
        self.lr, self.eps, self.decay = lr, eps, decay
        self.mean, self.square, self.steps = 0.0, 0.0, 0

    def step(self, weight: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        gradient = gradient + self.decay * weight
        self.steps += 1
        self.mean = 0.99 * self.mean + 0.01 * gradient
        self.square = 0.99 * self.square + 0.01 * gradient**2
        correct = 1 - 0.99**self.steps
        return weight - self.lr * (self.mean / correct) / (np.sqrt(self.square / correct) + self.eps)


def clipped(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """To a joint norm of at most 1."""
    norm = np.sqrt(sum(np.sum(array**2) for array in arrays))
    return [array / max(norm, 1.0) for array in arrays]


def updates(i: int, size: float) -> list[np.ndarray]:
    """Of one tenth of `size` to ten times it, one neuron's small and another's large."""
    sizes = size * np.logspace(-1, 1, 12)
    generator = np.random.default_rng(i)
    return [generator.normal(size=w.shape) * sizes.reshape(w.shape) for w in WEIGHTS]


def moved(optimiser: optax.GradientTransformation, size: float, scale: float) -> list[np.ndarray]:
    """The weights' change in some steps with updates that are the published ones divided by `scale`."""
    tree = [jnp.asarray(weight) for weight in WEIGHTS]
    state = optimiser.init(tree)
    with jax.numpy_dtype_promotion("standard"):  # Optax adds Python's numbers
        for i in range(STEPS):
            change, state = optimiser.update([jnp.asarray(g / scale) for g in updates(i, size)], state, tree)
            tree = optax.apply_updates(tree, change)
    return [after - before for after, before in zip(tree, WEIGHTS, strict=True)]


def moved_as_published(adam: Callable[[], Adam], size: float, clip: Clip) -> list[np.ndarray]:
    weights, theirs = WEIGHTS, [adam() for _ in WEIGHTS]
    for i in range(STEPS):
        each = zip(theirs, weights, clip(updates(i, size)), strict=True)
        weights = [own.step(weight, gradient) for own, weight, gradient in each]
    return [after - before for after, before in zip(weights, WEIGHTS, strict=True)]


def configured(task: str, feedback: str = "learned") -> Config:
    preset = "paper-train-loss" if task == "mnist_train_loss" else "paper"
    return Config(dataset="mnist" if task == "mnist_train_loss" else task, preset=preset, feedback=feedback)


@pytest.mark.parametrize("size", ["eps", "clip"])
@pytest.mark.parametrize("task", TABLE_1)
@pytest.mark.parametrize("row", ["bp", "dfa", "learned", "fixed"])
def test_forward_weights_take_the_published_steps(task: str, row: str, size: str) -> None:
    """The published update is 2 nudge times ours, clipped tensor by tensor; backprop's is ours as it is."""
    published = getattr(TABLE_1[task], {"learned": "trained"}.get(row, row))
    if row in ("learned", "fixed"):
        published, config = published[0], paper(configured(task, row), "dfc-ss")
    else:
        config = paper(configured(task), row)
    adam = lambda: Adam(published.lr / published.target_stepsize, published.epsilon)
    clip = (lambda arrays: arrays) if row == "bp" else (lambda arrays: [clipped([a])[0] for a in arrays])
    typical = published.epsilon if size == "eps" else 1.0
    scale = 1.0 if row == "bp" else 2 * published.target_stepsize / 128
    found = moved(make_optimiser(config.resolved().optimiser, 1), typical, scale)
    assert relative_error(found, moved_as_published(adam, typical, clip)) < 1e-9


@pytest.mark.parametrize("size", ["eps", "clip"])
@pytest.mark.parametrize("task", TABLE_1)
@pytest.mark.parametrize("when", ["pretraining", "training"])
def test_feedback_weights_take_the_published_steps(task: str, when: str, size: str) -> None:
    """The published update is min(sigma / 0.01, 1)^2 times ours; its joint norm is clipped, then decays."""
    published = TABLE_1[task].trained[2]
    config = paper(configured(task), "dfc-ss").resolved()
    learning = make_feedback_learning(config, "dfc-ss", dfc.CrossEntropy(), 1)
    optimiser = learning.pretraining_optimiser if when == "pretraining" else learning.optimiser
    lr = published.lr_fb_init if when == "pretraining" else published.lr_fb
    adam = lambda: Adam(lr, published.epsilon_fb, published.feedback_wd)
    typical = published.epsilon_fb if size == "eps" else 1.0
    found = moved(optimiser, typical, min(published.sigma / 0.01, 1) ** 2)
    assert relative_error(found, moved_as_published(adam, typical, clipped)) < 1e-9
