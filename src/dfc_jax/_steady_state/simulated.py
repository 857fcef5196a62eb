"""States reached by the dynamics themselves: at rest, or after a given time."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.published import PublishedEuler
from dfc_jax._dynamics.simulate import simulate
from dfc_jax._dynamics.stability import distance_from_rest, has_few_modes, scheme_doubts
from dfc_jax._dynamics.states import Deviation, LoopState, Sample
from dfc_jax._fields import count, default, number
from dfc_jax._numerics.arrays import Flag, OutputVector, Scalar
from dfc_jax._numerics.compiled import compiled
from dfc_jax._steady_state.base import AbstractEquilibrium, condition_three, Equilibrium, last_state


class Simulated(AbstractEquilibrium):
    """The dynamics themselves, solved by Diffrax until they rest.

    The event fires when no time derivative exceeds `rtol * |e^-|` (voltages per tau_v, the integral per
    tau_u). Converged means that it fired before `t1`: then the loop itself is stable in what it has reached.

    **Arguments:**

    - `solver`, `t1`, `dt0`: as in `simulate`.
    - `rtol`: see above. The step sizes are chosen for a tolerance 30 times smaller: equal ones would leave
      the solver's own error hovering above the event's threshold.
    - `dtmax`: the longest step. Near rest an explicit solver would lengthen its step to the edge of
      stability and jitter there without ever firing the event.
    - `max_steps`: steps after which the sample counts as not converged.
    """

    solver: diffrax.AbstractSolver = diffrax.Tsit5()
    rtol: Scalar = number("rtol", 1e-4, above=0)
    t1: float = number("t1", 200.0, above=0, static=True)
    dt0: float = number("dt0", 0.02, above=0, static=True)
    dtmax: Scalar = number("dtmax", 0.2, above=0)
    max_steps: int = count("max_steps", 20_000)

    @compiled
    def __call__(self, loop: ClosedLoop, samples: Sample) -> Equilibrium:
        control, deviation, *rest = jax.vmap(self._one, in_axes=(None, 0))(loop, samples)
        held = condition_three(loop, samples, control, deviation)
        return Equilibrium(control, deviation, *rest, held)

    def doubts(self, loop: ClosedLoop, samples: Sample) -> list[str]:
        if not has_few_modes(loop, samples.error.shape[1]):
            return []
        distance = distance_from_rest(loop, samples, self.t1)
        short = np.isfinite(distance) & (distance > 10 * float(self.rtol))
        if not np.any(short):
            return []
        return [
            f"`t1` is {self.t1}, too short for {np.mean(short):.0%} of the samples tried: their controls "
            f"are then still up to {np.max(distance[short]):.1g} of their size from rest. Use Broyden, or a "
            "longer `t1`."
        ]

    def _one(
        self, loop: ClosedLoop, sample: Sample
    ) -> tuple[OutputVector, Deviation, Flag, Scalar, Int[Array, ""]]:
        """The fields of `Equilibrium`, all but the last."""

        def at_rest(t: Scalar, state: LoopState, args: Sample, **_: object) -> Flag:
            rates = loop.vector_field(t, state, args)
            fastest = jnp.max(jnp.abs(rates.integral))
            for rate in (*rates.voltage, *(rates.apical or ())):
                fastest = jnp.maximum(fastest, loop.tau_v * jnp.max(jnp.abs(rate)))
            return fastest <= self.rtol.astype(dtype) * args.scale

        dtype = sample.error.dtype
        tolerance = (self.rtol / 30).astype(dtype)
        solution = simulate(
            loop,
            sample,
            t1=self.t1,
            dt0=self.dt0,
            solver=self.solver,
            stepsize_controller=diffrax.PIDController(
                rtol=tolerance, atol=tolerance, pcoeff=0.3, icoeff=0.3, dtmax=self.dtmax.astype(dtype)
            ),
            event=diffrax.Event(at_rest),
            max_steps=self.max_steps,
        )
        state = jax.tree.map(lambda leaf: leaf[-1], solution.ys)
        control = loop.control(state, sample)
        error = loop.relative_residual(sample, control, loop.controlled(sample, control))
        fired = (solution.result == diffrax.RESULTS.event_occurred) & jnp.isfinite(error)
        deviation = loop.deviation(state, sample)
        return control, deviation, fired, error, solution.stats["num_steps"]


class StateAtTime(AbstractEquilibrium):
    """The last state of the published scheme: what both published codes take for the steady state.

    It is one only if the trajectory is long. Strong-DFC's published ones last half a tau_u, and their updates
    are tens of degrees from those of the steady state (`Broyden()`): hence a name of its own. `residual` says
    how far each sample is from rest; converged means no more than that the state is finite.

    **Arguments:**

    - `scheme`: the discretisation, and how long the trajectory is.
    - `tau_v`: time constant of the voltages, which before rest matters; the loop's own is not used.
    """

    scheme: PublishedEuler = default(PublishedEuler)
    tau_v: Scalar = number("tau_v", 0.2, above=0)

    @compiled
    def __call__(self, loop: ClosedLoop, samples: Sample) -> Equilibrium:
        loop = eqx.tree_at(lambda l: l.tau_v, loop, self.tau_v)
        last, _ = self.scheme.fold(loop, samples, lambda *_: None, None)
        found = last_state(loop, samples, last.control, last.deviation, self.scheme.states - 1)
        return eqx.tree_at(lambda f: f.converged, found, jnp.isfinite(found.residual))

    def rescued_by(self, fallback: AbstractEquilibrium) -> None:
        """Nothing: a state on the way has no equations."""
        del fallback

    def doubts(self, loop: ClosedLoop, samples: Sample) -> list[str]:
        return scheme_doubts(eqx.tree_at(lambda l: l.tau_v, loop, self.tau_v), samples, self.scheme)
