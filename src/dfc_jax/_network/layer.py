"""Layers: an affine transform and an activation, and the sweep from the output back through them.

Everything here is written for one sample; a batch is a `jax.vmap`.
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dfc_jax._checks import check_type, require, shown
from dfc_jax._fields import check_parts, Part
from dfc_jax._network.activations import AbstractActivation
from dfc_jax._numerics.arrays import OutputVector


Transform = Callable[[Float[Array, "..."]], Float[Array, "..."]]  # an Equinox module, affine in its input


class Dense(Part):
    """The affine map r -> W r + b.

    Written as r W^T so that a batch, and the tangents of a batch, stay one matrix product in memory order;
    W r under `vmap` costs 1.5 times as much on a CPU.
    """

    weight: Float[Array, "out in"]
    bias: OutputVector

    def __check_init__(self) -> None:
        check_floats("weight", self.weight)

    def __call__(self, rate: Float[Array, " in"]) -> OutputVector:
        return rate @ self.weight.T + self.bias


class Chain(Part):
    """Affine transforms one after another, which are one affine transform."""

    parts: tuple[Transform, ...]

    def __call__(self, rate: Float[Array, "*n"]) -> Float[Array, "*m"]:
        for part in self.parts:
            rate = part(rate)
        return rate


class Centre(Part):
    """A vector less its mean."""

    def __call__(self, rate: Float[Array, " n"]) -> Float[Array, " n"]:
        return rate - jnp.mean(rate)


class Layer(Part):
    """One layer: basal voltage v_ff = f(r_prev) of an affine `transform`, and rate phi(v).

    `transform` is any Equinox module that is affine in its input; the local update is its own VJP. Its arrays
    of floats are learned, and nothing else: functions, flags and Python's numbers in it, and arrays of
    integers or booleans, as a mask, stay as they are, and so does all that `activation` holds.
    """

    transform: Transform
    activation: AbstractActivation

    def __check_init__(self) -> None:
        check_type("transform", self.transform, eqx.Module)
        check_parts(self)

    def linear(self, change: Float[Array, "*m"]) -> Float[Array, "*n"]:
        """The change of the basal voltage when the layer's input changes by `change`."""
        return linear_part(self.transform, change)


def linear_part(transform: Transform, change: Float[Array, "*m"]) -> Float[Array, "*n"]:
    """The change of an affine transform's result when what it takes changes by `change`."""
    return jax.jvp(transform, (jnp.zeros_like(change),), (change,))[1]


def slopes_at(
    layers: Sequence[Layer], voltages: Sequence[Float[Array, "..."]]
) -> tuple[Float[Array, "..."], ...]:
    """phi_i'(v_i) of every layer."""
    return tuple(l.activation.derivative(v) for l, v in zip(layers, voltages, strict=True))


def jacobian_at(
    layers: Sequence[Layer], voltages: Sequence[Float[Array, "..."]]
) -> tuple[Float[Array, "out ..."], ...]:
    """J_i = dr_L/dv_i of every layer at the given voltages, the output layer included."""
    slopes, transforms = slopes_at(layers, voltages), [layer.transform for layer in layers[1:]]
    rows = jnp.eye(slopes[-1].size, dtype=slopes[-1].dtype)
    return jax.vmap(lambda row: swept_back(transforms, slopes, row))(rows)


def swept_forward(
    layers: Sequence[Layer], slopes: Sequence[Float[Array, "..."]], voltages: Sequence[Float[Array, "..."]]
) -> Float[Array, "..."]:
    """sum of J_i d_i: how the last layer's rates change, to first order, when `voltages` d_i are added to
    those of every layer, where phi_i' are the `slopes`."""
    rate = slopes[0] * voltages[0]
    for layer, slope, voltage in zip(layers[1:], slopes[1:], voltages[1:], strict=True):
        rate = slope * (layer.linear(rate) + voltage)
    return rate


def swept_back(
    transforms: Sequence[Transform], slopes: Sequence[Float[Array, "..."]], cotangent: OutputVector
) -> tuple[Float[Array, "..."], ...]:
    """D_i B_{i+1}^T D_{i+1} ... B_L^T D_L u of every layer, the last one's being D_L u.

    D_i are the `slopes`, B_2, ..., B_L the linear parts of the `transforms`, one less, and u the `cotangent`.
    """
    pulled = [slopes[-1] * cotangent]
    for transform, slope in zip(transforms[::-1], slopes[-2::-1], strict=True):
        _, transpose = jax.vjp(lambda rate, f=transform: linear_part(f, rate), jnp.zeros_like(slope))
        pulled.append(slope * transpose(pulled[-1])[0])
    return tuple(reversed(pulled))


def check_floats(name: str, array: Float[Array, "..."], what: str = "values") -> None:
    """Raise `ValueError` unless `array` is of a type that the dynamics can be solved in."""
    known = isinstance(array, np.ndarray | np.generic | jax.Array)
    require(known, f"`{name}` is {shown(array)}; it must be an array.")
    fine = array.dtype in (jnp.float32, jnp.float64)
    require(fine, f"`{name}` holds {array.dtype} {what}; make them float32 or float64.")
