"""What a controlled network does over time, in ordinary units: for plots."""

from typing import cast

import diffrax
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from dfc_jax._checks import require
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.simulate import simulate
from dfc_jax._dynamics.states import LoopState, PerLayer, Sample
from dfc_jax._fields import Part
from dfc_jax._numerics.arrays import OutputVector, Scalar
from dfc_jax._numerics.compiled import compiled


class Trajectory(Part):
    """The dynamics of one sample: themselves, not what they differ by from the feedforward state."""

    times: Float[Array, " times"]  # in units of tau_u
    voltages: PerLayer  # v_i, each (times, neurons)
    rates: PerLayer  # r_i; the last are the output
    control: Float[Array, "times out"]  # u
    error: Float[Array, "times out"]  # e
    result: diffrax.RESULTS  # of the solver, to be read: `diffrax.RESULTS.successful` or why not


def trajectory(
    loop: ClosedLoop,
    sample: Sample,
    times: Float[Array, " times"],
    *,
    dt0: Scalar | float,
    solver: diffrax.AbstractSolver | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController = diffrax.ConstantStepSize(),
    max_steps: int | None = None,
    key: PRNGKeyArray | None = None,
) -> Trajectory:
    """Voltages, rates, control and error of one sample at increasing `times`, from its feedforward state at
    time 0.

    **Arguments:** as of `simulate`, which ends at the last of the `times`. A fixed step that blows up is
    `successful` to Diffrax: what is not finite shows in the arrays.

    >>> from dfc_jax import mlp
    >>> loop = ClosedLoop(mlp((4, 5, 3), key=jax.random.key(0)))
    >>> sample = loop.sample(jnp.ones(4), jnp.eye(3)[0])
    >>> found = trajectory(loop, sample, jnp.linspace(0, 2, 21), dt0=0.1)
    >>> found.control.shape, [rates.shape for rates in found.rates]
    ((21, 3), [(21, 5), (21, 3)])

    **Raises:** `ValueError` as `simulate`, and unless `times` are a row of numbers that rise from 0 on.
    """
    times = jnp.asarray(times, sample.error.dtype)
    require(times.ndim == 1 and times.size > 0, f"`times` has shape {times.shape}; it must be (times,).")
    if not isinstance(times, jax.core.Tracer):
        known = np.asarray(times)
        rising = np.isfinite(known).all() and known[0] >= 0 and np.all(np.diff(known) > 0)
        require(bool(rising), f"`times` are {known}; they must rise, from 0 on, and be finite.")
    solution = simulate(
        loop,
        sample,
        t1=times[-1],
        dt0=dt0,
        solver=solver,
        stepsize_controller=stepsize_controller,
        saveat=diffrax.SaveAt(ts=times),
        max_steps=max_steps,
        key=key,
    )
    states = cast(LoopState, solution.ys)  # which holds what was asked for
    return Trajectory(times, *_in_ordinary_units(loop, sample, states), solution.result)


@compiled
def _in_ordinary_units(
    loop: ClosedLoop, sample: Sample, states: LoopState
) -> tuple[PerLayer, PerLayer, Float[Array, "times out"], Float[Array, "times out"]]:
    """Voltages, rates, control and error of every state."""

    def one(state: LoopState) -> tuple[PerLayer, PerLayer, OutputVector, OutputVector]:
        voltages = jax.tree.map(jnp.add, sample.feedforward.voltages, state.voltage)
        rates = tuple(layer.activation(v) for layer, v in zip(loop.network.layers, voltages, strict=True))
        return voltages, rates, loop.control(state, sample), loop.error(state, sample)

    return jax.vmap(one)(states)
