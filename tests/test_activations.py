"""phi(v + d) - phi(v) against fifty decimal digits, the slopes against automatic differentiation."""

from collections.abc import Callable
from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import dfc_jax as dfc


ALL = [
    dfc.Tanh(),
    dfc.Sigmoid(),
    dfc.ReLU(),
    dfc.LeakyReLU(0.2),
    dfc.LeakyReLU(0.0),
    dfc.LeakyReLU(1.0),
    dfc.Linear(),
]
DTYPES = [jnp.float32, jnp.float64]
WHOLE = jnp.asarray(1.0)


def _tanh(v: Decimal) -> Decimal:
    e = (-2 * abs(v)).exp()
    return ((1 - e) / (1 + e)).copy_sign(v)


def exact(phi: dfc.AbstractActivation) -> Callable[[Decimal], Decimal]:
    """The activation in decimal arithmetic."""
    if isinstance(phi, dfc.Tanh):
        return _tanh
    if isinstance(phi, dfc.Sigmoid):
        return lambda v: (1 + _tanh(v / 2)) / 2
    if isinstance(phi, dfc.Linear):
        return lambda v: v
    slope = Decimal(phi.slope if isinstance(phi, dfc.LeakyReLU) else 0)
    return lambda v: v if v > 0 else slope * v


def grid() -> tuple[np.ndarray, np.ndarray]:
    """Voltages and displacements of many sizes and both signs, zeros and exact opposites among them."""
    sizes = np.concatenate([[0.0], 10.0 ** np.arange(-9, 3), [0.5, 0.999, 1.001, 3.0, 9.0, 18.0, 25.0]])
    signed = np.concatenate([sizes, -sizes])
    v, d = (a.ravel() for a in np.meshgrid(signed, signed, indexing="ij"))
    generator = np.random.default_rng(7)
    v = np.concatenate([v, generator.normal(0, 3, 300)])
    d = np.concatenate([d, generator.choice([-1, 1], 300) * 10 ** generator.uniform(-9, 1.5, 300)])
    return v, d


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("phi", ALL, ids=repr)
def test_difference_is_exact_to_rounding_of_the_displacement(
    phi: dfc.AbstractActivation, dtype: type
) -> None:
    v, d = (jnp.asarray(a, dtype) for a in grid())
    found = jax.jit(phi.difference)(v, d)
    assert found.dtype == dtype
    f = exact(phi)
    with localcontext() as context:
        context.prec = 50
        # Adding zero rounds a float64's binary digits to fifty decimal ones.
        pairs = [(Decimal(float(a)) + 0, Decimal(float(b)) + 0) for a, b in zip(v, d, strict=True)]
        wanted = [f(a + b) - f(a) for a, b in pairs]
        errors = np.array([float(abs(Decimal(float(x)) - y)) for x, y in zip(found, wanted, strict=True)])
    # Large displacements of tanh are plain differences of rates below one, exact to their own rounding.
    allowed = 12 * float(jnp.finfo(dtype).eps) * np.abs(np.asarray(d, np.float64))
    worst = np.argmax(errors - allowed)
    assert np.all(errors <= allowed), (v[worst], d[worst], found[worst], wanted[worst])


@pytest.mark.parametrize("phi", [dfc.Tanh(), dfc.Sigmoid()], ids=repr)
def test_small_differences_keep_their_digits(phi: dfc.AbstractActivation) -> None:
    """In float32, where plain subtraction of rates has lost every digit of a displacement of 1e-7."""
    v = jnp.linspace(-3, 3, 61, dtype=jnp.float32)
    d = jnp.full_like(v, 1e-7)
    wanted = np.asarray(phi.difference(v.astype(jnp.float64), d.astype(jnp.float64)))
    by_calculus = np.asarray(jax.vmap(jax.grad(phi))(v.astype(jnp.float64))) * 1e-7
    np.testing.assert_allclose(wanted, by_calculus, rtol=3e-7)
    np.testing.assert_allclose(phi.difference(v, d), wanted, rtol=2e-5)
    assert np.max(np.abs(np.asarray(phi(v + d) - phi(v)) / wanted - 1)) > 0.1


