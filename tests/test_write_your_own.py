"""The controller, layer, rule and method that notebook 4 teaches to write, with every solver and method."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx
import pytest
import scipy.integrate
from helpers import angle, Plain, relative_error
from jaxtyping import Array, PyTree
from notebook_four import by_hand, compute, mean_update, quickest, transforms, written

import dfc_jax as dfc


NUDGE, K_P, K, TAU, TAU_V, T = 0.1, 1.0, 100.0, 50.0, 0.2, 10.0  # of notebook 4's controller, and of ours


@pytest.fixture(scope="module")
def own() -> dict:
    return written()


@pytest.fixture(scope="module")
def model(own: dict) -> dfc.Network:
    """16 inputs, two locally connected layers of 9 and 8 neurons, and 3 outputs, with biases."""
    keys = jr.split(jr.key(0), 7)
    first = own["LocallyConnected"](4, 2, 1, 1, key=keys[0])
    second = own["LocallyConnected"](3, 2, 1, 2, key=keys[1])
    last = dfc.Dense(0.4 * jr.normal(keys[2], (3, 8)), jnp.zeros(3))
    transforms = [
        eqx.tree_at(lambda m: m.bias, m, 0.3 * jr.normal(k, m.bias.shape))
        for m, k in zip((first, second, last), keys[3:6], strict=True)
    ]
    layers = tuple(map(dfc.Layer, transforms, (dfc.Tanh(), dfc.Tanh(), dfc.Linear())))
    shapes = [(9,), (8,), (3,)]
    return dfc.Network(layers, dfc.ProductOfWeights().init(layers, shapes, keys[6]))


@pytest.fixture(scope="module")
def batch() -> tuple[Array, Array]:
    return jr.normal(jr.key(8), (3, 16)), jnp.eye(3)


def matrix_and_bias(transform: eqx.Module, inputs: int) -> tuple[Array, Array]:
    return jax.jacobian(transform)(jnp.zeros(inputs)), transform(jnp.zeros(inputs))


@eqx.filter_jit
def as_dense(model: dfc.Network) -> dfc.Network:
    """The same network of dense layers."""
    layers = [
        dfc.Layer(dfc.Dense(*matrix_and_bias(layer.transform, n)), layer.activation)
        for layer, n in zip(model.layers, (16, 9, 8), strict=True)
    ]
    return dfc.Network(tuple(layers), model.feedback)


@eqx.filter_jit
def projected(model: dfc.Network, matrices: list[tuple[np.ndarray, np.ndarray]]) -> list[PyTree]:
    """Changes of the dense matrices and biases as changes of the layers' own weights."""
    found = []
    for layer, n, change in zip(model.layers, (16, 9, 8), matrices, strict=True):
        _, pull = jax.vjp(lambda transform, n=n: matrix_and_bias(transform, n), layer.transform)
        found.append(pull(tuple(map(jnp.asarray, change)))[0])
    return found


def target_error(plain: Plain, x: Array, y: Array) -> np.ndarray:
    output = plain.settle(x)[1][-1]
    return NUDGE * (y - np.exp(output) / np.sum(np.exp(output)))


EQUILIBRIA = {
    "broyden": dfc.Broyden(rtol=1e-11),
    "newton": dfc.RootFind(optx.Newton(rtol=1e-12, atol=1e-12)),
    "simulated": dfc.Simulated(diffrax.Tsit5(), rtol=1e-8),
    "published": dfc.StateAtTime(dfc.PublishedEuler(dt=0.05, states=2000)),
    "fallback": dfc.Broyden(rtol=1e-11, max_iterations=1),
}


@pytest.mark.parametrize("name", quickest(EQUILIBRIA, "broyden", "fallback"))
def test_every_solver_finds_the_steady_state(
    name: str, own: dict, model: dfc.Network, batch: tuple[Array, Array]
) -> None:
    """e = u / k in a NumPy network at rest under the control found, and the update that it teaches."""
    fallback = dfc.PseudoTransient(rtol=1e-11) if name == "fallback" else None
    method = dfc.DFCSS(
        controller=own["LagController"](),
        target=dfc.Nudge(NUDGE),
        equilibrium=EQUILIBRIA[name],
        fallback=fallback,
    )
    update, report = compute(method, model, batch)
    assert np.all(report.converged) and np.all(np.asarray(report.fallback) == (name == "fallback"))
    plain, changes = Plain(as_dense(model)), []
    for x, y, u in zip(*batch, np.asarray(report.control), strict=True):
        voltages, rates = plain.settle(x, u)
        error = target_error(plain, x, y) + plain.settle(x)[1][-1] - rates[-1]
        assert np.linalg.norm(error - u / K) < 1e-7 * np.linalg.norm(target_error(plain, x, y))
        changes.append(by_hand(plain, x, voltages))
    assert relative_error(transforms(update), projected(model, mean_update(changes, NUDGE))) < 1e-6


