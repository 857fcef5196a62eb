"""What is in the update of some samples by one rule: direction, agreement among batches, who it is due to."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import dfc_jax as dfc


FLAT = 0.99  # a rate of tanh beyond this is saturated; a class of this probability is confident
LARGEST = 0.05  # of the samples


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one rule does with the samples: the mean update, and numbers."""

    update: dfc.Network
    numbers: dict[str, float]


def measure(
    rule: dfc.AbstractMethod,
    model: dfc.Network,
    x: Float[Array, "n batch ..."],
    y: Float[Array, "n batch out"],
) -> Measured:
    """The update of all batches, and what is in it."""
    found = [_of_batch(rule, model, *batch) for batch in zip(x, y, strict=True)]
    updates, norms, flat, controlled, p, right = (list(part) for part in zip(*found, strict=True))
    mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *updates)
    norms, p, right = (np.concatenate(part) for part in (norms, p, right))
    layers = [np.stack(layer) for layer in zip(*(_by_layer(update) for update in updates), strict=True)]
    largest = np.sort(norms)[-max(1, round(LARGEST * len(norms))) :]
    numbers = {
        "signal": shared_part(np.concatenate(layers, axis=1)),
        "confident": float(np.sum(norms[p > FLAT]) / np.sum(norms)),
        "confident_samples": float(np.mean(p > FLAT)),
        "wrong": float(np.sum(norms[~right]) / np.sum(norms)),
        "wrong_samples": float(np.mean(~right)),
        "largest": float(np.sum(largest) / np.sum(norms)),
    }
    for i, layer in enumerate(layers, 1):
        numbers[f"norm_layer_{i}"] = float(np.linalg.norm(np.mean(layer, axis=0)))
        numbers[f"signal_layer_{i}"] = shared_part(layer)
    for i, parts in enumerate(zip(np.mean(flat, axis=0), np.mean(controlled, axis=0), strict=True), 1):
        numbers[f"saturated_layer_{i}"], numbers[f"saturated_controlled_layer_{i}"] = map(float, parts)
    return Measured(mean, numbers)


@eqx.filter_jit
def _of_batch(
    rule: dfc.AbstractMethod, model: dfc.Network, x: Float[Array, "batch ..."], y: Float[Array, "batch out"]
) -> tuple[Any, ...]:
    """The update, the size of each sample's own, saturated parts, p of the class, and whether that is the
    largest."""
    state = jax.vmap(model.feedforward)(x)
    rates = controlled = state.inputs[1:]
    loop = rule.loop(model)
    if loop is None:
        own = rule.own_updates(model, x, y)
    else:
        samples = loop.samples(x, y)
        found, _ = rule.equilibria(loop, samples)
        own = rule.own_updates_at(model, loop, samples, found)
        controlled = tuple(r + change for r, change in zip(rates, found.deviation.rate, strict=False))
    squares = (jnp.sum(leaf.reshape(len(x), -1) ** 2, axis=1) for leaf in jax.tree.leaves(own.layers))
    p = jnp.sum(jax.nn.softmax(state.output) * y, axis=1)
    right = jnp.argmax(state.output, axis=1) == jnp.argmax(y, axis=1)
    mean = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), own)
    return mean, jnp.sqrt(sum(squares)), saturated(rates), saturated(controlled), p, right


def saturated(rates: Sequence[Float[Array, "batch n"]]) -> Float[Array, " layers"]:
    """The part of each layer's rates that lie where tanh is flat."""
    return jnp.stack([jnp.mean(jnp.abs(rate) > FLAT) for rate in rates])


def shared_part(updates: Float[np.ndarray, "n parameters"]) -> float:
    """|mean|^2 / mean |.|^2 of the updates of batches, estimated without bias: 1 if all are the same, 0 on
    average if they have nothing in common."""
    squares, n = float(np.sum(updates**2)), len(updates)
    among = float(np.sum(np.sum(updates, axis=0) ** 2)) - squares
    return among / (n - 1) / squares


def _by_layer(update: dfc.Network) -> list[Float[np.ndarray, " parameters"]]:
    flat = lambda layer: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(layer)])
    return [flat(layer) for layer in dfc.learned_weights(update.layers)]
