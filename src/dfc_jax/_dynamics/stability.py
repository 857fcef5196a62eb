"""The closed loop linearised in the feedforward state: its eigenvalues, and what they forbid.

Seen from the output, z_i = E J_i d_i, the linear dynamics of all neurons close in (L + 1) n_L unknowns,

    tau_v dz_i/dt = -z_i + z_{i-1} + E J_i Q_i u,   e = e^- - z_L,   u and u_int as the controller has them,

with the spectrum of the whole loop but for how often it has -1 / tau_v, the eigenvalue both of what the
output does not see and of the part of a z_i that no neuron moves.
Everything here is computed by NumPy and SciPy on the host (JAX has these eigenvalues on CPUs only), for a
handful of samples, outside of jit. There is no apical compartment.
"""

from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Bool, Complex, Float

from dfc_jax._checks import check_number, require
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.published import PublishedEuler
from dfc_jax._dynamics.states import Sample
from dfc_jax._numerics.arrays import OutputMatrix, OutputVector
from dfc_jax._numerics.compiled import compiled


def loop_eigenvalues(loop: ClosedLoop, samples: Sample) -> Complex[np.ndarray, "batch modes"]:
    """The eigenvalues of each sample's loop, per tau_u. Stable if all have negative real parts, of which
    `loop_is_stable` sees no more, and at less cost.

    -1 / tau_v, which may be a multiple one, is given once for all neurons beyond the (L + 1) n_L modes.
    Those of a sample whose linearised loop is not finite are NaN.
    """
    matrices, *_ = _systems(loop, samples)
    values, own = _eigenvalues(matrices), -1 / float(loop.tau_v)
    batch, outputs = samples.error.shape
    beyond = sum(v.size // batch for v in samples.feedforward.voltages) - _layers(loop) * outputs
    if beyond > 0:
        return np.concatenate([values, np.where(np.isnan(values[:, :1]), np.nan, own)], axis=1)
    # With fewer neurons than components of all z_i, the modes have that one too often.
    order = np.argsort(np.abs(values - own), axis=1)
    return np.take_along_axis(values, order[:, -beyond:], axis=1)


def has_few_modes(loop: ClosedLoop, outputs: int, most: int = 500) -> bool:
    """Whether there are at most so many; 500 of a handful of samples are a matter of seconds, 100 of tens of
    milliseconds."""
    return outputs * (_layers(loop) + 1) <= most


class LoopStability(NamedTuple):
    """Whether loops are stable, by their eigenvalues."""

    stable: Bool[np.ndarray, " samples"]
    doubts: list[str]  # that some are not, and by whose fault, in a sentence


def loop_stability(loop: ClosedLoop, samples: Sample, most: int = 500) -> LoopStability | None:
    """Whether the loops of those samples that are finite are stable, and by whose fault they are not.

    None for a loop with an apical compartment or more than `most` modes, and without a finite sample.
    """
    finite, few = np.asarray(samples.finite), has_few_modes(loop, samples.error.shape[1], most)
    if loop.tau_apical is not None or not few or not finite.any():
        return None
    samples = jax.tree.map(lambda leaf: np.asarray(leaf)[finite], samples)  # JAX would compile each
    largest = loop_eigenvalues(loop, samples).real.max(axis=1)
    unknown, growing = np.isnan(largest), largest > _GROWING
    doubts = [_instability(loop, samples, largest)] if np.any(growing) else []
    if np.any(unknown):
        doubts.append(
            f"The closed loop is not finite for {np.mean(unknown):.0%} of the samples tried: weights, "
            "feedback weights or voltages are too large to compute with; lower the learning rates."
        )
    return LoopStability(~(unknown | growing), doubts)


def _instability(loop: ClosedLoop, samples: Sample, largest: Float[np.ndarray, " samples"]) -> str:
    """What is to be said of samples of which some have an eigenvalue right of zero."""
    unstable = largest > _GROWING
    sentence = (
        f"The closed loop is unstable for {np.mean(unstable):.0%} of the samples tried, its eigenvalues' "
        f"largest real part {np.nanmax(largest):+.3g} per tau_u, so its dynamics do not come to rest"
    )
    gains = np.asarray(jax.vmap(loop.gain)(samples), np.float64)
    if np.all(_eigenvalues(gains[unstable]).real > 0):  # then a slow controller is stable (Prop. 5)
        return (
            f"{sentence}: the gain is too high, for Condition 3 holds; lower k_p or the feedback weights, "
            "or make the neurons faster (tau_v)."
        )
    return (
        f"{sentence}: the feedback weights do not fit the network (Condition 3); learn them for longer "
        "or at a higher rate, start from ProductOfWeights(), or raise the leak alpha."
    )


# The smallest growth per tau_u: without a leak a softmax has modes of rate zero, to rounding.
_GROWING = 1e-3


def euler_step_bound(loop: ClosedLoop, samples: Sample) -> Float[np.ndarray, " batch"]:
    """The longest step, in units of tau_u, at which forward Euler is stable; 0 if the loop itself is not.

    That is the smallest -2 Re(lambda) / |lambda|^2. Explicit Runge-Kutta solvers bear a step of the same
    order, a little more with every order of theirs.
    """
    values = loop_eigenvalues(loop, samples)
    growing = values.real >= 0  # or at rest, as a silent output without a leak
    size = np.where(growing, 1, np.abs(values))
    return np.min(np.where(growing, 0, -2 * values.real / size**2), axis=1)


def published_growth(
    loop: ClosedLoop, samples: Sample, scheme: PublishedEuler
) -> Float[np.ndarray, " batch"]:
    """The spectral radius of one step of the published scheme: above 1, it diverges. NaN if not finite."""
    check_linearised(loop, samples)
    steps = np.asarray(_published_steps(loop, samples, scheme), np.float64)
    return np.max(np.abs(_eigenvalues(steps)), axis=1)


@compiled
def _published_steps(
    loop: ClosedLoop, samples: Sample, scheme: PublishedEuler
) -> Float[Array, "batch states states"]:
    """One step of the published scheme, as a matrix, for each sample."""

    def matrix(gains: tuple[OutputMatrix, ...]) -> Float[Array, "states states"]:
        still = jnp.zeros(len(gains[0]), gains[0].dtype)
        start, unravel = jax.flatten_util.ravel_pytree(([still] * len(gains), still, still))

        def step(flat: Float[Array, " states"]) -> Float[Array, " states"]:
            z, integral, control = unravel(flat)
            error = -z[-1]
            integral = integral + scheme.dt * loop.controller.integral_rate(integral, control, error)
            later = loop.controller.control(integral, error)
            seen = later if scheme.proactive else control
            new = []
            for i, gain in enumerate(gains):
                basal = (new if scheme.instant_transmission else z)[i - 1] if i else still
                new.append(z[i] + scheme.dt / loop.tau_v * (basal + gain @ seen - z[i]))
            return jax.flatten_util.ravel_pytree((new, integral, later))[0]

        return jax.jacfwd(step)(start)

    return jax.vmap(matrix)(jax.vmap(loop.layer_gains)(samples))


def scheme_doubts(loop: ClosedLoop, samples: Sample, scheme: PublishedEuler) -> list[str]:
    """Whether the published scheme diverges for these samples, in a sentence; for a method's `doubts`.

    Nothing is said of loops of so many modes that their eigenvalues take minutes.
    """
    if not has_few_modes(loop, samples.error.shape[1]):
        return []
    bound = euler_step_bound(loop, samples)
    growth = published_growth(loop, samples, scheme)
    diverging = (bound > 0) & (growth > 1)  # the loop itself is stable
    if not np.any(diverging):
        return []
    return [
        f"`scheme.dt` is {float(scheme.dt):.3g}, too long for {np.mean(diverging):.0%} of the "
        f"samples tried: the published scheme diverges, by up to {np.max(growth[diverging]):.3g} times a "
        f"step. Forward Euler is stable below {np.min(bound[diverging]):.2g} here; training lowers that."
    ]


def distance_from_rest(loop: ClosedLoop, samples: Sample, t: float) -> Float[np.ndarray, " batch"]:
    """|u(t) - u_ss| / |u_ss|: how far each sample's control is from its steady state after a time `t`.

    From the exact solution of the linear equations, so only modes that the target excites count. Infinite
    if the loop is not stable, 0 if it has no error to begin with.
    """
    check_number("t", t, minimum=0)
    distances = []
    for matrix, drive, reading, direct in zip(*_systems(loop, samples), strict=True):
        if not np.max(_eigenvalues(matrix).real) < 0:
            distances.append(np.inf)
            continue
        rest = np.linalg.solve(matrix, -drive)
        left = reading @ scipy.linalg.expm(t * matrix) @ rest
        size = np.linalg.norm(reading @ rest + direct)
        distances.append(0.0 if size == 0 else np.linalg.norm(left) / size)
    return np.asarray(distances)


def _eigenvalues(matrices: Float[np.ndarray, "*batch n n"]) -> Complex[np.ndarray, "*batch n"]:
    """Complex even where all are real, unlike NumPy's; NaN for a matrix that is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(matrices) & np.isfinite(matrices.sum(axis=(-2, -1), keepdims=True))
    values = np.linalg.eigvals(np.where(finite, matrices, 0))
    return np.where(finite.all(axis=-1), values, np.nan).astype(complex)


def _layers(loop: ClosedLoop) -> int:
    return len(loop.network.layers)


def check_linearised(loop: ClosedLoop, samples: Sample) -> None:
    """Raise `ValueError` unless it is a batch, of a loop that has a linearised one."""
    require(
        samples.error.ndim == 2,
        "`samples` is a single one; make a batch by loop.samples(x, y).",
    )
    require(loop.tau_apical is None, "`tau_apical` is set; the linearised loop has no apical compartment.")


def _systems(loop: ClosedLoop, samples: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A, b, R and c of x' = A x + b and u = R x + c for each sample, x = (z_1, ..., z_L, u_int)."""
    check_linearised(loop, samples)
    A, b, R, c = (np.asarray(array, np.float64) for array in _linearised(loop, samples))
    return A, b, R, c


@compiled
def _linearised(loop: ClosedLoop, samples: Sample) -> tuple[Array, Array, Array, Array]:
    def system(gains: tuple[OutputMatrix, ...], target_error: OutputVector) -> tuple:
        still = jnp.zeros_like(target_error)
        start, unravel = jax.flatten_util.ravel_pytree(([still] * len(gains), still))

        def control(flat: Float[Array, " states"]) -> OutputVector:
            z, integral = unravel(flat)
            return loop.controller.control(integral, target_error - z[-1])

        def rates(flat: Float[Array, " states"]) -> Float[Array, " states"]:
            z, integral = unravel(flat)
            u = control(flat)
            arriving = zip([still, *z[:-1]], gains, z, strict=True)
            moving = [(below + gain @ u - own) / loop.tau_v for below, gain, own in arriving]
            rate = loop.controller.integral_rate(integral, u, target_error - z[-1])
            return jax.flatten_util.ravel_pytree((moving, rate))[0]

        return jax.jacfwd(rates)(start), rates(start), jax.jacfwd(control)(start), control(start)

    return jax.vmap(system)(jax.vmap(loop.layer_gains)(samples), samples.error)
