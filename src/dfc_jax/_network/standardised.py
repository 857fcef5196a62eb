"""Networks whose signals keep their size from layer to layer, by samples of what they will see."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from dfc_jax._checks import check_key, check_type, require
from dfc_jax._network.convolution import Convolution
from dfc_jax._network.feedback import AbstractFeedbackInit
from dfc_jax._network.layer import Centre, Chain, Dense, Layer, Transform
from dfc_jax._network.network import as_inputs, Network
from dfc_jax._numerics.arrays import BatchInputs


def standardised(
    model: Network, x: BatchInputs, feedback: AbstractFeedbackInit, *, key: PRNGKeyArray
) -> Network:
    """The network with weights and biases scaled so that signals of samples like `x` keep their size.

    The voltages of every hidden neuron, or feature map, have mean 0 and standard deviation 1 over `x`, and
    the outputs a mean square of 1, by one factor for all. That is a normalisation of voltages with frozen
    statistics, which is affine and so a part of the weights (Krähenbühl et al., Data-dependent
    initializations of convolutional neural networks, ICLR 2016; Mishkin and Matas, All you need is a good
    init, ICLR 2016).

    Xavier's weights know neither activation nor pooling: through leaky ReLUs and means over squares each
    layer makes signals smaller, hidden layers hardly move the output, and the control acts through the output
    layer almost alone: J Q is little more than the identity, Q_L. Here every layer has a part in J Q.

    **Arguments:**

    - `model`: of `Dense` and `Convolution`, as `mlp` and `convnet` make it.
    - `x`: some hundred samples of the training inputs.
    - `feedback`: how the feedback starts, which is that of the new weights. `key` is for a random one.

    **Raises:** `ValueError` for fewer than two samples, or a layer whose transform ends in anything else.
    """
    check_type("model", model, Network)
    check_type("feedback", feedback, AbstractFeedbackInit)
    check_key("key", key)
    rates = as_inputs(model, x)
    require(len(rates) >= 2, f"`x` holds {len(rates)} samples; one has no standard deviation.")
    layers: list[Layer] = []
    shapes: list[tuple[int, ...]] = []
    for number, layer in enumerate(model.layers, start=1):
        voltages = jax.vmap(layer.transform)(rates)
        by_feature = voltages.reshape(-1, voltages.shape[-1])
        if number < len(model.layers):
            mean, size = jnp.mean(by_feature, axis=0), jnp.std(by_feature, axis=0)
            rounding = jnp.sqrt(jnp.finfo(size.dtype).eps) * jnp.abs(mean)
            size = jnp.where(size > rounding, size, 1)  # what never moves keeps its weights
        else:
            mean = jnp.zeros_like(by_feature[0])
            size = jnp.broadcast_to(jnp.linalg.norm(by_feature) / math.sqrt(by_feature.size), mean.shape)
            size = jnp.where(size > 0, size, 1)
        layers.append(Layer(_normalised(layer.transform, mean, size, number), layer.activation))
        shapes.append(voltages.shape[1:])
        rates = jax.vmap(lambda rate, layer=layers[-1]: layer.activation(layer.transform(rate)))(rates)
    return Network(tuple(layers), feedback.init(layers, shapes, key))


def _normalised(
    transform: Transform, mean: Float[Array, " n"], size: Float[Array, " n"], number: int
) -> Transform:
    """(f(r) - mean) / size, feature by feature."""
    if isinstance(transform, Chain):
        *before, last = transform.parts
        if isinstance(last, Centre) and before:  # of outputs, which have one size and no mean to take off
            return Chain((_normalised(Chain(tuple(before)), mean, size, number), last))
        return Chain((*before, _normalised(last, mean, size, number)))
    if not isinstance(transform, Dense | Convolution):
        problem = f"`model` has a {type(transform).__name__} at the end of layer {number}"
        raise ValueError(f"{problem}; it must be a Dense or a Convolution.")
    by_output = size[:, None] if isinstance(transform, Dense) else size[None, None, None]
    bias = (transform.bias - mean) / size
    return dataclasses.replace(transform, weight=transform.weight / by_output, bias=bias)
