"""The expected update of the sleep phase, in closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from dfc_jax._checks import require, zero_unless_finite
from dfc_jax.closed_loop import ClosedLoop, PerLayer, Sample
from dfc_jax.controller import AbstractController, PIController
from dfc_jax.losses import AbstractLoss, CrossEntropy
from dfc_jax.network import Network
from dfc_jax.noise import AbstractNoise, WhiteNoise
from dfc_jax.published import PublishedEuler
from dfc_jax.sleep import AbstractSleepPhase, optional_time_constant
from dfc_jax.targets import AbstractTarget, Rest


class ExpectedSleepPhase(AbstractSleepPhase):
    """The mean over all noise of the update that `SleepPhase` draws once, for small noise.

    The scheme is linear in deviations as small as the noise. Multiplied by J_i = dr_L/dv_i it closes in n_L
    dimensions a layer, whatever the width:

        z_i = J_i d_i,   z_i' = z_i + dt / tau_v (z_(i-1) + J_i Q_i l + J_i N_i - z_i),   e = -z_L,

    where l is the control as the apical compartments see it and N_i their noise, N_i' = g N_i + kappa_i xi.
    With R_i[k] and S_i[k] the responses of u and of l, k steps later, to a unit of J_i N_i,

        sum over t of E[v_fb_i[t] u[t+1]^T] = J_i^T C_i + Q_i D,
        C_i = kappa_i^2 sum_k (steps - k) g^(k-1) R_i[k]^T,
        D = sum_i kappa_i^2 sum_k (steps - k) S_i[k-1] J_i J_i^T R_i[k]^T.

    All arguments are those of `SleepPhase`, of which this is the mean over infinitely many keys; `key` is
    not used. The target must be `Rest()`.
    """

    controller: AbstractController = PIController(k_p=0.1, alpha=0.25)
    noise: AbstractNoise = WhiteNoise(0.01)
    tau_v: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.01)
    tau_apical: Float[Array, ""] | None = eqx.field(converter=optional_time_constant, default=0.3)
    scheme: PublishedEuler = PublishedEuler(dt=0.002, states=50, proactive=False)
    target: AbstractTarget = Rest()
    loss: AbstractLoss = CrossEntropy()

    def __call__(
        self,
        model: Network,
        x: Float[Array, "batch ..."],
        y: Float[Array, "batch out"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Network:
        """The update, shaped like `model` and zero in its forward weights.

        A sample whose state is not finite contributes nothing.
        """
        del key
        require(
            isinstance(self.target, Rest),
            f"`target` is {type(self.target).__name__}; ExpectedSleepPhase needs Rest, use SleepPhase.",
        )
        loop = self._loop(model)
        samples = jax.vmap(loop.sample)(x, y)
        jacobians, C, D = jax.vmap(self._moments, in_axes=(None, 0))(loop, samples)
        D = jnp.sum(D, axis=0)
        total = tuple(
            jnp.tensordot(J, C[:, i], axes=((0, 1), (0, 1))) + jnp.tensordot(Q, D, axes=(-1, 0))
            for i, (J, Q) in enumerate(zip(jacobians, model.feedback.weights, strict=True))
        )
        return self._normalised(model, total, len(x))

    def _moments(
        self, loop: ClosedLoop, sample: Sample
    ) -> tuple[PerLayer, Float[Array, "layers out out"], Float[Array, "out out"]]:
        """J_i, C_i and D of one sample; zeros if it is not finite.

        Propagating the noise of every neuron would take n_L columns a layer. Its adjoint takes n_L rows in
        all: u k steps later, as a function of the state now, and so of the noise of every layer now.
        """
        jacobians = loop.network.jacobian(sample.feedforward.voltages)
        rows = [J.reshape(len(J), -1) for J in jacobians]
        inputs = [Q.reshape(-1, Q.shape[-1]) for Q in loop.feedback(sample)]
        gains = jnp.stack([J @ Q for J, Q in zip(rows, inputs, strict=True)])
        decay, kappas = self._noise_steps(len(rows))
        variances = (kappas**2)[:, None, None]
        grams = variances * jnp.stack([J @ J.T for J in rows])
        none = jnp.zeros(gains.shape[:2], gains.dtype)
        still = _Chain(none, none, none[0], none[0], none[0])
        step = lambda chain, kicks: self._step(loop.controller, gains, decay, chain, kicks)
        transposed = jax.linear_transpose(step, still, none)

        def earlier(carry: PyTree, lag: Float[Array, ""]) -> tuple[PyTree, None]:
            functional, before, held, C, D = carry
            functional, R = jax.vmap(transposed, out_axes=(0, 1))(functional)
            left = self.scheme.states - 1 - lag
            C = C + left * decay ** jnp.maximum(lag - 1, 0) * R  # R[0] is zero
            D = D + left * jnp.sum(held @ grams @ jnp.swapaxes(R, 1, 2), axis=0)
            return (functional, R, self._seen(held, R, before), C, D), None

        zero = jnp.zeros_like(gains)
        control = self._control_itself(gains)
        lags = jnp.arange(self.scheme.states - 1, dtype=gains.dtype)
        start = (control, zero, zero, zero, zero[0])
        (_, _, _, C, D), _ = jax.lax.scan(earlier, start, lags)
        moments = jacobians, variances * jnp.swapaxes(C, 1, 2), D
        return jax.tree.map(lambda leaf: jnp.where(sample.finite, leaf, 0), zero_unless_finite(moments))

    def _noise_steps(self, layers: int) -> tuple[Float[Array, ""], Float[Array, " layers"]]:
        """g and the kappa of each layer."""
        tau, dt = self.noise.tau if self.noise.filtered else self.tau_apical, self.scheme.dt
        return 1 - dt / tau, jnp.stack(self.noise.sigmas(layers)) * jnp.sqrt(dt) / tau

    def _control_itself(self, gains: Float[Array, "layers out out"]) -> "_Chain":
        """u as n_L functionals of the chain's state."""
        layers, outputs, _ = gains.shape
        none = jnp.zeros((outputs, layers, outputs), gains.dtype)
        return _Chain(none, none, none[:, 0], jnp.eye(outputs, dtype=gains.dtype), none[:, 0])

    def _seen(
        self,
        held: Float[Array, "layers out out"],
        R: Float[Array, "layers out out"],
        before: Float[Array, "layers out out"],
    ) -> Float[Array, "layers out out"]:
        """S[k] from S[k-1], R[k] and R[k-1]: a step late unless proactive, low-passed in a compartment."""
        drive = R if self.scheme.proactive else before
        if self.tau_apical is None:
            return drive
        return held + self.scheme.dt / self.tau_apical * (drive - held)

    def _step(
        self,
        controller: AbstractController,
        gains: Float[Array, "layers out out"],
        decay: Float[Array, ""],
        chain: "_Chain",
        kicks: Float[Array, "layers out"],
    ) -> "_Chain":
        """One step of `PublishedEuler` in z: linear in the chain and in the kicks J_i kappa_i xi_i."""
        scheme = self.scheme
        error = -chain.z[-1]
        rate = controller.integral_rate(chain.integral, chain.control, error)
        integral = chain.integral + scheme.dt * rate
        control = controller.control(integral, error)
        seen = control if scheme.proactive else chain.control
        if self.tau_apical is not None:
            seen = chain.seen + scheme.dt / self.tau_apical * (seen - chain.seen)
        noise = decay * chain.noise + kicks
        arriving = gains @ seen + noise
        z, follow = [], scheme.dt / self.tau_v
        for i in range(len(gains)):
            basal = (z if scheme.instant_transmission else chain.z)[i - 1] if i else jnp.zeros_like(error)
            z.append(chain.z[i] + follow * (basal + arriving[i] - chain.z[i]))
        return _Chain(jnp.stack(z), noise, integral, control, seen)


class _Chain(eqx.Module):
    """The state of the linearised scheme, seen from the output; or n_L linear functions of it."""

    z: Float[Array, "... layers out"]  # J_i d_i
    noise: Float[Array, "... layers out"]  # J_i N_i
    integral: Float[Array, "... out"]
    control: Float[Array, "... out"]
    seen: Float[Array, "... out"]  # l
