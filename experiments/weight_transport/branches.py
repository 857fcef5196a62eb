"""How training goes on after learned feedback in `late_rise.py`, and where all samples' updates point."""

import dataclasses
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from options.config import Config
from options.groups import Optimiser
from options.objects import make_optimiser

import dfc_jax as dfc


CHUNK = 500  # samples whose updates are computed at once
SAMPLES = 1000  # for the means between which sleep has left the feedback
DAMPINGS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 1e4)  # from the pseudo-inverse to the transposed Jacobian
NewFeedback = Callable[[dfc.Network, Float[Array, "samples ..."]], dfc.AbstractFeedback]


def _kept(model: dfc.Network, x: Float[Array, "samples ..."]) -> dfc.AbstractFeedback:
    del x
    return model.feedback


def _exact(model: dfc.Network, x: Float[Array, "samples ..."]) -> dfc.AbstractFeedback:
    del model, x
    return dfc.ExactFeedback()


def _layered(model: dfc.Network, x: Float[Array, "samples ..."]) -> dfc.AbstractFeedback:
    del x
    return dfc.LayeredFeedback(tuple(layer.transform for layer in model.layers[1:]))


def _mean_of_jacobians(model: dfc.Network, x: Float[Array, "samples ..."]) -> dfc.AbstractFeedback:
    return _mean_over_samples(model, x, lambda blocks: blocks)


def mean_of_damped_inverses(damping: float) -> NewFeedback:
    """Q_i = mean over samples of J_i^T (J J^T + damping I)^-1: the pseudo-inverse's without damping, J^T's
    direction with much; between them is what sleep comes to."""

    def inverse(blocks: Sequence[Float[Array, "out n"]]) -> list[Float[Array, "out n"]]:
        square = sum(block @ block.T for block in blocks)
        damped = square + damping * jnp.eye(len(square), dtype=square.dtype)
        return [jnp.linalg.solve(damped, block) for block in blocks]

    return lambda model, x: _mean_over_samples(model, x, inverse)


def _mean_over_samples(
    model: dfc.Network, x: Float[Array, "samples ..."], of_one: Callable
) -> dfc.FeedbackWeights:
    """The mean of what becomes of a sample's Jacobian blocks dr_L/dv_i, transposed."""

    def one(total: list[Array], sample: Float[Array, "..."]) -> tuple[list[Array], None]:
        found = of_one(model.jacobian(model.feedforward(sample).voltages))
        return jax.tree.map(jnp.add, total, [block.T for block in found]), None

    zeros = [jnp.zeros(jnp.shape(weight)) for weight in model.feedback.weights]
    total, _ = eqx.filter_jit(jax.lax.scan)(one, zeros, x)
    return dfc.FeedbackWeights(tuple(block / len(x) for block in total))


def rate_of_descent(options: Optimiser) -> float:
    """Of the plain gradient descent that Adam comes to at small updates: its rate over its eps."""
    return options.lr / options.eps


@dataclasses.dataclass(frozen=True)
class Branch:
    """How training goes on."""

    label: str
    feedback: NewFeedback = _kept
    """From the network so far and the training samples."""
    learns: bool = False
    """Whether the feedback sleeps on."""
    nudge: float = 1.0
    """Times the nudge of before."""
    sleep_gain: float = 1.0
    """Times the proportional gain in sleep."""
    descent: bool = False
    """Plain gradient descent, which is what Adam comes to at small updates."""

    def changed(self, config: Config) -> Config:
        """The options of before with this nudge and gain."""
        sleep = config.feedback_learning
        sleep = dataclasses.replace(sleep, k_p=self.sleep_gain * sleep.k_p)
        return dataclasses.replace(config, nudge=self.nudge * config.nudge, feedback_learning=sleep)

    def optimiser(self, options: Optimiser, steps: int) -> optax.GradientTransformation:
        """Of the forward weights, whose `options` are those of before."""
        return optax.sgd(rate_of_descent(options)) if self.descent else make_optimiser(options, steps)


BRANCHES = {
    "learned": Branch("one Q for all samples: learned on", learns=True),
    "kept": Branch("one Q: kept as it is"),
    "mean-jacobian": Branch("one Q: the mean of the transposed Jacobians", _mean_of_jacobians),
    "mean-damped": Branch("one Q: the mean of the inverses, damped by 10", mean_of_damped_inverses(10.0)),
    "mean-inverse": Branch("one Q: the mean of the pseudo-inverses", mean_of_damped_inverses(0.0)),
    "layered": Branch("layered, by the forward weights of then", _layered),
    "exact": Branch("exact: the transposed Jacobian of each sample", _exact),
    "tenth-nudge": Branch("learned on, a tenth of the nudge", learns=True, nudge=0.1),
    "sleep-gain": Branch("learned on, three times the gain in sleep", learns=True, sleep_gain=3.0),
    "descent": Branch("learned on, gradient descent in place of Adam", learns=True, descent=True),
}


def between_inverse_and_transpose(
    model: dfc.Network, x: Float[Array, "samples ..."]
) -> dict[str, list[float]]:
    """By damping, `DAMPINGS`: the angle in degrees between the feedback and the mean of inverses so damped,
    and Condition 2 of that mean."""
    found: dict[str, list[float]] = {"degrees": [], "condition_two": []}
    flat = lambda feedback: jnp.concatenate([jnp.ravel(weight) for weight in feedback.weights])
    for damping in DAMPINGS:
        mean = mean_of_damped_inverses(damping)(model, x)
        a, b = flat(model.feedback), flat(mean)
        cosine = jnp.dot(a, b) / jnp.linalg.norm(a) / jnp.linalg.norm(b)
        found["degrees"].append(float(jnp.degrees(jnp.arccos(jnp.minimum(cosine, 1.0)))))
        of_mean = dfc.condition_two(dfc.Network(model.layers, mean), x)
        found["condition_two"].append(float(jnp.mean(of_mean)))
    return found


def angles_of_all(model: dfc.Network, method: dfc.AbstractMethod, data: dfc.Split) -> dfc.UpdateAngles:
    """In degrees, between the update by all samples and the gradient of their loss."""
    update, gradient = (_update_of_all(model, each, data) for each in (method, dfc.Backprop(method.loss)))
    return dfc.update_angles(update, gradient)


def _update_of_all(model: dfc.Network, method: dfc.AbstractMethod, data: dfc.Split) -> dfc.Network:
    total = jax.tree.map(jnp.zeros_like, model)
    for start in range(0, len(data), CHUNK):
        x, y = (jnp.asarray(part[start : start + CHUNK]) for part in (data.x, data.y))
        update, _ = method(model, x, y)
        total = jax.tree.map(lambda so_far, one, n=len(x): so_far + n * one, total, update)
    return total
