"""The discretisation of the published code, step for step.

With e[t] the error of state t, one step of length dt is (published `controller` functions)

    u_int[t+1] = u_int[t] + dt (e[t] - alpha u[t])                    u[t+1] = u_int[t+1] + k_p e[t]
    a_i[t+1]   = a_i[t] + dt / tau_a (-a_i[t] + Q_i u[s]) + sigma sqrt(dt) / tau_a N(0, 1)
    v_i[t+1]   = v_i[t] + dt / tau_v (v_ff_i + a_i[t+1] - v_i[t])

with s = t+1 for the proactive controller and t otherwise, and v_ff_i computed from r_{i-1}[t+1] (instant
transmission, layer after layer) or from r_{i-1}[t] (delayed transmission).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int, Key, PRNGKeyArray, PyTree

from dfc_jax._checks import check_key, require
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.states import Deviation, PerLayer, Sample, sweep
from dfc_jax._fields import count, flag, number, Part
from dfc_jax._numerics.arrays import cut, OutputVector, Scalar


class PublishedState(Part):
    """One state of the published simulation, as deviations from the feedforward state."""

    deviation: Deviation
    apical: PerLayer  # v_fb_i, its noise included
    compartment: PerLayer  # v_fb_i without filtered noise: what the low-pass holds
    integral: OutputVector
    control: OutputVector
    noise: PerLayer | None


class PublishedEuler(Part):
    """Forward Euler as in the published code.

    **Arguments:**

    - `dt`: step, in units of tau_u (the code's `dt_di`). Explicit Euler is stable only for small steps;
      the bound falls as a network trains (to about 0.03 at tau_v = 0.2 late in training).
    - `states`: number of states including the first (the code's `tmax_di`), so `states - 1` steps.
    - `instant_transmission`: whether a layer sees the new rates of the one before it in the same step.
    - `proactive`: whether the apical compartments see the new control in the same step.
    """

    dt: Scalar = number("dt", 0.02, above=0)
    states: int = count("states", 500, minimum=2)  # the first and one step
    instant_transmission: bool = flag("instant_transmission", True)
    proactive: bool = flag("proactive", True)

    def initial(self, loop: ClosedLoop, sample: Sample) -> PublishedState:
        """The feedforward state without control."""
        rest = Deviation.none(sample.feedforward.voltages)
        noise = loop.initial_state(sample).noise
        zero = jnp.zeros_like(sample.error)
        return PublishedState(rest, rest.voltage, rest.voltage, zero, zero, noise)

    def next_control(
        self, loop: ClosedLoop, state: PublishedState, sample: Sample
    ) -> tuple[OutputVector, OutputVector]:
        """u_int and u of the next state, which no noise of that step enters yet."""
        error = loop.output_error(sample, state.deviation.rate[-1])
        rate_of_integral = loop.controller.integral_rate(state.integral, state.control, error)
        integral = state.integral + self.dt * rate_of_integral
        return integral, loop.controller.control(integral, error)

    def step(
        self, loop: ClosedLoop, state: PublishedState, sample: Sample, draws: PerLayer | None = None
    ) -> PublishedState:
        """The next state. `draws` are this step's standard normal numbers, for a loop with noise."""
        integral, control = self.next_control(loop, state, sample)
        drive = loop.apical_input(sample, control if self.proactive else state.control)
        apical, compartment, noise = self._apical(loop, state, drive, draws)
        deviation = self._neurons(loop, state.deviation, sample, apical)
        return PublishedState(deviation, apical, compartment, integral, control, noise)

    def noisy_step(
        self, loop: ClosedLoop, state: PublishedState, sample: Sample, key: PRNGKeyArray, t: Int[Array, ""]
    ) -> PublishedState:
        """The next state under fresh noise, which depends on the sample's key and the step `t` alone."""
        voltages = sample.feedforward.voltages
        numbers = sum(v.size for v in voltages)
        draw = jr.normal(jr.fold_in(key, t), (numbers,), voltages[0].dtype)
        return self.step(loop, state, sample, cut(draw, [v.shape for v in voltages]))

    def fold(
        self,
        loop: ClosedLoop,
        samples: Sample,
        visit: Callable[[PyTree, PublishedState, PublishedState], PyTree],
        total: PyTree,
        *,
        key: PRNGKeyArray | None = None,
        first: PublishedState | None = None,
    ) -> tuple[PublishedState, PyTree]:
        """A batch's last states, and `total` after `total = visit(total, before, after)` in every step.

        `key` is for a loop with noise. The trajectories begin at `first`, by default without control.
        """
        require(
            loop.noise is None or key is not None, "`key` is None; a loop with noise draws it from a key."
        )
        keys = None if loop.noise is None or key is None else sample_keys(key, len(samples.error))
        of_all = lambda function, *more: jax.vmap(function, in_axes=(None, 0, *more))

        def step(carry: PyTree, t: Int[Array, ""]) -> tuple[PyTree, None]:
            before, total = carry
            if keys is None:
                after = of_all(self.step, 0)(loop, before, samples)
            else:
                after = of_all(self.noisy_step, 0, 0, None)(loop, before, samples, keys, t)
            return (after, visit(total, before, after)), None

        first = of_all(self.initial)(loop, samples) if first is None else first
        return jax.lax.scan(step, (first, total), jnp.arange(self.states - 1))[0]

    def _apical(
        self, loop: ClosedLoop, state: PublishedState, drive: PerLayer, draws: PerLayer | None
    ) -> tuple[PerLayer, PerLayer, PerLayer | None]:
        """The apical voltages, the low-passed part of them, and the state of filtered noise."""
        held = drive
        if loop.tau_apical is not None:
            follow = self.dt / loop.tau_apical
            held = tuple(a + follow * (q - a) for a, q in zip(state.compartment, drive, strict=True))
        if loop.noise is None:
            return held, held, None
        assert draws is not None
        sigmas = loop.noise.sigmas(len(drive))
        if loop.noise.filtered:
            assert state.noise is not None  # as `initial` sees to it
            tau = loop.noise.tau  # ty: ignore[missing-attribute]  # filtered noise has one
            decay, kick = 1 - self.dt / tau, jnp.sqrt(self.dt) / tau
            noise = tuple(decay * eps + kick * n for eps, n in zip(state.noise, draws, strict=True))
            return tuple(a + s * eps for a, s, eps in zip(held, sigmas, noise, strict=True)), held, noise
        assert loop.tau_apical is not None  # as checked at construction, under white noise
        kick = jnp.sqrt(self.dt) / loop.tau_apical
        held = tuple(a + s * kick * n for a, s, n in zip(held, sigmas, draws, strict=True))
        return held, held, None

    def _neurons(self, loop: ClosedLoop, old: Deviation, sample: Sample, apical: PerLayer) -> Deviation:
        """The somatic voltages after one step, layer by layer."""
        follow = self.dt / loop.tau_v
        layers, base = loop.network.layers, sample.feedforward.voltages
        settle = lambda i, basal: old.voltage[i] + follow * (basal + apical[i] - old.voltage[i])
        return sweep(layers, base, settle, None if self.instant_transmission else old.rate)

    def trajectory(self, loop: ClosedLoop, sample: Sample, draws: PerLayer | None = None) -> PublishedState:
        """All states of one sample, stacked along a first axis of length `states`.

        `draws` holds the noise of every step, `(states - 1, n_i)` for each layer.
        """
        first = self.initial(loop, sample)

        def advance(state: PublishedState, draw: PerLayer | None) -> tuple[PublishedState, PublishedState]:
            state = self.step(loop, state, sample, draw)
            return state, state

        _, later = jax.lax.scan(advance, first, draws, length=self.states - 1)
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, later)


def sample_keys(key: PRNGKeyArray, batch: int) -> Key[Array, " batch"]:
    """A key for each place in a batch, whatever the size of the batch."""
    check_key("key", key)
    return jax.vmap(lambda i: jr.fold_in(key, i))(jnp.arange(batch))
