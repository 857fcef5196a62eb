"""Wrong arguments of the public functions, without the run-time type checks of the test suite.

Prints what each gets: the exception's name and sentence, or "accepted". Run by `test_bad_input.py`.
"""

import json
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import dfc_jax as dfc


MODEL = dfc.mlp((4, 5, 3), key=jax.random.key(0))
LAYERED = dfc.mlp((4, 5, 3), key=jax.random.key(0), feedback=dfc.RandomLayeredFeedback())
X, Y = jnp.ones((2, 4)), jnp.eye(3)[:2]
KEY = jax.random.key(1)
METHODS = {
    "Backprop": dfc.Backprop(),
    "DFA": dfc.DFA(),
    "DFC": dfc.DFC(),
    "DFCSS": dfc.DFCSS(),
    "DFCSSA": dfc.DFCSSA(),
    "LinearisedStrongDFC": dfc.LinearisedStrongDFC(),
    "StrongDFC": dfc.StrongDFC(),
    "MinimumNorm": dfc.MinimumNorm(),
    "GaussNewton": dfc.GaussNewton(),
    "SleepPhase": dfc.SleepPhase(),
    "LinearisedSleepPhase": dfc.LinearisedSleepPhase(),
    "ExpectedSleepPhase": dfc.ExpectedSleepPhase(),
    "HighPassPhase": dfc.HighPassPhase(),
}
half = eqx.tree_at(
    lambda m: [l.transform.weight for l in m.layers],
    MODEL,
    replace_fn=lambda w: w.astype(jnp.bfloat16),
)
half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), half)
BATCHES = {
    "integers": (MODEL, jnp.ones((2, 4), int), Y),
    "integer labels": (MODEL, X, jnp.eye(3, dtype=int)[:2]),
    "half precision": (MODEL, X.astype(jnp.float16), Y),
    "half-precision model": (half, X, Y),
    "class numbers": (MODEL, X, jnp.array([0.0, 2.0])),
    "no batch": (MODEL, X[0], Y[0]),
    "lists": (MODEL, [[1.0] * 4], [[1.0, 0.0, 0.0]]),
    "empty batch": (MODEL, X[:0], Y[:0]),
    "unequal batches": (MODEL, X, Y[:1]),
    "too many inputs": (MODEL, jnp.ones((2, 7)), Y),
    "too many outputs": (MODEL, X, jnp.eye(4)[:2]),
}


def data(**changed: object) -> dfc.Dataset:
    parts = {"x": np.ones((6, 4), np.float32), "y": np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]} | changed
    split = dfc.Split(**parts)
    return dfc.Dataset("mine", split, split, split, classification=True)


def fit(**changed: object) -> object:
    options = {"epochs": 1, "key": KEY, "batch_size": 2, "progress": False} | changed
    model, method = options.pop("model", MODEL), options.pop("method", dfc.Backprop())
    return dfc.fit(model, method, options.pop("data", data()), optax.sgd(0.1), **options)


OTHERS: dict[str, Callable[[], object]] = {
    "mlp: one size": lambda: dfc.mlp((4,), key=KEY),
    "mlp: width 0": lambda: dfc.mlp((4, 0, 3), key=KEY),
    "mlp: width 2.5": lambda: dfc.mlp((4, 2.5, 3), key=KEY),
    "mlp: width True": lambda: dfc.mlp((4, True, 3), key=KEY),
    "SleepPhase: no key": lambda: dfc.SleepPhase()(MODEL, X, Y, key=None),
    "LinearisedSleepPhase: no key": lambda: dfc.LinearisedSleepPhase()(MODEL, X, Y, key=None),
    "LinearisedStrongDFC: two keys": lambda: dfc.LinearisedStrongDFC()(
        MODEL, X, Y, key=jax.random.split(KEY)
    ),
    "StrongDFC: a number for a key": lambda: dfc.StrongDFC()(MODEL, X, Y, key=0),
    "WeightMirror: no key": lambda: dfc.WeightMirror()(LAYERED, X, Y, key=None),
    "mlp: activations": lambda: dfc.mlp((4, 5, 3), key=KEY, activation=[dfc.Tanh()] * 2),
    "Nudge: 0": lambda: dfc.Nudge(0.0),
    "Nudge: NaN": lambda: dfc.Nudge(float("nan")),
    "Clamp: 2": lambda: dfc.Clamp(2.0),
    "PIController: alpha": lambda: dfc.PIController(alpha=-1.0),
    "PIController: k_p": lambda: dfc.PIController(k_p=float("inf")),
    "Broyden: rtol": lambda: dfc.Broyden(rtol=0.0),
    "Broyden: iterations": lambda: dfc.Broyden(max_iterations=0),
    "PublishedEuler: dt": lambda: dfc.PublishedEuler(dt=-0.1),
    "PublishedEuler: states": lambda: dfc.PublishedEuler(states=1),
    "ImplicitAverage: duration": lambda: dfc.ImplicitAverage(duration=0.0),
    "WhiteNoise: sigma": lambda: dfc.WhiteNoise(-1.0),
    "FilteredNoise: tau": lambda: dfc.FilteredNoise(0.1, tau=0.0),
    "LeakyReLU: slope": lambda: dfc.LeakyReLU(2.0),
    "Split: NaN": lambda: data(x=np.full((6, 4), np.nan, np.float32)),
    "Split: integers": lambda: data(x=np.ones((6, 4), int)),
    "Split: lengths": lambda: data(x=np.ones((5, 4), np.float32)),
    "Dataset: label out of range": lambda: data(y=np.zeros((6, 3), np.float32)),
    "fit: epochs": lambda: fit(epochs=0),
    "fit: batch": lambda: fit(batch_size=7),
    "fit: inputs": lambda: fit(model=dfc.mlp((9, 3), key=KEY)),
    "fit: outputs": lambda: fit(model=dfc.mlp((4, 9), key=KEY)),
    "fit: exact feedback": lambda: fit(
        model=dfc.mlp((4, 5, 3), key=KEY, feedback=dfc.ExactFeedback()),
        method=dfc.DFCSS(),
        feedback_learning=dfc.FeedbackLearning(optax.sgd(0.1)),
    ),
    "fit_many: keys": lambda: dfc.fit_many(
        [MODEL], dfc.Backprop(), data(), optax.sgd(0.1), epochs=1, keys=[]
    ),
    "DFC: noise": lambda: dfc.DFC(noise=dfc.FilteredNoise())(MODEL, X, Y, key=KEY),
    "DFC: no key": lambda: dfc.DFC(average=dfc.PublishedAverage(), noise=dfc.FilteredNoise())(MODEL, X, Y),
    "DFA: exact feedback": lambda: dfc.DFA()(dfc.mlp((4, 3), key=KEY, feedback=dfc.ExactFeedback()), X, Y),
    "simulate: t1": lambda: dfc.simulate(
        dfc.ClosedLoop(MODEL), dfc.ClosedLoop(MODEL).sample(X[0], Y[0]), t1=0.0, dt0=0.1
    ),
    "load: unknown": lambda: dfc.load("mnits"),
}


def outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


if __name__ == "__main__":
    batches = [(kind, name) for kind in BATCHES for name in METHODS]
    found = {
        f"{kind}, {name}": outcome(lambda k=kind, n=name: METHODS[n](*BATCHES[k], key=KEY))
        for kind, name in batches
    }
    print(json.dumps(found | {name: outcome(call) for name, call in OTHERS.items()}))
