"""Implicit Euler of many outputs: from one Jacobian for all samples, or with the output layer eliminated."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.optimize
from helpers import (
    angle,
    cast,
    find,
    flat,
    learn,
    make_network,
    Plain,
    relative_error,
    take_samples,
)
from jaxtyping import Array, Float, PyTree

import dfc_jax as dfc
from dfc_jax._average.wide_steps import WideSteps
from dfc_jax._steady_state.hidden_system import HiddenSystem, solve_rows


DEEP, SHALLOW = (7, 5, 3, 5, 12), (7, 5, 12)
SEGMENTS = ((2, 0.1), (1, 0.2), (3, 0.7))
TAU_V, DURATION, NUDGE = 0.3, 4.0, 0.4
CONTROLLERS = {
    "pi": dfc.PIController(1.5, 0.05),
    "integral": dfc.PIController(0.0, 0.05),
    "leaky-integrator": dfc.LeakyIntegratorController(1.5, 0.05),
}
every_controller = pytest.mark.parametrize("controller", CONTROLLERS.values(), ids=CONTROLLERS)


def wide(
    key: Array, sizes: tuple[int, ...] = DEEP, spread: float = 0.2
) -> tuple[dfc.Network, Float[Array, "batch in"], Float[Array, "batch out"]]:
    """A network whose feedback weights, those of its output included, are not the products of weights."""
    model_key, feedback_key, x_key, y_key = jr.split(key, 4)
    hidden = (dfc.Tanh(), dfc.Linear(), dfc.Tanh()) if len(sizes) == 5 else dfc.Tanh()
    model = make_network(model_key, sizes, hidden)
    keys = jr.split(feedback_key, len(sizes) - 1)
    moved = tuple(
        Q + spread / np.sqrt(Q.size) * Q.shape[1] ** 0.5 * jr.normal(k, Q.shape)
        for Q, k in zip(model.feedback.weights, keys, strict=True)
    )
    x, y = jr.normal(x_key, (3, sizes[0])), jr.normal(y_key, (3, sizes[-1]))
    return dfc.Network(model.layers, dfc.FeedbackWeights(moved)), x, y


def method_of(controller: dfc.AbstractController = CONTROLLERS["pi"], segments=SEGMENTS) -> dfc.DFC:
    average = dfc.ImplicitAverage(DURATION, segments)
    return dfc.DFC(controller, dfc.Nudge(NUDGE), dfc.MeanSquaredError(), TAU_V, average)


Change = Callable[..., None]  # the fixture


def solved_to(change: Change, rtol: float, iterations: int = 60) -> None:
    for module in ("implicit_steps", "shared_steps", "wide_steps"):
        change(f"dfc_jax._average.{module}.STEP_RTOL", rtol)
        change(f"dfc_jax._average.{module}.MAX_STEP_ITERATIONS", iterations)


def outputs_are_many_from(change: Change, number: int) -> None:
    """With fewer, every sample has matrices of its own."""
    change("dfc_jax._steady_state.base._DENSE_OUTPUTS", number - 1)


@pytest.fixture(autouse=True)
def _outputs_are_many(change: Change) -> None:
    outputs_are_many_from(change, 5)


def without_elimination(change: Change) -> None:
    change(HiddenSystem, "fits", staticmethod(lambda loop, samples: False))


@pytest.fixture(params=["wide", "shared", "own"])
def kind(request: pytest.FixtureRequest, change: Change) -> str:
    """All kinds of steps, where `WideSteps` would be taken."""
    if request.param == "shared":
        without_elimination(change)
    if request.param == "own":
        outputs_are_many_from(change, 13)
    return request.param


def in_numpy(
    method: dfc.DFC, model: dfc.Network, x: np.ndarray, y: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """The update and the last controls: every step y = y_base + h f(y) solved in all neurons, by SciPy."""
    plain, totals, controls = Plain(model), None, []
    options = dict(k_p=float(method.controller.k_p), alpha=float(method.controller.alpha), tau_v=TAU_V)
    options["leaky_integrator"] = isinstance(method.controller, dfc.LeakyIntegratorController)
    splits = np.cumsum([len(b) for b in plain.b])
    for x_one, y_one in zip(np.asarray(x), np.asarray(y), strict=True):
        rest, rates = plain.settle(x_one)
        output = rates[-1]
        target = output - NUDGE * np.asarray(method.loss.gradient(jnp.asarray(output), jnp.asarray(y_one)))
        field = lambda s, x_one=x_one, target=target: np.concatenate(
            [
                np.concatenate(part) if isinstance(part, list) else part
                for part in plain.rates_of_change(
                    x_one, target, np.split(s, splits)[:-1], np.split(s, splits)[-1], **options
                )[:2]
            ]
        )
        state = np.concatenate([*rest, np.zeros_like(output)])
        terms = []
        for count, part in method.average.segments:
            h = DURATION * part / count
            for _ in range(count):
                equation = lambda s, base=state, h=h, field=field: base + h * field(s) - s
                found = scipy.optimize.root(equation, state, tol=1e-13)
                assert np.max(np.abs(equation(found.x))) < 1e-11
                state = found.x
                rates = plain.rates(np.split(state, splits)[:-1])
                before = [x_one, *rates[:-1]]
                basal = plain.basal(x_one, rates)
                taught = [r - phi(v) for r, phi, v in zip(rates, plain.phi, basal, strict=True)]
                terms.append(
                    [
                        a * h / DURATION
                        for r, t in zip(before, taught, strict=True)
                        for a in (np.outer(t, r), t)
                    ]
                )
        total = [sum(arrays) for arrays in zip(*terms, strict=True)]
        totals = total if totals is None else [a + b for a, b in zip(totals, total, strict=True)]
        controls.append(np.split(state, splits)[-1] + options["k_p"] * (target - rates[-1]))
    return [-a / (len(x) * NUDGE) for a in totals], np.stack(controls)


@every_controller
@pytest.mark.parametrize("sizes", [DEEP, SHALLOW], ids=["three-hidden", "one-hidden"])
def test_it_is_implicit_euler(
    sizes: tuple[int, ...], controller: dfc.AbstractController, kind: str, change: Change
) -> None:
    """Step for step, in lengths of several segments, with feedback to the output that is no identity."""
    solved_to(change, 1e-12)
    model, x, y = wide(jr.key(0), sizes)
    method = method_of(controller)
    update, report = learn(method, model, x, y)
    wanted, controls = in_numpy(method, model, x, y)
    found = [a for layer in update.layers for a in (layer.transform.weight, layer.transform.bias)]
    assert relative_error(found, wanted) < 1e-8
    assert relative_error(report.control, controls) < 1e-8
    assert np.all(report.converged) and np.all(report.iterations == 6)


@pytest.mark.script
def test_the_default_tolerance_is_close_to_that(change: Change) -> None:
    model, x, y = wide(jr.key(0))
    found, _ = learn(method_of(), model, x, y)
    solved_to(change, 1e-12)
    wanted, _ = learn(method_of(), model, x, y)
    assert 0 < angle(found.layers, wanted.layers) < 0.1


@every_controller
def test_it_tends_to_what_the_general_path_tends_to(
    controller: dfc.AbstractController, change: Change
) -> None:
    model, x, y = wide(jr.key(1))
    fine = method_of(controller, ((100, 0.1), (100, 0.2), (100, 0.7)))
    eliminated, _ = learn(fine, model, x, y)
    change(WideSteps, "create", None)
    outputs_are_many_from(change, 13)
    general, report = learn(fine, model, x, y)
    assert np.all(report.converged)
    assert angle(eliminated.layers, general.layers) < 0.02
    assert abs(np.linalg.norm(flat(eliminated.layers)) / np.linalg.norm(flat(general.layers)) - 1) < 1e-3


def shapes_in(jaxpr: PyTree) -> set[tuple[int, ...]]:
    """The shapes of all arrays of a program, those of the programs inside it included."""
    found = set()
    for equation in jaxpr.eqns:
        found |= {v.aval.shape for v in equation.outvars}
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found |= shapes_in(inner)
    return found


def test_no_sample_has_a_matrix_of_its_own(change: Change) -> None:
    """Nothing of the size of batch x outputs x outputs, outputs x hidden or hidden x hidden, but for the
    few samples that are solved anew."""
    batch, sizes = 29, (7, 11, 3, 13, 23)
    change("dfc_jax._steady_state.rescue._BLOCK_UNKNOWNS", 23)
    model = make_network(jr.key(0), sizes)
    x, y = jnp.ones((batch, 7)), jnp.ones((batch, 23))

    def of_samples() -> list[tuple[int, ...]]:
        program = jax.make_jaxpr(lambda x, y: eqx.filter(method_of()(model, x, y), eqx.is_array))(x, y)
        shapes = shapes_in(program.jaxpr)
        return [s for s in shapes if batch in s and sum(n in (11, 13, 23) for n in s) > 1]

    assert of_samples() == []
    without_elimination(change)
    assert of_samples() == []
    outputs_are_many_from(change, 24)
    assert (batch, 23, 23) in of_samples()


def test_a_broken_sample_harms_no_other(kind: str) -> None:
    model, x, y = wide(jr.key(3))
    healthy, _ = learn(method_of(), model, x[1:], y[1:])
    update, report = learn(method_of(), model, x.at[0, 1].set(np.nan), y)
    assert report.converged.tolist() == [False, True, True]
    scaled = jax.tree.map(lambda leaf: 2 / 3 * leaf, healthy.layers)
    assert relative_error(update.layers, scaled) < 1e-12


def test_samples_without_an_error_need_no_control() -> None:
    """The steady state of the eliminated system is then zero, and has converged."""
    model, x, y = wide(jr.key(3))
    loop = dfc.ClosedLoop(model, CONTROLLERS["pi"], dfc.Rest(), loss=dfc.MeanSquaredError())
    assert HiddenSystem.fits(loop, take_samples(loop, x, y))
    found = find(dfc.Broyden(), loop, x, y)
    assert np.all(found.converged) and np.all(found.control == 0)


@pytest.mark.slow
def test_a_step_that_is_not_solved_is_reported_and_ends_learning(kind: str, change: Change) -> None:
    """Too few iterations for the one sample whose target is far away, and enough for the others."""
    model, x, y = wide(jr.key(4))
    y = (0.05 * y + jax.vmap(model)(x)).at[0].multiply(40.0)
    method = method_of(segments=((1, 1.0),))
    solved_to(change, 1e-4, iterations=2)
    others, _ = learn(method, model, x[1:], y[1:])
    update, report = learn(method, model, x, y)
    assert report.converged.tolist() == report.condition_three.tolist() == [False, True, True]
    assert np.isnan(report.residual[0]) and np.all(np.isfinite(report.residual[1:]))
    scaled = jax.tree.map(lambda leaf: 2 / 3 * leaf, others.layers)
    assert relative_error(update.layers, scaled) < 1e-12
    solved_to(change, 1e-4)
    _, report = learn(method, model, x, y)
    assert np.all(np.isfinite(report.residual))


def test_feedback_of_the_wrong_sign_does_not_converge(kind: str) -> None:
    model, x, y = wide(jr.key(5))
    wrong = dfc.Network(model.layers, jax.tree.map(jnp.negative, model.feedback))
    update, report = learn(method_of(), wrong, x, y)
    assert not np.any(report.converged)
    assert np.all(np.isfinite(flat(update.layers)))


@pytest.mark.script
def test_several_models_are_one_program(kind: str) -> None:
    """One of them with the identity as feedback to its output, for which nothing is factorised."""
    model, x, y = wide(jr.key(6))
    other = make_network(jr.key(7), DEEP, (dfc.Tanh(), dfc.Linear(), dfc.Tanh()))
    models = jax.tree.map(lambda *leaves: jnp.stack(leaves), model, other)
    updates, reports = eqx.filter_vmap(lambda m: method_of()(m, x, y))(models)
    for i, one in enumerate((model, other)):
        single, report = learn(method_of(), one, x, y)
        assert relative_error(jax.tree.map(lambda leaf, i=i: leaf[i], updates), single) < 1e-4
        assert relative_error(reports.control[i], report.control) < 1e-4


@pytest.mark.slow
def test_single_precision(kind: str) -> None:
    model, x, y = wide(jr.key(8))
    wanted, _ = learn(method_of(), model, x, y)
    found, report = learn(method_of(), *cast((model, x, y), jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(found.layers)} == {jnp.dtype(jnp.float32)}
    assert np.all(report.converged)
    assert relative_error(found.layers, wanted.layers) < 1e-4


class Doubled(eqx.Module):
    """A user's own affine map, which has no `weight` and takes a feature map."""

    matrix: Float[Array, "out in"]

    def __call__(self, rate: Float[Array, "rows columns channels"]) -> Float[Array, " out"]:
        return 2 * self.matrix @ rate.ravel() + 0.1


