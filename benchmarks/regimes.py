"""Networks, targets and batches that stand for the course of a training run and for bad feedback weights."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int

import dfc_jax as dfc


@dataclasses.dataclass(frozen=True)
class Regime:
    """One setting in which a steady state is sought."""

    model: dfc.Network
    target: dfc.AbstractTarget
    x: Float[Array, "batch 784"]
    y: Float[Array, "batch 10"]


def digits(batch_size: int) -> tuple[Float[np.ndarray, "batch 784"], Float[np.ndarray, "batch 10"]]:
    """scikit-learn's digits, enlarged to 28 x 28, with one-hot labels: the first of the training samples.

    **Raises:** `ValueError` if there are not so many.
    """
    data = dfc.load("digits")
    if not 1 <= batch_size <= len(data.train):
        raise ValueError(f"`batch_size` is {batch_size}; it must be 1 to {len(data.train)}.")
    images = data.train.x[:batch_size].reshape(-1, 8, 8)
    large = np.kron(images, np.ones((1, 3, 3), images.dtype))
    padded = np.pad(large, ((0, 0), (2, 2), (2, 2)), constant_values=data.train.x.min())
    return padded.reshape(len(padded), -1), data.train.y[:batch_size]


def coloured_digits(
    batch_size: int,
) -> tuple[Float[np.ndarray, "batch 3072"], Float[np.ndarray, "batch 10"]]:
    """The same with a margin and three times, as images of (3, 32, 32). **Raises:** as `digits`."""
    x, y = digits(batch_size)
    framed = np.pad(x.reshape(-1, 1, 28, 28), ((0, 0), (0, 0), (2, 2), (2, 2)))
    return np.repeat(framed, 3, axis=1).reshape(len(x), -1), y


def make_regimes(hidden: tuple[int, ...], batch_size: int, seed: int) -> dict[str, Regime]:
    """The regimes by name: at initialisation, after 20 and after 400 steps of backprop with Adam; nudged,
    and with strong feedback; with the product of the weights as feedback, random, or left from the start."""
    model_key, train_key, feedback_key = jr.split(jr.key(seed), 3)
    inputs, labels = digits(1257)
    x, y = jax.device_put((inputs[:batch_size], labels[:batch_size]))
    initial = dfc.mlp((784, *hidden, 10), key=model_key)
    stages = {"init": initial} | {
        name: trained(initial, jax.device_put(inputs), jax.device_put(labels), train_key, steps)
        for name, steps in {"mid": 20, "late": 400}.items()
    }
    models = {name: _with_product_feedback(model) for name, model in stages.items()}
    noise = dfc.RandomFeedback(0.05).init(initial.layers, _shapes(initial), feedback_key)
    nudge, soft = dfc.Nudge(0.05), 0.99 * y + (1 - y) * 0.01 / 9
    regimes = {f"{name}-nudge": Regime(model, nudge, x, y) for name, model in models.items()}
    for name in ("init", "late"):
        regimes[f"{name}-strong"] = Regime(models[name], dfc.Clamp(), x, soft)
    regimes["random-feedback"] = Regime(dfc.Network(initial.layers, noise), nudge, x, y)
    regimes["stale-feedback"] = Regime(
        dfc.Network(stages["late"].layers, models["init"].feedback), nudge, x, y
    )
    return regimes


def _with_product_feedback(model: dfc.Network) -> dfc.Network:
    return dfc.Network(model.layers, dfc.ProductOfWeights().init(model.layers, _shapes(model), jr.key(0)))


@eqx.filter_jit
def trained(
    model: dfc.Network,
    x: Float[Array, "samples 784"],
    y: Float[Array, "samples 10"],
    key: Array,
    steps: int,
    method: dfc.Backprop = dfc.Backprop(),
) -> dfc.Network:
    """The network after so many steps with Adam on random batches of 128."""
    optimiser = optax.adam(1e-3)

    def step(carry: tuple, batch: Int[Array, "128"]) -> tuple[tuple, None]:
        model, state = carry
        update, _ = method(model, x[batch], y[batch])
        change, state = optimiser.update(update, state)
        return (eqx.apply_updates(model, change), state), None

    batches = jr.randint(key, (steps, 128), 0, len(x))
    (model, _), _ = jax.lax.scan(step, (model, optimiser.init(model)), batches)
    return jax.tree.map(jnp.asarray, model)


def _shapes(model: dfc.Network) -> list[tuple[int, ...]]:
    return [layer.transform.bias.shape for layer in model.layers]
