"""The updates that the papers compare DFC with, as methods: minimum-norm and Gauss-Newton.

Both move the output of a sample by delta = -dl/dr_L with the smallest change of a sort:

    z = (sum_i g_i J_i J_i^T + damping I)^-1 delta,   dW_i = J_i^T z r_{i-1}^T,   db_i = J_i^T z,

where g_i = 1 is the smallest change of the voltages (minimum norm) and g_i = |r_{i-1}|^2 + 1 that of the
weights and biases (Gauss-Newton): the weight Jacobian of a dense layer is the outer product of J_i and its
input, so its Gram matrix needs no more than their norms.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from dfc_jax._checks import require
from dfc_jax._fields import number
from dfc_jax.closed_loop import PerLayer
from dfc_jax.losses import AbstractLoss, CrossEntropy
from dfc_jax.methods import AbstractMethod, instant_report, Report, shaped_like
from dfc_jax.network import check_batch, Dense, Feedforward, Network
from dfc_jax.plasticity import forward_rule


class _OutputSpaceMethod(AbstractMethod):
    damping: eqx.AbstractVar[Float[Array, ""]]

    @abc.abstractmethod
    def _weights(self, model: Network, state: Feedforward) -> tuple[Float[Array, ""], ...]:
        """g_i of every layer."""

    def __call__(
        self,
        model: Network,
        x: Float[Array, "batch ..."],
        y: Float[Array, "batch out"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Network, Report]:
        del key
        check_batch(model, x, y)
        state = jax.vmap(model.feedforward)(x)
        teaching = jax.vmap(self._teaching, in_axes=(None, 0, 0))(model, state, y)
        update = forward_rule(model.layers, state.inputs, jax.tree.map(lambda t: -t / len(y), teaching))
        return shaped_like(model, update), instant_report(self.loss, state.output, y)

    def _teaching(self, model: Network, state: Feedforward, y: Float[Array, " out"]) -> PerLayer:
        """J_i^T z of every layer."""
        jacobian = model.jacobian(state.voltages)
        gram = output_gram(jacobian, self._weights(model, state))
        delta = -self.loss.gradient(state.output, y)
        z = jnp.linalg.solve(gram + self.damping * jnp.eye(len(gram), dtype=gram.dtype), delta)
        return tuple(jnp.tensordot(z, J, axes=1) for J in jacobian)


class MinimumNorm(_OutputSpaceMethod):
    """dv = J^T (J J^T + damping I)^-1 delta, dW_i = dv_i r_{i-1}^T, averaged over the samples.

    Where Condition 2 holds exactly, DFC-SSA with `damping` for its leak displaces the voltages by this dv
    (NeurIPS paper, Theorem 3); its plasticity rule then takes rates for voltages and so has a factor phi'.
    The published reference passes the displaced voltages through the nonlinearity; to first order it is
    that rule's update.
    """

    loss: AbstractLoss = CrossEntropy()
    damping: Float[Array, ""] = number("damping", 1e-3, minimum=0)

    def _weights(self, model: Network, state: Feedforward) -> tuple[Float[Array, ""], ...]:
        return tuple(jnp.ones((), state.output.dtype) for _ in model.layers)


class GaussNewton(_OutputSpaceMethod):
    """dtheta = G^T (G G^T + damping I)^-1 delta, G = dr_L/dtheta, of every sample alone, averaged over them.

    That is Gauss-Newton with a minibatch size of one, the paper's reference (Theorem 2), over the weights
    and biases of all layers. For networks of `Dense` layers.
    """

    loss: AbstractLoss = CrossEntropy()
    damping: Float[Array, ""] = number("damping", 1e-3, minimum=0)

    def _weights(self, model: Network, state: Feedforward) -> tuple[Float[Array, ""], ...]:
        return parameter_gains(model, state)


def parameter_gains(model: Network, state: Feedforward) -> tuple[Float[Array, ""], ...]:
    """|r_{i-1}|^2 + 1 of every layer: how far a unit of its weights and bias together can move a voltage.

    **Raises:** `ValueError` for layers that are not `Dense`.
    """
    for layer in model.layers:
        kind = type(layer.transform).__name__
        require(isinstance(layer.transform, Dense), f"`model` has a {kind} layer; only Dense has this form.")
    return tuple(jnp.sum(rate**2) + 1 for rate in state.inputs)


def output_gram(jacobian: PerLayer, gains: tuple[Float[Array, ""], ...]) -> Float[Array, "out out"]:
    """sum_i g_i J_i J_i^T."""
    rows = (J.reshape(len(J), -1) for J in jacobian)
    return sum(g * (J @ J.T) for g, J in zip(gains, rows, strict=True))
