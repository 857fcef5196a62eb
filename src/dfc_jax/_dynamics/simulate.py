"""The closed loop in time, with any Diffrax solver.

States are handed to Diffrax in units of the sample's own target error |e^-|: tolerances then mean the same
early and late in training, when errors shrink by orders of magnitude. What is saved, and what an event
sees, is in ordinary units again.
"""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import PRNGKeyArray

from dfc_jax._checks import check_number, require
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.states import LoopState, Sample
from dfc_jax._numerics.arrays import Scalar
from dfc_jax._numerics.precision import in_full_precision


@in_full_precision
def simulate(
    loop: ClosedLoop,
    sample: Sample,
    *,
    t1: float,
    dt0: float,
    solver: diffrax.AbstractSolver = diffrax.Tsit5(),
    stepsize_controller: diffrax.AbstractStepSizeController = diffrax.ConstantStepSize(),
    saveat: diffrax.SaveAt = diffrax.SaveAt(t1=True),
    event: diffrax.Event | None = None,
    max_steps: int | None = None,
    key: PRNGKeyArray | None = None,
) -> diffrax.Solution:
    """Solve the dynamics of one sample from its feedforward state, from time 0 to `t1` (in units of tau_u).

    Returns Diffrax's own `Solution`: `solution.ys` holds `LoopState`s (or what `saveat`'s `fn` makes of
    them), `solution.result` must be read, for nothing is raised. With a fixed step, a solution that blows
    up is `successful` to Diffrax: check that it is finite too.

    **Arguments:**

    - `dt0`: the first step; the step, for `ConstantStepSize` (Diffrax shortens it so that it divides `t1`).
    - `solver`, `stepsize_controller`, `saveat`, `event`: as in `diffrax.diffeqsolve`. An event's
      `cond_fn(t, state, args, **kwargs)` gets the sample as `args`.
    - `max_steps`: by default what a fixed step needs, and at least Diffrax's 4096.
    - `key`: for a loop with noise, which needs a fixed step; the noise is Diffrax's `UnsafeBrownianPath`.

    >>> from dfc_jax import mlp
    >>> loop = ClosedLoop(mlp((4, 5, 3), key=jax.random.key(0)))
    >>> sample = loop.sample(jnp.ones(4), jnp.eye(3)[0])
    >>> solution = simulate(loop, sample, t1=1.0, dt0=0.1, saveat=diffrax.SaveAt(t0=True, steps=True))
    >>> int(solution.stats["num_steps"]), solution.ys.integral[0].tolist()
    (10, [0.0, 0.0, 0.0])

    **Raises:** `ValueError` if `sample` is a batch, `t1` or `dt0` is not positive, or noise and `key` do not
    come together.
    """
    require(sample.error.ndim == 1, "`sample` is a batch; simulate one, or map over it with jax.vmap.")
    check_number("t1", t1, above=0)
    check_number("dt0", dt0, above=0)
    require(
        (key is None) == (loop.noise is None),
        "`key` must be given if, and only if, the closed loop has noise.",
    )
    scale = sample.scale
    time = lambda value: jnp.asarray(value, scale.dtype)  # Python's floats would be float64 where x64 is on
    return diffrax.diffeqsolve(
        _terms(loop, sample, key),
        solver,
        t0=time(0),
        t1=time(t1),
        dt0=time(dt0),
        y0=loop.initial_state(sample),  # all zeros, so the same in every unit
        args=sample,
        saveat=_saved_in_ordinary_units(saveat, scale),
        stepsize_controller=stepsize_controller,
        event=_seen_in_ordinary_units(event, scale),
        max_steps=max(4096, math.ceil(t1 / dt0) + 1) if max_steps is None else max_steps,
        adjoint=diffrax.ForwardMode(),  # nothing is differentiated in reverse; admits UnsafeBrownianPath
        throw=False,
    )


def _times(factor: Scalar, tree: LoopState) -> LoopState:
    return jtu.tree_map(lambda leaf: factor * leaf, tree)


def _terms(loop: ClosedLoop, sample: Sample, key: PRNGKeyArray | None) -> diffrax.AbstractTerm:
    scale = sample.scale
    drift = diffrax.ODETerm(
        lambda t, y, args: _times(1 / scale, loop.vector_field(t, _times(scale, y), args))
    )
    if key is None:
        return drift
    # Fixed steps, forward only: a virtual Brownian tree would cost ten times as much and buy nothing.
    neurons = jax.eval_shape(lambda: sample.feedforward.voltages)
    path = diffrax.UnsafeBrownianPath(shape=neurons, key=key)
    kick = diffrax.ControlTerm(lambda t, y, args: loop.diffusion(t, y, args) / scale, path)
    return diffrax.MultiTerm(drift, kick)


def _saved_in_ordinary_units(saveat: diffrax.SaveAt, scale: Scalar) -> diffrax.SaveAt:
    is_sub = lambda node: isinstance(node, diffrax.SubSaveAt)

    def convert(sub: diffrax.SubSaveAt) -> diffrax.SubSaveAt:
        return eqx.tree_at(lambda s: s.fn, sub, lambda t, y, args: sub.fn(t, _times(scale, y), args))

    return eqx.tree_at(lambda s: s.subs, saveat, jtu.tree_map(convert, saveat.subs, is_leaf=is_sub))


def _seen_in_ordinary_units(event: diffrax.Event | None, scale: Scalar) -> diffrax.Event | None:
    if event is None:
        return None

    def convert(condition):
        return lambda t, y, args, **kwargs: condition(t, _times(scale, y), args, **kwargs)

    return eqx.tree_at(lambda e: e.cond_fn, event, jtu.tree_map(convert, event.cond_fn))
