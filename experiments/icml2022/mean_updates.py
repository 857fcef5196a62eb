"""The mean update of the single phase under noise, what of it is bias, and a single phase without that.

The forward rule is a product, and noise is in both of its factors: the mean update is not the update without
noise. The difference, the bias, is of second order in the noise and does not depend on the target.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PRNGKeyArray

import dfc_jax as dfc
from dfc_jax._fields import number


class Mirrored(dfc.PublishedEuler):
    """The scheme with every draw of the noise times `sign`: pairs of opposite noise have no odd part left."""

    sign: Float[Array, ""] = number("sign", 1.0)

    def step(self, loop: Any, state: Any, sample: Any, draws: Any = None) -> Any:
        draws = draws if draws is None else tuple(self.sign * draw for draw in draws)
        return super().step(loop, state, sample, draws)


class LessBias(dfc.AbstractMethod):
    """A single phase less its bias: the forward update minus what it learns where there is no target.

    `same_noise` says whether both are of the same noise, which takes out much of what noise adds beside its
    mean, too; of independent noise, it is the mean alone that becomes another.
    """

    single: dfc.StrongDFC
    same_noise: bool = eqx.field(static=True, default=True)

    @property
    def loss(self) -> Any:
        return self.single.loss

    @property
    def learns_feedback(self) -> bool:
        return True

    def loop(self, model: dfc.Network) -> Any:
        return self.single.loop(model)

    def __call__(
        self,
        model: dfc.Network,
        x: Float[Array, "batch ..."],
        y: Float[Array, "batch out"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[dfc.Network, Any]:
        assert key is not None
        other = key
        if not self.same_noise:
            key, other = jax.random.split(key)
        update, report = self.single(model, x, y, key=key)
        bias, _ = at_rest(self.single)(model, x, y, key=other)
        layers = minus(update.layers, bias.layers, self.single.target.unit())
        return eqx.tree_at(lambda u: u.layers, update, layers), report


class _ForwardAlone(dfc.StrongDFC):
    @property
    def learns_feedback(self) -> bool:
        return False

    def __call__(
        self,
        model: dfc.Network,
        x: Float[Array, "batch ..."],
        y: Float[Array, "batch out"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[dfc.Network, Any]:
        update, report = super().__call__(model, x, y, key=key)
        return eqx.tree_at(
            lambda u: u.feedback, update, jax.tree.map(jnp.zeros_like, update.feedback)
        ), report


def forward_alone(method: dfc.StrongDFC) -> dfc.StrongDFC:
    """The method without its feedback learning, which is left to a sleep phase."""
    return _ForwardAlone(**{f.name: getattr(method, f.name) for f in dataclasses.fields(method)})


def at_rest(method: dfc.StrongDFC) -> dfc.StrongDFC:
    """The method without a target: the output is held where it is, and all that is left is noise."""
    return dataclasses.replace(method, target=dfc.Rest())


@eqx.filter_jit
def mean_update(
    method: dfc.StrongDFC,
    model: dfc.Network,
    x: Float[Array, "batch ..."],
    y: Float[Array, "batch out"],
    keys: Key[Array, " pairs"],
) -> tuple[tuple[dfc.Layer, ...], tuple[dfc.Layer, ...]]:
    """The mean forward update over pairs of opposite noise, one a key, and its standard error, for which
    there must be two."""
    of = method.scheme
    parts = of.dt, of.states, of.instant_transmission, of.proactive
    opposite = [dataclasses.replace(method, scheme=Mirrored(*parts, sign=sign)) for sign in (1.0, -1.0)]

    def pair(key: PRNGKeyArray) -> tuple[dfc.Layer, ...]:
        one, other = (m(model, x, y, key=key)[0].layers for m in opposite)
        return jax.tree.map(lambda a, b: (a + b) / 2, one, other)

    found = jax.lax.map(pair, keys)
    mean = jax.tree.map(lambda w: jnp.mean(w, axis=0), found)
    return mean, jax.tree.map(lambda w: jnp.std(w, axis=0, ddof=1) / len(keys) ** 0.5, found)


def signal(method: dfc.StrongDFC, model: dfc.Network, x: Any, y: Any) -> tuple[dfc.Layer, ...]:
    """The update without noise, which is that of the steady state."""
    still = dfc.DFCSS(method.controller, method.target, method.loss, equilibrium=method.start)
    return still(model, x, y)[0].layers


def vector(part: Any) -> Float[Array, " weights"]:
    """All weights and biases of a layer, or of several, in one vector."""
    return ravel_pytree(part)[0]


def cosine(a: Any, b: Any) -> float:
    """The cosine of the angle between two updates of the same layers."""
    one, other = vector(a), vector(b)
    return float(one @ other / (jnp.linalg.norm(one) * jnp.linalg.norm(other)))


def angle(a: Any, b: Any) -> float:
    """The angle between two updates of the same layers, in degrees."""
    return float(np.degrees(np.arccos(np.clip(cosine(a, b), -1, 1))))


def minus(a: Any, b: Any, unit: Any = 1.0) -> Any:
    """a - b / unit, leaf by leaf."""
    return jax.tree.map(lambda p, q: p - q / unit, a, b)


def bias_of(method: dfc.StrongDFC, model: dfc.Network, x: Any, y: Any, keys: Any) -> dict[str, float]:
    """How noise changes the mean update, layer by layer and in all.

    The cosines say where the bias moves W_L: it is subtracted, so that a cosine to minus a matrix is that of
    the two without their signs.
    """
    gradient, without = dfc.Backprop(method.loss)(model, x, y)[0].layers, signal(method, model, x, y)
    mean, error = mean_update(method, model, x, y, keys)
    alone, _ = mean_update(at_rest(method), model, x, y, keys)
    bias, freed = minus(mean, without), minus(mean, alone, method.target.unit())
    size = lambda layer: float(jnp.linalg.norm(vector(layer)))
    found = {}
    for i, (b, s, e) in enumerate(zip(bias, without, error, strict=True), start=1):
        found |= {f"bias_{i}": size(b) / size(s), f"error_{i}": size(e) / size(s)}
    moved = bias[-1].transform.weight
    return found | {
        "angle": angle(mean, gradient),
        "angle_less_bias": angle(freed, gradient),
        "cosine_to_bias_alone": cosine(bias, alone),
        "cosine_to_minus_weights": cosine(moved, model.layers[-1].transform.weight),
        "cosine_to_minus_feedback": cosine(moved, model.feedback.every_matrix(model.layers, None)[-2].T),
    }