@pytest.mark.parametrize("phi", ALL, ids=repr)
def test_value_and_slope(phi: dfc.AbstractActivation) -> None:
    v = jnp.concatenate([jnp.linspace(-12, 12, 97)[jnp.arange(97) != 48], jnp.array([1e-9, -1e-9])])
    f = exact(phi)
    with localcontext() as context:
        context.prec = 50
        wanted = [float(f(Decimal(float(a)))) for a in v]
    np.testing.assert_allclose(phi(v), wanted, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(phi.derivative(v), jax.vmap(jax.grad(phi))(v), rtol=1e-9, atol=1e-15)


def test_relu_does_not_learn_at_rest() -> None:
    """At exactly zero the slope is that of the closed side, for the values as for the differences."""
    assert dfc.ReLU().derivative(jnp.zeros(1)) == 0
    assert dfc.LeakyReLU(0.2).derivative(jnp.zeros(1)) == 0.2


def test_difference_of_vectors_and_maps(getkey) -> None:
    v, d = jr.normal(getkey(), (2, 3, 4)), jr.normal(getkey(), (2, 3, 4))
    for phi in ALL:
        np.testing.assert_allclose(phi.difference(v, d), phi(v + d) - phi(v), atol=1e-14)


@pytest.mark.parametrize("slope", [-0.1, 1.5, float("nan"), float("inf")])
def test_leaky_relu_rejects_a_bad_slope(slope: float) -> None:
    with pytest.raises(ValueError, match="`slope` is"):
        dfc.LeakyReLU(slope)


@pytest.mark.parametrize("phi", [dfc.Tanh(), dfc.Sigmoid()], ids=repr)
def test_slope_ahead_is_a_step_of_newtons_method(phi: dfc.AbstractActivation) -> None:
    """For the rest v = b + phi'(v) d; in full where it bends little, and never away from a rest."""
    generator = np.random.default_rng(3)
    v, b, d = (jnp.asarray(generator.uniform(-most, most, 50)) for most in (2.0, 2.0, 0.6))
    slope = jax.vmap(jax.grad(lambda v: jnp.sum(phi(v))))
    left = lambda v, b, d: v - b - slope(v) * d
    newton = v - left(v, b, d) / jax.vmap(jax.grad(lambda *a: left(*(x[None] for x in a))[0]))(v, b, d)
    np.testing.assert_allclose(b + phi.slope_ahead(b, v, d, WHOLE) * d, newton, rtol=1e-10, atol=1e-12)

    settled = b
    for _ in range(6):
        settled = b + phi.slope_ahead(b, settled, d, WHOLE) * d
    np.testing.assert_allclose(left(settled, b, d), 0, atol=1e-14)

    strong = jnp.linspace(-40, 40, 50)  # 1 - phi''(v) d of either sign and nearly zero
    resting = v - slope(v) * strong
    np.testing.assert_allclose(phi.slope_ahead(resting, v, strong, WHOLE), slope(v), rtol=1e-9, atol=1e-12)
    bend = jax.vmap(jax.grad(lambda v: slope(v[None])[0]))(v)
    most = 2 * jnp.abs(bend * left(v, b, strong)) + 1e-12
    assert np.all(jnp.abs(phi.slope_ahead(b, v, strong, WHOLE) - slope(v)) <= most)


def test_what_does_not_bend_has_nothing_ahead() -> None:
    v, b, d = jnp.asarray(np.random.default_rng(3).normal(size=(3, 50)))
    np.testing.assert_array_equal(dfc.Linear().slope_ahead(b, v, d, WHOLE), np.ones(50))


@pytest.mark.parametrize(
    ("basal", "voltage", "demand", "slope"),
    [
        (1.0, -9.0, 1.0, 1.0),
        (1.0, -9.0, -0.5, 1.0),
        (1.0, 9.0, -2.0, 0.5),  # held at zero
        (1.0, 9.0, -10.0, 0.2),
        (-1.0, -9.0, 2.0, 0.2),  # can rest on both sides
        (-1.0, 9.0, 2.0, 1.0),
        (-1.0, 9.0, 0.5, 0.2),
        (-1.0, -9.0, 10.0, 1.0),
        (-1.0, 9.0, -1.0, 0.2),
    ],
)
def test_slopes_at_a_kink_are_those_of_a_rest(
    basal: float, voltage: float, demand: float, slope: float
) -> None:
    b, v, d = map(jnp.asarray, (basal, voltage, demand))
    phi = dfc.LeakyReLU()
    assert np.isclose(phi.slope_at_rest(b, v, d), slope, rtol=1e-6)
    assert np.isclose(phi.slope_ahead(b, v, d, 0 * WHOLE), slope, rtol=1e-6)
    assert np.isclose(phi.slope_ahead(b, v, d, WHOLE), phi.slope_at_rest(b, b, d), rtol=1e-6)
    rest = basal + slope * demand
    assert np.isclose(rest, 0, atol=1e-6) or np.isclose(phi.derivative(jnp.asarray(rest)), slope)
    if slope > 0.2 and demand < 10:  # a silent ReLU is not carried over, however strong the demand
        assert np.isclose(dfc.ReLU().slope_at_rest(b, v, d), slope, rtol=1e-6)
