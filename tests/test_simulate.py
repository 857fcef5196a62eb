"""What `simulate` gives by every way out, with noise and without."""

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import relative_error

import dfc_jax as dfc


def _problem(seed: int = 0, **parts: object) -> tuple[dfc.ClosedLoop, dfc.Sample]:
    loop = dfc.ClosedLoop(dfc.mlp((4, 3, 2), key=jr.key(seed)), **parts)
    return loop, loop.sample(jr.normal(jr.key(seed + 1), (4,)), jnp.eye(2)[0])


def test_a_dense_solution_is_in_ordinary_units():
    loop, sample = _problem()
    assert abs(float(sample.scale) - 1) > 0.1  # the units differ
    at = jnp.array([0.5, 1.5])
    saveat = diffrax.SaveAt(ts=at, dense=True)
    solution = dfc.simulate(loop, sample, t1=2.0, dt0=0.01, saveat=saveat)
    between = jax.vmap(solution.evaluate)(at)
    assert relative_error(between, solution.ys) < 1e-10
    state = jax.tree.map(lambda leaf: leaf[1], solution.ys)
    rates = loop.vector_field(at[1], state, sample)
    assert relative_error(solution.derivative(at[1]), rates) < 1e-3
    gained = jax.tree.map(lambda leaf: leaf[1] - leaf[0], solution.ys)
    assert relative_error(solution.evaluate(at[0], at[1]), gained) < 1e-8


def test_all_the_steps_that_were_asked_for_are_taken():
    loop, sample = _problem()
    solver = {"solver": diffrax.Euler(), "stepsize_controller": diffrax.ConstantStepSize()}
    solution = dfc.simulate(loop, sample, t1=9.0, dt0=1e-3, **solver)
    assert solution.stats["num_steps"] == 9000


@pytest.mark.parametrize("asked", ["solver_state", "controller_state", "made_jump"])
def test_inner_states_are_not_given_away_in_other_units(asked):
    loop, sample = _problem()
    with pytest.raises(ValueError, match=f"`saveat` asks for `{asked}`"):
        dfc.simulate(loop, sample, t1=1.0, dt0=0.1, saveat=diffrax.SaveAt(t1=True, **{asked: True}))


def test_the_default_solver_takes_the_noise_and_gives_its_variance():
    """sigma eps is an Ornstein-Uhlenbeck process of the variance 1 / (2 tau) for eps."""
    tau = 0.1
    loop, sample = _problem(noise=dfc.FilteredNoise(0.1, tau))
    ends = jax.vmap(lambda key: dfc.simulate(loop, sample, t1=1.0, dt0=0.01, key=key).ys.noise[0][0])
    draws = np.ravel(ends(jr.split(jr.key(0), 2000)))  # 6000 independent ones
    assert abs(np.mean(draws)) < 5 * np.sqrt(1 / (2 * tau) / len(draws))
    assert abs(np.var(draws) * 2 * tau - 1) < 5 * np.sqrt(2 / len(draws))


NOT_FOR_NOISE = (
    diffrax.Tsit5(),
    diffrax.ItoMilstein(),
    diffrax.SRA1(),
    diffrax.LeapfrogMidpoint(),
    diffrax.ReversibleHeun(),
    diffrax.HalfSolver(diffrax.Heun()),
)


@pytest.mark.parametrize("solver", NOT_FOR_NOISE, ids=lambda solver: type(solver).__name__)
def test_a_solver_that_cannot_take_noise_is_refused_by_name(solver):
    loop, sample = _problem(noise=dfc.FilteredNoise(0.1))
    with pytest.raises(ValueError, match=f"`solver` is {type(solver).__name__}, which cannot take the noise"):
        dfc.simulate(loop, sample, t1=1.0, dt0=0.1, solver=solver, key=jr.key(0))


def test_steps_that_noise_would_change_are_refused_by_name():
    loop, sample = _problem(noise=dfc.FilteredNoise(0.1))
    adaptive = diffrax.PIDController(rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="`stepsize_controller` is PIDController, whose steps the noise"):
        dfc.simulate(loop, sample, t1=1.0, dt0=0.1, stepsize_controller=adaptive, key=jr.key(0))


def test_times_may_be_mapped_if_the_steps_are_given():
    loop, sample = _problem()
    ends = lambda **options: jax.vmap(lambda t1: dfc.simulate(loop, sample, t1=t1, dt0=0.1, **options).ys)
    with pytest.raises(ValueError, match=r"`t1` is traced .* give `max_steps`"):
        ends()(jnp.array([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"`dt0` is traced .* give `max_steps`"):
        jax.jit(lambda dt0: dfc.simulate(loop, sample, t1=1.0, dt0=dt0).ys)(0.1)
    found = ends(max_steps=100)(jnp.array([1.0, 2.0]))
    last = dfc.simulate(loop, sample, t1=2.0, dt0=0.1).ys
    assert relative_error(jax.tree.map(lambda leaf: leaf[1], found), last) < 1e-10
