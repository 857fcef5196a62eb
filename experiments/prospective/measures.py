"""What Song et al. (Nature Neuroscience 27, 2024) measure of a rule, here of any method of the library.

Target alignment: the cosine of the angle between the change of a sample's output that its own update makes
and the way to its target. Interference: how much the other outputs move when one of them learns.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import dfc_jax as dfc


class Measures(dfc.Diagnostics):
    """Of a method in training: `angle_to_backprop`, in degrees, and the mean `target_alignment`."""

    def __call__(
        self, model: dfc.Network, method: dfc.AbstractMethod, validation: dfc.Split
    ) -> dict[str, Any]:
        x, y = (jnp.asarray(array[: self.samples]) for array in (validation.x, validation.y))
        return {name: float(value) for name, value in _measured(model, method, x, y).items()}


@eqx.filter_jit
def _measured(
    model: dfc.Network, method: dfc.AbstractMethod, x: Float[Array, "batch ..."], y: Float[Array, "batch out"]
) -> dict[str, Float[Array, ""]]:
    updates = updates_of(model, method, x, y)
    # That of a batch is the mean: so every method is compiled once.
    update = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), updates)
    reference, _ = dfc.Backprop(method.loss)(model, x, y)
    alignment = jax.vmap(target_alignment, in_axes=(None, 0, None, 0, 0))(model, updates, method.loss, x, y)
    return {
        "angle_to_backprop": dfc.update_angles(update, reference).network,
        "target_alignment": jnp.mean(alignment),
    }


def updates_of(
    model: dfc.Network, method: dfc.AbstractMethod, x: Float[Array, "batch ..."], y: Float[Array, "batch out"]
) -> dfc.Network:
    """The update of every sample alone."""
    return jax.vmap(lambda one, target: method(model, one[None], target[None])[0])(x, y)


def target_alignment(
    model: dfc.Network,
    update: dfc.Network,
    loss: dfc.AbstractLoss,
    x: Float[Array, "..."],
    y: Float[Array, " out"],
) -> Float[Array, ""]:
    """The cosine between the first-order change of one sample's output by minus `update` and -dl/dr_L.

    That is the way to the target y - r_L for the squared error, and y - softmax(r_L) for cross-entropy.
    """
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    tangents = jax.tree.map(jnp.negative, eqx.filter(update, eqx.is_inexact_array))
    output, change = jax.jvp(lambda arrays: eqx.combine(arrays, rest)(x), (arrays,), (tangents,))
    way = -loss.gradient(output, y)
    return change @ way / (jnp.linalg.norm(change) * jnp.linalg.norm(way))


def interference(
    model: dfc.Network,
    method: dfc.AbstractMethod,
    x: Float[Array, "batch ..."],
    y: Float[Array, "batch out"],
    rates: Sequence[float],
) -> dict[str, Float[np.ndarray, " rates"]]:
    """One step of each learning rate by one sample whose target is its output, but y at the label.

    Means over the samples, in parts of the change wanted, y - r_L at the label: by how much the label's
    output moves (`own`), and the length of what all others do (`others`). `method` is of the squared error.
    """
    found = _interference(model, method, x, y, jnp.asarray(rates))
    return {name: np.asarray(jnp.mean(value, axis=0)) for name, value in found.items()}


@eqx.filter_jit
def _interference(
    model: dfc.Network,
    method: dfc.AbstractMethod,
    x: Float[Array, "batch ..."],
    y: Float[Array, "batch out"],
    rates: Float[Array, " rates"],
) -> dict[str, Float[Array, "batch rates"]]:
    outputs, label = jax.vmap(model)(x), jnp.asarray(y > 0.5)
    updates = updates_of(model, method, x, jnp.where(label, y, outputs))
    wanted = jnp.sum(jnp.where(label, y - outputs, 0), axis=1)

    def moved(update: dfc.Network, one: Float[Array, "..."], rate: Float[Array, ""]) -> Float[Array, " out"]:
        stepped = eqx.apply_updates(model, jax.tree.map(lambda leaf: -rate * leaf, update))
        return stepped(one) - model(one)

    change = jax.vmap(jax.vmap(moved, (None, None, 0)), (0, 0, None))(updates, x, rates)
    own = jnp.sum(jnp.where(label[:, None], change, 0), axis=2)
    others = jnp.linalg.norm(jnp.where(label[:, None], 0, change), axis=2)
    return {"own": own / wanted[:, None], "others": others / jnp.abs(wanted)[:, None]}
