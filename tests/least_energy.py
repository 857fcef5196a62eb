"""The energy of predictive coding and its minimum, in NumPy and by SciPy."""

import numpy as np
from helpers import flat, Plain, softmax
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


def eps_of(found: dfc.Equilibrium, b: int) -> np.ndarray:
    """What the apical compartments of a sample add to the voltages, all layers in one vector."""
    pairs = zip(found.deviation.voltage, found.deviation.basal, strict=True)
    return flat([d[b] - c[b] for d, c in pairs])
