"""What the controller is asked to reach: a nudged output (DFC) or the label itself (strong feedback)."""

import abc

import jax.numpy as jnp

from dfc_jax._dynamics.losses import AbstractLoss
from dfc_jax._dynamics.readout import AbstractReadout, IdentityReadout
from dfc_jax._fields import number, Part
from dfc_jax._numerics.arrays import OutputVector, Scalar


class AbstractTarget(Part):
    """The target of the output, as the control error it leaves. One of your own needs `initial_error`."""

    @abc.abstractmethod
    def initial_error(self, loss: AbstractLoss, output: OutputVector, y: OutputVector) -> OutputVector:
        """The error e^- of the feedforward output."""

    def readout(self, loss: AbstractLoss) -> AbstractReadout:
        """What of the output the controller compares with the target: by default the output itself."""
        del loss
        return IdentityReadout()

    def unit(self) -> Scalar:
        """The number an update is divided by, so that it has the size of a gradient: 1 by default."""
        return jnp.asarray(1.0)


class Nudge(AbstractTarget):
    """r_L* = r_L^- - nudge * dl/dr_L, the target of DFC (NeurIPS paper, eq. 3). `nudge` must exceed 0."""

    nudge: Scalar = number("nudge", 0.1, above=0)

    def initial_error(self, loss: AbstractLoss, output: OutputVector, y: OutputVector) -> OutputVector:
        return -self.nudge * loss.gradient(output, y)

    def unit(self) -> Scalar:
        return self.nudge


class Clamp(AbstractTarget):
    """Strong feedback: the output becomes the label, e = y - softmax(r_L), or y - r_L for squared error.

    As in Strong-DFC (ICML 2022). With cross-entropy a one-hot label asks for infinite outputs, which only the
    controller's leak keeps finite; `class_value` c softens it, to c for the class and (1 - c) / (n_L - 1)
    for each other one. Labels that are not one-hot are for `class_value` 1, which leaves them as they are.
    """

    class_value: Scalar = number("class_value", 1.0, above=0, maximum=1)

    def initial_error(self, loss: AbstractLoss, output: OutputVector, y: OutputVector) -> OutputVector:
        others = (1 - y) / max(y.size - 1, 1)
        softened = self.class_value * y + (1 - self.class_value) * others
        return loss.readout.error(output, softened)

    def readout(self, loss: AbstractLoss) -> AbstractReadout:
        return loss.readout


class Rest(AbstractTarget):
    """The feedforward output itself: the controller only works against noise (the sleep phase)."""

    def initial_error(self, loss: AbstractLoss, output: OutputVector, y: OutputVector) -> OutputVector:
        del loss, y
        return jnp.zeros_like(output)