@pytest.mark.slow
def test_feature_maps_and_transforms_of_the_users_own(change: Change) -> None:
    convolution = dfc.convnet((1, 4, 4), (2,), (3,), key=jr.key(9)).layers[0]
    size = convolution.transform(jnp.ones(16)).shape
    output = dfc.Layer(Doubled(0.2 * jr.normal(jr.key(10), (40, int(np.prod(size))))), dfc.Linear())
    layers = (convolution, output)
    model = dfc.Network(layers, dfc.ProductOfWeights().init(layers, [size, (40,)], jr.key(0)))
    x, y = jr.normal(jr.key(11), (3, 16)), jr.normal(jr.key(12), (3, 40))
    samples = take_samples(method_of().loop(model), x, y)
    assert len(size) == 3 and HiddenSystem.fits(method_of().loop(model), samples)
    fine = method_of(segments=((100, 0.1), (100, 0.2), (100, 0.7)))
    eliminated, report = learn(fine, model, x, y)
    assert np.all(report.converged)
    without_elimination(change)
    shared, report = learn(fine, model, x, y)
    assert np.all(report.converged)
    outputs_are_many_from(change, 41)
    own, _ = learn(fine, model, x, y)
    assert angle(eliminated.layers, own.layers) < 0.02
    assert angle(shared.layers, own.layers) < 0.02


def test_solve_rows() -> None:
    """Diagonal matrices and full ones, together too."""
    rows = jr.normal(jr.key(0), (3, 4))
    full = jnp.eye(4) + 0.3 * jr.normal(jr.key(1), (4, 4))
    diagonal = jnp.diag(jnp.asarray([1.0, 2.0, -3.0, 0.5]))
    one_off = diagonal.at[0, 3].set(0.7)
    together = jax.jit(jax.vmap(solve_rows, in_axes=(0, None)))(jnp.stack([full, diagonal, one_off]), rows)
    for found, matrix in zip(together, (full, diagonal, one_off), strict=True):
        wanted = np.linalg.solve(matrix, rows.T).T
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
        np.testing.assert_allclose(solve_rows(matrix, rows), wanted, rtol=1e-12)
