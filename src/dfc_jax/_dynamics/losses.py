"""Losses of one sample, and what DFC needs of them: their output gradient and their readout.

A loss is never divided by the batch size: a sample's target does not depend on its companions.
"""

import abc

import jax
import jax.numpy as jnp

from dfc_jax._dynamics.readout import AbstractReadout, IdentityReadout, SoftmaxReadout
from dfc_jax._fields import Part
from dfc_jax._numerics.arrays import OutputVector, Scalar


class AbstractLoss(Part):
    """The loss of one sample as a function of the network's output r_L (logits for cross-entropy)."""

    @abc.abstractmethod
    def __call__(self, output: OutputVector, y: OutputVector) -> Scalar:
        """The loss of one sample."""

    @abc.abstractmethod
    def gradient(self, output: OutputVector, y: OutputVector) -> OutputVector:
        """dl/dr_L, without cancellation as the output nears the target."""

    @property
    @abc.abstractmethod
    def readout(self) -> AbstractReadout:
        """What of the output is to become `y` under strong feedback."""


class MeanSquaredError(AbstractLoss):
    """mean((r_L - y)^2), the mean over the outputs."""

    def __call__(self, output: OutputVector, y: OutputVector) -> Scalar:
        return jnp.mean((output - y) ** 2)

    def gradient(self, output: OutputVector, y: OutputVector) -> OutputVector:
        return 2 * (output - y) / y.size

    @property
    def readout(self) -> AbstractReadout:
        return IdentityReadout()


class CrossEntropy(AbstractLoss):
    """-sum_k y_k log softmax(r_L)_k for a target distribution y (one-hot, or softened) that sums to one."""

    def __call__(self, output: OutputVector, y: OutputVector) -> Scalar:
        return -jnp.sum(y * jax.nn.log_softmax(output))

    def gradient(self, output: OutputVector, y: OutputVector) -> OutputVector:
        return -self.readout.error(output, y)

    @property
    def readout(self) -> AbstractReadout:
        return SoftmaxReadout()
