"""Implicit Euler steps of the loop linearised in the feedforward state, and whether it is stable."""

from functools import reduce
from operator import add

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.stability import check_linearised
from dfc_jax._dynamics.states import Sample
from dfc_jax._numerics.arrays import BatchFlags, Flag, OutputMatrix, Scalar
from dfc_jax._numerics.compiled import compiled
from dfc_jax._numerics.small_matrices import inverse, powers_vanish


def implicit_inverse(loop: ClosedLoop, layer_gains: tuple[OutputMatrix, ...], h: Scalar) -> OutputMatrix:
    """The inverse of I + b sum_i theta^(L-i+1) E J_i Q_i, theta = q / (1 + q), q = h / tau_v, `layer_gains`
    being those of E J_i Q_i and (a, b) the controller's implicit gains.

    It gives the control u = (..)^-1 (a u_int_base + b e_base) after a step of length h, e_base being the
    error that the step would end with were there no control.
    """
    _, b = loop.controller.implicit_gains(h)
    theta = h / (h + loop.tau_v)
    layers = len(layer_gains)
    damped = reduce(add, (theta ** (layers - i) * gain for i, gain in enumerate(layer_gains)))
    return inverse(jnp.eye(len(damped), dtype=damped.dtype) + b * damped)


@compiled
def loop_is_stable(loop: ClosedLoop, samples: Sample) -> BatchFlags:
    """Whether each sample's loop, with its gain and its lags, is stable in the feedforward state.

    That is, whether all its eigenvalues (`loop_eigenvalues`) have negative real parts: under jit, on any
    device, at a small part of what those take. An implicit Euler step y' = (1 - h A)^-1 y makes the Cayley
    transform C_h = 2 (1 - h A)^-1 - 1, which maps the left half-plane into the unit disc whatever h > 0 is;
    the powers of a product of several C_h vanish exactly if the loop is stable.

    Eigenvalues within about 1e-5 of the imaginary axis count as not stable (strong feedback through softmax
    has one if there is no leak), and so does a loop that is not finite. A sample takes some
    ((L + 1) n_L)^3 operations.

    **Raises:** `ValueError` for a loop with an apical compartment, or a single sample.
    """
    check_linearised(loop, samples)
    gains = jax.vmap(loop.layer_gains)(samples)
    return jax.vmap(lambda own: stable_with_gains(loop, own))(gains)


# Lengths of the steps, per tau_u: near the inverses of the fast and of the slow eigenvalues' sizes.
_LENGTHS = 0.05, 0.5


def stable_with_gains(loop: ClosedLoop, layer_gains: tuple[OutputMatrix, ...]) -> Flag:
    """Whether the loop of one sample is stable, given E J_i Q_i of each layer."""
    outputs, unknowns = len(layer_gains[0]), (len(layer_gains) + 1) * len(layer_gains[0])
    identity = jnp.eye(unknowns, dtype=layer_gains[0].dtype)
    states = tuple(identity.reshape(-1, outputs, unknowns))
    for h in _LENGTHS:
        after = _implicit_step(loop, layer_gains, states, jnp.asarray(h, identity.dtype))
        states = tuple(2 * new - old for new, old in zip(after, states, strict=True))
    return powers_vanish(jnp.concatenate(states))


_Columns = Float[Array, "out unknowns"]


def _implicit_step(
    loop: ClosedLoop, layer_gains: tuple[OutputMatrix, ...], states: tuple[_Columns, ...], h: Scalar
) -> tuple[_Columns, ...]:
    """The states (z_1, ..., z_L, u_int) one implicit step later, without a target, column by column.

    z_i = E J_i d_i follows tau_v dz_i/dt = -z_i + z_{i-1} + E J_i Q_i u, and e = -z_L.
    """
    *seen, integral = states
    q = h / loop.tau_v
    a, b = loop.controller.implicit_gains(h)
    uncontrolled = jnp.zeros_like(integral)
    for own in seen:
        uncontrolled = (own + q * uncontrolled) / (1 + q)
    control = implicit_inverse(loop, layer_gains, h) @ (a * integral - b * uncontrolled)
    below, after = jnp.zeros_like(integral), []
    for own, gain in zip(seen, layer_gains, strict=True):
        below = (own + q * (below + gain @ control)) / (1 + q)
        after.append(below)
    by_column = jax.vmap(loop.controller.integral, in_axes=1, out_axes=1)
    return (*after, by_column(control, -below))