@pytest.mark.parametrize("rule", quickest(["RateDifference", "DendriticPrediction"], "DendriticPrediction"))
def test_the_linearised_update_is_its_formula(
    rule: str, own: dict, model: dfc.Network, batch: tuple[Array, Array]
) -> None:
    """u = (J Q + I / k)^-1 e, taught by rates and by the notebook's own rule."""
    teaching = own[rule]() if rule in own else dfc.RateDifference()
    method = dfc.DFCSSA(controller=own["LagController"](), target=dfc.Nudge(NUDGE), teaching=teaching)
    update, report = compute(method, model, batch)
    weighted = lambda phi, slope, v, basal: slope(basal) * (phi(v) - phi(basal))
    plain, changes = Plain(as_dense(model)), []
    for x, y, u in zip(*batch, np.asarray(report.control), strict=True):
        gain = plain.gain(plain.settle(x)[0])
        assert relative_error(u, np.linalg.solve(gain + np.eye(3) / K, target_error(plain, x, y))) < 1e-9
        changes.append(by_hand(plain, x, plain.settle(x, u)[0], weighted if rule in own else None))
    assert relative_error(transforms(update), projected(model, mean_update(changes, NUDGE))) < 1e-8


IMPLICIT = diffrax.Kvaerno3(root_finder=dfc.ControlRootFinder(rtol=1e-6))
AVERAGES = {  # with the relative error that each may have
    "implicit": (dfc.ImplicitAverage(), 0.02),
    "closed form": (dfc.ClosedFormAverage(), 0.02),
    "published": (dfc.PublishedAverage(dfc.PublishedEuler(dt=0.005, states=2001)), 0.01),
    "explicit diffrax": (
        dfc.DiffraxAverage(diffrax.Tsit5(), diffrax.PIDController(rtol=1e-6, atol=1e-6)),
        1e-4,
    ),
    "implicit diffrax": (dfc.DiffraxAverage(IMPLICIT, diffrax.PIDController(1e-4, 1e-4)), 1e-3),
}


@pytest.fixture(scope="module")
def simulated(model: dfc.Network, batch: tuple[Array, Array]) -> list[PyTree]:
    """The update averaged over time, by SciPy from the equations of the lag compensator."""
    plain, changes = Plain(as_dense(model)), []
    ends = np.cumsum([9, 8, 3])
    for x, y in zip(*batch, strict=True):
        base, rates = plain.settle(x)
        goal = target_error(plain, x, y) + rates[-1]
        shapes = [part.shape for change in by_hand(plain, x, base) for part in change]
        sizes = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])

        def flow(t, state, x=x, base=base, goal=goal):
            integral = state[ends[-1] : ends[-1] + 3]
            voltages = [v + d for v, d in zip(base, np.split(state[: ends[-1]], ends[:-1]), strict=True)]
            rates = plain.rates(voltages)
            error = goal - rates[-1]
            u = integral + K_P * error
            parts = zip(plain.basal(x, rates), plain.Q, voltages, strict=True)
            moving = [(basal + Q @ u - v) / TAU_V for basal, Q, v in parts]
            learning = [part.ravel() for change in by_hand(plain, x, voltages) for part in change]
            return np.concatenate([*moving, ((K - K_P) * error - integral) / TAU, *learning])

        start = np.zeros(ends[-1] + 3 + sizes[-1])
        end = scipy.integrate.solve_ivp(flow, (0, T), start, rtol=1e-6, atol=1e-8).y[:, -1]
        parts = np.split(end[ends[-1] + 3 :] / T, sizes[:-1])
        arrays = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        changes.append(list(zip(arrays[::2], arrays[1::2], strict=True)))
    return projected(model, mean_update(changes, NUDGE))


