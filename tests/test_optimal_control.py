"""Least control and predictive coding against the minimum of their energy, found by SciPy in NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import find, flat, make_batch, make_network, Plain, relative_error, softmax
from jaxtyping import Array
from scipy.optimize import minimize, root

import dfc_jax as dfc


PRECISE = dfc.OptimalControl(rtol=1e-10, max_iterations=300)
ALPHAS = (1.0, 0.1, 0.01, 1e-3)
SQUARED, ENTROPY = dfc.MeanSquaredError(), dfc.CrossEntropy()


class Energy:
    """E = |eps|^2 / 2 + l(r_L, y) / alpha of a sample, a function of eps, the apical input of all neurons."""

    def __init__(self, model: dfc.Network, x: Array, y: Array, alpha: float, squared: bool) -> None:
        self.plain, self.x, self.y = Plain(model), np.asarray(x), np.asarray(y)
        self.alpha, self.squared = alpha, squared
        self.cuts = np.cumsum([len(b) for b in self.plain.b])[:-1]

    def state(self, eps: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Voltages, and rates with the input first."""
        voltages, rates = [], [self.x]
        parts = zip(self.plain.W, self.plain.b, self.plain.phi, np.split(eps, self.cuts), strict=True)
        for W, b, phi, own in parts:
            voltages.append(W @ rates[-1] + b + own)
            rates.append(phi(voltages[-1]))
        return voltages, rates

    def value(self, eps: np.ndarray) -> float:
        output = self.state(eps)[1][-1]
        if self.squared:
            return eps @ eps / 2 + np.sum((self.y - output) ** 2) / (2 * self.alpha)
        log_sum = np.max(output) + np.log(np.sum(np.exp(output - np.max(output))))
        return eps @ eps / 2 - np.sum(self.y * (output - log_sum)) / self.alpha

    def gradient(self, eps: np.ndarray) -> np.ndarray:
        voltages, rates = self.state(eps)
        error = self.y - (rates[-1] if self.squared else softmax(rates[-1]))
        return eps - np.concatenate([error @ J for J in self.plain.jacobian(voltages)]) / self.alpha

    def minimum(self, start: np.ndarray) -> np.ndarray:
        """The nearest minimum, to rounding."""
        rough = minimize(self.value, start, jac=self.gradient, method="BFGS", options={"gtol": 1e-7})
        fine = root(self.gradient, rough.x, tol=1e-15).x
        return fine if np.linalg.norm(fine - rough.x) < 1e-3 * np.linalg.norm(fine) else rough.x

    def update(self, eps: np.ndarray) -> list[np.ndarray]:
        """-eps_i r_(i-1)^T and -eps_i of every layer."""
        inputs = self.state(eps)[1][:-1]
        pairs = zip(np.split(eps, self.cuts), inputs, strict=True)
        return [part for own, r in pairs for part in (-np.outer(own, r), -own)]


def least(model: dfc.Network, x: Array, y: Array, alpha: float, squared: bool) -> list[np.ndarray]:
    """The mean update at the minima that a falling leak leads to, and of every sample its eps."""
    total, found = None, []
    for a, b in zip(x, y, strict=True):
        eps = np.zeros(sum(len(layer.transform.bias) for layer in model.layers))
        for leak in [step for step in (100.0, 10.0, 3.0, *ALPHAS) if step > alpha] + [alpha]:
            eps = Energy(model, a, b, leak, squared).minimum(eps)
        update = Energy(model, a, b, alpha, squared).update(eps)
        found.append(eps)
        total = update if total is None else [s + u for s, u in zip(total, update, strict=True)]
    return [part / len(x) for part in total], found


def learn(
    method: dfc.AbstractMethod, model: dfc.Network, x: Array, y: Array
) -> tuple[dfc.Network, dfc.Report]:
    update, report = method(model, x, y)
    assert np.all(report.converged), report.residual
    return update, report


