"""LAPACK is given one matrix at a time: two kernels for large batches can wait for each other for ever."""

import functools
import math
import pathlib
import re
from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import make_batch, make_network
from jaxtyping import Array

import dfc_jax as dfc
from dfc_jax._numerics.one_by_one import inverse_by_lu, inverse_by_qr, solve_linear


SOURCE = pathlib.Path(dfc.__file__).parent


def kernels(function: Callable, *arguments: object) -> list[int]:
    """How many matrices each LAPACK kernel of a program is given at once."""
    text = eqx.filter_jit(function).lower(*arguments).as_text()
    found = re.findall(r"custom_call @lapack_\w+\(.*?: \(tensor<([0-9x]+)x[a-z]", text)
    return [math.prod(map(int, dimensions.split("x")[:-2])) for dimensions in found]


METHODS = {
    "steady state": dfc.DFCSS(),
    "linearised": dfc.DFCSSA(),
    "strong": dfc.DFCSS(target=dfc.Clamp(0.99)),
    "average": dfc.DFC(),
    "closed form": dfc.DFC(average=dfc.ClosedFormAverage()),
    "Diffrax": dfc.DFC(
        average=dfc.DiffraxAverage(diffrax.ImplicitEuler(root_finder=dfc.ControlRootFinder()))
    ),
    "single phase": dfc.LinearisedStrongDFC(),
    "least control": dfc.LeastControl(),
    "minimum norm": dfc.MinimumNorm(),
    "Gauss-Newton": dfc.GaussNewton(),
}


@functools.cache
def two_networks(outputs: int) -> tuple[dfc.Network, Array, Array]:
    models = eqx.filter_vmap(lambda key: make_network(key, (4, 6, 5, outputs)))(jr.split(jr.key(0), 2))
    return models, *make_batch(jr.key(1), 3, outputs=outputs)


FEW = "steady state", "average", "single phase", "minimum norm"


@pytest.mark.parametrize(
    ("name", "outputs"), [*((name, 20) for name in METHODS), *((name, 3) for name in FEW)]
)
def test_methods_give_it_one_matrix_at_a_time(name: str, outputs: int) -> None:
    """Of several models in one program, as `fit_many` trains them."""
    models, x, y = two_networks(outputs)
    learn = lambda model: METHODS[name](model, x, y, key=jr.key(0))
    assert set(kernels(eqx.filter_vmap(learn), models)) <= {1}


MEASURES = {
    "condition two": lambda model, x, y: dfc.condition_two(model, x),
    "angles": lambda model, x, y: dfc.feedback_angles(model, x, damping=0.1),
    "null space": lambda model, x, y: dfc.null_space_fraction(dfc.DFCSS(), model, x, y),
}


@pytest.mark.parametrize("name", MEASURES)
def test_measures_do_too(name: str) -> None:
    models, x, y = two_networks(3)
    found = kernels(eqx.filter_vmap(lambda model: MEASURES[name](model, x, y)), models)
    assert found and set(found) == {1}


def test_the_count_sees_a_batch() -> None:
    matrices = jnp.broadcast_to(jnp.eye(3), (4, 3, 3))
    assert set(kernels(jnp.linalg.inv, matrices)) == {4}


def test_nothing_else_calls_lapack() -> None:
    calls = re.compile(r"jnp\.linalg\.(?!norm)\w+|jax\.scipy\.linalg\.\w+|jsp\.linalg|lax\.linalg\.\w+")
    callers = {str(p.relative_to(SOURCE)) for p in SOURCE.rglob("*.py") if calls.search(p.read_text("utf-8"))}
    assert callers == {"_numerics/one_by_one.py"}


@pytest.mark.parametrize("function", [inverse_by_lu, inverse_by_qr])
def test_inverses_are_numpys(function: Callable) -> None:
    matrices = np.random.default_rng(0).standard_normal((2, 3, 4, 4))
    found = jax.jit(jax.vmap(jax.vmap(function)))(matrices)
    np.testing.assert_allclose(found, np.linalg.inv(matrices), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", [(4,), (4, 2)])
def test_solutions_and_their_derivatives(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    matrices, right = (jnp.asarray(rng.standard_normal((3, *s))) for s in ((4, 4), shape))
    ours = lambda A, b: jnp.sum(jax.vmap(solve_linear)(A, b) ** 3)
    plain = lambda A, b: jnp.sum(jax.vmap(jnp.linalg.solve)(A, b) ** 3)
    gradients = [jax.grad(f, (0, 1))(matrices, right) for f in (ours, plain)]
    for found, wanted in zip(*gradients, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-9)
    shared = jax.vmap(solve_linear, in_axes=(None, 0))(matrices[0], right)
    np.testing.assert_allclose(shared[1], np.linalg.solve(matrices[0], right[1]), rtol=1e-9)


@pytest.mark.slow
def test_measures_of_many_samples_end() -> None:
    """In one program, which on two cores never ended when each gave LAPACK its whole batch."""
    model = make_network(jr.key(0), (4, 20, 10))
    x, y = make_batch(jr.key(1), 4000, outputs=10)
    both = eqx.filter_jit(lambda model: [measure(model, x, y) for measure in MEASURES.values()])
    assert all(bool(jnp.all(jnp.isfinite(found))) for found in both(model))
