"""The minimum of predictive coding's energy in float64, by Newton's method over all neurons, in NumPy alone.

The energy of a sample is 1/2 sum_i |eps_i|^2, eps_i = v_i - W_i phi(v_{i-1}) - b_i, with phi = tanh,
phi(v_0) the input and v_L the target (Whittington and Bogacz, 2017, all precisions one).
"""

import numpy as np
from jaxtyping import Float


Weights = list[tuple[np.ndarray, np.ndarray]]  # W and b of every layer
States = list[Float[np.ndarray, "batch _"]]  # layer by layer
PerSample = Float[np.ndarray, " batch"]


def exact_update(weights: Weights, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """The gradient of the batch's mean energy by all W_i and b_i, layer after layer, at the minimum; and the
    largest norm of a sample's gradient by its neurons, which says how exact the minimum is.

    **Raises:** `RuntimeError` where no minimum is found.
    """
    weights = [(np.asarray(W, float), np.asarray(b, float)) for W, b in weights]
    x, y = np.asarray(x, float), np.asarray(y, float)
    hidden, slope = minimum(weights, x, y)
    errors, befores = _errors(weights, hidden, x, y), [x, *map(np.tanh, hidden)]
    pairs = zip(errors, befores, strict=True)
    parts = [part for error, before in pairs for part in (-error.T @ before / len(x), -error.mean(0))]
    return np.concatenate([np.ravel(part) for part in parts]), slope


def minimum(weights: Weights, x: np.ndarray, y: np.ndarray) -> tuple[States, float]:
    """The hidden layers' states at the minimum downhill of the feedforward states, and the slope left there.

    Gauss-Newton steps, which always lead downhill, until Newton's own converge.

    **Raises:** `RuntimeError` where the slope does not vanish, or a direction leads down from there.
    """
    hidden, before = [], x
    for W, b in weights[:-1]:
        hidden.append(before @ W.T + b)
        before = np.tanh(hidden[-1])
    for curvature, steps, enough in ((0.0, 100, 1e-3), (1.0, 12, 1e-12)):
        for _ in range(steps):
            errors = _errors(weights, hidden, x, y)
            gradient = _transposed(weights, hidden, errors)
            if (slope := float(np.max(np.sqrt(_dot(gradient, gradient))))) < enough:
                break
            step = _step(weights, hidden, errors, gradient, curvature)
            hidden = _downhill(weights, hidden, step, x, y)
    if not slope < 1e-9:
        raise RuntimeError(f"Newton's method ends with a slope of {slope:.1e}; at the minimum it is zero.")
    return hidden, slope


def _errors(weights: Weights, hidden: States, x: np.ndarray, y: np.ndarray) -> States:
    """eps of all layers, the output's included."""
    layers = zip([*hidden, y], [x, *map(np.tanh, hidden)], weights, strict=True)
    return [v - before @ W.T - b for v, before, (W, b) in layers]


def _changed(weights: Weights, hidden: States, change: States) -> States:
    """How all eps change with the hidden states."""
    carried = [(1 - np.tanh(v) ** 2) * d for v, d in zip(hidden, change, strict=True)]
    below = [-d @ W.T for d, (W, _) in zip(carried, weights[1:], strict=True)]
    return [change[0], *(d + b for d, b in zip(change[1:], below[:-1], strict=True)), below[-1]]


def _transposed(weights: Weights, hidden: States, errors: States) -> States:
    """The transpose of `_changed`; of the errors themselves it is the energy's gradient."""
    above = [error @ W for error, (W, _) in zip(errors[1:], weights[1:], strict=True)]
    layers = zip(errors[:-1], hidden, above, strict=True)
    return [error - (1 - np.tanh(v) ** 2) * a for error, v, a in layers]


def _step(weights: Weights, hidden: States, errors: States, gradient: States, curvature: float) -> States:
    """Newton's step by conjugate gradients, sample by sample; Gauss and Newton's where `curvature` is 0."""
    above = [error @ W for error, (W, _) in zip(errors[1:], weights[1:], strict=True)]
    rates = [np.tanh(v) for v in hidden]
    bends = [-2 * curvature * r * (1 - r**2) * a for r, a in zip(rates, above, strict=True)]

    def hessian(change: States) -> States:
        firm = _transposed(weights, hidden, _changed(weights, hidden, change))
        return [f - bend * d for f, bend, d in zip(firm, bends, change, strict=True)]

    step = [np.zeros_like(g) for g in gradient]
    residual = [-g for g in gradient]
    direction, size = residual, _dot(residual, residual)
    enough = size * np.minimum(size, 1e-4)  # the nearer, the more exactly: all converges faster than linearly
    for _ in range(2000):
        going = size > enough
        if not np.any(going):
            break
        turned = hessian(direction)
        bent = _dot(direction, turned)
        if np.any(bent[going] <= 0):
            raise RuntimeError("Predictive coding's energy has no minimum where one was sought.")
        length = np.where(going, size / np.where(going, bent, 1), 0)
        step = _moved(step, length, direction)
        residual = _moved(residual, -length, turned)
        previous, size = size, _dot(residual, residual)
        direction = _moved(residual, np.where(going, size / np.maximum(previous, 1e-300), 0), direction)
    return step


def _downhill(weights: Weights, hidden: States, step: States, x: np.ndarray, y: np.ndarray) -> States:
    """A step of every sample, halved until it does not lead up."""
    energies = lambda states: _dot(errors := _errors(weights, states, x, y), errors)
    start, scale = energies(hidden), np.ones(len(x))
    for _ in range(12):
        # Next to the minimum energies differ by less than their rounding.
        up = energies(_moved(hidden, scale, step)) > start * (1 + 1e-12)
        scale = np.where(up, scale / 2, scale)
    return _moved(hidden, scale, step)


def _moved(states: States, lengths: PerSample, directions: States) -> States:
    return [v + lengths[:, None] * d for v, d in zip(states, directions, strict=True)]


def _dot(a: States, b: States) -> PerSample:
    return sum(np.einsum("bn,bn->b", v, w) for v, w in zip(a, b, strict=True))
