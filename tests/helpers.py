"""Small networks, distances between arrays, the model once more in plain NumPy, and what runs leave."""

import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

import dfc_jax as dfc


# The same object for the same rate: a test that compiles its steps by itself compiles them once.
adam, sgd = functools.cache(optax.adam), functools.cache(optax.sgd)


def relative_error(found: PyTree, wanted: PyTree) -> float:
    """Largest absolute difference of two trees of arrays, relative to the largest entry wanted."""
    found, wanted = flat(found), flat(wanted)
    assert found.shape == wanted.shape
    difference = float(np.max(np.abs(found - wanted), initial=0.0))
    return 0.0 if difference == 0 else difference / max(float(np.max(np.abs(wanted))), 1e-300)


def flat(tree: PyTree) -> np.ndarray:
    """All arrays of a tree as one float64 vector."""
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def angle(a: PyTree, b: PyTree) -> float:
    """The angle between two trees of arrays, in degrees; by the half-angle, exact for small ones too."""
    a, b = (v / np.linalg.norm(v) for v in (flat(a), flat(b)))
    return float(np.degrees(2 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b))))


def cast(tree: PyTree, dtype: type) -> PyTree:
    """The tree with its floating-point arrays, Python-like scalars apart, in another precision."""
    other = lambda leaf: jnp.asarray(np.asarray(leaf).astype(dtype))
    return jax.tree.map(lambda leaf: other(leaf) if eqx.is_inexact_array(leaf) else leaf, tree)


def records(folder: pathlib.Path) -> list[dict[str, Any]]:
    """What a run's `metrics.jsonl` holds, line by line."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def make_network(
    key: PRNGKeyArray,
    sizes: Sequence[int] = (4, 6, 5, 3),
    activation: dfc.AbstractActivation | Sequence[dfc.AbstractActivation] = dfc.Tanh(),
    feedback: eqx.Module = dfc.ProductOfWeights(),
    output_activation: dfc.AbstractActivation = dfc.Linear(),
) -> dfc.Network:
    """A multilayer perceptron whose biases are not zero.

    Array by array: the programs that draw them serve all networks with layers of these sizes.
    """
    weights_key, bias_key = jr.split(key)
    model = dfc.mlp(
        sizes,
        key=weights_key,
        activation=activation,
        feedback=feedback,
        output_activation=output_activation,
    )
    keys = jr.split(bias_key, len(sizes) - 1)
    biases = [0.3 * jr.normal(k, (n,)) for k, n in zip(keys, sizes[1:], strict=True)]
    return eqx.tree_at(lambda m: [layer.transform.bias for layer in m.layers], model, biases)


@eqx.filter_jit
def make_batch(
    key: PRNGKeyArray, size: int, inputs: int = 4, outputs: int = 3
) -> tuple[Float[Array, "batch inputs"], Float[Array, "batch outputs"]]:
    """Random inputs and one-hot labels."""
    x_key, y_key = jr.split(key)
    return jr.normal(x_key, (size, inputs)), jax.nn.one_hot(jr.randint(y_key, (size,), 0, outputs), outputs)


@eqx.filter_jit
def take_samples(
    loop: dfc.ClosedLoop, x: Float[Array, "batch ..."], y: Float[Array, "batch out"]
) -> dfc.Sample:
    """`loop.sample` of a batch."""
    return jax.vmap(loop.sample)(x, y)


@eqx.filter_jit
def learn(
    method: dfc.AbstractMethod,
    model: dfc.Network,
    x: Float[Array, "batch ..."],
    y: Float[Array, "batch out"],
    key: PRNGKeyArray | None = None,
) -> tuple[dfc.Network, dfc.Report]:
    """A method's update and report: one program for all hyperparameters of a kind of method."""
    return method(model, x, y, key=key)


@eqx.filter_jit
def find(
    equilibrium: dfc.AbstractEquilibrium,
    loop: dfc.ClosedLoop,
    x: Float[Array, "batch ..."],
    y: Float[Array, "batch out"],
) -> dfc.Equilibrium:
    """The steady state of every sample of a batch: one program for all tolerances of a kind of solver."""
    return equilibrium(loop, take_samples(loop, x, y))


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z - np.max(z)) / np.sum(np.exp(z - np.max(z)))


