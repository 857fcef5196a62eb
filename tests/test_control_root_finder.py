"""Diffrax's implicit solvers with the library's root finder: against Diffrax's own, and when it fails."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx
import pytest
from helpers import angle, cast, make_batch, make_network, relative_error, take_samples
from jaxtyping import Array

import dfc_jax as dfc


STEPS = np.array([0.0, 0.02, 0.05, 0.2, 0.7, 2.0])
STRONG = dfc.Clamp()


def make_loop(target: dfc.AbstractTarget, controller: dfc.AbstractController) -> tuple[dfc.ClosedLoop, Array]:
    """A loop and three of its samples."""
    model = make_network(jr.key(31), (4, 6, 5, 3), (dfc.Tanh(), dfc.Sigmoid()))
    loop = dfc.ClosedLoop(model, controller, target)
    x, y = make_batch(jr.key(32), 3)
    return loop, take_samples(loop, x, 0.99 * y + 0.01 / 3)


def average(solver: diffrax.AbstractSolver, **options: object) -> dfc.DiffraxAverage:
    return dfc.DiffraxAverage(solver, diffrax.StepTo(jnp.asarray(STEPS)), t1=2.0, dt0=None, **options)


@pytest.mark.parametrize(
    "solver, target, controller",
    [
        pytest.param(
            diffrax.ImplicitEuler, dfc.Nudge(0.5), dfc.PIController(1.0, 0.05), marks=pytest.mark.slow
        ),
        pytest.param(
            diffrax.Kvaerno3, STRONG, dfc.LeakyIntegratorController(0.5, 0.1), marks=pytest.mark.script
        ),
        pytest.param(
            diffrax.Kvaerno5,
            dfc.Nudge(0.5),
            dfc.LeakyIntegratorController(0.5, 0.1),
            marks=pytest.mark.script,
        ),
        pytest.param(diffrax.Kvaerno5, STRONG, dfc.PIController(1.0, 0.05), marks=pytest.mark.script),
    ],
)
def test_it_finds_what_newton_over_all_neurons_finds(solver: type, target, controller) -> None:
    """The same steps with a dense Newton's method, sample by sample: the same controls in the end."""
    loop, samples = make_loop(target, controller)
    finder = dfc.ControlRootFinder(1e-11, 60)
    _, last = eqx.filter_jit(average(solver(root_finder=finder)))(loop, samples)

    @eqx.filter_jit
    @jax.vmap
    def with_newton(sample: dfc.Sample) -> Array:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(loop.vector_field),
            solver(root_finder=optx.Newton(rtol=1e-11, atol=1e-11), root_find_max_steps=50),
            t0=0.0,
            t1=2.0,
            dt0=None,
            y0=loop.initial_state(sample),
            args=sample,
            stepsize_controller=diffrax.StepTo(jnp.asarray(STEPS)),
        )
        return loop.control(jax.tree.map(lambda leaf: leaf[-1], solution.ys), sample)

    assert relative_error(last.control, with_newton(samples)) < 1e-8
    assert np.all(last.iterations == len(STEPS) - 1)


@pytest.mark.script
def test_long_steps_follow_the_dynamics_of_strong_feedback() -> None:
    loop, samples = make_loop(STRONG, dfc.PIController(1.0, 0.01))
    tight = dfc.DiffraxAverage(stepsize_controller=diffrax.PIDController(rtol=1e-7, atol=1e-7))
    loose = dfc.DiffraxAverage(
        diffrax.Kvaerno3(root_finder=dfc.ControlRootFinder()), diffrax.PIDController(rtol=0.03, atol=0.03)
    )
    change, last = eqx.filter_jit(loose)(loop, samples)
    wanted, reference = eqx.filter_jit(tight)(loop, samples)
    assert angle(change, wanted) < 0.5
    assert relative_error(last.control, reference.control) < 0.01
    assert last.iterations[0] < reference.iterations[0] / 5


@pytest.mark.slow
def test_a_step_that_is_not_solved_is_no_success() -> None:
    loop, samples = make_loop(STRONG, dfc.PIController(1.0, 0.01))
    for iterations, enough in ((1, False), (60, True)):
        finder = dfc.ControlRootFinder(1e-12, iterations)
        _, last = eqx.filter_jit(average(diffrax.ImplicitEuler(root_finder=finder)))(loop, samples)
        assert np.all(last.converged == enough)


@pytest.mark.script
def test_single_precision_stays_single() -> None:
    """In a process with double precision, as the tests': Diffrax's times would be double by themselves."""
    model, (x, y) = make_network(jr.key(35)), make_batch(jr.key(36), 4)
    method = dfc.DFC(average=average(diffrax.ImplicitEuler(root_finder=dfc.ControlRootFinder(1e-4))))
    wanted, _ = eqx.filter_jit(method)(model, x, y)
    single, *rest = cast((method, model, x, y), jnp.float32)
    update, report = eqx.filter_jit(single)(*rest)
    assert {leaf.dtype for leaf in jax.tree.leaves(update)} == {jnp.dtype(jnp.float32)}
    assert report.residual.dtype == jnp.float32
    assert relative_error(update.layers, wanted.layers) < 1e-3


def test_what_cannot_be_combined_says_so() -> None:
    loop, samples = make_loop(dfc.Nudge(), dfc.PIController())
    finder = dfc.ControlRootFinder()
    with pytest.raises(ValueError, match="give the solver root_finder"):
        dfc.DiffraxAverage(diffrax.Kvaerno3())
    with pytest.raises(ValueError, match="`dt0` is None"):
        dfc.DiffraxAverage(stepsize_controller=diffrax.ConstantStepSize(), dt0=None)
    with pytest.raises(ValueError, match="`max_iterations` is 0"):
        dfc.ControlRootFinder(max_iterations=0)
    with pytest.raises(ValueError, match="`rtol` is -1"):
        dfc.ControlRootFinder(-1.0)
    solver = diffrax.ImplicitEuler(root_finder=finder)
    apical = dfc.ClosedLoop(loop.network, tau_apical=0.3)
    with pytest.raises(ValueError, match="`tau_apical` is set"):
        average(solver)(apical, samples)
    one = jax.tree.map(lambda leaf: leaf[0], samples)
    with pytest.raises(ValueError, match="`root_finder` is a ControlRootFinder"):
        dfc.simulate(loop, one, t1=1.0, dt0=0.1, solver=solver)
