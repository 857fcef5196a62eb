"""Convolutional networks: affine transforms of feature maps, and `convnet`, which stacks them.

To the rest of the library they are layers like any other. Voltages and rates of a layer are feature maps,
(height, width, channels), and so is each column of Q_i: the control reaches every neuron of them directly.
Shared weights learn by the sum of their local updates over all positions, which is the VJP of the transform.

Channels come last because XLA's loops on CPUs are ten times slower the other way round.
"""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from dfc_jax._checks import check_count, check_image, check_key, check_pixels, check_type, require
from dfc_jax._fields import count, Part
from dfc_jax._network.activations import AbstractActivation, Linear, Tanh
from dfc_jax._network.feedback import AbstractFeedbackInit, ProductOfWeights
from dfc_jax._network.layer import Centre, Chain, check_floats, Dense, Layer, Transform
from dfc_jax._network.network import Network
from dfc_jax._numerics.arrays import OutputVector
from dfc_jax._numerics.cross_correlation import correlate


class Convolution(Part):
    """A convolution (cross-correlation) with one bias a channel."""

    weight: Float[Array, "height width in out"]
    bias: OutputVector
    stride: int = count("stride", 1)
    padding: int = count("padding", 0, minimum=0)

    def __check_init__(self) -> None:
        check_floats("weight", self.weight)

    def __call__(self, rate: Float[Array, "rows columns in"]) -> Float[Array, "newrows newcolumns out"]:
        dtype = jnp.result_type(rate, self.weight)
        edge = (self.padding, self.padding)
        given = rate[None].astype(dtype), self.weight.astype(dtype)
        return correlate(*given, stride=self.stride, edges=(edge, edge))[0] + self.bias[None, None]


class AveragePool(Part):
    """Means over squares of `size` x `size`; rows and columns that fill no square are left out."""

    size: int = count("size", 2)

    def __call__(self, rate: Float[Array, "rows columns channels"]) -> Float[Array, "less fewer channels"]:
        rows, columns = (n // self.size for n in rate.shape[:2])
        squares = rate[: rows * self.size, : columns * self.size]
        return squares.reshape(rows, self.size, columns, self.size, rate.shape[2]).mean(axis=(1, 3))


class Image(Part):
    """A feature map from an image of `shape` (channels, height, width), flattened in this order or not.

    **Raises:** `ValueError` for an image of any other shape, as (height, width, channels).
    """

    shape: tuple[int, int, int] = eqx.field(static=True)

    def __call__(self, pixels: Float[Array, "..."]) -> Float[Array, "rows columns channels"]:
        check_pixels("x", pixels.shape, self.shape)
        return jnp.moveaxis(pixels.reshape(self.shape), 0, -1)


class Flatten(Part):
    """A feature map as a vector."""

    def __call__(self, rate: Float[Array, "*n"]) -> Float[Array, " m"]:
        return rate.ravel()


def convnet(
    image: tuple[int, int, int],
    channels: Sequence[int],
    sizes: Sequence[int],
    *,
    key: PRNGKeyArray,
    kernel: int = 3,
    pool: int = 2,
    stride: int = 1,
    activation: AbstractActivation = Tanh(),
    output_activation: AbstractActivation = Linear(),
    centred: bool = False,
    feedback: AbstractFeedbackInit = ProductOfWeights(),
) -> Network:
    """A convolutional network: as many convolutions as `channels`, then as many dense layers as `sizes`.

    Every convolution pads its input so that only `stride` makes feature maps smaller. Between a convolution
    and the next layer the mean over squares of `pool` x `pool` is taken; pooling is linear, and so is part of
    the next layer's transform. Weights start as Glorot & Bengio's normal ones, biases at zero.

    **Arguments:**

    - `image`: channels, height and width of the input, which may be flattened in this order.
    - `channels`: feature maps of each convolution: `(32, 64)`.
    - `sizes`: of the dense layers, the output last: `(128, 10)`.
    - `kernel`: width and height of the convolutions' kernels, an odd number.
    - `pool`, `stride`: of all convolutions; 1 leaves feature maps as large as they are.
    - `activation`, `output_activation`, `centred`, `feedback`, `key`: as in `mlp`.

    >>> model = convnet((1, 8, 8), (4, 6), (10,), key=jr.key(0))
    >>> [Q.shape for Q in model.feedback.weights]
    [(8, 8, 4, 10), (4, 4, 6, 10), (10, 10)]
    >>> model(jnp.ones(64)).shape
    (10,)

    **Raises:** `ValueError` for an argument out of range, or an image too small for so many layers.
    """
    _check(image, channels, sizes, kernel, pool, stride)
    check_key("key", key)
    check_type("feedback", feedback, AbstractFeedbackInit)
    check_type("centred", centred, bool)
    check_type("activation", activation, AbstractActivation)
    check_type("output_activation", output_activation, AbstractActivation)
    weights_key, feedback_key = jr.split(key)
    keys = iter(jr.split(weights_key, len(channels) + len(sizes)))
    layers: list[Layer] = []
    shapes: list[tuple[int, ...]] = [tuple(image)]

    def arriving(before: Transform) -> tuple[int, ...]:
        shape = _shape_after(before, shapes[-1])
        problem = f"`image` is {tuple(image)}, too small for {len(channels)} convolutions with pooling"
        require(min(shape) > 0, f"{problem}; layer {len(shapes)} would see the shape {shape}.")
        return shape

    def add(before: Transform, transform: Transform) -> None:
        layers.append(Layer(Chain((before, transform)), activation))
        shapes.append(_shape_after(layers[-1].transform, shapes[-1]))

    for number in channels:
        before = AveragePool(pool) if layers else Image(tuple(image))
        weight = _xavier((kernel, kernel, arriving(before)[-1], number), next(keys))
        add(before, Convolution(weight, jnp.zeros(number), stride, kernel // 2))
    for number in sizes:
        pooled = len(shapes[-1]) == 3 and len(layers) > 0
        before = Chain((AveragePool(pool), Flatten())) if pooled else Flatten()
        weight = _xavier((*arriving(before), number), next(keys)).T
        add(before, Dense(weight, jnp.zeros(number)))
    last = layers[-1].transform
    layers[-1] = Layer(Chain((last, Centre())) if centred else last, output_activation)
    return Network(tuple(layers), feedback.init(layers, shapes[1:], feedback_key))


def _shape_after(transform: Transform, shape: tuple[int, ...]) -> tuple[int, ...]:
    return jax.eval_shape(transform, jax.ShapeDtypeStruct(shape, jnp.result_type(float))).shape


def _xavier(shape: tuple[int, ...], key: PRNGKeyArray) -> Float[Array, "..."]:
    """Glorot & Bengio's normal initialisation; what a neuron sees and what sees it, kernels counted."""
    *kernel, inputs, outputs = shape
    return math.sqrt(2 / ((inputs + outputs) * math.prod(kernel))) * jr.normal(key, shape)


def _check(
    image: tuple[int, int, int],
    channels: Sequence[int],
    sizes: Sequence[int],
    kernel: int,
    pool: int,
    stride: int,
) -> None:
    check_image("image", image)
    for name, numbers in (("channels", channels), ("sizes", sizes)):
        check_type(name, numbers, Sequence)
        for number in numbers:
            check_count(name, number)
    require(len(sizes) > 0, "`sizes` is empty; it must hold the number of outputs at least.")
    for name, value in (("kernel", kernel), ("pool", pool), ("stride", stride)):
        check_count(name, value)
    require(kernel % 2 == 1, f"`kernel` is {kernel}; it must be odd.")
