"""Networks as data: what a checkpoint says of a model, so that it loads without the code that made it."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from dfc_jax import activations
from dfc_jax.feedback import ExactFeedback, FeedbackWeights
from dfc_jax.network import Dense, Layer, Network


def describe(model: Network) -> dict[str, Any] | None:
    """A description of `model` without its numbers, ready for JSON; None if it has others' parts."""
    layers = []
    for layer in model.layers:
        activation = layer.activation
        ours = getattr(activations, type(activation).__name__, None) is type(activation)
        if type(layer.transform) is not Dense or not ours:
            return None
        outputs, inputs = layer.transform.weight.shape
        found = {"inputs": inputs, "outputs": outputs, "activation": type(activation).__name__}
        layers.append(found | {"options": dataclasses.asdict(activation)})
    kind = type(model.feedback)
    if kind not in (FeedbackWeights, ExactFeedback):
        return None
    dtype = model.layers[0].transform.weight.dtype.name
    return {"layers": layers, "feedback": kind.__name__, "dtype": dtype}


def build(description: dict[str, Any]) -> Network:
    """A network of that description, all of its numbers zero."""
    dtype = description["dtype"]
    zeros = lambda *shape: jnp.zeros(shape, dtype)
    layers = tuple(
        Layer(
            Dense(zeros(layer["outputs"], layer["inputs"]), zeros(layer["outputs"])),
            getattr(activations, layer["activation"])(**layer["options"]),
        )
        for layer in description["layers"]
    )
    if description["feedback"] == "ExactFeedback":
        return Network(layers, ExactFeedback())
    outputs = description["layers"][-1]["outputs"]
    weights = tuple(zeros(layer["outputs"], outputs) for layer in description["layers"])
    return Network(layers, FeedbackWeights(weights))
