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

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key

from dfc_jax._dynamics.states import PerLayer
from dfc_jax._fields import Part
from dfc_jax._numerics.signs import random_signs
from dfc_jax._numerics.small_matrices import cholesky_root


class NoiseDraws(Part):
    """The noise of a batch, as in the text above."""

    jacobians: tuple[Float[Array, "batch out _"], ...]  # J_i
    roots: Float[Array, "batch layers out out"]  # C_i
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
        sizes = [J[0].size for J in jacobians]
        splits = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
        _, layers, outputs, _ = grams.shape

        def one(key: Key[Array, ""]) -> tuple[Array, Array]:
            for_normal, for_signs = jr.split(key)
            # In one row: with several axes XLA's CPU backend takes twice as long and more.
            normal = jr.normal(for_normal, (layers * steps * outputs,), grams.dtype)
            return normal, random_signs(for_signs, sum(sizes), grams.dtype)

        normal, signs = jax.vmap(one)(keys)
        roots = jax.vmap(jax.vmap(cholesky_root))(grams)
        parts = zip(jnp.split(signs, splits, axis=1), jacobians, strict=True)
        signs = tuple(part.reshape(J.shape) for part, J in parts)
        return NoiseDraws(jacobians, roots, normal.reshape(-1, layers, steps, outputs), signs)

    def seen(self) -> Float[Array, "batch layers steps out"]:
        """J_i xi_i of every step."""
        return self.normal @ jnp.swapaxes(self.roots, -1, -2)

    def summed(self, weights: Float[Array, "batch steps out"]) -> tuple[Float[Array, "_ out"], ...]:
        """The sum over samples and steps of xi_i[s] w[s]^T for every layer."""
        R = jax.vmap(cholesky_root)(jnp.swapaxes(weights, 1, 2) @ weights)
        drawn = jnp.swapaxes(self.normal, -1, -2) @ weights[:, None]
        solve = jax.scipy.linalg.solve_triangular
        total = []
        for i, (J, signs) in enumerate(zip(self.jacobians, self.signs, strict=True)):
            C = self.roots[:, i]
            hidden = solve(C, J @ jnp.swapaxes(signs, 1, 2), lower=True) @ jnp.swapaxes(R, 1, 2)
            by_rows = solve(C, drawn[:, i] - hidden, lower=True, trans=1)
            total.append((_rows(by_rows).T @ _rows(J) + _rows(jnp.swapaxes(R, 1, 2)).T @ _rows(signs)).T)
        return tuple(total)


def _rows(matrices: Float[Array, "batch rows columns"]) -> Float[Array, "batch*rows columns"]:
    return matrices.reshape(-1, matrices.shape[-1])
