"""Time averages by any Diffrax solver."""

import dataclasses
import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import PRNGKeyArray

from dfc_jax._average.base import AbstractAverage, Accumulator, instant_change
from dfc_jax._average.control_root_finder import _Averaged, _of_each, ControlRootFinder
from dfc_jax._checks import require
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.stability import euler_step_bound, has_few_modes
from dfc_jax._dynamics.states import Sample
from dfc_jax._fields import count, number
from dfc_jax._network.layer import Layer
from dfc_jax._numerics.arrays import Scalar
from dfc_jax._numerics.compiled import compiled
from dfc_jax._numerics.finite import zero_unless_finite
from dfc_jax._steady_state.base import Equilibrium, last_state


class DiffraxAverage(AbstractAverage):
    """The ODE by any Diffrax solver, the batch as one system, with the average as part of its state.

    The steps are shared by the batch, but a `PIDController` sees every sample's error in units of that
    sample's own tolerance (its worst sample decides), and never the average.

    **Arguments:** `solver`, `stepsize_controller`, `t1`, `dt0`, `max_steps` as in `simulate`. Implicit
    solvers need a `root_finder=ControlRootFinder()`.
    """

    solver: diffrax.AbstractSolver = diffrax.Tsit5()
    stepsize_controller: diffrax.AbstractStepSizeController = diffrax.PIDController(rtol=1e-4, atol=1e-4)
    t1: float = number("t1", 10.0, above=0, static=True)
    # StepTo, for one, forbids a first step.
    dt0: float | None = number("dt0", 0.02, above=0, optional=True, static=True)
    max_steps: int = count("max_steps", 4096)

    def __check_init__(self) -> None:
        fixed = isinstance(self.stepsize_controller, diffrax.ConstantStepSize)
        require(not fixed or self.dt0 is not None, "`dt0` is None; ConstantStepSize needs a step.")
        needed = math.ceil(self.t1 / self.dt0) + 1 if fixed and self.dt0 is not None else 1
        require(
            self.max_steps >= needed, f"`max_steps` is {self.max_steps}; t1 / dt0 needs at least {needed}."
        )
        root_finder = getattr(self.solver, "root_finder", None)
        require(
            root_finder is None or isinstance(root_finder, ControlRootFinder),
            f"`solver.root_finder` is {type(root_finder).__name__}, which would solve for all neurons of the "
            "batch at once; give the solver root_finder=ControlRootFinder().",
        )

    @compiled
    def __call__(
        self, loop: ClosedLoop, samples: Sample, key: PRNGKeyArray | None = None
    ) -> tuple[tuple[Layer, ...], Equilibrium]:
        del key
        require(loop.noise is None, "`noise` is given; DiffraxAverage has none, use PublishedAverage.")
        scales = samples.scale
        dtype = samples.error.dtype

        def vector_field(t: Scalar, y: _Averaged, args: Sample) -> _Averaged:
            states = _of_each(scales, y.states)
            rates = jax.vmap(loop.vector_field, in_axes=(None, 0, 0))(t, states, args)
            rates = jax.vmap(zero_unless_finite)(rates)  # or one sample's NaN would stop all of them
            probed = lambda rate, state: rate + y.probe * state
            rates = jax.tree.map(probed, _of_each(1 / scales, rates), y.states)
            deviations = jax.vmap(loop.deviation)(states, args)
            return _Averaged(rates, instant_change(loop, args, deviations), jnp.ones((), dtype), -y.probe)

        first, none = jax.vmap(loop.initial_state)(samples), jnp.zeros((), dtype)
        # Times in the samples' precision: Diffrax's own would be the process's and promote everything.
        time = lambda value: None if value is None else jnp.asarray(value, dtype)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(vector_field),  # ty: ignore[invalid-argument-type]  # times are arrays, as given
            self._solver(loop, samples),
            t0=time(0.0),
            t1=time(self.t1),
            dt0=time(self.dt0),
            y0=_Averaged(first, Accumulator.zero(loop, samples), none, none),
            args=samples,
            stepsize_controller=_worst_sample(self.stepsize_controller),
            max_steps=self.max_steps,
            adjoint=diffrax.ForwardMode(),  # nothing is differentiated in reverse
            throw=False,
        )
        end = jax.tree.map(lambda leaf: leaf[-1], solution.ys)
        last = _of_each(scales, end.states)
        control = jax.vmap(loop.control)(last, samples)
        deviation = jax.vmap(loop.deviation)(last, samples)
        final = last_state(loop, samples, control, deviation, solution.stats["num_steps"])
        reached = final.converged & (solution.result == diffrax.RESULTS.successful)
        final = eqx.tree_at(lambda f: f.converged, final, reached)
        mean = jax.tree.map(lambda leaf: leaf / self.t1, end.total)
        return mean.total(loop, samples), final

    def doubts(self, loop: ClosedLoop, samples: Sample) -> list[str]:
        fixed = isinstance(self.stepsize_controller, diffrax.ConstantStepSize)
        few = has_few_modes(loop, samples.error.shape[1])
        if not (fixed and isinstance(self.solver, diffrax.Euler) and few):
            return []
        bound = euler_step_bound(loop, samples)
        diverging = (bound > 0) & (bound < self.dt0)  # the loop itself is stable
        if not np.any(diverging):
            return []
        return [
            f"`dt0` is {self.dt0}, too long for {np.mean(diverging):.0%} of the samples tried: forward Euler "
            f"is stable below {np.min(bound[diverging]):.2g} here, and training lowers that."
        ]

    def _solver(self, loop: ClosedLoop, samples: Sample) -> diffrax.AbstractSolver:
        root_finder = getattr(self.solver, "root_finder", None)
        if root_finder is None:
            return self.solver
        require(loop.tau_apical is None, "`tau_apical` is set; ControlRootFinder has no apical compartment.")
        return dataclasses.replace(self.solver, root_finder=root_finder.of(loop, samples))


def _worst_sample(controller: diffrax.AbstractStepSizeController) -> diffrax.AbstractStepSizeController:
    """The same step-size controller, its error norm the largest over samples of each one's RMS."""
    if not isinstance(controller, diffrax.PIDController):
        return controller

    def norm(y: _Averaged) -> Scalar:
        return jnp.max(jax.vmap(optx.rms_norm)(y.states))

    return dataclasses.replace(controller, norm=norm)
