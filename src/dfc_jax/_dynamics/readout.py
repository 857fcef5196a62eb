"""What of the output the controller compares with its target: the output itself, or its softmax.

A readout also gives the equations of the steady state, e = a u, in the form in which an iteration solves them
best. Every form has the roots of F(u) = e(u) - a u; convergence is always judged by F itself.
"""

import abc
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dfc_jax._fields import Part
from dfc_jax._numerics.arrays import Flag, OutputMatrix, OutputVector, Scalar
from dfc_jax._numerics.small_matrices import eigenvalues_right_of_zero, inverse as inverse_of


class AbstractReadout(Part):
    """A function of the output r_L that the controller compares with its target.

    One of your own needs `error` and `difference`. Its steady state then solves F(u) = 0 itself, which is
    well where the readout is nearly linear; `control`, `equations`, `start`, `room` and `condition_three`
    belong together.
    """

    @abc.abstractmethod
    def error(self, output: OutputVector, y: OutputVector) -> OutputVector:
        """y - readout(r_L), without cancellation as the readout nears `y`."""

    @abc.abstractmethod
    def difference(self, output: OutputVector, change: OutputVector) -> OutputVector:
        """readout(r_L + c) - readout(r_L) for a `change` c, without cancellation for a small one."""

    def gain(
        self, output: OutputVector, change: OutputVector, gain: Float[Array, "out n"]
    ) -> Float[Array, "out n"]:
        """E G: how the readout moves, displaced by `change`, when its output moves as G = `gain` says."""
        by_output = lambda c: self.difference(output, c)
        push = lambda tangent: jax.jvp(by_output, (change,), (tangent,))[1]
        return jax.vmap(push, in_axes=1, out_axes=1)(gain)

    def control(
        self, output: OutputVector, error: OutputVector, unknown: OutputVector, leak: Scalar
    ) -> OutputVector:
        """The control u that belongs to what the equations are solved for, by default u itself."""
        del output, error, leak
        return unknown

    def equations(
        self,
        output: OutputVector,
        error: OutputVector,
        change: OutputVector,
        unknown: OutputVector,
        leak: Scalar,
    ) -> OutputVector:
        """What vanishes at the steady state: n_L equations in as many unknowns of one sample.

        Given are the feedforward `output` and its target error e^-, the output's `change` under the control
        that belongs to the `unknown`, and the steady-state leak a.
        """
        control = self.control(output, error, unknown, leak)
        return error - self.difference(output, change) - leak * control

    def start(self, output: OutputVector, error: OutputVector, leak: Scalar) -> OutputVector | None:
        """Unknowns at which the equations are defined, to begin from; None for no control, where every
        readout that is not restricted can begin."""
        del output, error, leak

    def room(
        self,
        output: OutputVector,
        error: OutputVector,
        unknown: OutputVector,
        step: OutputVector,
        leak: Scalar,
    ) -> Scalar:
        """The part of a step of the unknowns, at most 1, that stays where the equations are defined."""
        del error, unknown, step, leak
        return jnp.ones((), output.dtype)

    @property
    def reach(self) -> float:
        """The change of an output over which the readout's derivative keeps its size, for Newton's steps."""
        return math.inf

    def condition_three(
        self,
        inverse: OutputMatrix,
        output: OutputVector,
        error: OutputVector,
        change: OutputVector,
        leak: Scalar,
    ) -> Flag:
        """Condition 3 for F at a root, where the output has changed by `change`, given the inverse of minus
        the equations' Jacobian by the unknowns."""
        del output, error, change, leak
        return eigenvalues_right_of_zero(inverse)  # a matrix and its inverse share the signs


class IdentityReadout(AbstractReadout):
    """The output itself: for nudged targets, and for strong feedback with squared errors."""

    def error(self, output: OutputVector, y: OutputVector) -> OutputVector:
        return y - output

    def difference(self, output: OutputVector, change: OutputVector) -> OutputVector:
        del output
        return change

    def gain(
        self, output: OutputVector, change: OutputVector, gain: Float[Array, "out n"]
    ) -> Float[Array, "out n"]:
        del output, change
        return gain


