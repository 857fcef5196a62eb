"""Feedback weights learned before and between wake epochs: what they reach, when, and how that fails."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import flat, relative_error, sgd
from small_runs import fit, learning, PHASE, regression, small_network, without_times

import dfc_jax as dfc


pytestmark = pytest.mark.usefixtures("standard_promotion")  # Optax mixes whole numbers and floats.


def alignment(model, x):
    """Mean over samples of |P Q| / |Q|, P the projection onto the row space of J: 1 under Condition 2."""

    def one(x):
        jacobian = jnp.concatenate(model.jacobian(model.feedforward(x).voltages), axis=1)
        stacked = jnp.concatenate(model.feedback.weights)
        projected = jacobian.T @ jnp.linalg.solve(jacobian @ jacobian.T, jacobian @ stacked)
        return jnp.linalg.norm(projected) / jnp.linalg.norm(stacked)

    return float(jnp.mean(eqx.filter_jit(jax.vmap(one))(jnp.asarray(x))))


@pytest.mark.slow
def test_pretraining_aligns_the_feedback_and_leaves_the_weights_alone():
    data = regression(320)
    model = small_network(2, (6, 16, 16, 3), feedback=dfc.RandomFeedback())
    options = {"key": jr.key(0), "batch_size": 32, "progress": False}
    trained = dfc.pretrain_feedback(model, learning(pretraining_epochs=30), data, **options)
    before, after = alignment(model, data.test.x), alignment(trained, data.test.x)
    assert after > before + 0.2 and after > 0.75
    assert np.array_equal(flat(trained.layers), flat(model.layers))


@pytest.mark.parametrize("freeze", [True, False])
def test_the_output_feedback_can_be_frozen(freeze):
    model = small_network(2, (6, 8, 3), feedback=dfc.RandomFeedback())
    found, _ = fit(model, regression(), epochs=1, feedback_learning=learning(freeze_output=freeze))
    hidden, output = zip(found.feedback.weights, model.feedback.weights, strict=True)
    assert not np.array_equal(*hidden)
    assert np.array_equal(*output) == freeze


class Flip(dfc.AbstractSleepPhase):
    """Turns the sign of the feedback weights, by gradient descent at a rate of one."""

    def __call__(self, model, x, y, *, key=None):
        feedback = jax.tree.map(lambda Q: 2 * Q, model.feedback)
        return dfc.Network(jax.tree.map(jnp.zeros_like, model.layers), feedback)


def test_sleep_goes_before_every_wake_epoch():
    """Forward weights learn by the feedback that the sleep of the same epoch has left."""
    model, data = small_network(2, (6, 8, 3), feedback=dfc.RandomFeedback()), regression()
    # One batch, so that the order of the samples changes roundings alone.
    options = {"method": dfc.DFA(dfc.MeanSquaredError()), "optimiser": sgd(0.1), "batch_size": 96}
    flips = dfc.FeedbackLearning(sgd(1.0), Flip(), pretraining_epochs=0)
    models = [model]
    fit(model, data, epochs=2, feedback_learning=flips, on_epoch=lambda _, m: models.append(m), **options)
    assert len(models) == 3
    for before, after in itertools.pairwise(models):
        turned = dfc.Network(before.layers, jax.tree.map(jnp.negative, before.feedback))
        wanted, _ = fit(turned, data, epochs=1, **options)
        assert np.array_equal(flat(after.feedback), flat(wanted.feedback))
        moved, expected = (flat(m.layers) - flat(before.layers) for m in (after, wanted))
        assert relative_error(moved, expected) < 1e-4


def test_sleep_teaches_the_feedback_alone_and_repeats():
    model, data = small_network(2, (6, 8, 3), feedback=dfc.RandomFeedback()), regression()
    still = {"optimiser": sgd(0.0), "epochs": 2}
    options = learning(pretraining_epochs=0)
    found, history = fit(model, data, feedback_learning=options, **still)
    assert not np.array_equal(flat(found.feedback), flat(model.feedback))
    assert np.array_equal(flat(found.layers), flat(model.layers))
    never, _ = fit(
        model, data, feedback_learning=learning(pretraining_epochs=0, epochs_per_wake_epoch=0), **still
    )
    assert np.array_equal(flat(never), flat(model))
    again, repeated = fit(model, data, feedback_learning=options, **still)
    assert without_times(history) == without_times(repeated)
    assert np.array_equal(flat(again), flat(found))


def test_a_part_of_an_epoch_is_a_part_of_its_steps():
    model, data = small_network(2, (6, 8, 3), feedback=dfc.RandomFeedback()), regression(320)
    counting = optax.GradientTransformation(
        lambda params: None,
        lambda updates, state, params: (jax.tree.map(jnp.ones_like, updates), state),
    )

    def steps(**options):
        sleeps = dfc.FeedbackLearning(counting, PHASE, **options)
        found, _ = fit(model, data, epochs=1, feedback_learning=sleeps)
        moved = found.feedback.weights[0] - model.feedback.weights[0]
        return round(float(jnp.mean(moved)))

    assert steps(pretraining_epochs=0, epochs_per_wake_epoch=0.2) == 2  # of ten
    assert steps(pretraining_epochs=1.5, epochs_per_wake_epoch=0) == 15
    assert steps(pretraining_epochs=2, epochs_per_wake_epoch=1) == 30


def test_pretraining_may_have_its_own_optimiser():
    model, data = small_network(2, (6, 8, 3), feedback=dfc.RandomFeedback()), regression()
    still = learning(pretraining_optimiser=sgd(0.0), epochs_per_wake_epoch=0)
    found, _ = fit(model, data, epochs=1, feedback_learning=still)
    assert np.array_equal(flat(found.feedback), flat(model.feedback))


def test_feedback_alone_is_pretrained_as_before_training():
    model, data = small_network(2, (6, 8, 3), feedback=dfc.RandomFeedback()), regression()
    asleep = learning(pretraining_epochs=1.5, epochs_per_wake_epoch=0)
    found, _ = fit(model, data, epochs=1, feedback_learning=asleep, key=5)
    pretraining_key, _ = jr.split(jr.key(5))
    options = {"key": pretraining_key, "batch_size": 32, "progress": False}
    alone = dfc.pretrain_feedback(model, asleep, data, **options)
    assert np.array_equal(flat(alone.feedback), flat(found.feedback))
    assert not np.array_equal(flat(alone.feedback), flat(model.feedback))
    assert np.array_equal(flat(alone.layers), flat(model.layers))
    with pytest.raises(ValueError, match="`batch_size` is 97; the data have only 96"):
        dfc.pretrain_feedback(model, asleep, data, **(options | {"batch_size": 97}))
    with pytest.raises(ValueError, match="`learning` needs FeedbackWeights"):
        exact = dfc.Network(model.layers, dfc.ExactFeedback())
        dfc.pretrain_feedback(exact, asleep, data, **options)


class SamplesSeen(dfc.AbstractSleepPhase):
    """Moves every feedback weight by the number of samples of the batch."""

    def __call__(self, model, x, y, *, key=None):
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, -len(x)), model)


@pytest.mark.parametrize("epochs, samples", [(1, 100), (2, 200), (0.75, 96), (0.1, 32), (1.5, 164)])
def test_sleep_takes_the_left_over_samples_too(epochs, samples):
    """100 samples in batches of 32: a part of an epoch is one of its four batches."""
    model = small_network(2, (6, 8, 3), feedback=dfc.RandomFeedback())
    counting = dfc.FeedbackLearning(sgd(1.0), SamplesSeen(), pretraining_epochs=epochs)
    options = {"key": jr.key(0), "batch_size": 32, "progress": False}
    found = dfc.pretrain_feedback(model, counting, regression(100), **options)
    assert np.allclose(flat(found.feedback) - flat(model.feedback), samples, rtol=1e-5)


def test_diverging_pretraining_is_said():
    model = small_network(2, (6, 8, 3), feedback=dfc.RandomFeedback())
    sleeps = dfc.FeedbackLearning(sgd(jnp.nan), PHASE, pretraining_epochs=1)
    found, history = fit(model, regression(), feedback_learning=sleeps)
    assert history.stopped.startswith("feedback pre-training: a weight is no longer finite; lower")
    assert history.records == [] and np.array_equal(flat(found), flat(model))
    with pytest.warns(UserWarning, match="feedback pre-training: a weight is no longer finite"):
        dfc.pretrain_feedback(model, sleeps, regression(), key=jr.key(0), batch_size=32, progress=False)


def test_only_weights_can_learn():
    model = small_network(1, (6, 8, 3), feedback=dfc.ExactFeedback())
    with pytest.raises(ValueError, match="ExactFeedback; SleepPhase of `feedback_learning` needs Feedback"):
        fit(model, regression(), feedback_learning=learning())


@pytest.mark.parametrize("name", ["pretraining_epochs", "epochs_per_wake_epoch"])
def test_negative_numbers_of_sleep_epochs(name):
    with pytest.raises(ValueError, match=f"`{name}` is -1; it must be a finite number at least 0"):
        learning(**{name: -1})
