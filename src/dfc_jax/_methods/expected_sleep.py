"""The expected update of the sleep phase, in closed form."""

from functools import reduce
from operator import add

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from dfc_jax._dynamics.small_noise import SmallNoise
from dfc_jax._dynamics.states import Deviation, PerLayer, Sample
from dfc_jax._methods.sleep import AbstractSmallNoisePhase
from dfc_jax._network.network import Network
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs, OutputVector, Scalar
from dfc_jax._numerics.compiled import compiled
from dfc_jax._numerics.finite import zero_unless_finite


MAX_TERMS = 20  # of an elementwise matrix product: with more, XLA takes longer than one by one


class ExpectedSleepPhase(AbstractSmallNoisePhase):
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

    With an optimiser whose step is no linear function of the update, as Adam's, learning from the mean is
    another rule than learning from draws: what Adam divides by then has no noise in it, and the feedback
    weights grow larger and elsewhere.
    """

    @compiled
    def __call__(
        self,
        model: Network,
        x: BatchInputs,
        y: BatchOutputs,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Network:
        """The update, shaped like `model` and zero in its forward weights.

        A sample whose state is not finite contributes nothing.
        """
        del key
        small = self._small_noise(model)
        samples = small.loop.samples(x, y)
        jacobians, C, D = self._moments(small, samples)
        D = jnp.sum(D, axis=-1)
        total = []
        for J, c, Q in zip(jacobians, C, small.loop.feedback(samples), strict=True):
            pairs = jnp.reshape(c.T, (-1, len(c)))  # of samples and outputs, as the rows of J
            # The other way round takes twice as long; XLA turns round what is transposed at once.
            transposed = pairs.T @ jnp.reshape(J, (len(pairs), -1)) + D.T @ jnp.reshape(Q, (-1, len(D))).T
            total.append(jnp.reshape(transposed.T, Q.shape))
        return self._normalised(model, tuple(total), len(x))

    def _moments(
        self, small: SmallNoise, samples: Sample
    ) -> tuple[PerLayer, Float[Array, "layers out out batch"], Float[Array, "out out batch"]]:
        """J_i, with the batch first, C_i^T and D; zeros for samples that are not finite.

        Propagating the noise of every neuron would take n_L columns a layer. Its adjoint takes n_L rows in
        all: u k steps later, as a function of the state now, and so of the noise of every layer now.
        """
        products = jax.vmap(small.products, out_axes=(0, -1, -1, -1))
        still = Deviation.none(samples.feedforward.voltages)
        jacobians, gains, grams, _ = products(samples, still)  # whose E is the identity
        decay, kappas = small.noise_steps()
        variances = kappas[:, None, None, None] ** 2
        grams = variances * grams

        def earlier(carry: PyTree, lag: Scalar) -> tuple[PyTree, None]:
            functional, fed, held, C, D = carry
            before, functional = functional.R, self._earlier(small, gains, decay, functional, fed)
            R, left = functional.R, self.scheme.states - 1 - lag
            C = C + left * decay ** jnp.maximum(lag - 1, 0) * R  # R[0] is zero
            D = D + left * _summed(_product(held, grams), jnp.swapaxes(R, 1, 2))
            fed = _summed(functional.z, gains)
            return (functional, fed, small.seen(held, R, before), C, D), None

        zero, zeros = jnp.zeros_like(grams[0]), jnp.zeros_like(grams)
        identity = jnp.broadcast_to(jnp.eye(len(zero), dtype=zero.dtype)[..., None], zero.shape)
        control = _Functional(zeros, zeros, zero, identity, zero)
        lags = jnp.arange(self.scheme.states - 1, dtype=zero.dtype)
        (*_, C, D), _ = jax.lax.scan(earlier, (control, zero, zeros, zeros, zero), lags)
        return jacobians, *jax.vmap(zero_unless_finite, -1, -1)((variances * C, D))

    def _earlier(
        self,
        small: SmallNoise,
        gains: Float[Array, "layers out out batch"],
        decay: Scalar,
        functional: "_Functional",
        fed: Float[Array, "out out batch"],
    ) -> "_Functional":
        """The same functionals of the state one step of `PublishedEuler` before: the step's transpose."""
        follow = self.scheme.dt / self.tau_v
        z, R = functional.z, decay * functional.R + follow * functional.z
        seen = functional.seen + follow * fed
        control = functional.integral, functional.control, seen
        (integral, control, seen), error = self._controller_transposed(small, control)
        kept = list(((1 - follow) * z).at[-1].add(-error))
        for i in range(len(kept) - 1, 0, -1):
            kept[i - 1] = kept[i - 1] + follow * (kept[i] if self.scheme.instant_transmission else z[i])
        return _Functional(jnp.stack(kept), R, integral, control, seen)

    def _controller_transposed(
        self, small: SmallNoise, control: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Array, Array], Array]:
        """`control` through the transpose of a step of the controller and of what compartments see of it."""
        controller, dt = small.loop.controller, self.scheme.dt

        def step(state: PyTree, error: OutputVector) -> PyTree:
            integral, control, seen = state
            integral = integral + dt * controller.integral_rate(integral, control, error)
            control, before = controller.control(integral, error), control
            return integral, control, small.seen(seen, control, before)

        vector = control[0][0, :, 0]
        transposed = jax.linear_transpose(step, (vector, vector, vector), vector)
        return jax.vmap(jax.vmap(transposed), -1, -1)(control)


class _Functional(eqx.Module):
    """n_L linear functionals of the scheme's state, one a row, by coefficients; the batch comes last."""

    z: Float[Array, "layers out out batch"]  # of J_i d_i, as the step has passed them on to layers above
    R: Float[Array, "layers out out batch"]  # of the J_i N_i that enter the step
    integral: Float[Array, "out out batch"]
    control: Float[Array, "out out batch"]
    seen: Float[Array, "out out batch"]  # of l


def _summed(
    left: Float[Array, "layers p j batch"], right: Float[Array, "layers j q batch"]
) -> Float[Array, "p q batch"]:
    """The sum over layers of their matrix products, for every sample."""
    if left.shape[2] > MAX_TERMS:
        return jnp.sum(_product(left, right), axis=0)
    return reduce(add, _product(left, right))  # where the other sum takes twice as long


def _product(
    left: Float[Array, "layers p j batch"], right: Float[Array, "layers j q batch"]
) -> Float[Array, "layers p q batch"]:
    """Matrix products of every layer and sample.

    Elementwise, because XLA's CPU backend takes a batch of small products one by one.
    """
    if left.shape[2] > MAX_TERMS:
        by_sample = jnp.moveaxis(left, -1, 0) @ jnp.moveaxis(right, -1, 0)
        return jnp.moveaxis(by_sample, 0, -1)
    return reduce(add, (left[:, :, j, None] * right[:, None, j] for j in range(left.shape[2])))
