"""The closed loop of network and controller, for one sample, in deviation form.

Every state is a deviation from the sample's feedforward state, where the control is zero: d_i = v_i - v_i^-.
The equations are those of the NeurIPS paper (eqs. 1-5) with the feedforward terms subtracted exactly:

    tau_v dd_i/dt = -d_i + c_i + a_i       c_i = linear part of f_i applied to rho_{i-1}  (basal, rho_0 = 0)
    a_i = Q_i u  or  tau_a da_i/dt = -a_i + Q_i u  (apical), plus noise where there is any
    rho_i = phi_i(v_i^- + d_i) - phi_i(v_i^-)
    e = e^- - (change of the error by rho_L),  u = u_int + k_p e,  du_int/dt = e - alpha (u or u_int)

Time is in units of the controller's time constant, tau_u = 1.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from dfc_jax._checks import require
from dfc_jax._dynamics.controller import AbstractController, PIController
from dfc_jax._dynamics.losses import AbstractLoss, CrossEntropy
from dfc_jax._dynamics.noise import AbstractNoise, check_compartment
from dfc_jax._dynamics.readout import AbstractReadout
from dfc_jax._dynamics.states import at_rest, Deviation, LoopState, PerLayer, Sample
from dfc_jax._dynamics.targets import AbstractTarget, Nudge
from dfc_jax._fields import check_parts, default, number, Part
from dfc_jax._network.layer import swept_forward
from dfc_jax._network.network import as_batch, float_type, Network
from dfc_jax._network.plasticity import AbstractTeachingSignal, RateDifference
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs, OutputMatrix, OutputVector, Scalar
from dfc_jax._numerics.compiled import compiled
from dfc_jax._numerics.finite import is_finite


class ClosedLoop(Part):
    """A network under control. Arrays here may be swept without recompiling.

    **Arguments:**

    - `network`, `controller`, `target`, `loss`: the parts.
    - `tau_v`: time constant of the somatic voltages, in units of tau_u.
    - `tau_apical`: time constant of the apical compartment; None means that it follows Q_i u at once.
    - `noise`: `WhiteNoise` (needs `tau_apical`), `FilteredNoise`, or None.
    - `teaching`: what the forward weights learn from. The dynamics do not depend on it.
    """

    network: Network
    controller: AbstractController = default(PIController)
    target: AbstractTarget = default(Nudge)
    loss: AbstractLoss = CrossEntropy()
    tau_v: Scalar = number("tau_v", 0.2, above=0)
    tau_apical: Scalar | None = number("tau_apical", None, above=0)
    noise: AbstractNoise | None = None
    teaching: AbstractTeachingSignal = RateDifference()

    def __check_init__(self) -> None:
        check_parts(self)
        check_compartment(self.noise, self.tau_apical)

    @property
    def readout(self) -> AbstractReadout:
        """What of the output the controller compares with its target."""
        return self.target.readout(self.loss)

    def sample(self, x: Float[Array, "*inputs"], y: OutputVector) -> Sample:
        """The feedforward pass of one input, its target error and what its feedback keeps of it."""
        dtype = float_type(self.network)
        x, y = jnp.asarray(x, dtype), jnp.asarray(y, dtype)
        feedforward = self.network.feedforward(x)
        shape, wanted = jnp.shape(y), feedforward.output.shape
        require(
            shape == wanted and len(wanted) == 1,
            f"`y` has shape {shape}, the output {wanted}; both must be (outputs,). For batches: jax.vmap.",
        )
        error = self.target.initial_error(self.loss, feedforward.output, y)
        # An activation may hide from the output, but not from its voltage, that the input is not finite.
        error = jnp.where(is_finite((feedforward.voltages[0], error)), error, jnp.nan)
        kept = self.network.feedback.kept(self.network.layers, feedforward.voltages)
        return Sample(feedforward, kept, error)

    @compiled
    def samples(self, x: BatchInputs, y: BatchOutputs) -> Sample:
        """Those of a batch. **Raises:** `ValueError` unless `x` and `y` are a batch of the network's."""
        return jax.vmap(self.sample)(*as_batch(self.network, x, y))

    def feedback(self, sample: Sample) -> tuple[Float[Array, "... out"], ...]:
        """Q_i of every layer for this sample."""
        return self.network.feedback.every_matrix(self.network.layers, sample.feedback)

    def apical_input(self, sample: Sample, control: OutputVector) -> PerLayer:
        """Q_i u of every layer."""
        return self.network.feedback.carried(self.network.layers, sample.feedback, control)

    def output_error(self, sample: Sample, output_change: OutputVector) -> OutputVector:
        """The control error e when the output is r_L^- + output_change."""
        return sample.error - self.readout.difference(sample.feedforward.output, output_change)

    def rate_changes(self, sample: Sample, voltage: PerLayer) -> PerLayer:
        """rho_i of every layer from the voltage deviations d_i."""
        layers, base = self.network.layers, sample.feedforward.voltages
        return tuple(l.activation.difference(v, d) for l, v, d in zip(layers, base, voltage, strict=True))

    def basal(self, rate: PerLayer) -> PerLayer:
        """c_i of every layer from the rate changes rho_i; the input, so c_1, does not change."""
        first = jax.eval_shape(self.network.layers[0].activation, rate[0])
        later = tuple(l.linear(rho) for l, rho in zip(self.network.layers[1:], rate[:-1], strict=True))
        return (jnp.zeros(first.shape, first.dtype), *later)

    def initial_state(self, sample: Sample) -> LoopState:
        """The feedforward state without control, where the papers start every simulation."""
        rest = tuple(jnp.zeros_like(v) for v in sample.feedforward.voltages)
        apical = None if self.tau_apical is None else rest
        noise = rest if self.noise is not None and self.noise.filtered else None
        return LoopState(rest, jnp.zeros_like(sample.error), apical, noise)

    def apical(self, state: LoopState, drive: PerLayer) -> PerLayer:
        """v_fb_i: the apical voltages, given `drive` = Q_i u."""
        voltage = drive if state.apical is None else state.apical
        if self.noise is None or state.noise is None:
            return voltage
        sigmas = self.noise.sigmas(len(voltage))
        return tuple(a + s * eps for a, s, eps in zip(voltage, sigmas, state.noise, strict=True))

    def vector_field(self, t: Scalar, state: LoopState, sample: Sample) -> LoopState:
        """d(state)/dt without the noise, with the signature Diffrax expects (`sample` is its `args`)."""
        del t
        rate = self.rate_changes(sample, state.voltage)
        error = self.output_error(sample, rate[-1])
        control = self.controller.control(state.integral, error)
        drive = self.apical_input(sample, control)
        arriving = zip(self.basal(rate), self.apical(state, drive), state.voltage, strict=True)
        voltage = tuple((c + a - d) / self.tau_v for c, a, d in arriving)
        integral = self.controller.integral_rate(state.integral, control, error)
        apical = noise = None
        if state.apical is not None and self.tau_apical is not None:
            apical = tuple((q - a) / self.tau_apical for q, a in zip(drive, state.apical, strict=True))
        if state.noise is not None:
            tau = self.noise.tau  # ty: ignore[missing-attribute]  # filtered noise has one
            noise = tuple(-eps / tau for eps in state.noise)
        return LoopState(voltage, integral, apical, noise)

    def diffusion(self, t: Scalar, state: LoopState, sample: Sample) -> lx.FunctionLinearOperator:
        """The linear map from Wiener increments (one for each neuron) to increments of the state."""
        del t, sample
        loop_noise, tau = self.noise, self.tau_apical
        assert loop_noise is not None  # or there is nothing to diffuse
        still = jax.tree.map(jnp.zeros_like, state)

        def push(increments: PerLayer) -> LoopState:
            if loop_noise.filtered:
                tau_noise = loop_noise.tau  # ty: ignore[missing-attribute]  # filtered noise has one
                return eqx.tree_at(lambda s: s.noise, still, tuple(w / tau_noise for w in increments))
            assert tau is not None  # as checked at construction
            sigmas = loop_noise.sigmas(len(increments))
            apical = tuple(s * w / tau for s, w in zip(sigmas, increments, strict=True))
            return eqx.tree_at(lambda s: s.apical, still, apical)

        return lx.FunctionLinearOperator(push, jax.eval_shape(lambda: state.voltage))

    def control(self, state: LoopState, sample: Sample) -> OutputVector:
        """The control u that belongs to a state of the dynamics."""
        return self.controller.control(state.integral, self.error(state, sample))

    def error(self, state: LoopState, sample: Sample) -> OutputVector:
        """The control error e that belongs to a state of the dynamics."""
        return self.output_error(sample, self.rate_changes(sample, state.voltage)[-1])

    def deviation(self, state: LoopState, sample: Sample) -> Deviation:
        """Voltages, basal inputs and rates that belong to a state of the dynamics."""
        rate = self.rate_changes(sample, state.voltage)
        return Deviation(state.voltage, self.basal(rate), rate)

    def sweep(self, sample: Sample, apical: PerLayer) -> Deviation:
        """The network at rest under apical input a_i."""
        return at_rest(self.network.layers, sample.feedforward.voltages, apical)

    def controlled(self, sample: Sample, control: OutputVector) -> Deviation:
        """The network at rest under a constant control."""
        return self.sweep(sample, self.apical_input(sample, control))

    def residual(self, sample: Sample, control: OutputVector, deviation: Deviation) -> OutputVector:
        """F(u) = e - a u for the network at rest under u: zero at a steady state."""
        return self.output_error(sample, deviation.rate[-1]) - self.controller.steady_state_leak() * control

    def equations(self, sample: Sample, unknown: OutputVector, output_change: OutputVector) -> OutputVector:
        """The equations of the steady state in the readout's form; the controls of their roots are those of
        F's."""
        leak, output = self.controller.steady_state_leak(), sample.feedforward.output
        return self.readout.equations(output, sample.error, output_change, unknown, leak)

    def control_of(self, sample: Sample, unknown: OutputVector) -> OutputVector:
        """The control that belongs to the unknowns of `equations`."""
        leak, output = self.controller.steady_state_leak(), sample.feedforward.output
        return self.readout.control(output, sample.error, unknown, leak)

    def relative_residual(self, sample: Sample, control: OutputVector, deviation: Deviation) -> Scalar:
        """|F(u)| / |e^-| for the network at rest under u."""
        return jnp.linalg.norm(self.residual(sample, control, deviation)) / sample.scale

    def output_gain(self, sample: Sample, voltage: PerLayer | None = None) -> OutputMatrix:
        """J Q: how the output moves with the control, to first order, in the feedforward state.

        With `voltage`, in the state displaced by those deviations. It is pushed forward through the layers
        as n_L tangents.
        """
        base = sample.feedforward.voltages
        at = base if voltage is None else tuple(v + d for v, d in zip(base, voltage, strict=True))
        slopes, columns = self.network.slopes(at), [jnp.moveaxis(Q, -1, 0) for Q in self.feedback(sample)]
        return jax.vmap(lambda arriving: swept_forward(self.network.layers, slopes, arriving))(columns).T

    def gain_along(self, sample: Sample, slopes: PerLayer, control: OutputVector) -> OutputVector:
        """(E J Q + a I) u in the feedforward state, whose `slopes` these are: one tangent, and no matrix."""
        change = swept_forward(self.network.layers, slopes, self.apical_input(sample, control))
        of_error = self.error_gain(sample, change[:, None], jnp.zeros_like(change))[:, 0]
        return of_error + self.controller.steady_state_leak() * control

    def error_gain(
        self, sample: Sample, gain: Float[Array, "out n"], change: OutputVector
    ) -> Float[Array, "out n"]:
        """E G: how the error falls when the output, displaced by `change`, moves as G = `gain` says.

        E is the derivative of the readout by the output: the identity for `Nudge`.
        """
        return self.readout.gain(sample.feedforward.output, change, gain)

    def gain(self, sample: Sample, deviation: Deviation | None = None) -> OutputMatrix:
        """-dF/du = E J Q + a I, in the feedforward state or in a controlled one. Condition 3 asks that its
        eigenvalues have positive real parts (NeurIPS paper, Prop. 5)."""
        if deviation is None:
            voltage, change = None, jnp.zeros_like(sample.error)
        else:
            voltage, change = deviation.voltage, deviation.rate[-1]
        gain = self.error_gain(sample, self.output_gain(sample, voltage), change)
        return gain + self.controller.steady_state_leak() * jnp.eye(gain.shape[0], dtype=gain.dtype)

    def layer_gains(self, sample: Sample) -> tuple[OutputMatrix, ...]:
        """E J_i Q_i of each layer alone, in the feedforward state; their sum is E J Q."""
        jacobian = self.network.jacobian(sample.feedforward.voltages)
        still = jnp.zeros_like(sample.error)
        through = (
            jnp.tensordot(J, Q, axes=(tuple(range(1, J.ndim)), tuple(range(Q.ndim - 1))))
            for J, Q in zip(jacobian, self.feedback(sample), strict=True)
        )
        return tuple(self.error_gain(sample, gain, still) for gain in through)
