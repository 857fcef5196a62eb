"""Predictive coding by gradient flow over all neurons, by jpc and, where there is no jpc, by Diffrax alone.

Imports nothing that jpc's environment lacks: `main` runs there, in a process of its own.
"""

import dataclasses
import json
import pathlib
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from timing import compile_case, cost, measure


Weights = list[tuple[Array, Array]]  # W and b of every layer


@dataclasses.dataclass(frozen=True)
class Inference:
    """How long the neurons follow the gradient of the energy, and how they are integrated."""

    duration: float  # a time constant is as long as the batch has samples, for the energy is their mean
    alone: bool = False  # every sample is a batch of its own
    solver: diffrax.AbstractSolver = diffrax.Heun()
    tolerance: float = 1e-3

    @property
    def controller(self) -> diffrax.PIDController:
        """Of the step size."""
        return diffrax.PIDController(rtol=self.tolerance, atol=self.tolerance)


DEFAULT = "T = 20 (jpc's defaults)"
CLOSEST = "each sample alone, T = 500, tolerance 1e-6"  # twice as long takes more steps than jpc allows
INFERENCES = {
    DEFAULT: Inference(20),
    "T = 200": Inference(200),
    "T = 2000": Inference(2000),
    "T = 2000, Tsit5": Inference(2000, solver=diffrax.Tsit5()),
    "each sample alone, T = 20": Inference(20, alone=True),
    "each sample alone, T = 200": Inference(200, alone=True),
    CLOSEST: Inference(500, alone=True, tolerance=1e-6),
}


def energy(weights: Weights, hidden: list[Array], x: Array, y: Array) -> Float[Array, ""]:
    """The batch's mean of 1/2 sum_i |v_i - W_i tanh(v_{i-1}) - b_i|^2, the last v the target."""
    befores = [x, *map(jnp.tanh, hidden)]
    layers = zip([*hidden, y], befores, weights, strict=True)
    return sum(jnp.sum((v - before @ W.T - b) ** 2) for v, before, (W, b) in layers) / (2 * len(x))


def feedforward(weights: Weights, x: Array) -> list[Array]:
    """What the layers are without a target."""
    states, before = [], x
    for W, b in weights:
        states.append(before @ W.T + b)
        before = jnp.tanh(states[-1])
    return states


def backprop(weights: Weights, x: Array, y: Array) -> Weights:
    """The gradient of the batch's mean of half the squared error."""
    return jax.grad(lambda given: jnp.sum((feedforward(given, x)[-1] - y) ** 2) / (2 * len(x)))(weights)


def by_diffrax(inference: Inference, weights: Weights, x: Array, y: Array) -> Weights:
    """The update where jpc is not to be had: the same flow, the same solver, the same steps."""
    downhill = lambda t, hidden, args: jax.tree.map(jnp.negative, jax.grad(energy, 1)(weights, hidden, x, y))
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(downhill),
        inference.solver,
        0,
        inference.duration,
        None,
        feedforward(weights, x)[:-1],
        stepsize_controller=inference.controller,
    )
    return jax.grad(energy)(weights, [v[-1] for v in solution.ys], x, y)


def by_jpc(inference: Inference, weights: Weights, x: Array, y: Array) -> Weights:
    """The update as jpc's own functions find it."""
    import jpc

    model = [_jpc_layer(W, b, first=i == 0) for i, (W, b) in enumerate(weights)]
    activities = jpc.solve_inference(
        (model, None),
        jpc.init_activities_with_ffwd(model, x),
        y,
        input=x,
        solver=inference.solver,
        max_t1=inference.duration,
        stepsize_controller=inference.controller,
    )
    gradients, _ = jpc.compute_pc_param_grads((model, None), [v[-1] for v in activities], y, x=x)
    return [(layer[-1].weight, layer[-1].bias) for layer in gradients]


def _jpc_layer(W: Array, b: Array, first: bool) -> eqx.nn.Sequential:
    """As `jpc.make_mlp` makes them: the activation before the weights, but for the first layer's."""
    linear = eqx.nn.Linear(W.shape[1], W.shape[0], key=jax.random.PRNGKey(0))
    linear = eqx.tree_at(lambda l: (l.weight, l.bias), linear, (W, b))
    return eqx.nn.Sequential([eqx.nn.Lambda(lambda v: v if first else jnp.tanh(v)), linear])


def update_by(scheme: Any, inference: Inference, weights: Weights, x: Array, y: Array) -> PyTree:
    """The batch's update by `by_jpc` or `by_diffrax`."""
    if not inference.alone:
        return scheme(inference, weights, x, y)
    of_one = lambda x, y: scheme(inference, weights, x[None], y[None])
    return jax.tree.map(lambda part: jnp.mean(part, axis=0), jax.vmap(of_one)(x, y))


def main(given: str, found: str, rounds: str, seconds: str) -> None:
    """Read weights and a batch from `given`.npz; write updates to `found`.npz, times to `found`.json."""
    import jpc

    arrays = np.load(given)
    x, y = jnp.asarray(arrays["x"]), jnp.asarray(arrays["y"])
    layers = range((len(arrays.files) - 2) // 2)
    weights = [(jnp.asarray(arrays[f"W{i}"]), jnp.asarray(arrays[f"b{i}"])) for i in layers]
    baseline = compile_case(backprop, weights, x, y)
    cases, updates = {}, {}
    for name, inference in INFERENCES.items():
        cases[name] = compile_case(lambda *a, i=inference: update_by(by_jpc, i, *a), weights, x, y)
        updates[name] = np.concatenate([np.ravel(part) for part in jax.tree.leaves(cases[name].call())])
    measure([baseline, *cases.values()], int(rounds), float(seconds))
    costs = {name: cost("update", case, baseline) for name, case in cases.items()}
    versions = {package.__name__: package.__version__ for package in (jpc, jax, diffrax)}
    np.savez(f"{found}.npz", **updates)
    pathlib.Path(f"{found}.json").write_text(json.dumps({"versions": versions, "costs": costs}))
