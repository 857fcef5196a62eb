"""What becomes of samples whose first scheme fails."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.optimize
from helpers import (
    few_digits,
    find,
    make_batch,
    make_network,
    Plain,
    relative_error,
    sgd,
    softmax,
    take_samples,
)
from jaxtyping import Array
from test_strong_equilibrium import strong

import dfc_jax as dfc
from dfc_jax._steady_state.rescue import rescue


def nudged() -> tuple[dfc.ClosedLoop, Array, Array]:
    model = make_network(jr.key(3), (4, 6, 5, 3))
    return dfc.ClosedLoop(model, dfc.PIController(1.0, 0.05), dfc.Nudge(1.0)), *make_batch(jr.key(4), 9)


class Choosy(dfc.AbstractEquilibrium):
    """Finds the steady states, and says of those with a large first input that it did not."""

    above: float = 0.0

    def __call__(self, loop: dfc.ClosedLoop, samples: dfc.Sample) -> dfc.Equilibrium:
        found = dfc.Broyden(rtol=1e-10)(loop, samples)
        refused = samples.feedforward.inputs[0][:, 0] > self.above
        wrong = jnp.where(refused[:, None], found.control + 1, found.control)
        return eqx.tree_at(lambda f: (f.control, f.converged), found, (wrong, found.converged & ~refused))


@pytest.mark.parametrize(
    "unknowns, size",
    [*(pytest.param(*of_all, marks=pytest.mark.slow) for of_all in ((320, 9), (9, 3))), (2, 1), (15, 5)],
)
def test_the_fallback_takes_what_the_first_scheme_left(unknowns: int, size: int, change) -> None:
    """All failed samples and no others, in however many blocks: of one where a sample has more outputs than a
    block has unknowns, and of five, the second of which begins before the first ends, for there are nine."""
    change("dfc_jax._steady_state.rescue._BLOCK_UNKNOWNS", unknowns)
    loop, x, y = nudged()
    choosy, tried = Choosy(float(np.sort(x[:, 0])[1])), []
    left = np.asarray(x[:, 0] > choosy.above)
    assert np.sum(left) == 7

    class Noted(dfc.PseudoTransient):
        def __call__(self, loop: dfc.ClosedLoop, samples: dfc.Sample) -> dfc.Equilibrium:
            tried.append(len(samples.error))
            return super().__call__(loop, samples)

    @jax.jit
    def both(x: Array, y: Array) -> tuple[dfc.Equilibrium, Array]:
        samples = take_samples(loop, x, y)
        return rescue(loop, samples, choosy(loop, samples), Noted(rtol=1e-10))

    found, rescued = both(x, y)
    assert set(tried) == {size}
    assert np.array_equal(rescued, left) and np.all(found.converged)
    wanted = find(dfc.RootFind(), loop, x, y)
    assert relative_error(found.control, wanted.control) < 1e-4
    assert relative_error(found.deviation, wanted.deviation) < 1e-4
    broken, rescued = both(x.at[0].set(jnp.nan), y)
    assert not rescued[0] and not broken.converged[0]
    assert np.array_equal(rescued[1:], left[1:]) and np.all(broken.converged[1:])


def rest_under_its_own_jacobian(model: dfc.Network, x: np.ndarray, y: np.ndarray, alpha: float) -> np.ndarray:
    """u of v_i = W_i r_(i-1) + b_i + J_i(v)^T u, y - softmax(r_L) = alpha u, for all of (v, u) at once."""
    plain = Plain(model)
    start = [np.asarray(v) for v in model.feedforward(jnp.asarray(x)).voltages]
    ends = np.cumsum([len(v) for v in start])

    def remaining(flat: np.ndarray) -> np.ndarray:
        *v, u = np.split(flat, ends)
        rates = plain.rates(v)
        settled = zip(plain.basal(x, rates), plain.jacobian(v), v, strict=True)
        layers = [basal + J.T @ u - own for basal, J, own in settled]
        return np.concatenate([*layers, y - softmax(rates[-1]) - alpha * u])

    found = scipy.optimize.root(remaining, np.concatenate([*start, np.zeros(len(y))]), tol=1e-13)
    assert np.max(np.abs(remaining(found.x))) < 1e-10
    return found.x[ends[-1] :]


def test_a_fallback_solves_the_equations_that_were_asked_for() -> None:
    """Exact feedback of the controlled state: not that of the feedforward state, which rests elsewhere."""
    model = make_network(jr.key(0), (4, 5, 3), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(1), 4)[0], jnp.eye(3)[jnp.asarray([0, 1, 2, 0])]
    strategy = dfc.ControlledJacobian(dfc.Broyden(rtol=1e-12, max_iterations=2), rtol=1e-9)
    method = dfc.DFCSS(
        dfc.PIController(2.0, 0.1),
        dfc.Clamp(),
        equilibrium=strategy,
        fallback=dfc.PseudoTransient(1e-11, 200),
    )
    _, report = eqx.filter_jit(method)(model, x, y)
    assert np.all(report.converged) and np.all(report.fallback)
    wanted = [
        rest_under_its_own_jacobian(model, *pair, 0.1) for pair in zip(*map(np.asarray, (x, y)), strict=True)
    ]
    assert relative_error(report.control, np.stack(wanted)) < 1e-6
    assert dfc.StateAtTime().rescued_by(dfc.PseudoTransient()) is None  # it has no equations


def test_under_its_own_jacobian_a_sample_does_not_depend_on_its_companions() -> None:
    model = make_network(jr.key(0), (4, 5, 3), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(1), 6)[0], jnp.eye(3)[jnp.arange(6) % 3]
    loop = dfc.ClosedLoop(model, dfc.PIController(2.0, 0.1), dfc.Clamp())
    together = find(dfc.ControlledJacobian(rtol=1e-2), loop, x, y)
    alone = [find(dfc.ControlledJacobian(rtol=1e-2), loop, x[i : i + 1], y[i : i + 1]) for i in range(6)]
    assert np.max(np.abs(together.control - jnp.concatenate([a.control for a in alone]))) < 1e-12


@pytest.mark.slow
def test_the_report_says_who_needed_the_fallback() -> None:
    loop, x, y = nudged()
    learn = eqx.filter_jit(lambda method: method(loop.network, x, y))
    method = dfc.DFCSS(loop.controller, loop.target, equilibrium=Choosy())
    update, report = learn(method)
    left = np.asarray(x[:, 0] > 0)
    assert np.array_equal(report.fallback, left) and np.all(report.converged)
    wanted, plain = learn(dfc.DFCSS(loop.controller, loop.target, equilibrium=dfc.Broyden(rtol=1e-10)))
    assert not np.any(plain.fallback)
    assert relative_error(update.layers, wanted.layers) < 1e-4
    without = learn(eqx.tree_at(lambda m: m.fallback, method, None))[1]
    assert np.array_equal(without.converged, ~left) and not np.any(without.fallback)


def test_continuation_admits_that_it_ran_out() -> None:
    loop, x, y = strong(jr.key(0), 6.0)
    found = find(dfc.PseudoTransient(rtol=1e-9, max_iterations=2), loop, x, y)
    assert not np.any(found.converged) and np.all(np.asarray(found.iterations) == 2)
    with pytest.raises(ValueError, match="`rtol` is"):
        dfc.PseudoTransient(rtol=0.0)


def test_what_is_good_enough_at_once_takes_no_step() -> None:
    loop, x, y = strong(jr.key(0))
    found = find(dfc.PseudoTransient(rtol=1.5), loop, x[:3], y[:3])  # without control the residual is 1
    assert np.all(np.asarray(found.iterations) == 0) and np.all(found.converged)


@pytest.mark.usefixtures("as_users_run")
def test_a_fallback_that_does_most_of_the_work_is_no_secret(capsys) -> None:
    data, model = few_digits(), dfc.mlp((64, 8, 10), key=jr.key(0))
    hasty = dfc.DFCSS(target=dfc.Clamp(0.99), equilibrium=dfc.Broyden(max_iterations=1))
    options = {"epochs": 1, "key": jr.key(1), "batch_size": 32}
    with pytest.warns(UserWarning, match="left 100% of the samples of epoch 1 to the `fallback`"):
        _, history = dfc.fit(model, hasty, data, sgd(0.1), **options)
    assert len(history.doubts) == 1
    assert "by the fallback 1 (in doubt)" in capsys.readouterr().err
