"""The rules for the wake phase: their theorem, their locality, whom they serve."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import cast, few_digits, flat, make_batch, make_network, Plain, relative_error
from notebook_four import by_hand, mean_update
from small_runs import fit, learning, regression

import dfc_jax as dfc


pytestmark = pytest.mark.usefixtures("standard_promotion")  # Optax mixes whole numbers and floats.
X, Y = make_batch(jr.key(1), 4)
SGD = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1))
ADAM = optax.adamw(0.1, weight_decay=0.5)
CONTROLLER = dfc.PIController(k_p=0.5, alpha=0.1)


def awake(rule: dfc.AbstractWakeRule, optimiser=SGD, **options) -> dfc.FeedbackLearning:
    still = {"pretraining_epochs": 0, "epochs_per_wake_epoch": 0}
    return dfc.FeedbackLearning(optimiser, wake=rule, **(still | options))


def double(data: dfc.Dataset) -> dfc.Dataset:
    return cast(data, np.float64)


def gaps(model: dfc.Network) -> list[np.ndarray]:
    """W_i - B_i, biases left out."""
    pairs = zip(model.layers[1:], model.feedback.transforms, strict=True)
    leaves = lambda part: jax.tree.leaves(eqx.filter(part, eqx.is_inexact_array))
    return [np.asarray(leaves(l.transform)[0] - leaves(B)[0]) for l, B in pairs]


CLIPPED = optax.chain(dfc.clip_by_layer_norm(1e-3), SGD)
METHODS = {
    "clipped": (dfc.Backprop(dfc.MeanSquaredError()), CLIPPED),
    "ssa": (dfc.DFCSSA(CONTROLLER, loss=dfc.MeanSquaredError()), ADAM),
}


@pytest.mark.filterwarnings("ignore:After epoch:UserWarning")  # at first feedback is that of another network
@pytest.mark.parametrize("name", METHODS)
def test_backward_weights_converge_to_the_forward_ones(name):
    """By 1 - eta beta a step: to nothing but rounding, whatever the forward weights do meanwhile."""
    method, optimiser = METHODS[name]
    model = dfc.mlp((6, 8, 7, 3), key=jr.key(0), feedback=dfc.RandomLayeredFeedback())
    options = {"optimiser": optimiser, "epochs": 2, "method": method, "min_converged": 0.0}
    found, _ = fit(
        model, double(regression()), feedback_learning=awake(dfc.KolenPollack(), optimiser), **options
    )
    assert relative_error(gaps(found), [0.95**6 * gap for gap in gaps(model)]) < 1e-10
    assert relative_error(found.layers, model.layers) > 1e-2


@pytest.mark.slow
def test_convolutions_converge_as_well():
    model = dfc.convnet((1, 8, 8), (3, 4), (10,), key=jr.key(0), feedback=dfc.RandomLayeredFeedback())
    options = {"optimiser": SGD, "epochs": 1, "method": dfc.DFCSSA(CONTROLLER), "min_converged": 0.0}
    found, _ = fit(model, double(few_digits()), feedback_learning=awake(dfc.KolenPollack()), **options)
    assert relative_error(gaps(found), [0.95**3 * gap for gap in gaps(model)]) < 1e-10


def test_direct_feedback_of_the_last_hidden_layer_converges_to_the_transposed_output_weights():
    """Under backprop, whose update of W_L has the very factors of the rule."""
    model = dfc.mlp((6, 8, 3), key=jr.key(0), feedback=dfc.RandomFeedback())
    learns = awake(dfc.DirectKolenPollack(), freeze_output=True)
    found, _ = fit(model, double(regression()), feedback_learning=learns, optimiser=SGD, epochs=2)
    gap = lambda m: np.asarray(m.layers[-1].transform.weight.T - m.feedback.weights[0])
    assert relative_error(gap(found), 0.95**6 * gap(model)) < 1e-10
    assert np.array_equal(found.feedback.weights[1], np.eye(3))


def test_a_backward_synapse_learns_from_its_two_neurons():
    """In NumPy: the teaching signal above it times the rate below, each of the controlled state."""
    model = make_network(jr.key(0), feedback=dfc.RandomLayeredFeedback())
    method = dfc.DFCSSA(CONTROLLER, dfc.Nudge(0.1))
    update, report = method(model, X, Y)
    found = dfc.KolenPollack()(model, X, Y, update, method.loss)
    loop, changes = method.loop(model), []
    for x, y, u in zip(X, Y, report.control, strict=True):
        plain = Plain(dfc.Network(model.layers, dfc.FeedbackWeights(loop.feedback(loop.sample(x, y)))))
        voltages, _ = plain.settle(np.asarray(x), np.asarray(u))
        changes.append(by_hand(plain, np.asarray(x), voltages))
    wanted = mean_update(changes, 0.1)[1:]
    for B, (weight, _) in zip(found.feedback.transforms, wanted, strict=True):
        assert relative_error(B.weight, weight) < 1e-10
    assert eqx.tree_equal(found.layers, update.layers)


def test_a_direct_synapse_learns_from_its_neuron_and_the_outputs_error():
    model = make_network(jr.key(0), feedback=dfc.RandomFeedback())
    update, _ = dfc.Backprop()(model, X, Y)
    found = dfc.DirectKolenPollack()(model, X, Y, update, dfc.CrossEntropy())
    plain, wanted = Plain(model), [np.zeros((6, 3)), np.zeros((5, 3))]
    for x, y in zip(X, Y, strict=True):
        _, rates = plain.settle(np.asarray(x))
        error = np.exp(rates[-1]) / np.exp(rates[-1]).sum() - np.asarray(y)
        wanted = [w + np.outer(r, error) / len(X) for w, r in zip(wanted, rates, strict=False)]
    *hidden, output = found.feedback.weights
    assert relative_error(hidden, wanted) < 1e-12 and not np.any(output)
    assert eqx.tree_equal(found.layers, update.layers)


def test_what_is_not_finite_teaches_no_direct_synapse():
    model = make_network(jr.key(0), feedback=dfc.RandomFeedback())
    rule, loss = dfc.DirectKolenPollack(), dfc.CrossEntropy()
    wrong = X.at[1].set(jnp.nan)
    found = rule(model, wrong, Y, dfc.Backprop()(model, X, Y)[0], loss).feedback
    others = jnp.array([0, 2, 3])
    wanted = rule(model, X[others], Y[others], dfc.Backprop()(model, X, Y)[0], loss).feedback
    assert relative_error(jax.tree.map(lambda w: 4 / 3 * w, found), wanted) < 1e-12


@pytest.mark.slow
def test_sleep_and_a_rule_for_the_wake_phase_go_together():
    model = cast(dfc.mlp((6, 8, 3), key=jr.key(0), feedback=dfc.RandomFeedback()), np.float32)
    asleep = learning(pretraining_epochs=0)
    both = learning(wake=dfc.DirectKolenPollack(), pretraining_epochs=0)
    found, alone = (fit(model, regression(), feedback_learning=l)[0] for l in (both, asleep))
    assert not np.array_equal(flat(found.feedback), flat(alone.feedback))
    assert np.array_equal(flat(found.layers), flat(alone.layers))  # of backprop, which asks for no feedback


REFUSED = {
    "layered rule, direct feedback": (
        dfc.RandomFeedback(),
        awake(dfc.KolenPollack()),
        "FeedbackWeights; KolenPollack of `feedback_learning` needs LayeredFeedback",
    ),
    "direct rule, layered feedback": (
        dfc.CopyOfWeights(),
        awake(dfc.DirectKolenPollack()),
        "LayeredFeedback; DirectKolenPollack of `feedback_learning` needs FeedbackWeights",
    ),
    "sleep for direct feedback": (
        dfc.CopyOfWeights(),
        awake(dfc.KolenPollack(), epochs_per_wake_epoch=1),
        "LayeredFeedback; SleepPhase of `feedback_learning` needs FeedbackWeights",
    ),
    "no Q_L": (
        dfc.CopyOfWeights(),
        awake(dfc.KolenPollack(), freeze_output=True),
        "LayeredFeedback; `feedback_learning.freeze_output` needs FeedbackWeights",
    ),
    "nothing to learn": (
        dfc.ExactFeedback(),
        awake(dfc.KolenPollack()),
        "ExactFeedback; KolenPollack of `feedback_learning` needs LayeredFeedback",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_feedback_that_a_rule_does_not_serve_is_refused(name):
    feedback, learns, sentence = REFUSED[name]
    model = cast(dfc.mlp((6, 8, 3), key=jr.key(0), feedback=feedback), np.float32)
    with pytest.raises(ValueError, match=f"^`model.feedback` is {sentence}[.]"):
        fit(model, regression(), feedback_learning=learns)


def test_two_rules_for_the_same_weights_are_refused():
    model = cast(dfc.mlp((6, 8, 3), key=jr.key(0), feedback=dfc.RandomFeedback()), np.float32)
    sentence = "`feedback_learning` has DirectKolenPollack for the wake phase; StrongDFC has a rule of its"
    with pytest.raises(ValueError, match=f"^{sentence}"):
        fit(model, regression(), method=dfc.StrongDFC(), feedback_learning=awake(dfc.DirectKolenPollack()))


def test_transforms_of_another_kind_than_the_layers_are_refused():
    model = make_network(jr.key(0), feedback=dfc.CopyOfWeights())
    without = dfc.LayeredFeedback(tuple(dfc.Chain((B,)) for B in model.feedback.transforms))
    update, _ = dfc.Backprop()(model, X, Y)
    with pytest.raises(ValueError, match="has other transforms than the layers; KolenPollack needs"):
        dfc.KolenPollack()(dfc.Network(model.layers, without), X, Y, update, dfc.CrossEntropy())


def redrawn(model: dfc.Network, key: jax.Array) -> dfc.Network:
    """The model with the feedback that a step of `optax.sgd(1.0)` leaves."""
    rule, update = dfc.RedrawnMagnitudes(), dfc.Backprop()(model, X, Y)[0]
    found = rule(model, X, Y, update, dfc.CrossEntropy(), key=key)
    assert eqx.tree_equal(found.layers, update.layers)
    return dfc.Network(model.layers, eqx.apply_updates(model.feedback, minus(found.feedback)))


def minus(tree: dfc.AbstractFeedback) -> dfc.AbstractFeedback:
    return jax.tree.map(lambda leaf: -leaf if eqx.is_inexact_array(leaf) else leaf, tree)


def test_magnitudes_are_drawn_anew_and_signs_stay_those_of_the_weights() -> None:
    """Of 40,000 synapses: half-normal of the weights' size, and independent from batch to batch."""
    model = make_network(jr.key(0), (4, 200, 200, 3), feedback=dfc.SignSymmetry(random=True))
    first, second = (redrawn(model, jr.key(k)) for k in (1, 2))
    weights = np.asarray(model.layers[1].transform.weight)
    drawn = [np.asarray(m.feedback.backward(m.layers)[0].weight) for m in (model, first, second)]
    for B in drawn:
        assert np.array_equal(np.sign(B), np.sign(weights))
        assert np.sqrt(np.mean(B**2)) == pytest.approx(np.sqrt(np.mean(weights**2)), rel=0.02)
        assert np.mean(np.abs(B)) == pytest.approx(np.sqrt(2 / np.pi * np.mean(weights**2)), rel=0.02)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(np.abs(drawn[i]).ravel(), np.abs(drawn[j]).ravel())[0, 1]) < 0.02
    assert eqx.tree_equal(redrawn(model, jr.key(1)), first)


