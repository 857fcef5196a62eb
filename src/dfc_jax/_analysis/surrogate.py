"""What strong feedback minimises: the control a network needs (Strong-DFC, ICML 2022).

With the output clamped to its target the output loss vanishes; what learning lowers instead is

    H = |Q u|^2 / 2,   u the control at rest, where F(u, theta) = e - a u = 0,

whose gradient with Q held fixed is, by the implicit function theorem,

    dH/dtheta = (dF/dtheta)^T w,   (-dF/du)^T w = Q^T Q u.

If Col(Q) = Row(J) in the controlled state and the leak vanishes, Q (J Q)^-1 J is the projection on Col(Q),
and -dH/dtheta is (v_i - v_ff_i) r_(i-1)^T: the update that `VoltageDifference` teaches, exactly.
"""

from functools import reduce
from operator import add

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.states import Sample
from dfc_jax._methods.base import shaped_like
from dfc_jax._network.layer import Layer
from dfc_jax._network.learned import no_change, split_weights
from dfc_jax._network.network import as_batch, Network
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs, OutputVector, Scalar
from dfc_jax._numerics.one_by_one import solve_linear
from dfc_jax._steady_state.base import Equilibrium


def surrogate_loss(loop: ClosedLoop, samples: Sample, found: Equilibrium) -> Float[Array, " batch"]:
    """H of every sample at the steady states `found`. (The published code logs 2 H / neurons.)"""

    def one(sample: Sample, control: OutputVector) -> Scalar:
        return reduce(add, (jnp.sum(q**2) for q in loop.apical_input(sample, control))) / 2

    return jax.vmap(one)(samples, found.control)


def surrogate_gradient(
    loop: ClosedLoop,
    x: BatchInputs,
    y: BatchOutputs,
    samples: Sample,
    found: Equilibrium,
) -> Network:
    """The exact gradient of the mean of H, shaped like an update and zero in the feedback weights.

    `samples` are those of `x` and `y`, `found` their steady states, from which the gradient is as far as
    they are from rest. Feedback that depends on the sample is held fixed at what `samples` hold. (The
    published code takes the feedforward Jacobian for that of the steady state.)
    """
    x, y = as_batch(loop.network, x, y)
    layers, rest = split_weights(loop.network.layers)

    def one(x: Float[Array, "..."], y: OutputVector, sample: Sample, found: Equilibrium) -> tuple[Layer, ...]:
        def remaining(weights: tuple[Layer, ...]) -> OutputVector:
            network = Network(eqx.combine(weights, rest), loop.network.feedback)
            changed = eqx.tree_at(lambda l: l.network, loop, network)
            state = network.feedforward(x)
            error = loop.target.initial_error(loop.loss, state.output, y)
            shifted = Sample(state, sample.feedback, error)
            deviation = changed.sweep(shifted, drive)
            return changed.residual(shifted, found.control, deviation)

        drive = loop.apical_input(sample, found.control)
        by_control = sum(
            jnp.tensordot(q, Q, axes=(tuple(range(q.ndim)), tuple(range(q.ndim))))
            for q, Q in zip(drive, loop.feedback(sample), strict=True)
        )
        gain = loop.gain(sample, loop.controlled(sample, found.control))
        _, pull = jax.vjp(remaining, layers)
        return pull(solve_linear(gain.T, by_control))[0]

    gradient = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), jax.vmap(one)(x, y, samples, found))
    return shaped_like(loop.network, eqx.combine(gradient, no_change(rest)))
