"""How well the feedback fits the network."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dfc_jax.network import Network


def condition_two(model: Network, x: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    """|P Q|_F / |Q|_F of each sample, P the projection on the row space of its feedforward Jacobian J.

    One exactly if Col(Q) lies in Row(J), which is Condition 2 of the NeurIPS paper (Fig. 3A); about
    sqrt(n_L / sum of n_i) for random feedback weights.
    """

    def one(sample: Float[Array, "..."]) -> Float[Array, ""]:
        jacobian = model.jacobian(model.feedforward(sample).voltages)
        J = jnp.concatenate([rows.reshape(rows.shape[0], -1) for rows in jacobian], axis=1)
        feedback = model.feedback.matrices(jacobian)
        Q = jnp.concatenate([weights.reshape(-1, weights.shape[-1]) for weights in feedback])
        JQ = J @ Q
        return jnp.sqrt(jnp.sum(JQ * jnp.linalg.solve(J @ J.T, JQ))) / jnp.linalg.norm(Q)

    return jax.vmap(one)(x)
