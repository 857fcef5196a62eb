"""Losses of one sample, and what DFC needs of them: their output gradient and the clamped error.

A loss is never divided by the batch size: a sample's target does not depend on its companions.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dfc_jax._dynamics.readout import AbstractBalance, PlainBalance, SoftmaxBalance


class AbstractLoss(eqx.Module):
    """The loss of one sample as a function of the network's output r_L (logits for cross-entropy)."""

    @abc.abstractmethod
    def __call__(self, output: Float[Array, " out"], y: Float[Array, " out"]) -> Float[Array, ""]:
        """The loss of one sample."""

    @abc.abstractmethod
    def gradient(self, output: Float[Array, " out"], y: Float[Array, " out"]) -> Float[Array, " out"]:
        """dl/dr_L, without cancellation as the output nears the target."""

    @abc.abstractmethod
    def clamped_error(self, output: Float[Array, " out"], y: Float[Array, " out"]) -> Float[Array, " out"]:
        """The control error of strong feedback, where the output itself is to become y."""

    @abc.abstractmethod
    def clamped_change(
        self, output: Float[Array, " out"], change: Float[Array, " out"]
    ) -> Float[Array, " out"]:
        """By how much `clamped_error` falls when the output moves from `output` by `change`."""

    @abc.abstractmethod
    def clamped_balance(self) -> AbstractBalance:
        """The equations of the steady state under strong feedback."""


class MeanSquaredError(AbstractLoss):
    """mean((r_L - y)^2), the mean over the outputs."""

    def __call__(self, output: Float[Array, " out"], y: Float[Array, " out"]) -> Float[Array, ""]:
        return jnp.mean((output - y) ** 2)

    def gradient(self, output: Float[Array, " out"], y: Float[Array, " out"]) -> Float[Array, " out"]:
        return 2 * (output - y) / y.size

    def clamped_error(self, output: Float[Array, " out"], y: Float[Array, " out"]) -> Float[Array, " out"]:
        return y - output

    def clamped_change(
        self, output: Float[Array, " out"], change: Float[Array, " out"]
    ) -> Float[Array, " out"]:
        return change

    def clamped_balance(self) -> AbstractBalance:
        return PlainBalance()


class CrossEntropy(AbstractLoss):
    """-sum_k y_k log softmax(r_L)_k for a target distribution y (one-hot, or softened) that sums to one."""

    def __call__(self, output: Float[Array, " out"], y: Float[Array, " out"]) -> Float[Array, ""]:
        return -jnp.sum(y * jax.nn.log_softmax(output))

    def gradient(self, output: Float[Array, " out"], y: Float[Array, " out"]) -> Float[Array, " out"]:
        # p_k - y_k = sum over j != k of (p_k y_j - y_k p_j): nothing cancels for a one-hot y.
        p = jax.nn.softmax(output)
        others = 1 - jnp.eye(y.size, dtype=y.dtype)
        return p * (others @ y) - y * (others @ p)

    def clamped_error(self, output: Float[Array, " out"], y: Float[Array, " out"]) -> Float[Array, " out"]:
        return -self.gradient(output, y)

    def clamped_change(
        self, output: Float[Array, " out"], change: Float[Array, " out"]
    ) -> Float[Array, " out"]:
        # softmax(r + c) - softmax(r) = p expm1(c - s) with s = log(sum p exp(c)). Softmax ignores a common
        # shift: with that of the likeliest class, 1 + m below is at least 1 / n and nothing cancels.
        p = jax.nn.softmax(output)
        shifted = change - change[jnp.argmax(output)]
        largest = jnp.max(shifted)
        m = p @ jnp.expm1(jnp.minimum(shifted, 80))
        far = largest + jnp.log(p @ jnp.exp(shifted - largest))
        return p * jnp.expm1(shifted - jnp.where(largest < 80, jnp.log1p(m), far))

    def clamped_balance(self) -> AbstractBalance:
        return SoftmaxBalance()
