"""The updates that the papers compare DFC with, as methods: minimum-norm and Gauss-Newton.

Both move the output of a sample by delta = -dl/dr_L with the smallest change of a sort:

    z = (sum_i G_i G_i^T + damping I)^-1 delta,   dW_i = J_i^T z r_{i-1}^T,   db_i = J_i^T z,

where G_i = J_i makes the change of the voltages the smallest (minimum norm) and G_i = dr_L/dtheta_i that of
weights and biases (Gauss-Newton). Without damping the inverse is the pseudo-inverse: an output neuron that
cannot move, as a silent ReLU, stays.
"""

import abc
from functools import reduce
from operator import add

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from dfc_jax._dynamics.losses import AbstractLoss, CrossEntropy
from dfc_jax._dynamics.states import PerLayer
from dfc_jax._fields import number
from dfc_jax._methods.base import AbstractMethod, instant_update, Report
from dfc_jax._network.layer import Chain, Dense, Transform
from dfc_jax._network.network import as_batch, Feedforward, Network
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs, OutputMatrix, OutputVector, Scalar
from dfc_jax._numerics.compiled import compiled
from dfc_jax._numerics.small_matrices import solve_gram


class _OutputSpaceMethod(AbstractMethod):
    loss: AbstractLoss = CrossEntropy()
    damping: Scalar = number("damping", 1e-3, minimum=0)

    @abc.abstractmethod
    def _gram(self, model: Network, state: Feedforward, jacobian: PerLayer) -> OutputMatrix:
        """sum_i G_i G_i^T of one sample."""

    @compiled
    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Network, Report]:
        del key
        x, y = as_batch(model, x, y)
        state = jax.vmap(model.feedforward)(x)
        teaching = jax.vmap(self._teaching, in_axes=(None, 0, 0))(model, state, y)
        teaching = jax.tree.map(lambda t: -t / len(y), teaching)
        return instant_update(self.loss, model, state, teaching, y)

    def _teaching(self, model: Network, state: Feedforward, y: OutputVector) -> PerLayer:
        """J_i^T z of every layer."""
        jacobian = model.jacobian(state.voltages)
        gram = self._gram(model, state, jacobian)
        delta = -self.loss.gradient(state.output, y)
        z = solve_gram(gram + self.damping * jnp.eye(len(gram), dtype=gram.dtype), delta)
        return tuple(jnp.tensordot(z, J, axes=1) for J in jacobian)


class MinimumNorm(_OutputSpaceMethod):
    """dv = J^T (J J^T + damping I)^-1 delta, dW_i = dv_i r_{i-1}^T, averaged over the samples.

    Where Condition 2 holds exactly, DFC-SSA with `damping` for its leak displaces the voltages by this dv
    (NeurIPS paper, Theorem 3); its plasticity rule then takes rates for voltages and so has a factor phi'.
    The published reference passes the displaced voltages through the nonlinearity; to first order it is
    that rule's update.
    """

    def _gram(self, model: Network, state: Feedforward, jacobian: PerLayer) -> OutputMatrix:
        return reduce(add, (_square(rows) for rows in jacobian))


class GaussNewton(_OutputSpaceMethod):
    """dtheta = G^T (G G^T + damping I)^-1 delta, G = dr_L/dtheta, of every sample alone, averaged over them.

    That is Gauss-Newton with a minibatch size of one, the paper's reference (Theorem 2), over the weights
    and biases of all layers.
    """

    def _gram(self, model: Network, state: Feedforward, jacobian: PerLayer) -> OutputMatrix:
        return parameter_gram(model, state, jacobian)


def parameter_gram(model: Network, state: Feedforward, jacobian: PerLayer) -> OutputMatrix:
    """G G^T of one sample, G = dr_L/dtheta of all weights and biases."""
    parts = zip(model.layers, state.inputs, jacobian, strict=True)
    return reduce(add, (_layer_gram(layer.transform, rate, rows) for layer, rate, rows in parts))


def _layer_gram(
    transform: Transform, rate: Float[Array, "..."], rows: Float[Array, "out ..."]
) -> OutputMatrix:
    """That of one layer's parameters, through J_i = `rows`."""
    if isinstance(transform, Chain) and not jax.tree.leaves(
        eqx.filter(transform.parts[:-1], eqx.is_inexact_array)
    ):
        return _layer_gram(transform.parts[-1], Chain(transform.parts[:-1])(rate), rows)
    if isinstance(transform, Dense):  # G_i is the outer product of J_i and its input
        return (jnp.sum(rate**2) + 1) * _square(rows)
    weights, rest = eqx.partition(transform, eqx.is_inexact_array)
    _, pull = jax.vjp(lambda w: eqx.combine(w, rest)(rate), weights)
    by_weight = jax.vmap(lambda row: jax.flatten_util.ravel_pytree(pull(row)[0])[0])(rows)
    return _square(by_weight)


def _square(rows: Float[Array, "out ..."]) -> OutputMatrix:
    flat = rows.reshape(len(rows), -1)
    return flat @ flat.T
