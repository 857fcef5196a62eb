"""What the controller is asked to reach: a nudged output (DFC) or the label itself (strong feedback)."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from dfc_jax._checks import check_number
from dfc_jax.balance import AbstractBalance, PlainBalance
from dfc_jax.losses import AbstractLoss


class AbstractTarget(eqx.Module):
    """The target of the output, as the control error it leaves."""

    @abc.abstractmethod
    def initial_error(
        self, loss: AbstractLoss, output: Float[Array, " out"], y: Float[Array, " out"]
    ) -> Float[Array, " out"]:
        """The error e of the feedforward output."""

    @abc.abstractmethod
    def error_change(
        self, loss: AbstractLoss, output: Float[Array, " out"], change: Float[Array, " out"]
    ) -> Float[Array, " out"]:
        """By how much the error falls when the output moves from the feedforward `output` by `change`."""

    @abc.abstractmethod
    def balance(self, loss: AbstractLoss) -> AbstractBalance:
        """The equations of the steady state."""

    @abc.abstractmethod
    def step(self) -> Float[Array, ""]:
        """The number an update is divided by, so that it has the size of a gradient."""


class Nudge(AbstractTarget):
    """r_L* = r_L^- - nudge * dl/dr_L, the target of DFC (NeurIPS paper, eq. 3). `nudge` must exceed 0."""

    nudge: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.1)

    def __check_init__(self) -> None:
        check_number("nudge", self.nudge, above=0)

    def initial_error(
        self, loss: AbstractLoss, output: Float[Array, " out"], y: Float[Array, " out"]
    ) -> Float[Array, " out"]:
        return -self.nudge * loss.gradient(output, y)

    def error_change(
        self, loss: AbstractLoss, output: Float[Array, " out"], change: Float[Array, " out"]
    ) -> Float[Array, " out"]:
        del loss, output
        return change

    def balance(self, loss: AbstractLoss) -> AbstractBalance:
        del loss
        return PlainBalance()

    def step(self) -> Float[Array, ""]:
        return self.nudge


class Clamp(AbstractTarget):
    """Strong feedback: the output becomes the label, e = y - softmax(r_L), or y - r_L for squared error.

    As in Strong-DFC (ICML 2022). Cross-entropy needs softened labels: no finite output has softmax one-hot.
    """

    def initial_error(
        self, loss: AbstractLoss, output: Float[Array, " out"], y: Float[Array, " out"]
    ) -> Float[Array, " out"]:
        return loss.clamped_error(output, y)

    def error_change(
        self, loss: AbstractLoss, output: Float[Array, " out"], change: Float[Array, " out"]
    ) -> Float[Array, " out"]:
        return loss.clamped_change(output, change)

    def balance(self, loss: AbstractLoss) -> AbstractBalance:
        return loss.clamped_balance()

    def step(self) -> Float[Array, ""]:
        return jnp.asarray(1.0)


class Rest(AbstractTarget):
    """The feedforward output itself: the controller only works against noise (the sleep phase)."""

    def initial_error(
        self, loss: AbstractLoss, output: Float[Array, " out"], y: Float[Array, " out"]
    ) -> Float[Array, " out"]:
        del loss, y
        return jnp.zeros_like(output)

    def error_change(
        self, loss: AbstractLoss, output: Float[Array, " out"], change: Float[Array, " out"]
    ) -> Float[Array, " out"]:
        del loss, output
        return change

    def balance(self, loss: AbstractLoss) -> AbstractBalance:
        del loss
        return PlainBalance()

    def step(self) -> Float[Array, ""]:
        return jnp.asarray(1.0)
