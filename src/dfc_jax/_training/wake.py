"""The wake phase: an epoch of forward learning as one compiled scan."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import PRNGKeyArray, PyTree

from dfc_jax._network.learned import learned_weights, split_weights
from dfc_jax._network.network import Network
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs, Scalar
from dfc_jax._training.batches import Batches
from dfc_jax._training.devices import everywhere
from dfc_jax._training.recipes import Recipe
from dfc_jax._training.several_runs import for_runs
from dfc_jax._training.sleep_epochs import learn_feedback


@eqx.filter_jit
@for_runs
def wake_epoch(
    run: tuple[Network, tuple[PyTree, PyTree], PRNGKeyArray, PyTree],
    shared: Recipe,
    batches: Batches,
) -> tuple[Network, tuple[PyTree, PyTree], dict[str, Scalar]]:
    """One epoch of forward learning: the model, the optimisers' states and mean metrics.

    A run is a model, the states of the forward and of the feedback weights' optimiser, a key, and what of the
    recipe is its own. The feedback weights learn in this phase if the method or the learner has a rule for
    them.
    """
    model, states, key, own = run
    recipe = eqx.combine(own, shared)
    method, learner = recipe.method, recipe.learner
    weights, rest = split_weights(model)

    def step(
        carry: PyTree, x: BatchInputs, y: BatchOutputs, key: PRNGKeyArray
    ) -> tuple[PyTree, dict[str, Scalar]]:
        weights, state, feedback_state = carry
        model = eqx.combine(weights, rest)
        rule = None if learner is None else learner.wake
        rule_key = None
        if rule is not None:
            key, rule_key = jr.split(key)
        update, report = method(model, x, y, key=key)
        moved, loss = learned_weights(update.layers), jnp.mean(report.loss)
        change, state = recipe.optimise(moved, state, weights.layers, loss)
        feedback = weights.feedback
        if rule is not None:
            update = rule(model, x, y, update, method.loss, key=rule_key)
        if learner is not None and (rule is not None or method.learns_feedback):
            feedback, feedback_state = learn_feedback(feedback, feedback_state, learner, update)
        layers = optax.apply_updates(weights.layers, change)
        metrics = {
            "train_loss": jnp.mean(report.loss),
            "converged": jnp.mean(report.converged.astype(report.loss.dtype)),
            "fallback": jnp.mean(report.fallback.astype(report.loss.dtype)),
            "iterations": jnp.mean(report.iterations.astype(report.loss.dtype)),
        }
        if method.loop(model) is not None:
            metrics["condition_three"] = jnp.mean(report.condition_three.astype(report.loss.dtype))
        carry = Network(layers, feedback), state, feedback_state  # ty: ignore[invalid-argument-type]
        return everywhere(carry, batches.mesh), metrics

    (weights, *states), metrics = batches.scan(step, (weights, *states), key)
    return eqx.combine(weights, rest), tuple(states), everywhere(metrics, batches.mesh)
