"""Single-phase Strong-DFC (ICML 2022): forward and feedback weights learn at once, from one noisy trajectory.

Ornstein-Uhlenbeck noise eps_i in every layer makes the control fluctuate. A low-pass splits the control,

    tau_filter du_slow/dt = -u_slow + u,      u_fast = u - u_slow:

the slow part carries the target, the fast one answers the noise. Over a trajectory of K steps

    dW_i  ~  mean over k of (phi_i(v_i) - phi_i(v_ff_i)) r_(i-1)^T
    dQ_i  ~  -(1 + tau_v / tau_noise)^(L-i) / sigma_i^2  mean over k of v_fb_i[k] u_fast[k+1]^T,

where the factor of layer i makes up for the low-pass of the voltages between it and the output. As in the
published code the low-pass begins at the first computed control, u_slow[1] = u[1]: from zero it would take
long to recover. Both means are accumulated: memory does not grow with K.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from dfc_jax._average.base import Accumulator, instant_change
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.controller import AbstractController, PIController
from dfc_jax._dynamics.losses import AbstractLoss, CrossEntropy
from dfc_jax._dynamics.noise import FilteredNoise
from dfc_jax._dynamics.published import PublishedEuler, PublishedState
from dfc_jax._dynamics.states import PerLayer, Sample
from dfc_jax._dynamics.targets import AbstractTarget, Clamp
from dfc_jax._dynamics.teaching import feedback_change
from dfc_jax._fields import default, number
from dfc_jax._methods.base import batch_report, Report
from dfc_jax._methods.single_phase import AbstractSinglePhase
from dfc_jax._network.feedback import FeedbackWeights, learnable
from dfc_jax._network.layer import Layer
from dfc_jax._network.network import Network
from dfc_jax._network.plasticity import AbstractTeachingSignal, RateDifference
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs, Scalar
from dfc_jax._numerics.choose import choose
from dfc_jax._numerics.compiled import compiled
from dfc_jax._steady_state.base import AbstractEquilibrium, Equilibrium, last_state
from dfc_jax._steady_state.broyden import Broyden


class StrongDFC(AbstractSinglePhase):
    """Single-phase Strong-DFC. Its update is one of forward and feedback weights.

    **Arguments:**

    - `controller`, `target`, `loss`, `noise`, `tau_v`: of the closed loop. With `Nudge` for its target it is
      a single-phase DFC with weak feedback.
    - `tau_filter`: time constant of the low-pass that splits the control.
    - `scheme`: the discretisation, and how long the trajectory is.
    - `start`: an equilibrium strategy, whose steady state the trajectory starts at: only the noise is left
      in it, so that it can be short. u_fast is then paired with the v_fb of the same time, which bears steps
      of half of tau_v, as the pairing above does not. Converged means that the steady state was found. None
      starts at the feedforward state: the published code, step for step but for its factors (a gradient's
      sign and size here; it divides by max(sigma, 0.01)^2). The control that then builds up is fast, too,
      and biases v_fb u_fast^T; converged means that the control error has fallen below half of what it was.
    - `teaching`: what the forward weights learn from, rates or voltages.

    The time scales must be ordered, dt << tau_v, tau_noise << tau_filter << tau_u = 1: `doubts` says where
    they are not. For small noise `LinearisedStrongDFC` draws the same updates, several times faster.
    """

    controller: AbstractController = default(PIController)
    target: AbstractTarget = default(Clamp, 0.99)
    loss: AbstractLoss = CrossEntropy()
    noise: FilteredNoise = default(FilteredNoise, 0.005, tau=0.05, sigma_output=0.03)
    tau_v: Scalar = number("tau_v", 0.02, above=0)
    tau_filter: Scalar = number("tau_filter", 0.25, above=0)
    scheme: PublishedEuler = default(PublishedEuler, dt=0.004, states=128)
    start: AbstractEquilibrium | None = default(Broyden)
    teaching: AbstractTeachingSignal = RateDifference()

    @compiled
    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Network, Report]:
        if key is None:
            raise ValueError("`key` is None; StrongDFC draws its noise from a key.")
        loop = self.loop(model)
        samples = loop.samples(x, y)
        layers, feedback, final = self._trajectory(loop, samples, key)
        change = jax.tree.map(lambda w: -w / (len(y) * self.target.unit()), layers)
        factors = self.feedback_factors(len(feedback), len(y))
        feedback = tuple(factor * Q for factor, Q in zip(factors, feedback, strict=True))
        update = Network(change, FeedbackWeights(feedback))
        return update, batch_report(self.loss, samples, y, final)

    def _trajectory(
        self, loop: ClosedLoop, samples: Sample, key: PRNGKeyArray
    ) -> tuple[tuple[Layer, ...], PerLayer, Equilibrium]:
        """The mean of the forward rule and the sum of v_fb u_fast^T, summed over the batch, and the end."""
        weights = learnable(loop.network.feedback, FeedbackWeights, "StrongDFC").weights
        share, part = self.scheme.dt / self.tau_filter, 1 / self.scheme.states

        def add(carry: PyTree, before: PublishedState, after: PublishedState) -> PyTree:
            slow, forward, feedback = carry
            slow = slow + share * (after.control - slow)
            paired = before if self.start is None else after
            change = feedback_change(paired.apical, after.control - slow)
            feedback = jax.tree.map(jnp.add, feedback, change)
            return slow, forward.plus(part, instant_change(loop, samples, after.deviation)), feedback

        first, found = self._first(loop, samples)
        nothing = jax.tree.map(jnp.zeros_like, weights)
        forward = Accumulator.zero(loop, samples)
        if self.start is not None:
            forward = forward.plus(part, instant_change(loop, samples, first.deviation))
        _, slow = jax.vmap(self.scheme.next_control, in_axes=(None, 0, 0))(loop, first, samples)
        carry = slow, forward, nothing
        last, (_, forward, feedback) = self.scheme.fold(loop, samples, add, carry, key=key, first=first)
        final = last_state(loop, samples, last.control, last.deviation, self.scheme.states - 1)
        if found is not None:  # small target errors drown in the noise without anything having failed
            fine = found.converged & jnp.isfinite(final.residual)
            final = eqx.tree_at(lambda f: f.converged, final, fine)
        return forward.total(loop, samples), feedback, final

    def _first(self, loop: ClosedLoop, samples: Sample) -> tuple[PublishedState, Equilibrium | None]:
        """The feedforward states, or the steady states where `start` finds them, and what it has found."""
        first = jax.vmap(self.scheme.initial, in_axes=(None, 0))(loop, samples)
        if self.start is None:
            return first, None
        found = self.start(loop, samples)
        settled = jax.vmap(_settled, in_axes=(None, 0, 0, 0))(loop, samples, first, found)
        return choose(found.converged, settled, first), found


def _settled(loop: ClosedLoop, sample: Sample, first: PublishedState, found: Equilibrium) -> PublishedState:
    """A steady state as a state of the published scheme, without noise yet."""
    error = loop.output_error(sample, found.deviation.rate[-1])
    integral = loop.controller.integral(found.control, error)
    apical = loop.apical_input(sample, found.control)
    parts = lambda s: (s.deviation, s.apical, s.compartment, s.integral, s.control)
    return eqx.tree_at(parts, first, (found.deviation, apical, apical, integral, found.control))
