"""Learning the feedback weights beside the forward weights: sleep epochs before and between wake epochs."""

from collections.abc import Iterable, Iterator

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PRNGKeyArray, PyTree
from tqdm import tqdm

from dfc_jax._bar import progress_bar
from dfc_jax._checks import check_type
from dfc_jax._fields import check_parts, default, flag, number, Part
from dfc_jax._methods.sleep import AbstractSleepPhase, SleepPhase
from dfc_jax._methods.wake_rules import AbstractWakeRule
from dfc_jax._network.feedback import AbstractFeedback
from dfc_jax._network.learned import learned_weights, split_weights
from dfc_jax._network.network import Network
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs, Scalar
from dfc_jax._training.batches import Batches
from dfc_jax._training.devices import everywhere
from dfc_jax._training.optimisers import update_alone
from dfc_jax._training.several_runs import fold_in, for_runs
from dfc_jax._training.traced import Traced


DIVERGED = "feedback pre-training: a weight is no longer finite; lower its learning rate or its step `dt`."


class FeedbackLearning(Part):
    """How feedback weights are learned beside the forward weights.

    A method that learns feedback itself (`StrongDFC`) hands its updates to the same `optimiser`, as does a
    rule for the wake phase, and needs no sleep between: `epochs_per_wake_epoch=0`.

    **Arguments:**

    - `optimiser`: of the feedback weights; its weight decay is the decay of Q in the paper's eq. 12. Sleep
      has no loss: one that asks for it is refused.
    - `phase`: the sleep phase: `SleepPhase(...)`, `LinearisedSleepPhase(...)` or `ExpectedSleepPhase(...)`;
      `WeightMirror()` for `LayeredFeedback`.
    - `pretraining_optimiser`: for the epochs before the first wake epoch (default: `optimiser`, with a
      state of its own).
    - `pretraining_epochs`, `epochs_per_wake_epoch`: sleep epochs before training, and before each epoch of
      it. Fractions are allowed: 0.2 sleeps on a fifth of the batches.
    - `freeze_output`: keep Q_L as it is, as some of the papers' configurations do.
    - `wake`: how feedback weights learn from every batch of the wake phase: `DirectKolenPollack()`, or
      `KolenPollack()` for `LayeredFeedback`.
    """

    optimiser: optax.GradientTransformation
    phase: AbstractSleepPhase = default(SleepPhase)
    pretraining_optimiser: optax.GradientTransformation | None = None
    pretraining_epochs: float | int = number("pretraining_epochs", 10, minimum=0, static=True)
    epochs_per_wake_epoch: float | int = number("epochs_per_wake_epoch", 1, minimum=0, static=True)
    freeze_output: bool = flag("freeze_output", False)
    wake: AbstractWakeRule | None = None

    @property
    def to_pretrain(self) -> optax.GradientTransformation:
        """The optimiser before the first wake epoch."""
        return self.optimiser if self.pretraining_optimiser is None else self.pretraining_optimiser

    @property
    def sleeps(self) -> bool:
        """Whether there are sleep epochs at all."""
        return self.pretraining_epochs > 0 or self.epochs_per_wake_epoch > 0

    def __check_init__(self) -> None:
        check_parts(self)
        check_type("optimiser", self.optimiser, optax.GradientTransformation)


class Learner(eqx.Module):
    """`FeedbackLearning` as a compiled epoch takes it: how one update is found, and what becomes of it."""

    phase: AbstractSleepPhase
    optimise: Traced
    freeze_output: bool = eqx.field(static=True)
    wake: AbstractWakeRule | None


def learner_of(
    learning: FeedbackLearning, optimiser: optax.GradientTransformation, feedback: PyTree
) -> Learner:
    """How `feedback`, of one run, is learned by one of the optimisers of `learning`.

    **Raises:** `ValueError` if the optimiser asks for more than updates and weights.
    """
    optimise = update_alone("feedback_learning.optimiser", optimiser, feedback)
    return Learner(learning.phase, optimise, learning.freeze_output, learning.wake)


def pretrain(
    many: bool,
    model: Network,
    state: PyTree,
    learner: tuple[PyTree, Learner],
    epochs: float | int,
    batches: Batches,
    key: Key[Array, "*runs"],
    progress: bool,
) -> Network:
    """The model, or `many` along the first axis, after feedback pre-training; the rest as in `sleep`."""
    bar = progress_bar(parts_of(epochs), "feedback pre-training", progress=progress)
    return sleep(_announced(bar), many, model, state, learner, batches, key)[0]


def _announced(bar: tqdm) -> Iterator[float]:
    """The parts of a bar that says "compiling" during the first."""
    for i, part in enumerate(bar):
        if i == 0:
            bar.set_postfix_str("compiling")
        yield part
        bar.set_postfix_str("", refresh=False)


def sleep(
    parts: Iterable[float],
    many: bool,
    model: Network,
    state: PyTree,
    learner: tuple[PyTree, Learner],
    batches: Batches,
    key: Key[Array, "*runs"],
) -> tuple[Network, PyTree]:
    """One sleep epoch after another, each as long as its part says: the model and the optimiser's state.

    `learner` is what of it each run has for itself, and what all have.
    """
    own, shared = learner
    for i, part in enumerate(parts):
        model, state = sleep_epoch(many, (model, state, fold_in(many, key, i), own), shared, batches, part)
    return model, state


@eqx.filter_jit
@for_runs
def sleep_epoch(
    run: tuple[Network, PyTree, PRNGKeyArray, PyTree],
    shared: Learner,
    batches: Batches,
    part: float,
) -> tuple[Network, PyTree]:
    """An epoch of feedback learning, or the given part of one: the model and the optimiser's state."""
    model, state, key, own = run
    learner = eqx.combine(own, shared)
    weights, rest = split_weights(model.feedback)

    def step(
        carry: PyTree, x: BatchInputs, y: BatchOutputs, key: PRNGKeyArray
    ) -> tuple[PyTree, dict[str, Scalar]]:
        weights, state = carry
        update = learner.phase(Network(model.layers, eqx.combine(weights, rest)), x, y, key=key)
        return everywhere(learn_feedback(weights, state, learner, update), batches.mesh), {}

    (weights, state), _ = batches.scan(step, (weights, state), key, part)
    return Network(model.layers, eqx.combine(weights, rest)), state


def learn_feedback(
    feedback: AbstractFeedback, state: PyTree, learner: Learner, update: Network
) -> tuple[AbstractFeedback, PyTree]:
    """One step of the feedback weights' optimiser: the weights and the optimiser's state."""
    change, state = learner.optimise(learned_weights(update.feedback), state, feedback)
    if learner.freeze_output:
        change = eqx.tree_at(lambda c: c.weights[-1], change, replace_fn=jnp.zeros_like)
    # Optax's types know no modules, which are trees of arrays like any other.
    return optax.apply_updates(feedback, change), state  # ty: ignore


def parts_of(number: float | int) -> list[float]:
    """A number of epochs as whole ones and perhaps a part of one."""
    whole, part = divmod(number, 1)
    return [1.0] * int(whole) + ([part] if part else [])
