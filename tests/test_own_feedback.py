"""Feedback of a user's own, by public names alone, with all that takes feedback."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import few_digits, make_batch, make_network, relative_error, take_samples
from jaxtyping import Array

import dfc_jax as dfc


class Amplified(dfc.AbstractFeedback, dfc.AbstractFeedbackInit):
    gain: Array

    def init(self, layers, shapes, key) -> dfc.AbstractFeedback:
        return self

    def matrices(self, jacobian) -> tuple[Array, ...]:
        return tuple(self.gain * jnp.moveaxis(rows, 0, -1) for rows in jacobian)

    @property
    def needs_jacobian(self) -> bool:
        return True


MODEL = make_network(jr.key(0), feedback=Amplified(jnp.asarray(1.0)))
X, Y = make_batch(jr.key(1), 2)
CONTROLLER = dfc.PIController(k_p=0.5, alpha=1e-6)
SCHEME = dfc.PublishedEuler(dt=0.04, states=2500)
AVERAGES = (
    dfc.ClosedFormAverage(100.0),
    dfc.ImplicitAverage(100.0),
    dfc.PublishedAverage(SCHEME),
    dfc.DiffraxAverage(diffrax.Heun(), diffrax.ConstantStepSize(), t1=100.0, dt0=0.05),
)
EQUILIBRIA = (
    dfc.Broyden(),
    dfc.RootFind(),
    dfc.PseudoTransient(),
    dfc.Simulated(t1=100.0, max_steps=2000),
    dfc.StateAtTime(SCHEME),
    dfc.ControlledJacobian(),
)
METHODS = (
    dfc.Backprop(),
    dfc.MinimumNorm(),
    dfc.GaussNewton(),
    dfc.DFCSSA(CONTROLLER),
    *(dfc.DFCSS(CONTROLLER, equilibrium=each, fallback=None) for each in EQUILIBRIA),
    *(dfc.DFC(CONTROLLER, average=each) for each in AVERAGES),
)


def kind(method: dfc.AbstractMethod) -> str:
    part = getattr(method, "equilibrium", getattr(method, "average", method))
    return type(part).__name__


SLOW = ("DiffraxAverage", "Simulated")


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=pytest.mark.slow if kind(m) in SLOW else ()) for m in METHODS], ids=kind
)
def test_the_control_makes_up_for_the_gain(method: dfc.AbstractMethod) -> None:
    """Without a leak, what arrives at the neurons at rest is the same whatever the gain."""
    learn = lambda gain: method(dfc.Network(MODEL.layers, Amplified(gain)), X, Y)
    updates, report = eqx.filter_jit(jax.vmap(learn))(jnp.array([1.0, 2.0]))
    low, high = (jax.tree.map(lambda leaf, i=i: leaf[i], updates.layers) for i in range(2))
    assert np.all(report.converged)
    assert relative_error(low, high) < (0.01 if isinstance(method, dfc.DFC) else 1e-3)
    if method.loop(MODEL) is not None:
        assert relative_error(report.control[0], 2 * report.control[1]) < 1e-3


def test_it_is_measured() -> None:
    loop = dfc.ClosedLoop(MODEL)
    assert np.allclose(dfc.condition_two(MODEL, X), 1)
    assert np.allclose(dfc.feedback_angles(MODEL, X), 0, atol=1e-5)
    assert np.all(dfc.loop_eigenvalues(loop, take_samples(loop, X, Y)).real < 0)


REFUSED = {
    "direct feedback alignment": lambda: dfc.DFA()(MODEL, X, Y),
    "LinearisedStrongDFC": lambda: dfc.LinearisedStrongDFC()(MODEL, X, Y, key=jr.key(2)),
    "StrongDFC": lambda: dfc.StrongDFC()(MODEL, X, Y, key=jr.key(2)),
    "SleepPhase": lambda: dfc.SleepPhase()(MODEL, X, Y, key=jr.key(2)),
    "LinearisedSleepPhase": lambda: dfc.LinearisedSleepPhase()(MODEL, X, Y, key=jr.key(2)),
    "ExpectedSleepPhase": lambda: dfc.ExpectedSleepPhase()(MODEL, X, Y),
    "`feedback_learning`": lambda: dfc.fit(
        MODEL,
        dfc.DFCSS(),
        few_digits(),
        optax.sgd(0.1),
        epochs=1,
        batch_size=8,
        key=jr.key(2),
        feedback_learning=dfc.FeedbackLearning(optax.sgd(0.1)),
    ),
}


@pytest.mark.parametrize("who", REFUSED)
def test_who_needs_weights_says_so(who: str) -> None:
    wanted = f"^`model.feedback` is Amplified[,;].* {who} needs .*FeedbackWeights[.]"
    with pytest.raises(ValueError, match=wanted):
        REFUSED[who]()
