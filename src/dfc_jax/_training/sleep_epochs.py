"""Learning the feedback weights beside the forward weights: sleep epochs before and between wake epochs."""

import math
from collections.abc import Iterable, Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PRNGKeyArray, PyTree
from tqdm import tqdm

from dfc_jax._checks import check_type
from dfc_jax._fields import check_parts, default, flag, number
from dfc_jax._methods.sleep import AbstractSleepPhase, SleepPhase
from dfc_jax._network.feedback import AbstractFeedback
from dfc_jax._network.network import Network
from dfc_jax._training.batches import Batches
from dfc_jax._training.devices import everywhere
from dfc_jax._training.several_runs import fold_in, for_runs, initial_state


DIVERGED = "feedback pre-training: a weight is no longer finite; lower its learning rate or its step `dt`."


class FeedbackLearning(eqx.Module):
    """How feedback weights are learned beside the forward weights.

    A method that learns feedback itself (`StrongDFC`) hands its updates to the same `optimiser`, and needs
    no sleep between: `epochs_per_wake_epoch=0`.

    **Arguments:**

    - `optimiser`: of the feedback weights; its weight decay is the decay of Q in the paper's eq. 12.
    - `phase`: the sleep phase: `SleepPhase(...)` or `ExpectedSleepPhase(...)`.
    - `pretraining_optimiser`: for the epochs before the first wake epoch (default: `optimiser`, with a
      state of its own).
    - `pretraining_epochs`, `epochs_per_wake_epoch`: sleep epochs before training, and before each epoch of
      it. Fractions are allowed: 0.2 sleeps on a fifth of the batches.
    - `freeze_output`: keep Q_L as it is, as some of the papers' configurations do.
    """

    optimiser: optax.GradientTransformation
    phase: AbstractSleepPhase = default(SleepPhase)
    pretraining_optimiser: optax.GradientTransformation | None = None
    pretraining_epochs: float | int = number("pretraining_epochs", 10, minimum=0, static=True)
    epochs_per_wake_epoch: float | int = number("epochs_per_wake_epoch", 1, minimum=0, static=True)
    freeze_output: bool = flag("freeze_output", False)

    def __check_init__(self) -> None:
        check_parts(self)
        check_type("optimiser", self.optimiser, optax.GradientTransformation)


def pretrain(
    many: bool,
    model: Network,
    learning: FeedbackLearning,
    batches: Batches,
    key: Key[Array, "*runs"],
    progress: bool,
) -> Network:
    """The model, or `many` along the first axis, after feedback pre-training."""
    if learning.pretraining_optimiser is not None:
        learning = eqx.tree_at(lambda l: l.optimiser, learning, learning.pretraining_optimiser)
    state = initial_state(many, model.feedback, learning.optimiser)
    bar = tqdm(_epochs(learning.pretraining_epochs), "feedback pre-training", disable=not progress)
    return _sleep_through(_announced(bar), many, model, state, learning, batches, key)[0]


def _announced(bar: tqdm) -> Iterator[float]:
    """The parts of a bar that says "compiling" during the first."""
    for i, part in enumerate(bar):
        if i == 0:
            bar.set_postfix_str("compiling")
        yield part
        bar.set_postfix_str("", refresh=False)


def sleep(
    many: bool,
    model: Network,
    state: PyTree,
    learning: FeedbackLearning,
    batches: Batches,
    key: Key[Array, "*runs"],
) -> tuple[Network, PyTree]:
    """The sleep before one wake epoch: the model and the optimiser's state."""
    parts = _epochs(learning.epochs_per_wake_epoch)
    return _sleep_through(parts, many, model, state, learning, batches, key)


def _sleep_through(
    parts: Iterable[float],
    many: bool,
    model: Network,
    state: PyTree,
    learning: FeedbackLearning,
    batches: Batches,
    key: Key[Array, "*runs"],
) -> tuple[Network, PyTree]:
    """One sleep epoch after another, each as long as its part says."""
    for i, part in enumerate(parts):
        model, state = _sleep_epoch(many, (model, state, fold_in(many, key, i)), learning, batches, part)
    return model, state


@eqx.filter_jit
@for_runs
def _sleep_epoch(
    run: tuple[Network, PyTree, PRNGKeyArray],
    learning: FeedbackLearning,
    batches: Batches,
    part: float,
) -> tuple[Network, PyTree]:
    """An epoch of feedback learning, or the given part of one: the model and the optimiser's state."""
    model, state, key = run

    def step(carry: PyTree, batch: tuple[Array, PRNGKeyArray]) -> tuple[PyTree, None]:
        feedback, state = carry
        x, y, step_key = batches.take(*batch)
        update = learning.phase(Network(model.layers, feedback), x, y, key=step_key)
        return everywhere(learn_feedback(feedback, state, learning, update), batches.mesh), None

    indices, keys = batches.shuffled(key)
    steps = math.ceil(part * len(indices))
    feedback, state = jax.lax.scan(step, (model.feedback, state), (indices[:steps], keys[:steps]))[0]
    return Network(model.layers, feedback), state


def learn_feedback(
    feedback: AbstractFeedback, state: PyTree, learning: FeedbackLearning, update: Network
) -> tuple[AbstractFeedback, PyTree]:
    """One step of the feedback weights' optimiser: the weights and the optimiser's state."""
    # Optax's types know no modules, which are trees of arrays like any other.
    change, state = learning.optimiser.update(update.feedback, state, feedback)  # ty: ignore[invalid-argument-type]
    if learning.freeze_output:
        change = eqx.tree_at(lambda c: c.weights[-1], change, replace_fn=jnp.zeros_like)
    return optax.apply_updates(feedback, change), state  # ty: ignore


def _epochs(number: float | int) -> list[float]:
    """A number of epochs as whole ones and perhaps a part of one."""
    whole, part = divmod(number, 1)
    return [1.0] * int(whole) + ([part] if part else [])
