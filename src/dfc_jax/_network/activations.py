"""Activation functions phi with their slope and a difference phi(a + d) - phi(a) that does not cancel.

DFC learns from small displacements of large voltages. Subtracting two activations in float32 loses
them late in training, so every activation supplies its difference: the error stays within a few units
of rounding of the displacement `d`, however large `a` is.
"""

import abc

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dfc_jax._fields import number, Part
from dfc_jax._numerics.arrays import Scalar


class AbstractActivation(Part):
    """An elementwise activation function."""

    @abc.abstractmethod
    def __call__(self, voltage: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """The rate phi(v)."""

    @abc.abstractmethod
    def derivative(self, voltage: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """The slope phi'(v)."""

    def slope_at_rest(
        self, basal: Float[Array, "*n"], voltage: Float[Array, "*n"], demand: Float[Array, "*n"]
    ) -> Float[Array, "*n"]:
        """The slope with which v = `basal` + slope * `demand` rests, of a neuron now at `voltage`.

        phi'(v) itself; at a kink of phi, where v may be held, any slope between those of its two sides.
        """
        del basal, demand
        return self.derivative(voltage)

    def slope_ahead(
        self,
        basal: Float[Array, "*n"],
        voltage: Float[Array, "*n"],
        demand: Float[Array, "*n"],
        part: Scalar,
    ) -> Float[Array, "*n"]:
        """The slope s with which v = `basal` + s * `demand` is nearer the rest than `voltage` is.

        That `part`, from 0 to 1, of a step of Newton's method for v = basal + phi'(v) demand, damped where
        1 - phi''(v) demand is small or negative, for there another rest is near. At rest it is
        `slope_at_rest`.
        """
        slope = self.slope_at_rest(basal, voltage, demand)
        _, bend = jax.jvp(self.derivative, (voltage,), (jnp.ones_like(voltage),))
        missing = slope * demand - (voltage - basal)
        return slope + part * bend * missing / jnp.maximum(1 - bend * demand, 0.5)

    @abc.abstractmethod
    def difference(self, voltage: Float[Array, "*n"], change: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """phi(voltage + change) - phi(voltage), without cancellation."""


class Tanh(AbstractActivation):
    """The hyperbolic tangent."""

    def __call__(self, voltage: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.tanh(voltage)

    def derivative(self, voltage: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return 1 - jnp.tanh(voltage) ** 2

    def difference(self, voltage: Float[Array, "*n"], change: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return _tanh_difference(voltage, change)


class Sigmoid(AbstractActivation):
    """The logistic function."""

    def __call__(self, voltage: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jax.nn.sigmoid(voltage)

    def derivative(self, voltage: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jax.nn.sigmoid(voltage) * jax.nn.sigmoid(-voltage)

    def difference(self, voltage: Float[Array, "*n"], change: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return _tanh_difference(voltage / 2, change / 2) / 2


class _AbstractKinked(AbstractActivation):
    """A slope of 1 above zero, and a smaller one under it."""

    @property
    @abc.abstractmethod
    def _below(self) -> float:
        """The slope under zero."""

    def slope_at_rest(
        self, basal: Float[Array, "*n"], voltage: Float[Array, "*n"], demand: Float[Array, "*n"]
    ) -> Float[Array, "*n"]:
        """A neuron above zero that is to fall by more than it has to give is held at zero. One that is to
        rise stays on the side that it is on as long as it can rest there."""
        falls = demand < 0
        held = -basal / jnp.where(falls, demand, -1)
        there = jnp.where(voltage > 0, 1, self._below)
        rising = jnp.where(basal + there * demand > 0, 1, self._below)
        return jnp.where(falls, jnp.clip(held, self._below, 1), rising)

    def slope_ahead(
        self,
        basal: Float[Array, "*n"],
        voltage: Float[Array, "*n"],
        demand: Float[Array, "*n"],
        part: Scalar,
    ) -> Float[Array, "*n"]:
        """As `slope_at_rest`, but unless `part` is 0 it is on the side that `basal` is on: no turn on the way
        carries it over."""
        return self.slope_at_rest(basal, jnp.where(part > 0, basal, voltage), demand)


class LeakyReLU(_AbstractKinked):
    """max(v, slope * v) with 0 <= slope <= 1; the published code's leaky ReLU has slope 0.2."""

    slope: float = number("slope", 0.2, minimum=0, maximum=1, static=True)

    @property
    def _below(self) -> float:
        return self.slope

    def __call__(self, voltage: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.maximum(voltage, self.slope * voltage)

    def derivative(self, voltage: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.where(voltage > 0, jnp.ones_like(voltage), self.slope)

    def difference(self, voltage: Float[Array, "*n"], change: Float[Array, "*n"]) -> Float[Array, "*n"]:
        bend = (1 - self.slope) * voltage
        from_above = jnp.maximum(change, self.slope * change - bend)
        from_below = jnp.maximum(self.slope * change, change + bend)
        return jnp.where(voltage > 0, from_above, from_below)


class ReLU(_AbstractKinked):
    """max(v, 0)."""

    @property
    def _below(self) -> float:
        return 0.0

    def __call__(self, voltage: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jax.nn.relu(voltage)

    def derivative(self, voltage: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return (voltage > 0).astype(voltage.dtype)

    def difference(self, voltage: Float[Array, "*n"], change: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.where(voltage > 0, jnp.maximum(change, -voltage), jax.nn.relu(voltage + change))


class Linear(AbstractActivation):
    """The identity."""

    def __call__(self, voltage: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return voltage

    def derivative(self, voltage: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.ones_like(voltage)

    def difference(self, voltage: Float[Array, "*n"], change: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return change


def _tanh_difference(a: Float[Array, "*n"], d: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """tanh(a + d) - tanh(a): by the addition theorem, and directly where d is too large to cancel.

    tanh(a + d) - tanh(a) = tanh(d) (1 - tanh(a)^2) / (1 + tanh(a) tanh(d)); the denominator vanishes
    for large d of the opposite sign, where the direct form is exact to rounding.
    """
    rate, step = jnp.tanh(a), jnp.tanh(d)
    small = jnp.abs(d) < 1
    by_addition = step * (1 - rate**2) / jnp.where(small, 1 + rate * step, 1)
    return jnp.where(small, by_addition, jnp.tanh(a + d) - rate)