CASES = {
    "two layers": ((5, 6, 3), dfc.Tanh()),
    "sigmoids": ((5, 6, 5, 6, 3), dfc.Sigmoid()),
    "eight layers": ((4, 5, 5, 5, 5, 5, 5, 5, 3), dfc.Tanh()),
    "far from kinks": ((5, 6, 6, 3), dfc.LeakyReLU()),
}
SLOW = ("sigmoids", "eight layers", "far from kinks")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CASES]
)
@pytest.mark.parametrize("loss", [SQUARED, ENTROPY], ids=["squared", "entropy"])
def test_updates_are_those_of_the_least_energy(name: str, loss: dfc.AbstractLoss) -> None:
    sizes, activation = CASES[name]
    model = make_network(jr.key(3), sizes, activation)
    if name == "far from kinks":
        aside = lambda bias: bias + 4.0 * jnp.where(jnp.arange(len(bias)) % 2 == 0, 1, -1)
        hidden = lambda m: [layer.transform.bias for layer in m.layers[:-1]]
        model = eqx.tree_at(hidden, model, replace_fn=aside)
    x, y = make_batch(jr.key(4), 3, sizes[0])
    for alpha in ALPHAS[:2] if name == "far from kinks" else ALPHAS:  # strongly clamped, they are not far
        update, _ = learn(dfc.PredictiveCoding(alpha, loss, PRECISE, None), model, x, y)
        wanted, _ = least(model, x, y, alpha, loss is SQUARED)
        assert relative_error(update.layers, wanted) < 1e-7


@pytest.mark.slow
def test_least_control_with_softened_targets_is_the_same_equilibrium() -> None:
    model = make_network(jr.key(0), (4, 6, 3))
    x, y = make_batch(jr.key(1), 3)
    soft = jnp.where(y > 0, 0.9, 0.05)
    update, _ = learn(dfc.LeastControl(0.1, class_value=0.9, equilibrium=PRECISE, fallback=None), model, x, y)
    coded, _ = learn(dfc.PredictiveCoding(0.1, equilibrium=PRECISE, fallback=None), model, x, soft)
    assert relative_error(update.layers, coded.layers) < 1e-12


def test_apical_input_is_the_transposed_jacobian_times_the_control() -> None:
    """The theorem, by automatic differentiation through another program."""
    model = make_network(jr.key(5), (4, 6, 5, 3), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(6), 4)
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 0.05), dfc.Clamp())
    found = find(PRECISE, loop, x, y)

    for b in range(4):
        state = model.feedforward(x[b])
        v = [s + d[b] for s, d in zip(state.voltages, found.deviation.voltage, strict=True)]
        for i, (d, c) in enumerate(zip(found.deviation.voltage, found.deviation.basal, strict=True)):
            J = model.jacobian(v)[i]
            by_hand = jax.jacobian(lambda own, i=i, v=v: _above(model, v, i, own))(v[i])
            assert relative_error(J, by_hand) < 1e-12
            assert relative_error(d[b] - c[b], found.control[b] @ by_hand) < 1e-8


def _above(model: dfc.Network, voltages: list[Array], i: int, own: Array) -> Array:
    """The output if layer i is at `own` and the apical inputs of those above stay as they are."""
    rate = model.layers[i].activation(own)
    for k, layer in enumerate(model.layers[i + 1 :], i + 1):
        held = voltages[k] - layer.transform(model.layers[k - 1].activation(voltages[k - 1]))
        rate = layer.activation(layer.transform(rate) + held)
    return rate


