"""The wake phase: an epoch of forward learning as one compiled scan."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray, PyTree

from dfc_jax._methods.base import AbstractMethod
from dfc_jax._network.network import Network
from dfc_jax._numerics.arrays import Scalar
from dfc_jax._training.batches import Batches
from dfc_jax._training.devices import everywhere
from dfc_jax._training.several_runs import for_runs
from dfc_jax._training.sleep_epochs import FeedbackLearning, learn_feedback


@eqx.filter_jit
@for_runs
def wake_epoch(
    run: tuple[Network, tuple[PyTree, PyTree], PRNGKeyArray],
    method: AbstractMethod,
    optimiser: optax.GradientTransformation,
    learning: FeedbackLearning | None,
    batches: Batches,
) -> tuple[Network, tuple[PyTree, PyTree], dict[str, Scalar]]:
    """One epoch of forward learning: the model, the optimisers' states and mean metrics.

    A run is a model, the states of the forward and of the feedback weights' optimiser, and a key. The
    feedback weights learn in this phase if the method learns them, and `learning` says how.
    """
    model, states, key = run

    def step(carry: PyTree, batch: tuple[Array, PRNGKeyArray]) -> tuple[PyTree, dict[str, Array]]:
        model, state, feedback_state = carry
        x, y, step_key = batches.take(*batch)
        update, report = method(model, x, y, key=step_key)
        # Optax's types know no modules, which are trees of arrays like any other.
        change, state = optimiser.update(update.layers, state, model.layers)  # ty: ignore[invalid-argument-type]
        if learning is not None and method.learns_feedback:
            model, feedback_state = learn_feedback(model, feedback_state, learning, update)
        layers = optax.apply_updates(model.layers, change)  # ty: ignore[invalid-argument-type]
        model = Network(layers, model.feedback)  # ty: ignore[invalid-argument-type]
        metrics = {
            "train_loss": jnp.mean(report.loss),
            "converged": jnp.mean(report.converged.astype(report.loss.dtype)),
            "stable": jnp.mean(report.stable.astype(report.loss.dtype)),
            "fallback": jnp.mean(report.fallback.astype(report.loss.dtype)),
            "iterations": jnp.mean(report.iterations.astype(report.loss.dtype)),
        }
        return everywhere((model, state, feedback_state), batches.mesh), metrics

    (model, *states), metrics = jax.lax.scan(step, (model, *states), batches.shuffled(key))
    return model, tuple(states), everywhere(jax.tree.map(jnp.mean, metrics), batches.mesh)