def test_every_batch_has_magnitudes_of_its_own() -> None:
    model = cast(dfc.mlp((6, 8, 3), key=jr.key(0), feedback=dfc.SignSymmetry(random=True)), np.float32)
    drawn: list[np.ndarray] = []

    class Noted(dfc.RedrawnMagnitudes):
        def __call__(self, model, x, y, update, loss, *, key=None):
            found = super().__call__(model, x, y, update, loss, key=key)
            moved = jax.tree.map(jnp.subtract, model.feedback, found.feedback).magnitudes[0].weight
            jax.debug.callback(lambda magnitudes: drawn.append(np.array(magnitudes)), moved)
            return found

    method = cast(dfc.DFCSSA(CONTROLLER, loss=dfc.MeanSquaredError()), np.float32)
    options = {"feedback_learning": awake(Noted(), optax.sgd(1.0)), "method": method, "epochs": 2}
    found, history = fit(model, regression(), **options)
    jax.effects_barrier()
    # Their size is that of the forward weights, which change: of one draw for all no more would differ.
    sizeless = [np.abs(B) / np.linalg.norm(B) for B in drawn]
    assert len(sizeless) == 2 * 3
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(sizeless, 2)) > 0.1
    assert history.records[-1]["train_loss"] < history.records[0]["train_loss"]
    again, _ = fit(model, regression(), **options)
    assert np.array_equal(flat(again), flat(found))


def test_magnitudes_are_those_of_sign_symmetry_and_need_a_key() -> None:
    model = make_network(jr.key(0), feedback=dfc.CopyOfWeights())
    with pytest.raises(ValueError, match="LayeredFeedback; RedrawnMagnitudes needs SignSymmetricFeedback"):
        redrawn(model, jr.key(0))
    rule, signs = dfc.RedrawnMagnitudes(), make_network(jr.key(0), feedback=dfc.SignSymmetry(random=True))
    with pytest.raises((ValueError, TypeError), match="`key` is None"):
        rule(signs, X, Y, dfc.Backprop()(signs, X, Y)[0], dfc.CrossEntropy())