@pytest.mark.parametrize("activation", [dfc.ReLU(), pytest.param(dfc.LeakyReLU(), marks=pytest.mark.slow)])
def test_neurons_held_at_a_kink_are_where_the_energy_is_least(activation: dfc.AbstractActivation) -> None:
    """No small step lowers the energy, and some neurons are at zero, where it has no gradient."""
    model = make_network(jr.key(7), (5, 12, 12, 3), activation, feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(8), 4, 5)
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 0.1), dfc.Clamp(), SQUARED)
    found = find(PRECISE, loop, x, y)
    assert np.all(found.converged)
    random, held = np.random.default_rng(0), 0
    for b in range(4):
        eps = np.concatenate(
            [d[b] - c[b] for d, c in zip(found.deviation.voltage, found.deviation.basal, strict=True)]
        )
        energy = Energy(model, x[b], y[b], 0.1, squared=True)
        held += sum(np.sum(np.abs(v) < 1e-9) for v in energy.state(eps)[0])
        best = energy.value(eps)
        steps = 1e-5 * random.normal(size=(300, len(eps)))
        assert min(energy.value(eps + step) for step in steps) > best
    assert held > 0


@pytest.mark.slow
def test_no_leak_clamps_the_output_as_other_libraries_do() -> None:
    """alpha 0: the hidden layers minimise sum |eps_i|^2 / 2 + |y - f_L|^2 / 2."""
    model = make_network(jr.key(9), (4, 6, 5, 3))
    x, y = make_batch(jr.key(10), 3)
    update, report = learn(dfc.PredictiveCoding(0.0, SQUARED, PRECISE, None), model, x, y)
    hidden = dfc.Network(model.layers[:-1], model.feedback)
    W, b = (np.asarray(p) for p in (model.layers[-1].transform.weight, model.layers[-1].transform.bias))
    last = []
    for a, label in zip(np.asarray(x), np.asarray(y), strict=True):
        below = Energy(hidden, a, label, 1.0, squared=True)

        def energy(eps: np.ndarray, below=below, label=label) -> float:
            return eps @ eps / 2 + np.sum((label - W @ below.state(eps)[1][-1] - b) ** 2) / 2

        eps = minimize(energy, np.zeros(11), method="BFGS", options={"gtol": 1e-9}).x
        last.append(label - W @ below.state(eps)[1][-1] - b)
    assert relative_error(update.layers[-1].transform.bias, -np.mean(last, axis=0)) < 1e-6
    assert np.all(np.asarray(report.residual) < 1e-9)


@pytest.mark.slow
def test_minimum_is_the_one_that_a_falling_leak_leads_to() -> None:
    """Among several: from elsewhere SciPy ends in others, of lower energy even."""
    model = make_network(jr.key(2), (3, 4, 4, 2))
    weights = lambda m: [layer.transform.weight for layer in m.layers]
    model = eqx.tree_at(weights, model, replace_fn=lambda w: 6 * w)
    x, y = make_batch(jr.key(3), 6, 3, 2)
    model = dfc.Network(model.layers, dfc.ExactFeedback())
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 0.1), dfc.Clamp(), SQUARED)
    found = find(PRECISE, loop, x, 2 * y)
    random, others, lower = np.random.default_rng(1), 0, 0
    assert np.sum(found.converged) >= 4  # so steep a network is not solved for every sample
    _, followed = least(model, x, 2 * y, 0.1, squared=True)
    for b in np.flatnonzero(found.converged):
        eps = np.concatenate(
            [d[b] - c[b] for d, c in zip(found.deviation.voltage, found.deviation.basal, strict=True)]
        )
        assert relative_error(eps, followed[b]) < 1e-7
        energy = Energy(model, x[b], 2 * y[b], 0.1, squared=True)
        for _ in range(6):
            other = energy.minimum(3 * random.normal(size=len(eps)))
            if np.linalg.norm(other - eps) > 0.1 and np.linalg.norm(energy.gradient(other)) < 1e-6:
                others += 1
                lower += energy.value(other) < energy.value(eps) - 1e-6
    assert others > 0 and lower > 0


@pytest.mark.slow
def test_continuation_and_iteration_agree() -> None:
    model = make_network(jr.key(5), (4, 8, 8, 3), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(6), 6)
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 1e-3), dfc.Clamp())
    one, other = find(PRECISE, loop, x, y), find(dfc.LeakContinuation(rtol=1e-10), loop, x, y)
    assert np.all(one.converged) and np.all(other.converged)
    assert relative_error(other.control, one.control) < 1e-8


