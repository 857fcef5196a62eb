"""Which numbers of a network are learned: the arrays of floats in its transforms, forward and backward, and
its feedback weights.

Everything else stays as it was made: an activation's arrays, Python's numbers, functions, integers and flags,
wherever they stand. Updates, optimisers, training, angles and clips all ask here.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from dfc_jax._network.feedback import FeedbackWeights
from dfc_jax._network.layer import Layer
from dfc_jax._network.layered_feedback import LayeredFeedback, SignSymmetricFeedback


def learned_weights(tree: PyTree) -> PyTree:
    """The learned weights of a network, of its layers or of an update; None in place of everything else.

    What an optimiser is given: `optimiser.init(learned_weights(model.layers))`. The update and the weights
    then have the same structure, and weight decay shrinks nothing that is not learned.

    >>> from dfc_jax import mlp
    >>> model = mlp((4, 5, 3), key=jax.random.key(0))
    >>> [weight.shape for weight in jax.tree.leaves(learned_weights(model.layers))]
    [(5, 4), (5,), (3, 5), (3,)]
    """
    return split_weights(tree)[0]


def split_weights(tree: PyTree) -> tuple[PyTree, PyTree]:
    """The learned weights and the rest, each None in place of the other: `eqx.combine` makes one of both."""
    return eqx.partition(tree, jax.tree.map(_learned, tree, is_leaf=_holds_weights))


def no_change(tree: PyTree) -> PyTree:
    """An update that changes nothing: zero in place of every array of floats, None of everything else."""
    return jax.tree.map(jnp.zeros_like, eqx.filter(tree, eqx.is_inexact_array))


_Feedback = FeedbackWeights | LayeredFeedback | SignSymmetricFeedback


def _holds_weights(part: PyTree) -> bool:
    return isinstance(part, Layer | _Feedback)


def _learned(part: PyTree) -> PyTree:
    """Whether each leaf of a layer, of feedback that learns, or of what is neither, is learned."""
    floats = jax.tree.map(eqx.is_inexact_array, part)
    if isinstance(part, Layer):
        return eqx.tree_at(
            lambda layer: layer.activation, floats, jax.tree.map(lambda _: False, part.activation)
        )
    return floats if isinstance(part, _Feedback) else False