ACTIVATIONS = {
    dfc.Tanh: (np.tanh, lambda v: 1 / np.cosh(v) ** 2),
    dfc.Sigmoid: (lambda v: 1 / (1 + np.exp(-v)), lambda v: 1 / (2 + np.exp(v) + np.exp(-v))),
    dfc.ReLU: (lambda v: np.where(v > 0, v, 0.0), lambda v: np.where(v > 0, 1.0, 0.0)),
    dfc.LeakyReLU: (lambda v: np.where(v > 0, v, 0.2 * v), lambda v: np.where(v > 0, 1.0, 0.2)),
    dfc.Linear: (lambda v: v, lambda v: np.ones_like(v)),
}


class Plain:
    """The network and its dynamics in NumPy: raw voltages and plain differences, one sample at a time."""

    def __init__(self, model: dfc.Network) -> None:
        self.W = [np.asarray(layer.transform.weight, np.float64) for layer in model.layers]
        self.b = [np.asarray(layer.transform.bias, np.float64) for layer in model.layers]
        self.phi = [ACTIVATIONS[type(layer.activation)][0] for layer in model.layers]
        self.slope = [ACTIVATIONS[type(layer.activation)][1] for layer in model.layers]
        if isinstance(model.feedback, dfc.FeedbackWeights):
            self.Q = [np.asarray(Q, np.float64) for Q in model.feedback.weights]

    def basal(self, x: np.ndarray, rates: Sequence[np.ndarray]) -> list[np.ndarray]:
        """W_i r_{i-1} + b_i from the rates of all layers."""
        return [W @ r + b for W, b, r in zip(self.W, self.b, [x, *rates[:-1]], strict=True)]

    def rates(self, voltages: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [phi(v) for phi, v in zip(self.phi, voltages, strict=True)]

    def settle(self, x: np.ndarray, u: np.ndarray | float = 0.0) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Voltages and rates at rest under a constant control (none: the feedforward state)."""
        voltages, rates, rate = [], [], np.asarray(x, np.float64)
        for W, b, phi, Q in zip(self.W, self.b, self.phi, self.Q, strict=True):
            voltages.append(W @ rate + b + Q @ np.broadcast_to(u, Q.shape[1:]))
            rates.append(rate := phi(voltages[-1]))
        return voltages, rates

    def jacobian(self, voltages: Sequence[np.ndarray]) -> list[np.ndarray]:
        """J_i = dr_L/dv_i of every layer, by the chain rule."""
        rows = [np.diag(self.slope[-1](voltages[-1]))]
        for W, slope, v in zip(self.W[:0:-1], self.slope[-2::-1], voltages[-2::-1], strict=True):
            rows.insert(0, rows[0] @ W * slope(v))
        return rows

    def gain(self, voltages: Sequence[np.ndarray]) -> np.ndarray:
        """J Q at the given voltages."""
        return sum(J @ Q for J, Q in zip(self.jacobian(voltages), self.Q, strict=True))

    def rates_of_change(
        self,
        x: np.ndarray,
        target: np.ndarray,
        voltages: Sequence[np.ndarray],
        integral: np.ndarray,
        apical: Sequence[np.ndarray] | None = None,
        noise: Sequence[np.ndarray] | None = None,
        *,
        k_p: float = 2.0,
        alpha: float = 1e-3,
        leaky_integrator: bool = False,
        clamp_softmax: bool = False,
        tau_v: float = 0.2,
        tau_apical: float = 0.3,
        tau_noise: float = 0.05,
        sigmas: Sequence[float] = (),
    ) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray] | None, list[np.ndarray] | None]:
        """Time derivatives of raw voltages, integral, apical voltages and filtered noise (PAPER.md 3.1)."""
        rates = self.rates(voltages)
        error = target - (softmax(rates[-1]) if clamp_softmax else rates[-1])
        u = integral + k_p * error
        drive = [Q @ u for Q in self.Q]
        arriving = drive if apical is None else apical
        if noise is not None:
            arriving = [a + s * n for a, s, n in zip(arriving, sigmas, noise, strict=True)]
        into = zip(voltages, self.basal(x, rates), arriving, strict=True)
        return (
            [(-v + b + a) / tau_v for v, b, a in into],
            error - alpha * (integral if leaky_integrator else u),
            None if apical is None else [(q - a) / tau_apical for q, a in zip(drive, apical, strict=True)],
            None if noise is None else [-n / tau_noise for n in noise],
        )


class _Counted(dfc.PublishedState):
    time: Array
    index: Array


class Replayed(dfc.PublishedEuler):
    """The published scheme with given noise in place of fresh draws: each sample is known by its input."""

    x: Float[Array, "batch inputs"] | None = None
    noise: tuple[Float[Array, "steps batch _"], ...] = ()

    def initial(self, loop: dfc.ClosedLoop, sample: dfc.Sample) -> dfc.PublishedState:
        state = super().initial(loop, sample)
        distances = jax.vmap(lambda x: jnp.sum(jnp.abs(x - sample.feedforward.inputs[0])))(self.x)
        return _Counted(*vars(state).values(), jnp.asarray(0), jnp.argmin(distances))

    def step(
        self, loop: dfc.ClosedLoop, state: dfc.PublishedState, sample: dfc.Sample, draws: object = None
    ) -> dfc.PublishedState:
        del draws
        given = tuple(noise[state.time, state.index] for noise in self.noise)
        after = super().step(loop, state, sample, given)
        return _Counted(*vars(after).values(), state.time + 1, state.index)


def few_digits() -> dfc.Dataset:
    """scikit-learn's digits with 96 training samples."""
    digits = dfc.load("digits")
    return eqx.tree_at(lambda d: (d.train.x, d.train.y), digits, (digits.train.x[:96], digits.train.y[:96]))


class Gained(dfc.AbstractController):
    """u = k_i u_int + k_p e, du_int/dt = e - alpha u: the integral has a gain of its own."""

    k_i: float
    k_p: float
    alpha: float

    def control(self, integral: Array, error: Array) -> Array:
        return self.k_i * integral + self.k_p * error

    def integral_rate(self, integral: Array, control: Array, error: Array) -> Array:
        return error - self.alpha * control

    def steady_state_leak(self) -> Array:
        return jnp.asarray(self.alpha)

    def charge(self) -> Array:
        return jnp.asarray((1 - self.alpha * self.k_p) / self.k_i)

    def implicit_gains(self, step: Array) -> tuple[Array, Array]:
        decay = 1 / (1 + step * self.k_i * self.alpha)
        return self.k_i * decay, (step * self.k_i + self.k_p) * decay


STEADY = {  # to a steady state
    "ssa": dfc.DFCSSA(),
    "broyden": dfc.DFCSS(),
    "newton": dfc.DFCSS(equilibrium=dfc.RootFind()),
    "simulated": dfc.DFCSS(equilibrium=dfc.Simulated(t1=400.0)),
}
AVERAGED = {  # all to T = 2
    "implicit": dfc.DFC(average=dfc.ImplicitAverage(2.0)),
    "published": dfc.DFC(average=dfc.PublishedAverage(dfc.PublishedEuler(dt=0.01, states=201))),
    "heun": dfc.DFC(average=dfc.DiffraxAverage(diffrax.Heun(), diffrax.ConstantStepSize(), t1=2.0)),
    "tsit5": dfc.DFC(average=dfc.DiffraxAverage(t1=2.0)),
}
CONTROLLED = STEADY | AVERAGED
# To compile; .ci/run runs the slow ones beside the fast suite.
MARKS = {
    "newton": pytest.mark.slow,
    "simulated": pytest.mark.slow,
    "tsit5": pytest.mark.slow,
    "heun": pytest.mark.script,
}


def every(methods: dict[str, dfc.AbstractMethod]) -> pytest.MarkDecorator:
    """Parameters of which some are slow to compile."""
    cases = [pytest.param(method, id=name, marks=MARKS.get(name, ())) for name, method in methods.items()]
    return pytest.mark.parametrize("method", cases)


def splits(dataset: dfc.Dataset) -> tuple[dfc.Split, dfc.Split, dfc.Split]:
    return dataset.train, dataset.validation, dataset.test


def same_data(a: dfc.Dataset, b: dfc.Dataset) -> bool:
    """Bit for bit."""
    pairs = zip(splits(a), splits(b), strict=True)
    return all(np.array_equal(p.x, q.x) and np.array_equal(p.y, q.y) for p, q in pairs)