@pytest.mark.slow
def test_continuation_solves_what_the_iteration_leaves_over() -> None:
    """Sixteen layers, strongly clamped."""
    model = make_network(jr.key(1), (6, *[12] * 15, 3), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(2), 8, 6)
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 1e-4), dfc.Clamp())
    left = ~np.asarray(find(dfc.OptimalControl(), loop, x, y).converged)
    assert np.any(left)
    _, report = learn(dfc.LeastControl(1e-4), model, x, y)
    assert np.array_equal(report.fallback, left)
    for b in np.flatnonzero(left):
        found = find(dfc.LeakContinuation(rtol=1e-8), loop, x[b : b + 1], y[b : b + 1])
        eps = flat([d - c for d, c in zip(found.deviation.voltage, found.deviation.basal, strict=True)])
        gradient = Energy(model, x[b], y[b], 1e-4, squared=False).gradient(eps)
        assert np.linalg.norm(gradient) < 1e-4 * np.linalg.norm(eps)


def test_residual_is_of_all_conditions() -> None:
    """The larger of the output's and that of eps = J(v)^T u, in NumPy, after two iterations."""
    model = make_network(jr.key(0), (4, 6, 5, 3), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(1), 5)
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 0.1), dfc.Clamp())
    found = find(dfc.OptimalControl(max_iterations=2), loop, x, y)
    assert not np.any(found.converged)
    for b in range(5):
        eps = np.concatenate(
            [d[b] - c[b] for d, c in zip(found.deviation.voltage, found.deviation.basal, strict=True)]
        )
        energy = Energy(model, x[b], y[b], 0.1, squared=False)
        voltages, rates = energy.state(eps)
        pulled = np.concatenate([found.control[b] @ J for J in energy.plain.jacobian(voltages)])
        error = y[b] - softmax(rates[-1]) - 0.1 * found.control[b]
        without = y[b] - softmax(energy.state(0 * eps)[1][-1])
        wanted = [np.linalg.norm(pulled - eps) / np.linalg.norm(pulled)]
        wanted.append(np.linalg.norm(error) / np.linalg.norm(without))
        assert np.isclose(found.residual[b], max(wanted), rtol=1e-6)


def test_what_does_not_converge_teaches_nothing() -> None:
    model = make_network(jr.key(0))
    x, y = make_batch(jr.key(1), 4)
    method = dfc.LeastControl(1e-3, equilibrium=dfc.OptimalControl(max_iterations=1), fallback=None)
    update, report = method(model, x, y)
    assert not np.any(report.converged) and np.all(flat(update) == 0)


@pytest.mark.slow
def test_no_sample_depends_on_its_companions() -> None:
    """Many converge before the others, which go on in a batch of their own."""
    model = make_network(jr.key(0), (4, 6, 5, 3), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(1), 150)
    x = x * jnp.where(jnp.arange(150) % 10 == 0, 3.0, 0.1)[:, None]
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 1e-3), dfc.Clamp())
    strategy = dfc.OptimalControl(rtol=1e-3)
    together = find(strategy, loop, x, y)
    assert np.all(together.converged) and len(np.unique(together.iterations)) > 2
    for part in (slice(0, 40), slice(110, 150)):
        alone = find(strategy, loop, x[part], y[part])
        assert np.array_equal(alone.iterations, together.iterations[part])
        assert relative_error(alone.control, together.control[part]) < 1e-12


