"""Draws of small noise, by what the control sees of it and what it does not.

The control sees of a layer's noise xi_i no more than the n_L numbers J_i xi_i, whose covariance is
G_i = J_i J_i^T = C_i C_i^T. With standard normal numbers eps_i, n_L a step, C_i eps_i has their law, and

    xi_i = J_i^T C_i^-T eps_i + (1 - P_i) xi_i,     P_i = J_i^T G_i^-1 J_i,

where the second part is independent of the first and so of the control. It enters an update by a sum over
steps alone, sum_s xi_i[s] w[s]^T with weights w that depend on the control. Given these, its share has the
law of

    (1 - P_i) X_i R^T,     R R^T = sum_s w[s] w[s]^T,

with independent standard normal X_i, n_L for each neuron where xi_i has one for each step. Random signs
stand in for X_i: mean and covariance are the same, and only their sum over samples is left of the numbers
themselves.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from dfc_jax._dynamics.published import sample_keys
from dfc_jax._dynamics.small_noise import SmallNoise
from dfc_jax._dynamics.states import Deviation, PerLayer, Sample
from dfc_jax._fields import Part
from dfc_jax._numerics.arrays import BatchFlags, BatchOutputs, cut, Scalar
from dfc_jax._numerics.choose import choose
from dfc_jax._numerics.signs import random_signs
from dfc_jax._numerics.small_matrices import cholesky


class NoiseDraws(Part):
    """The noise of a batch, as in the text above."""

    jacobians: tuple[Float[Array, "batch out _"], ...]  # J_i
    roots: Float[Array, "batch layers out out"]  # C_i
    inverses: Float[Array, "batch layers out out"]  # C_i^-1
    normal: Float[Array, "batch layers steps out"]  # eps_i
    signs: tuple[Float[Array, "batch out _"], ...]  # X_i^T

    @staticmethod
    def draw(
        keys: Key[Array, " batch"],
        jacobians: PerLayer,
        grams: Float[Array, "batch layers out out"],
        steps: int,
    ) -> "NoiseDraws":
        """The noise of so many steps, each sample's from its own key; `grams` are the G_i."""
        jacobians = tuple(J.reshape(*J.shape[:2], -1) for J in jacobians)
        shapes = [J.shape[1:] for J in jacobians]
        _, layers, outputs, _ = grams.shape

        def signs_of(key: Key[Array, ""]) -> PerLayer:
            return cut(random_signs(key, sum(map(math.prod, shapes)), grams.dtype), shapes)

        def normal_of(layer: Int[Array, ""]) -> Float[Array, "batch numbers"]:
            draw = lambda key: jr.normal(jr.fold_in(key, layer), (steps * outputs,), grams.dtype)
            return jax.vmap(draw)(for_normal)

        for_normal, for_signs = jnp.moveaxis(jax.vmap(jr.split)(keys), 1, 0)
        # In rows, and in a loop, out of which XLA's CPU backend cannot move the reshape: where it draws
        # numbers with several short axes it takes four times as long.
        normal = jnp.swapaxes(jax.lax.map(normal_of, jnp.arange(layers)), 0, 1)
        roots, inverses = (
            parts.reshape(grams.shape) for parts in jax.vmap(cholesky)(grams.reshape(-1, outputs, outputs))
        )
        normal = normal.reshape(-1, layers, steps, outputs)
        return NoiseDraws(jacobians, roots, inverses, normal, jax.vmap(signs_of)(for_signs))

    def seen(self) -> Float[Array, "batch layers steps out"]:
        """J_i xi_i of every step."""
        return self.normal @ jnp.swapaxes(self.roots, -1, -2)

    def summed(self, weights: Float[Array, "batch steps out"]) -> tuple[Float[Array, "_ out"], ...]:
        """The sum over samples and steps of xi_i[s] w[s]^T for every layer."""
        drawn = jnp.swapaxes(self.normal, -1, -2) @ weights[:, None]
        transposed = jnp.swapaxes(jax.vmap(cholesky)(jnp.swapaxes(weights, 1, 2) @ weights)[0], 1, 2)
        total = []
        for i, (J, signs) in enumerate(zip(self.jacobians, self.signs, strict=True)):
            inverse = self.inverses[:, i]
            hidden = inverse @ (J @ jnp.swapaxes(signs, 1, 2)) @ transposed
            by_rows = jnp.swapaxes(inverse, 1, 2) @ (drawn[:, i] - hidden)
            total.append((_rows(by_rows).T @ _rows(J) + _rows(transposed).T @ _rows(signs)).T)
        return tuple(total)


def paired_sums(
    small: SmallNoise,
    samples: Sample,
    found: BatchFlags,
    deviation: Deviation,
    control: BatchOutputs,
    key: PRNGKeyArray,
    answer: Callable[[Float[Array, "steps out batch"]], Float[Array, "steps out batch"]] = lambda u: u,
    *,
    late: bool = False,
) -> PerLayer:
    """The sum over samples and steps of v_fb_i[t] a[t]^T for every layer, under one draw of small noise.

    **Arguments:**

    - `deviation`, `control`: the states of rest around which the noise moves the samples, as far as they
      were `found`; the others add nothing.
    - `answer`: the deviations a from those of the control, one for each step after the first, where both
      are 0.
    - `late`: whether v_fb_i[t] is paired with a[t+1] instead.
    """
    still = Deviation.none(samples.feedforward.voltages), jnp.zeros_like(control)
    deviation, control = choose(found, (deviation, control), still)
    jacobians, gains, grams, readouts = jax.vmap(small.products)(samples, deviation)
    draws = NoiseDraws.draw(sample_keys(key, len(grams)), jacobians, grams, small.scheme.states - 1)
    decay, kappas = small.noise_steps()
    kicks = jnp.transpose(kappas[None, :, None, None] * draws.seen(), (2, 1, 3, 0))
    last = lambda matrices: jnp.moveaxis(matrices, 0, -1)
    held, moved = small.answer(last(gains), last(readouts), kicks)
    answers = jnp.where(found[None, None], answer(moved), 0)
    if late:
        held = jnp.concatenate([jnp.zeros_like(held[:1]), held[:-1]])
    weights = _weights(decay, answers, late=late)
    carried = jnp.einsum("tpb,tqb->pq", held + control.T[None], answers)
    noise = draws.summed(jnp.moveaxis(weights, -1, 0))
    return tuple(
        kappa * own.reshape(Q.shape) + jnp.tensordot(Q, carried, axes=(-1, 0))
        for kappa, own, Q in zip(kappas, noise, small.loop.feedback(samples), strict=True)
    )


def _weights(
    decay: Scalar, answers: Float[Array, "steps out batch"], *, late: bool
) -> Float[Array, "steps out batch"]:
    """w[s]: how the noise xi_i of a step enters the sum of N_i[t] a[t]^T, but for kappa_i."""

    def before(later: Array, answer: Array) -> tuple[Array, Array]:
        weight = answer + decay * later
        return weight, later if late else weight

    return jax.lax.scan(before, jnp.zeros_like(answers[0]), answers, reverse=True)[1]


def _rows(matrices: Float[Array, "batch rows columns"]) -> Float[Array, "batch*rows columns"]:
    return matrices.reshape(-1, matrices.shape[-1])
