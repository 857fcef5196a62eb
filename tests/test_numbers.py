"""Numbers of any type mean the same, in whatever precision the samples come, and every `repr` shows them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import relative_error
from jaxtyping import PyTree

import dfc_jax as dfc


@pytest.fixture(autouse=True)
def promotion_of_users():
    """In 64 bits, as the suite, but with the promotion of types that users have."""
    with jax.numpy_dtype_promotion("standard"):
        yield


TYPES = {"float64": np.float64, "float32": np.float32, "array": lambda n: jnp.asarray(n, jnp.float64)}


def parts(number) -> dict[str, eqx.Module]:
    """Every method and sleep phase, its numbers made by `number`."""
    controller = dfc.PIController(k_p=number(1.5), alpha=number(0.125))
    leaky = dfc.LeakyIntegratorController(k_p=number(1.5), alpha=number(0.125))
    nudge, clamp = dfc.Nudge(number(0.25)), dfc.Clamp(number(0.75))
    scheme = dfc.PublishedEuler(dt=number(0.0078125), states=20)
    noise = dfc.FilteredNoise(number(0.0625), tau=number(0.0625), sigma_output=number(0.03125))
    white, tau = dfc.WhiteNoise(number(0.0625)), number(0.125)
    asleep = {"controller": controller, "noise": white, "scheme": scheme, "tau_v": tau, "tau_apical": tau}
    strong = dfc.StrongDFC(controller, clamp, noise=noise, tau_v=tau, tau_filter=number(0.5), scheme=scheme)
    return {
        "backprop": dfc.Backprop(),
        "dfa": dfc.DFA(),
        "minimum norm": dfc.MinimumNorm(damping=number(0.125)),
        "gauss-newton": dfc.GaussNewton(damping=number(0.125)),
        "ssa": dfc.DFCSSA(controller, nudge),
        "ss": dfc.DFCSS(leaky, clamp, equilibrium=dfc.Broyden(number(0.0001))),
        "implicit": dfc.DFC(controller, nudge, tau_v=tau, average=dfc.ImplicitAverage(number(8.0))),
        "closed form": dfc.DFC(leaky, nudge, tau_v=tau, average=dfc.ClosedFormAverage(number(8.0))),
        "published": dfc.DFC(controller, nudge, noise=noise, average=dfc.PublishedAverage(scheme)),
        "diffrax": dfc.DFC(controller, nudge, average=dfc.DiffraxAverage(t1=number(1.0), dt0=number(0.0625))),
        "strong": strong,
        "linearised strong": dfc.LinearisedStrongDFC(
            controller, clamp, noise=noise, tau_v=tau, tau_filter=number(0.5), scheme=scheme
        ),
        "sleep": dfc.SleepPhase(**asleep),
        "linearised sleep": dfc.LinearisedSleepPhase(**asleep),
        "expected sleep": dfc.ExpectedSleepPhase(**asleep),
        "high-pass": dfc.HighPassPhase(strong),
    }


NAMES = list(parts(float))
QUICK = "backprop", "ssa"
named = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NAMES]
)


def in_single(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


MODEL = in_single(dfc.mlp((6, 5, 3), key=jr.key(0)))
SINGLE = jnp.dtype("float32")
X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 6)))
Y = jnp.eye(3)[np.array([0, 1, 2, 0, 1, 2, 0, 1])]
compute = eqx.filter_jit(lambda part, x, y: part(MODEL, x, y, key=jr.key(1)))


@named
def test_samples_and_numbers_of_other_types_teach_a_model_in_its_own(name):
    found = {kind: compute(parts(number)[name], X, Y) for kind, number in TYPES.items()}
    if name in QUICK:  # all take their samples by the same function
        found["only y"] = compute(parts(float)[name], in_single(X), Y)
    wanted = compute(parts(float)[name], in_single(X), in_single(Y))
    for update in found.values():
        assert {leaf.dtype for leaf in jax.tree.leaves(update) if eqx.is_inexact_array(leaf)} == {SINGLE}
        assert relative_error(update, wanted) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["backprop", "ss", "implicit", "strong"])
def test_a_single_precision_model_is_fitted_to_data_in_double_precision(name):
    split = dfc.Split(np.tile(X, (2, 1)), np.tile(Y, (2, 1)))
    data = dfc.Dataset("double", split, split, split, classification=True)
    method = parts(np.float64)[name]
    clip = optax.chain(dfc.clip_by_layer_norm(np.float64(1.0)), optax.adam(1e-3))
    options = {"epochs": 1, "key": jr.key(0), "batch_size": 8, "progress": False, "min_converged": 0.0}
    if name == "ss":  # one for all: neither sleep nor what is measured depends on how the weights learn
        asleep = parts(np.float64)["sleep"]
        adam = optax.adam(np.float64(1e-3))
        options["feedback_learning"] = dfc.FeedbackLearning(adam, asleep, pretraining_epochs=1)
        options["diagnostics"] = dfc.Diagnostics(damping=np.float64(1e-3))
    found, _ = dfc.fit(MODEL, method, data, clip, **options)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {SINGLE}


def test_a_model_of_two_types_is_refused():
    mixed = eqx.tree_at(lambda m: m.feedback.weights[0], MODEL, MODEL.feedback.weights[0].astype(np.float64))
    with pytest.raises(ValueError, match="`model` holds arrays of float32 and float64; make them all of one"):
        dfc.Backprop()(mixed, X, Y)


def test_feedback_has_the_type_of_the_layers():
    for start in (dfc.ProductOfWeights(), dfc.RandomFeedback()):
        feedback = start.init(MODEL.layers, [(5,), (3,)], jr.key(0))
        assert {weights.dtype for weights in feedback.weights} == {SINGLE}


# What is shown


def changed(part: eqx.Module) -> list[eqx.Module]:
    """The part with one of its numbers halved, for every number in it."""
    numbers, rest = eqx.partition(part, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(numbers)
    halved = [[*leaves[:i], leaf / 2, *leaves[i + 1 :]] for i, leaf in enumerate(leaves)]
    return [eqx.combine(jax.tree.unflatten(structure, each), rest) for each in halved]


@pytest.mark.parametrize("name", NAMES)
def test_parts_that_differ_in_a_number_have_another_repr(name):
    part = parts(float)[name]
    shown = [repr(each) for each in (part, *changed(part))]
    assert len(set(shown)) == len(shown)
    assert "f32[" not in shown[0] and "f64[" not in shown[0]


def test_a_number_is_shown_by_the_digits_it_has():
    assert repr(dfc.PIController(k_p=0.1, alpha=1e-3)) == "PIController(k_p=0.1, alpha=0.001)"
    with jax.enable_x64(False):
        assert repr(dfc.Nudge(0.1)) == "Nudge(nudge=0.1)"
        assert repr(dfc.Nudge(np.float64(0.3))) == "Nudge(nudge=0.3)"
    assert repr(dfc.Nudge(jnp.ones(3))) == "Nudge(nudge=f64[3])".replace("f64", "weak_f64")
    shown = jax.eval_shape(lambda n: (shown_inside.append(repr(dfc.Nudge(n))), n)[1], 1.0)
    assert shown.shape == () and shown_inside == ["Nudge(nudge=weak_f64[])"]


shown_inside: list[str] = []


def test_every_public_module_shows_its_numbers():
    modules = [m for m in vars(dfc).values() if isinstance(m, type) and issubclass(m, eqx.Module)]
    theirs = [m.__name__ for m in modules if m.__repr__ is eqx.Module.__repr__]
    assert set(theirs) == {"ControlRootFinder", "History", "LoadedRun", "RunFolder"}  # no arrays but models