@pytest.mark.slow
def test_feature_maps_and_many_outputs() -> None:
    """A convolutional network, and more outputs than hidden neurons."""
    convolutional = dfc.convnet((6, 6, 2), (3,), (5, 3), key=jr.key(0), feedback=dfc.ExactFeedback())
    wide = make_network(jr.key(1), (4, 7, 40), feedback=dfc.ExactFeedback())
    for model, inputs, outputs in ((convolutional, 72, 3), (wide, 4, 40)):
        x, y = make_batch(jr.key(2), 5, inputs, outputs)
        update, report = learn(dfc.LeastControl(0.01, equilibrium=PRECISE, fallback=None), model, x, y)
        loop = dfc.LeastControl(0.01).loop(model)
        found = find(PRECISE, loop, x, y)
        for b in range(5):
            voltages = [
                v + d[b]
                for v, d in zip(model.feedforward(x[b]).voltages, found.deviation.voltage, strict=True)
            ]
            eps = [d[b] - c[b] for d, c in zip(found.deviation.voltage, found.deviation.basal, strict=True)]
            wanted = [jnp.tensordot(found.control[b], J, axes=1) for J in model.jacobian(voltages)]
            assert relative_error(eps, wanted) < 1e-8
        assert np.any(flat(update) != 0) and np.all(report.residual < 1e-10)


@pytest.mark.slow
def test_idealised_strong_feedback_is_the_same_state() -> None:
    """`ControlledJacobian`, which shares no equation with the iteration, finds it."""
    model = make_network(jr.key(5), feedback=dfc.ExactFeedback())
    x, y = make_batch(jr.key(6), 4)
    loop = dfc.ClosedLoop(model, dfc.PIController(0.0, 0.1), dfc.Clamp(0.99))
    turns = dfc.ControlledJacobian(dfc.Broyden(rtol=1e-11, max_iterations=60), rtol=1e-10, max_iterations=300)
    one, other = find(PRECISE, loop, x, y), find(turns, loop, x, y)
    assert relative_error(one.control, other.control) < 1e-8


def test_wrong_settings_are_refused() -> None:
    for method in (dfc.LeastControl, dfc.PredictiveCoding):
        with pytest.raises(ValueError, match=r"`alpha` is 0.0; it must be a finite number greater than 0"):
            method(alpha=0)
    model = make_network(jr.key(0))
    strategy = dfc.DFCSS(target=dfc.Clamp(), equilibrium=dfc.OptimalControl())
    with pytest.raises(
        ValueError, match=r"`model.feedback` is FeedbackWeights; optimal control is that of Exact"
    ):
        strategy(model, *make_batch(jr.key(1), 2))


@pytest.mark.parametrize("loss", [SQUARED, ENTROPY], ids=["squared", "entropy"])
def test_energies_are_those_of_numpy(loss: dfc.AbstractLoss) -> None:
    model = make_network(jr.key(0), (4, 6, 3))
    x, y = make_batch(jr.key(1), 3)
    loop = dfc.PredictiveCoding(0.3, loss).loop(model)
    samples = eqx.filter_jit(loop.samples)(x, y)
    found = PRECISE(loop, samples)
    energies = dfc.predictive_coding_energy(loop, samples, found)
    for b in range(3):
        eps = np.concatenate(
            [d[b] - c[b] for d, c in zip(found.deviation.voltage, found.deviation.basal, strict=True)]
        )
        assert np.isclose(dfc.control_energy(found)[b], eps @ eps / 2, rtol=1e-12)
        value = Energy(model, x[b], y[b], 0.3, loss is SQUARED).value(eps)
        assert np.isclose(energies[b], value, rtol=1e-12)


@pytest.mark.slow
def test_diagnostics_are_of_the_methods_own_state() -> None:
    """The model's feedback weights, which play no part, are not measured; the energies are."""
    model = make_network(jr.key(0), (4, 6, 3), feedback=dfc.RandomFeedback())
    x, y = make_batch(jr.key(1), 5)
    method = dfc.LeastControl(0.3, equilibrium=PRECISE, fallback=None)
    numbers = dfc.Diagnostics()(model, method, dfc.Split(x, y))
    loop = method.loop(model)
    samples = loop.samples(x, y)
    found = PRECISE(loop, samples)
    assert np.isclose(numbers["control_energy"], np.mean(dfc.control_energy(found)))
    assert np.isclose(numbers["energy"], np.mean(dfc.predictive_coding_energy(loop, samples, found)))
    assert numbers["condition_two"] > 1 - 1e-9 and "surrogate_loss" not in numbers