class SoftmaxReadout(AbstractReadout):
    """softmax(r_L), for strong feedback with cross-entropy. `y` is a distribution that sums to one.

    F saturates as softmax does and is singular along the vector of ones. In logarithms the output enters
    linearly. With the feedforward probabilities p^- and up to a common shift, softmax(r_L) = y - a u says

        log(1 + (e^- - a u) / p^-) = r_L - r_L^-.

    Solved for u, this runs into the edge of its domain, y - a u > 0, where a u is of y's size. Solved for the
    left side t, a change of the logits from which u follows,

        a u = e^- - (softmax(r_L^- + t) - softmax(r_L^-)),

    it has no edge, and its Jacobian nears the identity as the leak grows; but rounding of u grows as 1 / a.
    So the unknown is u where the edge is far, and else t, less its mean. For u the common shift leaves one
    equation over, and F, whose components add up to that of -a u, demands sum u = 0.
    """

    def error(self, output: OutputVector, y: OutputVector) -> OutputVector:
        # p_k - y_k = sum over j != k of (p_k y_j - y_k p_j): nothing cancels for a one-hot y.
        p = jax.nn.softmax(output)
        others = 1 - jnp.eye(y.size, dtype=y.dtype)
        return -(p * (others @ y) - y * (others @ p))

    def difference(self, output: OutputVector, change: OutputVector) -> OutputVector:
        # softmax(r + c) - softmax(r) = p expm1(c - s) with s = log(sum p exp(c)). Softmax ignores a common
        # shift: with that of the likeliest class, 1 + m below is at least 1 / n and nothing cancels. What
        # grows much is taken in logarithms, for its p may be zero in these numbers.
        logarithms, p = jax.nn.log_softmax(output), jax.nn.softmax(output)
        shifted = change - change[jnp.argmax(output)]
        m = p @ jnp.expm1(jnp.minimum(shifted, _FAR))
        far = jax.nn.logsumexp(logarithms + shifted)
        growth = shifted - jnp.where(jnp.max(shifted) < _FAR, jnp.log1p(m), far)
        little, much = jnp.minimum(growth, 1), jnp.maximum(growth, 1)
        return jnp.where(growth < 1, p * jnp.expm1(little), jnp.exp(logarithms + much) - p)

    def gain(
        self, output: OutputVector, change: OutputVector, gain: Float[Array, "out n"]
    ) -> Float[Array, "out n"]:
        p = jax.nn.softmax(output + change)
        return p[:, None] * (gain - (p @ gain)[None])

    def control(
        self, output: OutputVector, error: OutputVector, unknown: OutputVector, leak: Scalar
    ) -> OutputVector:
        by_logits = _by_logits(output, error, leak)
        control = (error - self.difference(output, unknown)) / jnp.where(by_logits, leak, 1)
        return jnp.where(by_logits, control - jnp.mean(control), unknown)

    def equations(
        self,
        output: OutputVector,
        error: OutputVector,
        change: OutputVector,
        unknown: OutputVector,
        leak: Scalar,
    ) -> OutputVector:
        by_logits = _by_logits(output, error, leak)
        growth = (error - leak * jnp.where(by_logits, 0, unknown)) / _probabilities(output)
        logarithms = jnp.log1p(growth) - change
        for_control = logarithms - jnp.mean(logarithms) - jnp.mean(unknown)
        return jnp.where(by_logits, change - jnp.mean(change) - unknown, for_control)

    def start(self, output: OutputVector, error: OutputVector, leak: Scalar) -> OutputVector:
        # No control, but that y - a u is to be a distribution without zeros. A control of 1 / n against every
        # class but one is of the size that the roots have.
        p, by_logits = _probabilities(output), _by_logits(output, error, leak)
        y = error + p
        least = jnp.where(by_logits, jnp.minimum(0.1 * leak, 0.01), leak) / y.size
        inside = jnp.maximum(y, least)
        inside = inside / jnp.sum(inside)
        control = jnp.where(jnp.min(y) < least, (y - inside) / jnp.where(leak > 0, leak, 1), 0)
        logits = jnp.log(inside / p)
        return jnp.where(by_logits, logits - jnp.mean(logits), control)

    def room(
        self,
        output: OutputVector,
        error: OutputVector,
        unknown: OutputVector,
        step: OutputVector,
        leak: Scalar,
    ) -> Scalar:
        by_logits = _by_logits(output, error, leak)
        longest = jnp.max(jnp.abs(step))
        within_reach = self.reach / jnp.maximum(longest, self.reach)
        # Nine tenths of the way to where y - a u, a probability, would vanish.
        left = error - leak * unknown + _probabilities(output)
        used = leak * step
        inside = jnp.minimum(1, 0.9 * jnp.min(jnp.where(used > 0, left / used, jnp.inf)))
        return jnp.where(by_logits, within_reach, inside)

    @property
    def reach(self) -> float:
        return 3.0

    def condition_three(
        self,
        inverse: OutputMatrix,
        output: OutputVector,
        error: OutputVector,
        change: OutputVector,
        leak: Scalar,
    ) -> Flag:
        # With E = diag(p) - p p^T. For t the matrix is 1 + J Q E / a but for the ones, and has the sign of
        # the eigenvalues of E J Q + a. For u, of the Jacobian -A, -dF/du = E A + a p 1^T. Its last term is a
        # mode of its own, of eigenvalue a, which nothing excites; it gets an eigenvalue of the size of the
        # others instead.
        p = jax.nn.softmax(output + change)
        own = inverse_of(inverse)
        matrix = p[:, None] * (own - (p @ own)[None])
        for_control = matrix + jnp.linalg.norm(matrix) * p[:, None]
        return eigenvalues_right_of_zero(jnp.where(_by_logits(output, error, leak), own, for_control))


def _by_logits(output: OutputVector, error: OutputVector, leak: Scalar) -> Flag:
    """Whether the unknown is the change of the logits, and not the control.

    It is where a u is no small part of every component of y (a root's u are about 1 / n), but for leaks so
    small that rounding of the logits is large in u.
    """
    least = jnp.min(error + _probabilities(output))
    return (least * output.size < _PART * leak) & (leak >= _TINY_LEAK)


_PART, _TINY_LEAK = 5, 5e-4


# A change of a logit whose exponential, times the smallest probability that float32 holds, is still nothing.
_FAR = 60


def _probabilities(output: OutputVector) -> OutputVector:
    return jnp.maximum(jax.nn.softmax(output), jnp.finfo(output.dtype).tiny)
