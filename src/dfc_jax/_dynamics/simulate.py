"""The closed loop in time, with any Diffrax solver.

States are handed to Diffrax in units of the sample's own target error |e^-|: tolerances then mean the same
early and late in training, when errors shrink by orders of magnitude. What is saved, what a dense solution
gives between the steps, and what an event sees, is in ordinary units again.
"""

import math
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import PRNGKeyArray

from dfc_jax._checks import check_number, require
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.states import LoopState, Sample
from dfc_jax._numerics.arrays import Scalar
from dfc_jax._numerics.compiled import compiled


def simulate(
    loop: ClosedLoop,
    sample: Sample,
    *,
    t1: Scalar | float,
    dt0: Scalar | float,
    solver: diffrax.AbstractSolver | None = None,
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
    - `solver`: by default `Tsit5()`, with noise `Heun()`. The noise is additive, so that solvers of the Ito
      and of the Stratonovich kind mean the same.
    - `stepsize_controller`, `saveat`, `event`: as in `diffrax.diffeqsolve`. An event's
      `cond_fn(t, state, args, **kwargs)` gets the sample as `args`. `SaveAt(dense=True)` gives the states
      whatever `fn` is, as Diffrax does.
    - `max_steps`: by default what a fixed step needs, rounded up to a power of two that is at least
      Diffrax's 4096, for which few programs are compiled.
    - `key`: for a loop with noise, which needs a fixed step; the noise is Diffrax's `UnsafeBrownianPath`.

    A call with the same shapes, and the same functions in `saveat` and `event`, compiles nothing anew: define
    such functions once, outside of loops.

    >>> from dfc_jax import mlp
    >>> loop = ClosedLoop(mlp((4, 5, 3), key=jax.random.key(0)))
    >>> sample = loop.sample(jnp.ones(4), jnp.eye(3)[0])
    >>> solution = simulate(loop, sample, t1=1.0, dt0=0.1, saveat=diffrax.SaveAt(t0=True, steps=True))
    >>> int(solution.stats["num_steps"]), solution.ys.integral[0].tolist()
    (10, [0.0, 0.0, 0.0])

    **Raises:** `ValueError` if `sample` is a batch, `t1` or `dt0` is not a positive number or is traced
    without `max_steps`, noise and `key` do not come together, `solver` or `stepsize_controller` cannot take
    the noise, or `saveat` asks for the inner states of solver or step-size controller.
    """
    require(sample.error.ndim == 1, "`sample` is a batch; simulate one, or map over it with jax.vmap.")
    _check_time("t1", t1)
    _check_time("dt0", dt0)
    require(
        (key is None) == (loop.noise is None),
        "`key` must be given if, and only if, the closed loop has noise.",
    )
    if solver is None:
        solver = diffrax.Tsit5() if key is None else diffrax.Heun()
    require(
        key is None or _takes_noise(solver),
        f"`solver` is {type(solver).__name__}, which cannot take the noise of the closed loop; give "
        "diffrax.Heun(), the default with noise, or EulerHeun, Euler, Midpoint or Ralston.",
    )
    adaptive = isinstance(stepsize_controller, diffrax.AbstractAdaptiveStepSizeController)
    require(
        key is None or not adaptive,
        f"`stepsize_controller` is {type(stepsize_controller).__name__}, whose steps the noise would change; "
        "give diffrax.ConstantStepSize(), the default, with noise.",
    )
    for asked in ("solver_state", "controller_state", "made_jump"):
        require(
            not getattr(saveat, asked),
            f"`saveat` asks for `{asked}`, which `simulate` does not give: solver and step-size controller "
            "work in units of the target error, and it always starts from the feedforward state.",
        )
    max_steps = _enough_steps(t1, dt0) if max_steps is None else max_steps
    dtype = sample.error.dtype  # Python's floats would be float64 where x64 is on
    times = jnp.asarray(t1, dtype), jnp.asarray(dt0, dtype)
    return _solved(loop, sample, times, solver, stepsize_controller, saveat, event, max_steps, key)


@compiled  # or what is handed to Diffrax would be other functions, and compiled anew, in every call
def _solved(
    loop: ClosedLoop,
    sample: Sample,
    times: tuple[Scalar, Scalar],
    solver: diffrax.AbstractSolver,
    stepsize_controller: diffrax.AbstractStepSizeController,
    saveat: diffrax.SaveAt,
    event: diffrax.Event | None,
    max_steps: int,
    key: PRNGKeyArray | None,
) -> diffrax.Solution:
    scale, (t1, dt0) = sample.scale, times
    solution = diffrax.diffeqsolve(
        _terms(loop, sample, key),
        solver,
        t0=jnp.zeros_like(t1),
        t1=t1,
        dt0=dt0,
        y0=loop.initial_state(sample),  # all zeros, so the same in every unit
        args=sample,
        saveat=_saved_in_ordinary_units(saveat, scale),
        stepsize_controller=stepsize_controller,
        event=_seen_in_ordinary_units(event, scale),
        max_steps=max_steps,
        adjoint=diffrax.ForwardMode(),  # nothing is differentiated in reverse; admits UnsafeBrownianPath
        throw=False,
    )
    if solution.interpolation is None:
        return solution
    return eqx.tree_at(lambda s: s.interpolation, solution, _InOrdinaryUnits(solution.interpolation, scale))


class _InOrdinaryUnits(eqx.Module):
    """The dense solution between the steps, of which Diffrax knows the states in units of |e^-|."""

    inner: diffrax.DenseInterpolation
    scale: Scalar

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True) -> LoopState:
        first = _times(self.scale, self.inner.evaluate(t0, left=left))
        if t1 is None:
            return first
        later = self.evaluate(t1, left=left)
        return jtu.tree_map(jnp.subtract, later, first)  # Diffrax subtracts arrays only

    def derivative(self, t: Any, left: bool = True) -> LoopState:
        return _times(self.scale, self.inner.derivative(t, left))


def _check_time(name: str, value: Scalar | float) -> None:
    check_number(name, value, above=0)
    require(jnp.ndim(value) == 0, f"`{name}` is {value}; it must be one number, or be mapped by jax.vmap.")


def _enough_steps(t1: Scalar | float, dt0: Scalar | float) -> int:
    traced = [name for name, value in (("t1", t1), ("dt0", dt0)) if isinstance(value, jax.core.Tracer)]
    require(
        not traced,
        f"`{' and '.join(traced)}` is traced by jit or vmap and has no value yet; give `max_steps`.",
    )
    return max(4096, 2 ** math.ceil(math.log2(math.ceil(float(t1) / float(dt0)) + 1)))


def _takes_noise(solver: diffrax.AbstractSolver) -> bool:
    stochastic = isinstance(solver, diffrax.AbstractItoSolver | diffrax.AbstractStratonovichSolver)
    # Levy areas, products of tensors and halved steps, of which the path knows nothing.
    others = diffrax.AbstractSRK, diffrax.ItoMilstein, diffrax.ReversibleHeun, diffrax.AbstractWrappedSolver
    return stochastic and not isinstance(solver, others)


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
