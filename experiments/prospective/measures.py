"""Angles between rules, and interference (Song et al., Nature Neuroscience 27, 2024): how much the other
outputs move when one of them learns."""

from collections.abc import Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import dfc_jax as dfc


def angles_between(
    model: dfc.Network,
    methods: Mapping[str, dfc.AbstractMethod],
    x: Float[Array, "batch ..."],
    y: Float[Array, "batch out"],
) -> dict[str, dict[str, float]]:
    """The angle between each two methods' updates by one batch, in degrees."""
    updates = {name: method(model, x, y)[0] for name, method in methods.items()}
    return {
        name: {other: float(dfc.update_angles(own, its).network) for other, its in updates.items()}
        for name, own in updates.items()
    }


def updates_of(
    model: dfc.Network, method: dfc.AbstractMethod, x: Float[Array, "batch ..."], y: Float[Array, "batch out"]
) -> dfc.Network:
    """The update of every sample alone."""
    return jax.vmap(lambda one, target: method(model, one[None], target[None])[0])(x, y)


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
