"""Why samples fail: each cause is made on purpose, and must be named."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import make_batch, make_network

import dfc_jax as dfc
from dfc_jax._training.doubts import doubt_epoch
from dfc_jax._training.state import Run


minus = lambda weights: tuple(-Q for Q in weights)


def broken(cause: str) -> tuple[dfc.AbstractMethod, dfc.Network, jnp.ndarray, jnp.ndarray]:
    model = make_network(jr.key(0))
    x, y = make_batch(jr.key(1), 6)
    method: dfc.AbstractMethod = dfc.DFCSS()
    match cause:
        case "unstable":
            model = eqx.tree_at(lambda m: m.feedback.weights, model, replace_fn=minus)
        case "time":
            method = dfc.DFCSS(equilibrium=dfc.Simulated(t1=0.3), fallback=None)
        case "saturated":
            model = eqx.tree_at(lambda m: m.layers[1].transform.weight, model, replace_fn=lambda w: 300 * w)
        case "target":
            method = dfc.DFCSS(target=dfc.Nudge(1e200))
        case "input":
            x = x.at[2].set(jnp.inf)
    return method, model, x, y


@pytest.mark.parametrize(
    "cause, sentence",
    [
        ("unstable", "the feedback weights do not fit the network"),
        ("time", "`t1` is 0.3, too short"),
        pytest.param("saturated", "of the neurons of layer 2 are saturated", marks=pytest.mark.slow),
        ("target", "away from the output, which is more than float64 can square: lower the nudge"),
        ("input", "17% of the samples tried are not finite"),
    ],
)
def test_the_cause_is_named(cause: str, sentence: str) -> None:
    reasons = dfc.reasons_for_failure(*broken(cause))
    assert sum(sentence in reason for reason in reasons) == 1
    others = {"unstable": 1, "time": 1, "input": 1}
    assert len(reasons) == others.get(cause, len(reasons))


def test_activations_with_a_parameter_for_each_neuron_are_looked_at() -> None:
    """As a PReLU's slopes."""

    class PReLU(dfc.AbstractActivation):
        slope: jax.Array

        def __call__(self, voltage: jax.Array) -> jax.Array:
            return jnp.where(voltage > 0, voltage, self.slope * voltage)

        def derivative(self, voltage: jax.Array) -> jax.Array:
            return jnp.where(voltage > 0, jnp.ones_like(voltage), self.slope)

        def difference(self, voltage: jax.Array, change: jax.Array) -> jax.Array:
            return self(voltage + change) - self(voltage)

    _, model, x, y = broken("none")
    slopes = jnp.linspace(0.1, 0.5, len(model.layers[0].transform.bias))
    model = eqx.tree_at(lambda m: m.layers[0].activation, model, PReLU(slopes))
    assert dfc.reasons_for_failure(dfc.DFCSS(), model, x, y) == []


@pytest.mark.slow
def test_nothing_is_found_where_nothing_fails() -> None:
    _, model, x, y = broken("none")
    assert dfc.reasons_for_failure(dfc.DFCSS(), model, x, y) == []
    assert dfc.reasons_for_failure(dfc.Backprop(), model, x, y) == []
    assert dfc.reasons_for_failure(dfc.StrongDFC(), model, x, y) == []
    everything = dfc.reasons_for_failure(dfc.DFCSS(), model, x.at[:].set(jnp.nan), y)
    assert everything == ["100% of the samples tried are not finite: clean the data."]


def test_ten_tolerances_from_rest_are_near_enough(monkeypatch) -> None:
    far = np.array([0.0, 9.9e-4, 10.1e-4, np.nan])
    monkeypatch.setattr("dfc_jax._steady_state.simulated.distance_from_rest", lambda *_: far)
    _, model, x, y = broken("none")
    loop = dfc.ClosedLoop(model)
    (doubt,) = dfc.Simulated(rtol=1e-4).doubts(loop, jax.vmap(loop.sample)(x[:4], y[:4]))
    assert "too short for 25% of the samples" in doubt and "up to 0.001 of their size" in doubt


def test_each_doubt_about_an_epoch_is_said_once(monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("dfc_jax._training.doubts.warn", said.append)
    model = dfc.mlp((2, 2), key=jr.key(0))
    handful = jnp.ones((1, 2)), jnp.eye(2)[:1]
    run = Run(model, model)
    for converged, fallback in [(1.0, 0.5), (1.0, 0.6), (0.5, 0.8), (1.0, 0.8), (0.5, 0.8)]:
        record = {"converged": converged, "fallback": fallback, "validation_loss": 1.0}
        run.add({"epoch": len(run.records) + 1} | record, model, "validation_loss")
        doubt_epoch(run, handful, dfc.Backprop(), 0.9, None)
    assert len(said) == 2 and run.doubts[1].startswith("Only 50.0% of the samples converged in epoch 3.")
    assert "left 60% of the samples of epoch 2 to the `fallback`" in said[0]


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_a_loop_that_becomes_unstable_while_it_learns_is_said_once() -> None:
    """Though every sample converges: to a steady state that the dynamics would leave."""
    data = dfc.load("digits")
    model = dfc.mlp((64, 32, 32, 32, 32, 10), key=jr.key(2))
    weights = lambda m: [layer.transform.weight for layer in m.layers]
    layers = eqx.tree_at(weights, model, replace_fn=lambda w: 1.3 * w).layers
    feedback = dfc.ProductOfWeights().init(layers, [*[(32,)] * 4, (10,)], jr.key(0))
    model, method = dfc.Network(layers, feedback), dfc.DFCSSA()
    assert method.doubts(model, jnp.asarray(data.train.x[:8]), jnp.asarray(data.train.y[:8])) == []
    options = {"epochs": 8, "key": jr.key(1), "batch_size": 64, "progress": False}
    with pytest.warns(UserWarning, match=r"After epoch \d: The closed loop is unstable for"):
        _, history = dfc.fit(model, method, data, optax.adam(3e-2), **options)
    assert len(history.doubts) == 1
    assert min(record["converged"] for record in history.records) > 0.95
    said = int(re.match(r"After epoch (\d)", history.doubts[0])[1])
    assert all(record["stable"] == 1 for record in history.records[: said - 1])
    assert history.records[said - 1]["stable"] < 1
