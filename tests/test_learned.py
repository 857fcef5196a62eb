"""Training learns the weights of transforms and the feedback weights, and leaves all else as it was made.

A network of a user's own parts, which hold numbers, arrays, functions and flags, must learn what the same
network of the library's parts learns, which hold weights alone.
"""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import relative_error
from jaxtyping import Array, Bool, Float

import dfc_jax as dfc


@pytest.fixture(autouse=True)
def optax_may_promote():
    with jax.numpy_dtype_promotion("standard"):
        yield


class Leaky(dfc.AbstractActivation):
    """A leaky ReLU whose slope is an array or a Python number."""

    slope: Array | float

    def __call__(self, voltage):
        return jnp.where(voltage > 0, voltage, self.slope * voltage)

    def derivative(self, voltage):
        return jnp.where(voltage > 0, 1.0, self.slope)

    def difference(self, voltage, change):
        return self(voltage + change) - self(voltage)


class Through(dfc.AbstractActivation):
    """Any smooth function, as a field."""

    function: Callable

    def __call__(self, voltage):
        return self.function(voltage)

    def derivative(self, voltage):
        return jnp.vectorize(jax.grad(self.function))(voltage)

    def difference(self, voltage, change):
        return self(voltage + change) - self(voltage)


class Masked(eqx.Module):
    """A dense map with a mask, and a number of Python's."""

    dense: dfc.Dense
    mask: Bool[Array, " out"]
    factor: float

    def __call__(self, rate: Float[Array, " in"]) -> Float[Array, " out"]:
        return jnp.where(self.mask, self.factor * self.dense(rate), 0)


def plain(seed: int = 0) -> dfc.Network:
    leaky = dfc.LeakyReLU(0.25)
    return dfc.mlp((6, 5, 4, 3), key=jr.key(seed), activation=leaky, output_activation=leaky)


def own(model: dfc.Network) -> dfc.Network:
    """The same network of parts of one's own."""
    first, second, last = (layer.transform for layer in model.layers)
    before = eqx.nn.Lambda(jnp.ravel), eqx.nn.Dropout(inference=True)
    pool = eqx.nn.AvgPool1d(1, 1)  # over single neurons: the identity
    transforms = (
        dfc.Chain((*before, first)),
        Masked(second, jnp.ones(4, bool), 1.0),
        dfc.Chain((eqx.nn.Lambda(lambda v: v[None]), pool, eqx.nn.Lambda(jnp.ravel), last)),
    )
    function = lambda v: jnp.where(v > 0, v, 0.25 * v)
    activations = Leaky(jnp.asarray(0.25)), Leaky(0.25), Through(function)
    return dfc.Network(tuple(map(dfc.Layer, transforms, activations)), model.feedback)


def dense(tree: dfc.Network) -> list:
    """The weights of `own`, in the order of `plain`'s."""
    is_dense = lambda part: isinstance(part, dfc.Dense)
    return [part for part in jax.tree.leaves(tree.layers, is_leaf=is_dense) if is_dense(part)]


def unlearned(model: dfc.Network) -> list:
    """What the parts of `own` hold besides weights."""
    first, second, last = model.layers
    return [first.activation.slope, second.activation.slope, last.activation.function,
            second.transform.mask, second.transform.factor, last.transform.parts[1].operation,
            first.transform.parts[0].fn, first.transform.parts[1].inference]  # fmt: skip


def data() -> dfc.Dataset:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 48)
    x, y = rng.normal(size=(3, 6))[labels] * 1.5 + rng.normal(size=(48, 6)), np.eye(3)[labels]
    part = lambda a, b: dfc.Split(x[a:b], y[a:b])
    return dfc.Dataset("classes", part(0, 32), part(32, 40), part(40, 48), classification=True)


DATA = data()
X, Y = jnp.asarray(DATA.train.x[:8]), jnp.asarray(DATA.train.y[:8])
CONTROL = dfc.PIController(k_p=1.0, alpha=0.1)
SCHEME = dfc.PublishedEuler(dt=0.004, states=20)
NOISE = dfc.FilteredNoise(0.01)
METHODS = {
    "backprop": dfc.Backprop(),
    "dfa": dfc.DFA(),
    "minimum norm": dfc.MinimumNorm(),
    "gauss-newton": dfc.GaussNewton(),
    "ssa": dfc.DFCSSA(CONTROL),
    "ss": dfc.DFCSS(CONTROL),
    "implicit": dfc.DFC(CONTROL),
    "closed form": dfc.DFC(CONTROL, average=dfc.ClosedFormAverage()),
    "published": dfc.DFC(CONTROL, noise=NOISE, average=dfc.PublishedAverage(SCHEME)),
    "diffrax": dfc.DFC(
        CONTROL, average=dfc.DiffraxAverage(diffrax.Heun(), diffrax.ConstantStepSize(), t1=1.0)
    ),
    "strong": dfc.StrongDFC(CONTROL, scheme=SCHEME),
    "linearised strong": dfc.LinearisedStrongDFC(CONTROL, scheme=SCHEME),
}
QUICK = "backprop", "ssa"
named = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in METHODS]
)
DECAYING = optax.adamw(1e-2, weight_decay=0.1)


RUN = {"epochs": 2, "batch_size": 8, "progress": False, "min_converged": 0.0}


