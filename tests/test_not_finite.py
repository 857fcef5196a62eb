"""One rule for all: what is not finite has not converged and teaches nothing, and no other sample notices."""

import dataclasses
from collections.abc import Iterable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import make_batch, make_network, relative_error, take_samples
from jaxtyping import Array, PyTree

import dfc_jax as dfc


MODEL = make_network(jr.key(0))  # its first activation saturates: an infinite input does not reach the output
NOISE = dfc.FilteredNoise(0.01, tau=0.05)
SCHEME = dfc.PublishedEuler(dt=0.02, states=100)
STRONG = dfc.StrongDFC(scheme=dfc.PublishedEuler(dt=0.005, states=200))
EXPLICIT = dfc.DiffraxAverage(diffrax.Heun(), diffrax.ConstantStepSize(), t1=3.0, dt0=0.05)
IMPLICIT = dfc.DiffraxAverage(
    diffrax.ImplicitEuler(root_finder=dfc.ControlRootFinder()), diffrax.ConstantStepSize(), t1=3.0, dt0=0.5
)
METHODS = {
    "backprop": dfc.Backprop(),
    "direct feedback": dfc.DFA(),
    "minimum norm": dfc.MinimumNorm(),
    "Gauss-Newton": dfc.GaussNewton(),
    "linearised": dfc.DFCSSA(),
    "optimal control": dfc.LeastControl(fallback=None),
    "steady state": dfc.DFCSS(),
    "closed form": dfc.DFC(average=dfc.ClosedFormAverage()),
    "implicit": dfc.DFC(),
    "published": dfc.DFC(average=dfc.PublishedAverage(SCHEME), noise=NOISE),
    "Diffrax": dfc.DFC(average=EXPLICIT),
    "Diffrax, implicit": dfc.DFC(average=IMPLICIT),
    "strong": STRONG,
    "linearised strong": dfc.LinearisedStrongDFC(),
}
# The controller at rest has no use for labels.
SLEEPS = {
    "sleep": (dfc.SleepPhase(), False),
    "linearised sleep": (dfc.LinearisedSleepPhase(), False),
    "expected sleep": (dfc.ExpectedSleepPhase(), False),
    "high pass": (dfc.HighPassPhase(dataclasses.replace(STRONG, start=None)), True),
}
EQUILIBRIA = {
    "Broyden": dfc.Broyden(),
    "linearised": dfc.Analytic(),
    "Newton": dfc.RootFind(),
    "pseudo-transient": dfc.PseudoTransient(),
    "simulated": dfc.Simulated(t1=100.0, max_steps=2000),
    "after a time": dfc.StateAtTime(SCHEME),
    "controlled Jacobian": dfc.ControlledJacobian(),
}
X, Y = make_batch(jr.key(1), 3)
# What is wrong with a sample: NaN, infinity that tanh hides, both in its voltages, and labels.
INPUTS = (
    X.at[:, 2].set(jnp.nan),
    X.at[:, 0].set(jnp.inf),
    X.at[:, 0].set(-jnp.inf),
    jnp.full_like(X, jnp.inf),
)
LABELS = (Y.at[:, 1].set(jnp.nan), Y.at[:, 0].set(jnp.inf))
SECOND, OTHERS = jnp.array([False, True, False]), jnp.array([True, False, True])


def batches(labels: bool = True) -> tuple[Array, Array, np.ndarray]:
    """The batch itself, then for every way to spoil samples the second spoilt, then the two others; and which
    samples are sound."""
    pairs = [(x, Y) for x in INPUTS] + [(X, y) for y in LABELS] * labels
    rows = [(bad, pair) for pair in pairs for bad in (SECOND, OTHERS)]
    spoilt = lambda good, where, wrong: jnp.where(where[:, None], wrong, good)
    x = jnp.stack([X, *(spoilt(X, bad, x) for bad, (x, _) in rows)])
    y = jnp.stack([Y, *(spoilt(Y, bad, y) for bad, (_, y) in rows)])
    return x, y, np.array([[True] * 3, *(~np.asarray(bad) for bad, _ in rows)])


def check_updates(updates: PyTree) -> None:
    """Those of a batch's parts add up to that of the batch."""
    whole = jax.tree.map(lambda leaf: leaf[:1], updates)
    parts = jax.tree.map(lambda leaf: leaf[1::2] + leaf[2::2], updates)
    number = jax.tree.leaves(parts)[0].shape[0]
    wanted = jax.tree.map(lambda leaf: jnp.repeat(leaf, number, axis=0), whole)
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(whole))
    assert relative_error(parts, wanted) < 1e-10


SLOW = ("Diffrax, implicit", "simulated")


def each(names: Iterable[str]) -> pytest.MarkDecorator:
    marks = lambda name: pytest.mark.slow if name in SLOW else ()
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in names])


@each(METHODS)
def test_it_teaches_nothing_and_has_not_converged(name: str) -> None:
    x, y, sound = batches()
    learn = eqx.filter_jit(jax.vmap(lambda x, y: METHODS[name](MODEL, x, y, key=jr.key(2))))
    updates, report = learn(x, y)
    assert np.array_equal(report.converged, sound)
    check_updates(updates)


@each(SLEEPS)
def test_it_teaches_the_feedback_nothing(name: str) -> None:
    phase, labels = SLEEPS[name]
    x, y, _ = batches(labels)
    check_updates(eqx.filter_jit(jax.vmap(lambda x, y: phase(MODEL, x, y, key=jr.key(2)).feedback))(x, y))


@each(EQUILIBRIA)
def test_it_has_no_steady_state(name: str) -> None:
    exact = name == "controlled Jacobian"
    loop = dfc.ClosedLoop(dfc.Network(MODEL.layers, dfc.ExactFeedback()) if exact else MODEL)
    x, y, sound = batches()
    found = eqx.filter_jit(jax.vmap(lambda x, y: EQUILIBRIA[name](loop, take_samples(loop, x, y))))(x, y)
    assert np.array_equal(found.converged, sound)
    whole, *others = np.asarray(found.control)
    for controls, fine in zip(others, sound[1:], strict=True):
        assert relative_error(controls[fine], whole[fine]) < 1e-9