@pytest.mark.parametrize("name", quickest(AVERAGES, "implicit", "closed form", "published"))
def test_every_average_is_that_of_the_dynamics(
    name: str, own: dict, model: dfc.Network, batch: tuple[Array, Array], simulated: list[PyTree]
) -> None:
    average, tolerance = AVERAGES[name]
    method = dfc.DFC(controller=own["LagController"](), target=dfc.Nudge(NUDGE), average=average)
    update, report = compute(method, model, batch)
    assert np.all(report.converged)
    assert relative_error(transforms(update), simulated) < tolerance


LIKE_DENSE = {
    "dfa": lambda controller: dfc.DFA(),
    "minimum norm": lambda controller: dfc.MinimumNorm(),
    "strong": lambda controller: dfc.StrongDFC(
        controller=controller,
        noise=dfc.FilteredNoise(1e-3),
        tau_v=0.01,
        scheme=dfc.PublishedEuler(0.002, 40),
        start=None,
    ),
}


@pytest.mark.parametrize("name", quickest(LIKE_DENSE, "dfa"))
def test_updates_are_those_of_the_dense_matrices(
    name: str, own: dict, model: dfc.Network, batch: tuple[Array, Array]
) -> None:
    method = LIKE_DENSE[name](own["LagController"]())
    (update, report), (wanted, _) = (compute(method, m, batch) for m in (model, as_dense(model)))
    assert np.all(np.isfinite(report.residual))
    dense = [(layer.transform.weight, layer.transform.bias) for layer in wanted.layers]
    assert relative_error(transforms(update), projected(model, dense)) < 1e-8
    assert relative_error(update.feedback.weights, wanted.feedback.weights) < 1e-8


@pytest.mark.parametrize("name", quickest(["SleepPhase", "ExpectedSleepPhase"], "ExpectedSleepPhase"))
def test_feedback_learns_as_in_the_dense_network(
    name: str, own: dict, model: dfc.Network, batch: tuple[Array, Array]
) -> None:
    scheme = dfc.PublishedEuler(dt=0.002, states=30, proactive=False)
    asleep = getattr(dfc, name)(controller=own["LagController"](k_p=0.1, k=4.0, tau=4.0), scheme=scheme)
    found, wanted = (compute(asleep, m, batch).feedback.weights for m in (model, as_dense(model)))
    assert relative_error(found, wanted) < 1e-8 and all(np.any(np.asarray(Q) != 0) for Q in found)


def test_backprop_is_the_gradient(model: dfc.Network, batch: tuple[Array, Array]) -> None:
    x, y = batch
    loss = lambda model: -jnp.mean(jnp.sum(y * jax.nn.log_softmax(jax.vmap(model)(x)), axis=1))
    update, _ = compute(dfc.Backprop(), model, batch)
    gradient = eqx.filter_jit(jax.grad(loss))(model)
    assert relative_error(transforms(update), transforms(gradient)) < 1e-10


def test_gauss_newton_moves_the_output_by_the_error(model: dfc.Network, batch: tuple[Array, Array]) -> None:
    """Of the local weights themselves, which are fewer than those of the dense matrices."""
    x, y = batch[0][:1], batch[1][:1]
    update, report = compute(dfc.GaussNewton(damping=1e-12), model, (x, y))
    outputs = lambda layers: dfc.Network(layers, model.feedback)(x[0])
    _, moved = eqx.filter_jit(jax.jvp)(outputs, (model.layers,), (update.layers,))
    assert relative_error(moved, jax.nn.softmax(report.output[0]) - y[0]) < 1e-8


def test_node_perturbation_is_the_gradient_on_average(
    own: dict, model: dfc.Network, batch: tuple[Array, Array]
) -> None:
    method = own["NodePerturbation"](sigma=1e-4)

    @eqx.filter_jit
    def mean(model: dfc.Network) -> dfc.Network:
        draws = jax.vmap(lambda key: method(model, *batch, key=key)[0])(jr.split(jr.key(5), 4096))
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), draws)

    gradient, _ = compute(dfc.Backprop(), model, batch)
    assert angle(transforms(mean(model)), transforms(gradient)) < 10