def fit(model: dfc.Network, name: str, **options) -> tuple[dfc.Network, dfc.History]:
    return dfc.fit(model, METHODS[name], DATA, DECAYING, key=jr.key(1), **RUN, **options)


def learning(phase: dfc.AbstractSleepPhase, between: float) -> dfc.FeedbackLearning:
    return dfc.FeedbackLearning(DECAYING, phase, pretraining_epochs=1, epochs_per_wake_epoch=between)


def check(found: dfc.Network, wanted: dfc.Network) -> None:
    """`found` has `wanted`'s weights, and what its own parts held besides."""
    for before, after in zip(unlearned(own(wanted)), unlearned(found), strict=True):
        assert type(after) is type(before) and (callable(before) or np.all(after == before))
    assert relative_error(dense(found), wanted.layers) < 1e-9
    assert relative_error(found.feedback, wanted.feedback) < 1e-9


# What an optimiser makes of an update does not depend on the method; the next test is of every method's.
@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in ("ss", "strong"))]
)
def test_training_learns_the_weights_and_nothing_else(name):
    start, options = plain(), {}
    if METHODS[name].learns_feedback:
        options["feedback_learning"] = learning(dfc.HighPassPhase(), 0)
    wanted, found = fit(start, name, **options)[0], fit(own(start), name, **options)[0]
    check(found, wanted)
    assert relative_error(wanted.layers, start.layers) > 1e-3
    moved = relative_error(wanted.feedback, start.feedback) > 1e-6
    assert moved == METHODS[name].learns_feedback


@named
def test_an_update_is_one_of_the_weights(name):
    model, compute = own(plain()), eqx.filter_jit(METHODS[name])
    update, _ = compute(model, X, Y, key=jr.key(2))
    wanted, _ = compute(plain(), X, Y, key=jr.key(2))
    slope, number, function, mask, *others = unlearned(update)
    assert slope == 0 and number is function is mask is None and set(others) == {None}
    arrays = eqx.filter(model, eqx.is_inexact_array)  # as an optimiser is given them, as Equinox advises
    assert jax.tree.structure(update) == jax.tree.structure(arrays)
    assert relative_error(dense(update), wanted.layers) < 1e-9
    angles = dfc.update_angles(update, eqx.tree_at(lambda u: u.layers[0].activation.slope, update, 7.0))
    assert angles.network < 1e-5
    clip = dfc.clip_by_layer_norm(1e-3)
    clipped, _ = clip.update(dfc.learned_weights(update.layers), clip.init(None))
    plainly, _ = clip.update(wanted.layers, clip.init(None))
    assert relative_error(dense(dfc.Network(clipped, model.feedback)), plainly) < 1e-9


PHASES = {
    "sleep": dfc.SleepPhase(scheme=SCHEME, tau_v=0.02),
    "linearised": dfc.LinearisedSleepPhase(scheme=SCHEME, tau_v=0.02),
    "expected": dfc.ExpectedSleepPhase(scheme=SCHEME, tau_v=0.02),
    "high-pass": dfc.HighPassPhase(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PHASES)
def test_sleep_phases_learn_the_feedback_of_ones_own_parts(name):
    wanted, found = (
        fit(m, "ssa", feedback_learning=learning(PHASES[name], 1))[0] for m in (plain(), own(plain()))
    )
    check(found, wanted)
    assert relative_error(wanted.feedback, plain().feedback) > 1e-6


@pytest.mark.slow
def test_several_runs_diagnostics_and_checkpoints_take_ones_own_parts(tmp_path):
    starts, keys = [plain(0), plain(1)], list(jr.split(jr.key(1)))
    wanted = dfc.fit_many(starts, METHODS["ssa"], DATA, DECAYING, keys=keys, **RUN)
    # Parts that are equal, not merely alike, make networks of one architecture.
    first = own(starts[0])
    owns = [eqx.combine(weights_of(own(start), first), first) for start in starts]
    found = dfc.fit_many(owns, METHODS["ssa"], DATA, DECAYING, keys=keys, **RUN)
    for (model, _), (plainly, _) in zip(found, wanted, strict=True):
        check(model, plainly)
    diagnostics = dfc.Diagnostics(samples=8)
    records = [fit(m, "ssa", diagnostics=diagnostics, resume=tmp_path / name)[1].records[-1]
               for name, m in (("own", first), ("plain", starts[0]))]  # fmt: skip
    for name in records[1].keys() - {"seconds"}:
        np.testing.assert_allclose(records[0][name], records[1][name], rtol=1e-6, atol=1e-5, err_msg=name)
    again = dfc.fit(first, METHODS["ssa"], DATA, DECAYING, key=jr.key(1), **RUN, resume=tmp_path / "own")[0]
    check(again, fit(starts[0], "ssa")[0])


def weights_of(model: dfc.Network, like: dfc.Network) -> dfc.Network:
    """The learned weights of `model`, within the parts of `like`."""
    leaves = jax.tree.leaves(dfc.learned_weights(model))
    return jax.tree.unflatten(jax.tree.structure(dfc.learned_weights(like)), leaves)


def test_only_the_weights_are_learned():
    found = dfc.learned_weights(own(plain()))
    assert set(unlearned(found)) == {None}
    assert relative_error(dense(found), plain().layers) == 0
    assert relative_error(found.feedback, plain().feedback) == 0
