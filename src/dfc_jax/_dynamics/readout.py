"""The equations of a steady state, e = a u, in the form in which an iteration solves them best.

Every form has the roots of F(u) = e(u) - a u; convergence is always judged by F itself.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dfc_jax._numerics.small_matrices import eigenvalues_right_of_zero, inverse as inverse_of


class AbstractBalance(eqx.Module):
    """n_L equations in the control u of one sample."""

    @abc.abstractmethod
    def __call__(
        self,
        output: Float[Array, " out"],
        error: Float[Array, " out"],
        change: Float[Array, " out"],
        remaining: Float[Array, " out"],
        control: Float[Array, " out"],
        leak: Float[Array, ""],
    ) -> Float[Array, " out"]:
        """What is to vanish.

        Given are the feedforward `output` and its target error e^-, the output's `change` under the
        `control` u, the error that `remaining`s, and the steady-state leak a.
        """

    @abc.abstractmethod
    def room(
        self,
        output: Float[Array, " out"],
        error: Float[Array, " out"],
        control: Float[Array, " out"],
        step: Float[Array, " out"],
        leak: Float[Array, ""],
    ) -> Float[Array, ""]:
        """The part of a step of the control, at most 1, that stays where the equations are defined."""

    @abc.abstractmethod
    def stable(self, inverse: Float[Array, "out out"], output: Float[Array, " out"]) -> Bool[Array, ""]:
        """Condition 3 for F at a root with output r_L, given the inverse of minus the equations' Jacobian."""


class PlainBalance(AbstractBalance):
    """F itself: nearly linear for nudged targets and for squared errors."""

    def __call__(
        self,
        output: Float[Array, " out"],
        error: Float[Array, " out"],
        change: Float[Array, " out"],
        remaining: Float[Array, " out"],
        control: Float[Array, " out"],
        leak: Float[Array, ""],
    ) -> Float[Array, " out"]:
        del output, error, change
        return remaining - leak * control

    def room(
        self,
        output: Float[Array, " out"],
        error: Float[Array, " out"],
        control: Float[Array, " out"],
        step: Float[Array, " out"],
        leak: Float[Array, ""],
    ) -> Float[Array, ""]:
        del error, control, step, leak
        return jnp.ones((), output.dtype)

    def stable(self, inverse: Float[Array, "out out"], output: Float[Array, " out"]) -> Bool[Array, ""]:
        del output
        return eigenvalues_right_of_zero(inverse)  # a matrix and its inverse share the signs


class SoftmaxBalance(AbstractBalance):
    """Logarithms of softmax(r_L) = y - a u, for strong feedback with cross-entropy.

    F saturates as softmax does and is singular along the vector of ones. In logarithms the output enters
    linearly: with the feedforward probabilities p^- and up to a common shift,

        log(1 + (e^- - a u) / p^-) = r_L - r_L^-.

    The shift leaves one equation over, and F, whose components add up to that of -a u, demands sum u = 0.
    """

    def __call__(
        self,
        output: Float[Array, " out"],
        error: Float[Array, " out"],
        change: Float[Array, " out"],
        remaining: Float[Array, " out"],
        control: Float[Array, " out"],
        leak: Float[Array, ""],
    ) -> Float[Array, " out"]:
        del remaining
        growth = (error - leak * control) / _probabilities(output)
        logarithms = jnp.log1p(growth) - change
        return logarithms - jnp.mean(logarithms) - jnp.mean(control)

    def room(
        self,
        output: Float[Array, " out"],
        error: Float[Array, " out"],
        control: Float[Array, " out"],
        step: Float[Array, " out"],
        leak: Float[Array, ""],
    ) -> Float[Array, ""]:
        # Nine tenths of the way to where y - a u, a probability, would vanish.
        left = error - leak * control + _probabilities(output)
        used = leak * step
        return jnp.minimum(1, 0.9 * jnp.min(jnp.where(used > 0, left / used, jnp.inf)))

    def stable(self, inverse: Float[Array, "out out"], output: Float[Array, " out"]) -> Bool[Array, ""]:
        # With E = diag(p) - p p^T and the Jacobian -A of these equations, -dF/du = E A + a p 1^T. Its last
        # term is a mode of its own, of eigenvalue a, which nothing excites; it gets an eigenvalue of the
        # size of the others instead.
        p = jax.nn.softmax(output)
        own = inverse_of(inverse)
        matrix = p[:, None] * (own - (p @ own)[None])
        return eigenvalues_right_of_zero(matrix + jnp.linalg.norm(matrix) * p[:, None])


def _probabilities(output: Float[Array, " out"]) -> Float[Array, " out"]:
    return jnp.maximum(jax.nn.softmax(output), jnp.finfo(output.dtype).tiny)
