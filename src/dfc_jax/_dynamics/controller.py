"""The controller that drives the network's output to its target."""

import abc

import jax.numpy as jnp

from dfc_jax._fields import number, Part
from dfc_jax._numerics.arrays import OutputVector, Scalar


class AbstractController(Part):
    """A proportional-integral controller. Time is measured in units of its time constant tau_u = 1."""

    @abc.abstractmethod
    def control(self, integral: OutputVector, error: OutputVector) -> OutputVector:
        """The control signal u."""

    def integral(self, control: OutputVector, error: OutputVector) -> OutputVector:
        """The u_int of a control and an error: the inverse of `control`.

        Each component of `control` must be linear in the same component of u_int.
        """
        nothing = jnp.zeros_like(error)
        return (control - self.control(nothing, error)) / self.control(jnp.ones_like(error), nothing)

    @abc.abstractmethod
    def integral_rate(
        self, integral: OutputVector, control: OutputVector, error: OutputVector
    ) -> OutputVector:
        """du_int/dt."""

    @abc.abstractmethod
    def steady_state_leak(self) -> Scalar:
        """The factor a of the steady state e = a u."""

    @abc.abstractmethod
    def charge(self) -> Scalar:
        """The factor b of the integral of e - a u over time, b u, from rest to the steady state u."""

    @abc.abstractmethod
    def implicit_gains(self, step: Scalar) -> tuple[Scalar, Scalar]:
        """(a, b) such that u = a u_int + b e_new after an implicit Euler step of length `step` from u_int."""


class _ProportionalIntegral(AbstractController):
    """u = u_int + k_p e, whatever the leak."""

    k_p: Scalar = number("k_p", 2.0, minimum=0)
    alpha: Scalar = number("alpha", 1e-3, minimum=0)

    def control(self, integral: OutputVector, error: OutputVector) -> OutputVector:
        return integral + self.k_p * error


class PIController(_ProportionalIntegral):
    """PI control with the leak on the total control: u = u_int + k_p e, du_int/dt = e - alpha u.

    This is what both published codes compute; at steady state e = alpha u. The NeurIPS paper writes the
    leak on the integrator (eq. 5): `LeakyIntegratorController`. The two agree for k_p = 0.
    `k_p` is the proportional gain and `alpha` the leak, both without units, both at least 0.
    """

    def integral_rate(
        self, integral: OutputVector, control: OutputVector, error: OutputVector
    ) -> OutputVector:
        return error - self.alpha * control

    def steady_state_leak(self) -> Scalar:
        return self.alpha

    def charge(self) -> Scalar:
        return 1 - self.alpha * self.k_p  # u_int at rest

    def implicit_gains(self, step: Scalar) -> tuple[Scalar, Scalar]:
        decay = 1 / (1 + step * self.alpha)
        return decay, (step + self.k_p) * decay


class LeakyIntegratorController(_ProportionalIntegral):
    """PI control with the leak on the integrator: u = u_int + k_p e, du_int/dt = e - alpha u_int.

    As written in the NeurIPS paper (eq. 5). At steady state e = alpha / (1 + alpha k_p) u (Lemma 1).
    """

    def integral_rate(
        self, integral: OutputVector, control: OutputVector, error: OutputVector
    ) -> OutputVector:
        return error - self.alpha * integral

    def steady_state_leak(self) -> Scalar:
        return self.alpha / (1 + self.alpha * self.k_p)

    def charge(self) -> Scalar:
        return 1 / (1 + self.alpha * self.k_p) ** 2

    def implicit_gains(self, step: Scalar) -> tuple[Scalar, Scalar]:
        decay = 1 / (1 + step * self.alpha)
        return decay, step * decay + self.k_p
