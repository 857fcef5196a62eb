"""Steady states under optimal control: the least that brings the output to its target.

Feedback that is the transposed Jacobian of the controlled state itself, Q = J(v)^T, gives every layer

    v_i = f_i(r_{i-1}) + eps_i,   eps_i = J_i(v)^T u,   e(r_L) = a u,

the stationary points of sum_i |eps_i|^2 / 2 + l(r_L) / a where dl/dr_L = -e. They are fixed points: from u
and eps one forward sweep gives v; the output moves by S du, S being near sum_i J_i J_i^T, so that

    e(r_L + S (u' - u)) = a u',

gives u' by Newton's method, n_L unknowns, exactly for any readout; one backward sweep gives eps', which is
J(v)^T u' but for the slopes: each neuron's is that towards which its own voltage moves under eps' already,
which saves a quarter of the turns and more.
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
from dfc_jax._numerics.arrays import BatchFlags, Flag, OutputMatrix, OutputVector, Scalar
from dfc_jax._numerics.choose import choose
from dfc_jax._numerics.compiled import compiled
from dfc_jax._numerics.secant import in_any_run
from dfc_jax._numerics.small_matrices import inverse
from dfc_jax._numerics.trees import relative_distance
from dfc_jax._steady_state.base import AbstractEquilibrium, Equilibrium
from dfc_jax._steady_state.controlled_jacobian import ControlledJacobian, with_feedback_of
from dfc_jax._steady_state.rescue import block_size, solve_left_over


_Grams = Float[Array, "batch out out"]
RestPoint = tuple[OutputVector, PerLayer]  # u and eps


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
    Condition 3 holds at every such state, for E J J^T + a I has positive eigenvalues where the readout is the
    gradient of a convex function, as the identity and softmax are.

    **Arguments:**

    - `rtol`: the residual at which a sample has converged.
    - `max_iterations`: pairs of sweeps after which it counts as not converged.
    """

    rtol: Scalar = number("rtol", 1e-5, above=0)
    max_iterations: int = count("max_iterations", 40)

    @compiled
    def __call__(self, loop: ClosedLoop, samples: Sample) -> Equilibrium:
        self._check(loop)
        grams, start = jax.vmap(_start, in_axes=(None, 0))(loop, samples)
        unknown, none = jnp.full_like(samples.error[:, 0], jnp.inf), jnp.full(len(samples.error), -1)
        wanted = jnp.full_like(unknown, _MUCH_BETTER * self.rtol)
        first = _State(jax.vmap(Anderson.at)(start, start[1][0]), unknown, wanted, none)
        few = block_size(*samples.error.shape)
        state, found = self._checked(loop, samples, self._iterated(loop, samples, grams, first, few))

        def again(asked: tuple) -> tuple[Equilibrium, BatchFlags]:
            samples, grams, *last = asked

            def settle(last: tuple[_State, Equilibrium]) -> tuple[_State, Equilibrium]:
                return self._checked(loop, samples, self._iterated(loop, samples, grams, last[0]))

            moving = lambda last: in_any_run(jnp.any(self._moving(last[0])))
            _, tried = jax.lax.while_loop(moving, settle, tuple(last))
            return tried, jnp.ones_like(tried.converged)

        # Few samples take many turns; in a batch of their own these cost less.
        left, asked = self._moving(state) & samples.finite, (samples, grams, state, found)
        return solve_left_over(left, samples.error.shape[1], asked, found, again)[0]

    def _moving(self, state: "_State") -> BatchFlags:
        return (state.error > state.wanted) & (state.iterations < self.max_iterations)

    def _checked(self, loop: ClosedLoop, samples: Sample, state: "_State") -> tuple["_State", Equilibrium]:
        """The last images, which are better than the points, and whether these meet all conditions.

        What the turns took for settled and does not meet them goes on from there.
        """
        control, apical = state.history.image
        deviation, residual = jax.vmap(rest_and_residual, in_axes=(None, 0, 0, 0))(
            loop, samples, control, apical
        )
        iterations = jnp.maximum(state.iterations, 0)  # none, also of what is not finite
        converged = residual <= self.rtol
        found = Equilibrium(control, deviation, converged, residual, iterations, jnp.isfinite(residual))
        short = (state.error <= state.wanted) & ~converged
        error = jnp.where(short, jnp.inf, state.error)
        wanted = jnp.where(short, state.wanted / _MUCH_BETTER, state.wanted)
        begun = state.history.begun & ~short  # what was noted while it rested is not of its own turns
        changed = lambda s: (s.error, s.wanted, s.history.begun)
        return eqx.tree_at(changed, state, (error, wanted, begun)), found

    def _iterated(
        self, loop: ClosedLoop, samples: Sample, grams: _Grams, first: "_State", few: int = 0
    ) -> "_State":
        """Turns until no more than `few` samples still move."""

        def turn(state: _State) -> _State:
            point = jax.vmap(Anderson.next_point)(state.history)
            # Newton's method need not be much more exact than the turn that it is part of.
            before = jnp.where(jnp.isfinite(state.error), state.error, 0)
            tolerance = jnp.clip(1e-3 * before, 0.3 * self.rtol, 1e-3)
            # Where these turns go round in circles the plain ones may not.
            ahead = (state.iterations < _TURNS_AHEAD).astype(tolerance.dtype)
            image, error = _evaluate_all(loop, samples, point, grams, tolerance, ahead)
            history = jax.vmap(Anderson.after)(state.history, image, jax.vmap(_moved)(point, image))
            new = image, error, state.iterations + 1
            old = state.history.image, state.error, state.iterations
            # What has settled rests, so that no sample depends on its companions.
            image, error, iterations = choose(self._moving(state), new, old)
            history = eqx.tree_at(lambda h: h.image, history, image)
            return _State(history, error, state.wanted, iterations)

        many = lambda state: in_any_run(jnp.sum(self._moving(state)) > few)
        return jax.lax.while_loop(many, turn, first)


