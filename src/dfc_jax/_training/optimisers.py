"""Optax's optimisers as a compiled epoch takes them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jaxtyping import PyTree

from dfc_jax._network.learned import learned_weights, split_weights
from dfc_jax._network.network import Network
from dfc_jax._training.several_runs import for_runs
from dfc_jax._training.traced import trace, Traced


def initial_state(part: PyTree, optimiser: optax.GradientTransformation) -> PyTree:
    """The optimiser's, for the weights of a part of a network."""
    return jax.tree.map(_as_array, optimiser.init(learned_weights(part)))


def _as_array(leaf: Any) -> Any:
    """Numbers of Python and NumPy as JAX's, which is what an epoch makes of them."""
    return (
        jnp.asarray(leaf)
        if isinstance(leaf, bool | int | float | complex | np.generic | np.ndarray)
        else leaf
    )


def network_to_use(many: bool, model: Network, state: PyTree) -> Network:
    """The network that counts, which for schedule-free optimisers is not the one they step."""
    return _averaged(many, (model, state)) if isinstance(state, optax.contrib.ScheduleFreeState) else model


@for_runs
def _averaged(run: tuple[Network, optax.contrib.ScheduleFreeState]) -> Network:
    model, state = run
    weights, rest = split_weights(model.layers)
    return Network(eqx.combine(optax.contrib.schedule_free_eval_params(state, weights), rest), model.feedback)


def update_by_loss(optimiser: optax.GradientTransformation, layers: PyTree) -> Traced:
    """The optimiser's `(updates, state, weights, loss) -> (change, state)`, for weights of such layers.

    **Raises:** `ValueError` if the optimiser asks for more.
    """
    of_loss = optax.with_extra_args_support(optimiser)

    def update(updates: PyTree, state: PyTree, weights: PyTree, loss: PyTree) -> tuple[PyTree, PyTree]:
        return of_loss.update(updates, state, weights, value=loss)

    loss = jnp.zeros((), jnp.result_type(*jax.tree.leaves(learned_weights(layers))))
    return _traced("optimiser", update, optimiser, layers, loss)


def update_alone(name: str, optimiser: optax.GradientTransformation, part: PyTree) -> Traced:
    """The optimiser's `(updates, state, weights) -> (change, state)`, for the weights of such a part.

    **Raises:** `ValueError` if the optimiser asks for more, as for the loss, which sleep phases have not.
    """
    return _traced(name, optimiser.update, optimiser, part)


def _traced(
    name: str, update: Any, optimiser: optax.GradientTransformation, part: PyTree, *rest: Any
) -> Traced:
    weights = learned_weights(part)
    try:
        return trace(update, weights, initial_state(part, optimiser), weights, *rest)
    except (TypeError, AttributeError) as error:  # as of one that wants weights of a kind of its own
        raise ValueError(f"`{name}` does not update these weights: {error}") from error
