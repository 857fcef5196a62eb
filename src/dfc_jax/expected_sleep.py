"""The expected update of the sleep phase, in closed form."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from dfc_jax._checks import require, zero_unless_finite
from dfc_jax._fields import default, number
from dfc_jax.closed_loop import ClosedLoop, PerLayer, Sample
from dfc_jax.controller import AbstractController, PIController
from dfc_jax.losses import AbstractLoss, CrossEntropy
from dfc_jax.network import check_batch, Network
from dfc_jax.noise import AbstractNoise, WhiteNoise
from dfc_jax.published import PublishedEuler
from dfc_jax.sleep import AbstractNoisePhase
from dfc_jax.targets import AbstractTarget, Rest


class ExpectedSleepPhase(AbstractNoisePhase):
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

    controller: AbstractController = default(PIController, k_p=0.1, alpha=0.25)
    noise: AbstractNoise = default(WhiteNoise, 0.01)
    tau_v: Float[Array, ""] = number("tau_v", 0.01, above=0)
    tau_apical: Float[Array, ""] | None = number("tau_apical", 0.3, above=0, optional=True)
    scheme: PublishedEuler = default(PublishedEuler, dt=0.002, states=50, proactive=False)
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
        check_batch(model, x, y)
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
        gains = jnp.concatenate([J @ Q for J, Q in zip(rows, inputs, strict=True)])
        decay, kappas = self._noise_steps(len(rows))
        grams = [kappa**2 * (J @ J.T) for kappa, J in zip(kappas, rows, strict=True)]

        def earlier(carry: PyTree, lag: Float[Array, ""]) -> tuple[PyTree, None]:
            functional, held, C, D = carry
            before, functional = functional.R, self._earlier(loop.controller, gains, decay, functional)
            R, left = functional.R, self.scheme.states - 1 - lag
            weight = left * decay ** jnp.maximum(lag - 1, 0)  # R[0] is zero
            C = tuple(c + weight * r for c, r in zip(C, R, strict=True))
            spread = jnp.concatenate([S @ gram for S, gram in zip(held, grams, strict=True)], axis=1)
            D = D + left * spread @ jnp.concatenate(R, axis=1).T
            held = tuple(self._seen(S, r, b) for S, r, b in zip(held, R, before, strict=True))
            return (functional, held, C, D), None

        zero = jnp.zeros_like(grams[0])
        zeros = (zero,) * len(rows)
        control = _Functional(zeros, zeros, zero, jnp.eye(len(zero), dtype=zero.dtype), zero)
        lags = jnp.arange(self.scheme.states - 1, dtype=zero.dtype)
        (_, _, C, D), _ = jax.lax.scan(earlier, (control, zeros, zeros, zero), lags)
        C = jnp.stack([kappa**2 * c.T for kappa, c in zip(kappas, C, strict=True)])
        return jax.tree.map(
            lambda leaf: jnp.where(sample.finite, leaf, 0), zero_unless_finite((jacobians, C, D))
        )

    def _noise_steps(self, layers: int) -> tuple[Float[Array, ""], Float[Array, " layers"]]:
        """g and the kappa of each layer."""
        tau, dt = self.noise.tau if self.noise.filtered else self.tau_apical, self.scheme.dt
        return 1 - dt / tau, jnp.stack(self.noise.sigmas(layers)) * jnp.sqrt(dt) / tau

    def _seen(
        self, held: Float[Array, "..."], new: Float[Array, "..."], before: Float[Array, "..."]
    ) -> Array:
        """What compartments hold after `held`: the control, a step late unless proactive, low-passed."""
        drive = new if self.scheme.proactive else before
        if self.tau_apical is None:
            return drive
        return held + self.scheme.dt / self.tau_apical * (drive - held)

    def _earlier(
        self,
        controller: AbstractController,
        gains: Float[Array, "all_out out"],
        decay: Float[Array, ""],
        functional: "_Functional",
    ) -> "_Functional":
        """The same functionals of the state one step of `PublishedEuler` before: the step's transpose."""
        follow = self.scheme.dt / self.tau_v
        z, instant = list(functional.z), self.scheme.instant_transmission
        for i in range(len(z) - 1, 0, -1) if instant else ():
            z[i - 1] = z[i - 1] + follow * z[i]
        R = tuple(decay * r + follow * z_i for r, z_i in zip(functional.R, z, strict=True))
        seen = functional.seen + follow * jnp.concatenate(z, axis=1) @ gains
        control = functional.integral, functional.control, seen
        (integral, control, seen), error = jax.vmap(self._controller_transposed(controller, seen[0]))(control)
        kept = [(1 - follow) * z_i for z_i in z]
        for i in () if instant else range(len(z) - 1):
            kept[i] = kept[i] + follow * z[i + 1]
        kept[-1] = kept[-1] - error
        return _Functional(tuple(kept), R, integral, control, seen)

    def _controller_transposed(
        self, controller: AbstractController, shape: Float[Array, " out"]
    ) -> Callable[[PyTree], PyTree]:
        """The transpose of a step of the controller and of what the apical compartments see of it."""
        dt = self.scheme.dt

        def step(state: PyTree, error: Float[Array, " out"]) -> PyTree:
            integral, control, seen = state
            integral = integral + dt * controller.integral_rate(integral, control, error)
            control, before = controller.control(integral, error), control
            return integral, control, self._seen(seen, control, before)

        return jax.linear_transpose(step, (shape, shape, shape), shape)


class _Functional(eqx.Module):
    """n_L linear functionals of the scheme's state, one a row, by their coefficients."""

    z: tuple[Float[Array, "out out"], ...]  # of J_i d_i
    R: tuple[Float[Array, "out out"], ...]  # of the J_i N_i that enter the step
    integral: Float[Array, "out out"]
    control: Float[Array, "out out"]
    seen: Float[Array, "out out"]  # of l