_TURNS_AHEAD = 20
# How much further than the images the points may be from meeting the conditions.
_MUCH_BETTER = 3.0


def _start(loop: ClosedLoop, sample: Sample) -> tuple[OutputMatrix, RestPoint]:
    """S of one sample, and the u and eps of the feedforward state along e^-, which lie near the solution."""
    voltages = sample.feedforward.voltages
    pulled = loop.network.pulled_back(voltages, voltages, sample.error)
    gram = approximate_gram(loop, sample, pulled)
    share = share_of_error(loop, sample, gram)
    return gram, jax.tree.map(lambda part: share * part, (sample.error, pulled))


def approximate_gram(loop: ClosedLoop, sample: Sample, pulled: PerLayer) -> OutputMatrix:
    """Nearly sum_i J_i J_i^T of one sample in the feedforward state; `pulled` is J_i^T e^- there.

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
    *_, below = sizes = [jnp.sum(p**2) for p in pulled[:-1]]
    factor = jnp.where(below > 0, sum(sizes) / jnp.where(below > 0, below, 1), 1)
    return top + factor * (rows @ rows.T)


class _State(eqx.Module):
    history: Anderson  # of (u, eps)
    error: Float[Array, " batch"]
    wanted: Float[Array, " batch"]  # the error at which a sample has settled
    iterations: Int[Array, " batch"]  # after the first evaluation


def _evaluate(
    loop: ClosedLoop,
    sample: Sample,
    point: RestPoint,
    gram: OutputMatrix,
    tolerance: Scalar,
    ahead: Scalar,
) -> tuple[RestPoint, Scalar]:
    """(u', eps') of one sample, and how far the conditions are from being met by u' and eps.

    `tolerance` is that of the readout's equation, relative to the target error; `ahead`: see `feedback_at`.
    """
    control, apical = point
    deviation = loop.sweep(sample, apical)
    wanted = response(loop, sample, deviation.rate[-1], control, gram, tolerance)
    pulled = feedback_at(loop, sample, deviation, wanted, ahead)
    return (wanted, pulled), stationarity(loop, sample, deviation, apical, wanted, pulled)


def _moved(point: RestPoint, image: RestPoint) -> Float[Array, "..."]:
    """How the eps of the first layer moves, which depends on all above it; by all layers there are no fewer
    turns."""
    return image[1][0] - point[1][0]


_evaluate_all = jax.vmap(_evaluate, in_axes=(None, 0, 0, 0, 0, 0))


def rest_and_residual(
    loop: ClosedLoop, sample: Sample, control: OutputVector, apical: PerLayer
) -> tuple[Deviation, Scalar]:
    """The state under eps = `apical`, and the residual of all conditions."""
    deviation = loop.sweep(sample, apical)
    pulled = feedback_at(loop, sample, deviation, control)
    return deviation, stationarity(loop, sample, deviation, apical, control, pulled)


def feedback_at(
    loop: ClosedLoop, sample: Sample, deviation: Deviation, control: OutputVector, ahead: Scalar | None = None
) -> PerLayer:
    """J_i(v)^T u of every layer in a controlled state; `ahead`, with slopes nearer those that it leads to."""
    base = sample.feedforward.voltages
    moved = lambda changes: tuple(v + c for v, c in zip(base, changes, strict=True))
    return loop.network.pulled_back(moved(deviation.voltage), moved(deviation.basal), control, ahead)


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


def share_of_error(loop: ClosedLoop, sample: Sample, gram: OutputMatrix) -> Scalar:
    """The c with which u = c e^- nearly meets (e(r_L + S u) - a u) . e^- = 0, by steps of Newton's method."""
    error, leak, reach = sample.error, loop.controller.steady_state_leak(), loop.readout.reach
    along = gram @ error
    most = reach / jnp.max(jnp.abs(along), initial=jnp.finfo(along.dtype).tiny)
    left = lambda share: error @ (loop.output_error(sample, share * along) - leak * share * error)

    def step(_: Int[Array, ""], share: Scalar) -> Scalar:
        remaining, rises = jax.jvp(left, (share,), (jnp.ones_like(share),))
        return share + jnp.clip(remaining / jnp.where(rises < 0, -rises, 1), -most, most)

    return jax.lax.fori_loop(0, _SHARE_STEPS, step, jnp.zeros_like(sample.scale))


_SHARE_STEPS = 4


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
