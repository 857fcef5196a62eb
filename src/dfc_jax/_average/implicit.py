"""Implicit Euler steps of the closed loop, each a system of n_L unknowns instead of one over all neurons."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from dfc_jax._average.base import AbstractAverage, Accumulator, instant_change
from dfc_jax._average.implicit_steps import AbstractSteps, OwnSteps, Stepped
from dfc_jax._average.shared_steps import SharedSteps
from dfc_jax._average.wide_steps import WideSteps
from dfc_jax._checks import require
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.states import Sample
from dfc_jax._fields import number
from dfc_jax._network.layer import Layer
from dfc_jax._numerics.arrays import Scalar
from dfc_jax._numerics.compiled import compiled
from dfc_jax._steady_state.base import Equilibrium, last_state, own_jacobians_pay
from dfc_jax._steady_state.hidden_system import HiddenSystem


_Carry = tuple[Stepped, Accumulator]


class ImplicitAverage(AbstractAverage):
    """Implicit Euler over growing steps (see `ImplicitStep`).

    A step is a system of n_L unknowns for every sample, solved by Broyden's method from the sample's own
    Jacobian (`OwnSteps`) or, with more than 16 outputs or feature maps, from that of the zero input
    (`SharedSteps`); of as many unknowns as the last hidden layer has neurons where a linear output layer is
    wider than that (`WideSteps`). It ends where e is known to 3e-4 of |e^-|; a sample of which one step is
    not within 20 iterations does not converge, and teaches nothing from then on.

    Right-rectangle sums of implicit Euler obey the integral identities of the linear ODE, so for small
    targets the average hardly depends on the steps. Larger ones (a nudge of 0.1, say) need short steps while
    the control overshoots at the start, and growing ones do it.

    **Arguments:**

    - `duration`: the length T of the trajectory, in units of tau_u.
    - `segments`: (steps, part of T) pairs: how many equal steps cover which part of the trajectory. The
      parts add up to 1. The default spends a quarter of its 24 steps on the first 4 % of the time.
    """

    duration: Scalar = number("duration", 10.0, above=0)
    segments: tuple[tuple[int, float], ...] = eqx.field(
        static=True, default=((6, 0.04), (8, 0.16), (10, 0.8))
    )

    def __check_init__(self) -> None:
        for count, part in self.segments:
            require(
                isinstance(count, int) and count >= 1 and part > 0,
                f"`segments` holds ({count}, {part}); steps must be whole, parts of the time above 0.",
            )
        total = sum(part for _, part in self.segments)
        require(
            math.isclose(total, 1),
            f"`segments` covers {total} of the trajectory; its parts must add up to 1.",
        )

    @compiled
    def __call__(
        self, loop: ClosedLoop, samples: Sample, key: PRNGKeyArray | None = None
    ) -> tuple[tuple[Layer, ...], Equilibrium]:
        del key
        require(loop.noise is None, "`noise` is given; ImplicitAverage has none, use PublishedAverage.")
        require(loop.tau_apical is None, "`tau_apical` is set; ImplicitAverage has no apical compartment.")
        dtype = samples.error.dtype
        duration = self.duration.astype(dtype)
        lengths = duration * jnp.asarray([part / n for n, part in self.segments], dtype)
        segment = jnp.asarray([i for i, (n, _) in enumerate(self.segments) for _ in range(n)])
        steps = _steps(loop, samples, lengths)

        def step(carry: _Carry, index: Array) -> tuple[_Carry, None]:
            before, total = carry
            after = steps.advance(before, index)
            change = instant_change(loop, samples, after.deviations)
            return (after, total.plus(lengths[index] / duration, change)), None

        start = steps.rest(), Accumulator.zero(loop, samples)
        (last, total), _ = jax.lax.scan(step, start, segment)
        final = last_state(loop, samples, last.controls, last.deviations, len(segment))
        return total.total(loop, samples), final


def _steps(loop: ClosedLoop, samples: Sample, lengths: Float[Array, " segments"]) -> AbstractSteps:
    """Those that take least time (benchmarks/scaling.py)."""
    if own_jacobians_pay(samples):
        return OwnSteps(loop=loop, samples=samples, lengths=lengths)
    create = WideSteps.create if HiddenSystem.fits(loop, samples) else SharedSteps.create
    return create(loop, samples, lengths)
