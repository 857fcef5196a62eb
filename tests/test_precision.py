"""Products in full precision wherever something is solved, on devices whose default is less."""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.extend.core
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import angle, cast, make_batch, make_network, take_samples

import dfc_jax as dfc


METHODS = [dfc.DFC(), dfc.DFCSS(), dfc.DFCSSA(), dfc.StrongDFC(), dfc.MinimumNorm(), dfc.GaussNewton()]
METHODS += [dfc.LeastControl(), dfc.PredictiveCoding(), dfc.LinearisedStrongDFC()]
PHASES = [dfc.SleepPhase(), dfc.LinearisedSleepPhase(), dfc.ExpectedSleepPhase(), dfc.HighPassPhase()]
EQUILIBRIA = [dfc.Broyden(), dfc.PseudoTransient(), dfc.RootFind(), dfc.Analytic(), dfc.StateAtTime()]
EQUILIBRIA += [dfc.Simulated(t1=1.0)]
AVERAGES = [dfc.ImplicitAverage(), dfc.ClosedFormAverage(), dfc.PublishedAverage(), dfc.DiffraxAverage()]
by_name = lambda part: type(part).__name__


def products(jaxpr: jax.extend.core.Jaxpr) -> Iterator[Any]:
    """The precision of every product of a program, inner programs included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation.params["precision"]
        for part in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def all_in_full(function: Callable[..., object], *args: object) -> bool:
    closed, *_ = eqx.filter_make_jaxpr(function)(*args)
    found = list(products(closed.jaxpr))
    assert found
    return all(p is not None and set(p) == {jax.lax.Precision.HIGHEST} for p in found)


@pytest.mark.parametrize("method", METHODS, ids=by_name)
def test_methods(method: dfc.AbstractMethod) -> None:
    model, (x, y) = make_network(jr.key(0)), make_batch(jr.key(1), 2)
    assert all_in_full(lambda: method(model, x, y, key=jr.key(2)))


@pytest.mark.parametrize("phase", PHASES, ids=by_name)
def test_sleep_phases(phase: dfc.AbstractSleepPhase) -> None:
    model, (x, y) = make_network(jr.key(0)), make_batch(jr.key(1), 2)
    assert all_in_full(lambda: phase(model, x, y, key=jr.key(2)))


@pytest.mark.parametrize("part", [*EQUILIBRIA, *AVERAGES], ids=by_name)
def test_equilibria_and_averages(part: dfc.AbstractEquilibrium | dfc.AbstractAverage) -> None:
    loop = dfc.ClosedLoop(make_network(jr.key(0)))
    samples = take_samples(loop, *make_batch(jr.key(1), 2))
    assert all_in_full(part, loop, samples)


def test_simulations() -> None:
    loop = dfc.ClosedLoop(make_network(jr.key(0)))
    x, y = make_batch(jr.key(1), 1)
    sample = loop.sample(x[0], y[0])
    assert all_in_full(lambda: dfc.simulate(loop, sample, t1=1.0, dt0=0.1))


@pytest.mark.parametrize("method", [dfc.DFCSS(), dfc.DFC(), dfc.LeastControl()], ids=by_name)
def test_convolutions(method: dfc.AbstractMethod) -> None:
    """As XLA gets them: forward, and transposed in the maps and in the kernel."""
    model = dfc.convnet((1, 5, 5), (2, 3), (4,), key=jr.key(0))
    x, y = jr.normal(jr.key(1), (2, 25)), jnp.eye(4)[:2]
    program = jax.jit(lambda x, y: jax.tree.leaves(eqx.filter(method(model, x, y), eqx.is_array)))
    lines = program.lower(x, y).as_text().splitlines()
    convolutions = [line for line in lines if "stablehlo.convolution" in line]
    assert len(convolutions) >= 4
    assert all(line.count("#stablehlo<precision HIGHEST>") == 2 for line in convolutions)
    products = [line for line in lines if "stablehlo.dot_general" in line]
    assert products and all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_convolutions_alone_have_the_default_precision() -> None:
    """Backpropagation is to be as fast as elsewhere."""
    model = dfc.convnet((1, 5, 5), (2,), (4,), key=jr.key(0))
    text = jax.jit(jax.vmap(model)).lower(jnp.ones((2, 25))).as_text()
    assert "stablehlo.convolution" in text and "HIGHEST" not in text


@pytest.mark.parametrize("bits", [pytest.param(10, id="tensor float 32"), pytest.param(7, id="bfloat16")])
def test_training_where_products_are_shortened(bits: int, change: Callable[..., None]) -> None:
    """Operands of float32 products rounded as accelerators do by default, emulated."""
    dot_general = jax.lax.dot_general

    def shortened(a: jax.Array, b: jax.Array, *args: object, precision: object = None, **options: object):
        if precision is None and jax.config.jax_default_matmul_precision is None:
            a, b = (jax.lax.reduce_precision(operand, 8, bits) for operand in (a, b))
        return dot_general(a, b, *args, precision=precision, **options)

    digits = dfc.load("digits")
    x, y = jnp.asarray(digits.train.x[:64]), jnp.asarray(digits.train.y[:64])
    model = cast(make_network(jr.key(0), (64, 12, 10)), jnp.float32)
    wanted, _ = cast(dfc.DFCSS(), jnp.float32)(model, x, y)
    change("jax.lax.dot_general", shortened)
    change("jax._src.lax.lax.dot_general", shortened)
    update, report = cast(dfc.DFCSS(), jnp.float32)(model, x, y)
    outside = jax.vmap(model)(x)
    assert np.mean(report.converged) == 1 and not np.any(report.fallback)
    assert angle(update.layers, wanted.layers) < 0.01
    assert np.max(np.abs(outside - report.output)) > 1e-5  # the rounding was there


@pytest.mark.parametrize("measure", [dfc.condition_two, dfc.feedback_angles])
def test_measures_of_the_feedback(measure: Callable[..., object]) -> None:
    model, (x, _) = make_network(jr.key(0)), make_batch(jr.key(1), 2)
    assert all_in_full(measure, model, x)
