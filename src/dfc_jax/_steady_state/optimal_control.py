"""Steady states under optimal control: the least that brings the output to its target.

Feedback that is the transposed Jacobian of the controlled state itself, Q = J(v)^T, gives every layer

    v_i = f_i(r_{i-1}) + eps_i,   eps_i = J_i(v)^T u,   e(r_L) = a u,

the stationary points of sum_i |eps_i|^2 / 2 + l(r_L) / a where dl/dr_L = -e. They are fixed points: from u
and eps one forward sweep gives v; the output moves by S du, S being near sum_i J_i J_i^T, so that

    e(r_L + S (u' - u)) = a u',

gives u' by Newton's method, n_L unknowns, exactly for any readout; one backward sweep gives eps' = J(v)^T u'.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dfc_jax._checks import require
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.states import Deviation, PerLayer, Sample
from dfc_jax._fields import count, number
from dfc_jax._network.layered_feedback import ExactFeedback
from dfc_jax._numerics.anderson import Anderson
from dfc_jax._numerics.arrays import BatchFlags, BatchOutputs, Flag, OutputMatrix, OutputVector, Scalar
from dfc_jax._numerics.choose import choose
from dfc_jax._numerics.compiled import compiled
from dfc_jax._numerics.secant import in_any_run
from dfc_jax._numerics.small_matrices import inverse
from dfc_jax._numerics.trees import relative_distance
from dfc_jax._steady_state.base import AbstractEquilibrium, Equilibrium
from dfc_jax._steady_state.controlled_jacobian import ControlledJacobian, with_feedback_of
from dfc_jax._steady_state.rescue import block_size, solve_left_over


_Grams = Float[Array, "batch out out"]


class AbstractOptimalControl(AbstractEquilibrium):
    """A way to find the steady states in which Q = J(v)^T, J the Jacobian of the controlled state v."""

    def rescued_by(self, fallback: AbstractEquilibrium) -> AbstractEquilibrium:
        """`fallback` if it solves the same equations, and otherwise by turns for the Q that it is given."""
        same = isinstance(fallback, AbstractOptimalControl | ControlledJacobian)
        return fallback if same else ControlledJacobian(fallback)

    def samples_at_rest(self, loop: ClosedLoop, samples: Sample, found: Equilibrium) -> Sample:
        return with_feedback_of(loop, samples, found)

    def _check(self, loop: ClosedLoop) -> None:
        name = type(loop.network.feedback).__name__
        exact = isinstance(loop.network.feedback, ExactFeedback)
        require(exact, f"`model.feedback` is {name}; optimal control is that of ExactFeedback().")


class OptimalControl(AbstractOptimalControl):
    """Steady states with Q = J(v)^T, J the Jacobian of the controlled state v: for `ExactFeedback()`.

    By a fixed-point iteration with Anderson acceleration, one forward and one backward sweep each time. There
    is no Jacobian of a sample in it, but a system of as many equations as there are outputs.

    `residual` is that of all conditions, the larger of |e - a u| / |e^-| and |eps - J(v)^T u| / |eps|.
    Condition 3 holds at every such state (`stable`), for E J J^T + a I has positive eigenvalues where the
    readout is the gradient of a convex function, as the identity and softmax are.

    **Arguments:**

    - `rtol`: the residual at which a sample has converged.
    - `max_iterations`: pairs of sweeps after which it counts as not converged.
    """

    rtol: Scalar = number("rtol", 1e-5, above=0)
    max_iterations: int = count("max_iterations", 40)

    @compiled
    def __call__(self, loop: ClosedLoop, samples: Sample) -> Equilibrium:
        self._check(loop)
        grams = jax.vmap(approximate_gram, in_axes=(None, 0))(loop, samples)
        still = jnp.zeros_like(samples.error), jax.tree.map(jnp.zeros_like, samples.feedforward.voltages)
        unknown, none = jnp.full_like(samples.error[:, 0], jnp.inf), jnp.full(len(samples.error), -1)
        first = _State(jax.vmap(Anderson.at)(still), unknown, none)
        everyone = self._iterated(loop, samples, grams, first)

        def again(asked: tuple) -> tuple[_Found, BatchFlags]:
            tried = self._iterated(loop, *asked, to_the_last=True)
            return _found(tried), jnp.ones_like(tried.error, bool)

        # Few samples take many turns; in a batch of their own these cost less.
        moving = (everyone.error > self.rtol) & samples.finite
        asked = samples, grams, everyone
        (control, apical, error, iterations), _ = solve_left_over(
            moving, samples.error.shape[1], asked, _found(everyone), again
        )
        deviation = jax.vmap(loop.sweep)(samples, apical)
        iterations = jnp.maximum(iterations, 0)  # none, also of what is not finite
        return Equilibrium(control, deviation, error <= self.rtol, error, iterations, jnp.isfinite(error))

    def _iterated(
        self, loop: ClosedLoop, samples: Sample, grams: _Grams, first: "_State", to_the_last: bool = False
    ) -> "_State":
        """Turns until at most a block of samples, or with `to_the_last` none, has not converged."""
        few = 0 if to_the_last else block_size(*samples.error.shape)

        def moving(state: _State) -> BatchFlags:
            return (state.error > self.rtol) & (state.iterations < self.max_iterations)

        def turn(state: _State) -> _State:
            # What has settled rests, so that no sample depends on its companions.
            goes = moving(state)
            point = choose(goes, jax.vmap(Anderson.next_point)(state.history), state.history.point)
            # Newton's method need not be much more exact than the turn that it is part of.
            before = jnp.where(jnp.isfinite(state.error), state.error, 0)
            tolerance = jnp.clip(1e-3 * before, 0.3 * self.rtol, 1e-3)
            image, error = _evaluate_all(loop, samples, point, grams, tolerance)
            history = jax.vmap(Anderson.after)(state.history, point, image)
            return _State(history, error, state.iterations + goes.astype(int))

        return jax.lax.while_loop(lambda state: in_any_run(jnp.sum(moving(state)) > few), turn, first)


def approximate_gram(loop: ClosedLoop, sample: Sample) -> OutputMatrix:
    """Nearly sum_i J_i J_i^T of one sample in the feedforward state.

    The terms of the last two layers, the second of them enlarged for the others: so that the control of
    the target error, for which J_i^T e^- is one sweep, moves the output along e^- as far as it should.
    """
    network, voltages = loop.network, sample.feedforward.voltages
    slopes = network.slopes(voltages)
    top = jnp.diag(slopes[-1] ** 2)
    if len(network.layers) == 1:
        return top
    _, transpose = jax.vjp(network.layers[-1].linear, jnp.zeros_like(slopes[-2]))
    rows = jax.vmap(lambda row: (slopes[-2] * transpose(row)[0]).ravel())(jnp.diag(slopes[-1]))
    pulled = network.pulled_back(voltages, voltages, sample.error)
    *_, below = sizes = [jnp.sum(p**2) for p in pulled[:-1]]
    factor = jnp.where(below > 0, sum(sizes) / jnp.where(below > 0, below, 1), 1)
    return top + factor * (rows @ rows.T)


class _State(eqx.Module):
    history: Anderson  # of (u, eps)
    error: Float[Array, " batch"]
    iterations: Int[Array, " batch"]  # after the first evaluation, which is of the feedforward state


def _evaluate(
    loop: ClosedLoop,
    sample: Sample,
    point: tuple[OutputVector, PerLayer],
    gram: OutputMatrix,
    tolerance: Scalar,
) -> tuple[tuple[OutputVector, PerLayer], Scalar]:
    """(u', eps') of one sample, and the residual of u' with eps and the state under it.

    `tolerance` is that of the readout's equation, relative to the target error.
    """
    control, apical = point
    deviation = loop.sweep(sample, apical)
    wanted = response(loop, sample, deviation.rate[-1], control, gram, tolerance)
    pulled = feedback_at(loop, sample, deviation, wanted)
    return (wanted, pulled), stationarity(loop, sample, deviation, apical, wanted, pulled)


# The control, the apical input, the residual and the number of turns: without the history, which is large.
_Found = tuple[BatchOutputs, PerLayer, Float[Array, " batch"], Int[Array, " batch"]]


def _found(state: _State) -> _Found:
    return state.history.image[0], state.history.point[1], state.error, state.iterations


_evaluate_all = jax.vmap(_evaluate, in_axes=(None, 0, 0, 0, 0))


def feedback_at(loop: ClosedLoop, sample: Sample, deviation: Deviation, control: OutputVector) -> PerLayer:
    """J_i(v)^T u of every layer in a controlled state."""
    base = sample.feedforward.voltages
    moved = lambda changes: tuple(v + c for v, c in zip(base, changes, strict=True))
    return loop.network.pulled_back(moved(deviation.voltage), moved(deviation.basal), control)


def stationarity(
    loop: ClosedLoop,
    sample: Sample,
    deviation: Deviation,
    apical: PerLayer,
    control: OutputVector,
    pulled: PerLayer,
) -> Scalar:
    """The larger of |e - a u| / |e^-| and |eps - J(v)^T u| / |J(v)^T u|, eps being `apical`."""
    apart = relative_distance(apical, pulled)
    return jnp.maximum(apart, loop.relative_residual(sample, control, deviation))


def response(
    loop: ClosedLoop,
    sample: Sample,
    change: OutputVector,
    control: OutputVector,
    gram: OutputMatrix,
    tolerance: Scalar,
) -> OutputVector:
    """The u' with e = a u' if the output, now displaced by `change` under u, moves by S (u' - u)."""
    leak, reach = loop.controller.steady_state_leak(), loop.readout.reach

    def at(new: OutputVector) -> tuple[OutputVector, OutputVector, OutputVector]:
        moved = change + gram @ (new - control)
        return new, moved, loop.output_error(sample, moved) - leak * new

    def unfinished(state: tuple) -> Flag:
        far = jnp.linalg.norm(state[0][2]) > tolerance * sample.scale
        return far & (state[1] < _NEWTON_STEPS)

    def step(state: tuple) -> tuple:
        (new, moved, remaining), turn = state
        gain = loop.error_gain(sample, gram, moved) + leak * jnp.eye(len(gram), dtype=gram.dtype)
        direction = inverse(gain) @ remaining
        farthest = jnp.max(jnp.abs(gram @ direction))
        part = jnp.where(farthest > reach, reach / farthest, 1)
        return at(new + part * direction), turn + 1

    return jax.lax.while_loop(unfinished, step, (at(control), jnp.asarray(0)))[0][0]


_NEWTON_STEPS = 50
