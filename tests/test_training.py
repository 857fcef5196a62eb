"""The training loop: what it reaches, what it repeats, and how it stops."""

import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import adam, flat, relative_error, sgd
from small_runs import fit, fit_many, in_single_precision, learning, regression, small_network, without_times

import dfc_jax as dfc
from dfc_jax._training.batches import Batches, shuffled_batches


pytestmark = pytest.mark.usefixtures("standard_promotion")  # Optax mixes whole numbers and floats.


@pytest.fixture(scope="module")
def digits():
    return dfc.load("digits")


# Learning


@pytest.mark.slow
def test_digits_are_learned(digits):
    method = in_single_precision(dfc.DFCSS())
    model, history = fit(small_network(0), digits, method=method, epochs=12)
    losses = [record["train_loss"] for record in history.records]
    assert losses[-1] < losses[4] < losses[0]
    assert history.best["test_accuracy"] > 0.9
    assert [record["epoch"] for record in history.records] == list(range(1, 13))
    assert all(record["converged"] > 0.95 and record["seconds"] > 0 for record in history.records)
    assert history.stopped is None
    for name in ("validation", "test"):
        scores = dfc.evaluate(model, method.loss, getattr(digits, name), classification=True)
        assert scores["accuracy"] == history.records[-1][f"{name}_accuracy"]
        assert scores["loss"] == history.records[-1][f"{name}_loss"]


@pytest.mark.script
def test_the_example_of_the_design_runs(digits):
    model = small_network(0, (64, 16, 16, 10))
    controller = dfc.PIController(alpha=jnp.float32(1e-3), k_p=jnp.float32(2))
    method = dfc.DFCSS(controller, dfc.Nudge(0.1))
    model, history = fit(model, digits, method=method, epochs=1, batch_size=128)
    x, y = jnp.asarray(digits.train.x[:8]), jnp.asarray(digits.train.y[:8])
    optimiser = adam(1e-3)
    state = optimiser.init(model.layers)
    update, report = eqx.filter_jit(method)(model, x, y, key=jr.key(1))
    change, state = optimiser.update(update.layers, state, model.layers)
    model = dfc.Network(eqx.apply_updates(model.layers, change), model.feedback)
    assert report.converged.shape == (8,) and len(history.records) == 1
    assert np.all(np.isfinite(flat(model)))


# Repeating


def test_the_same_key_repeats_a_run_and_another_does_not():
    data, model = regression(), small_network(1, (6, 8, 3))
    first, again, other = (fit(model, data, key=key) for key in (0, 0, 1))
    assert without_times(first[1]) == without_times(again[1])
    assert np.array_equal(flat(first[0]), flat(again[0]))
    assert not np.array_equal(flat(first[0]), flat(other[0]))


def test_an_epoch_is_a_loop_over_shuffled_batches():
    data, model, optimiser = regression(100), small_network(1, (6, 8, 3)), adam(1e-2)
    found, history = fit(model, data, optimiser=optimiser, epochs=2, key=5)

    @eqx.filter_jit
    def loss_and_gradient(weights, x, y):
        mean_loss = lambda weights: jnp.mean((jax.vmap(dfc.Network(weights, model.feedback))(x) - y) ** 2)
        return eqx.filter_value_and_grad(mean_loss)(weights)

    state, weights = optimiser.init(model.layers), model.layers
    _, key = jr.split(jr.key(5))
    for epoch, record in enumerate(history.records, start=1):
        full, left, _ = shuffled_batches(jr.fold_in(key, epoch), 100, 32)
        assert full.shape == (3, 32) and sorted([*full.ravel().tolist(), *left.tolist()]) == list(range(100))
        losses = []
        for indices in [*np.asarray(full), np.asarray(left)]:
            loss, gradient = loss_and_gradient(weights, data.train.x[indices], data.train.y[indices])
            change, state = optimiser.update(gradient, state, weights)
            weights = eqx.apply_updates(weights, change)
            losses += len(indices) * [float(loss)]
        assert record["train_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert relative_error(found.layers, weights) < 1e-5
    assert relative_error(found.feedback, model.feedback) == 0


def test_batches_are_shuffled_anew_every_epoch():
    first, left, _ = shuffled_batches(jr.key(0), 64, 16)
    second, _, keys = shuffled_batches(jr.key(1), 64, 16)
    assert left.size == 0
    assert sorted(first.ravel().tolist()) == sorted(second.ravel().tolist()) == list(range(64))
    assert not np.array_equal(first, second)
    assert len(set(map(bytes, np.asarray(jr.key_data(keys))))) == 4


def test_every_batch_has_a_key_of_its_own_the_last_one_too():
    def step(carry, x, y, key):
        number, seen = carry
        return (number + 1, seen.at[number].set(jr.key_data(key))), {}

    start = jnp.asarray(0), jnp.zeros((4, 2), jnp.uint32)
    train = jax.tree.map(jnp.asarray, regression(100).train)
    (number, seen), _ = Batches(train, 32).scan(step, start, jr.key(0))
    assert number == 4 and len({tuple(key) for key in seen.tolist()}) == 4


def test_a_part_of_an_epoch_is_no_batch_more():
    """0.07 * 100 is 7.000000000000001."""
    train = jax.tree.map(jnp.asarray, regression(100).train)
    step = lambda number, x, y, key: (number + 1, {})
    taken = {part: int(Batches(train, 1).scan(step, 0, jr.key(0), part)[0]) for part in (0.07, 0.28, 0.281)}
    assert taken == {0.07: 7, 0.28: 28, 0.281: 29}


# The best epoch, and stopping


def test_the_first_of_equals_is_the_best():
    data = regression()
    _, history = fit(small_network(1, (6, 8, 3)), data, optimiser=sgd(0.0))
    assert history.best_epoch == 1 and len(history.records) == 3


def test_regression_is_judged_by_its_validation_loss():
    _, history = fit(small_network(1, (6, 8, 3)), regression(), optimiser=adam(1e-2))
    losses = [record["validation_loss"] for record in history.records]
    assert history.best_epoch == 1 + int(np.argmin(losses))
    assert "validation_accuracy" not in history.records[0]


def nan_after(steps):
    """Gradient descent whose changes are NaN once it has made so many."""
    rate = lambda step: jnp.where(step < steps, 0.1, jnp.nan).astype(jnp.float32)
    return sgd(rate)


def test_a_run_that_is_no_longer_finite_stops_at_the_last_good_model():
    data, model = regression(), small_network(1, (6, 8, 3))
    found, history = fit(model, data, optimiser=nan_after(7), epochs=5)  # three steps an epoch
    assert history.stopped.startswith("epoch 3: the loss or a weight is no longer finite")
    good, _ = fit(model, data, optimiser=nan_after(1000), epochs=2)
    assert [record["epoch"] for record in history.records] == [1, 2]
    assert np.array_equal(flat(found), flat(good))
    assert np.all(np.isfinite(flat((found, history.best_model))))


def test_a_run_that_fails_at_once_returns_the_model_it_was_given():
    model = small_network(1, (6, 8, 3))
    found, history = fit(model, regression(), optimiser=sgd(1e30))
    assert history.stopped.startswith("epoch 1") and history.records == [] and history.best_epoch == 0
    assert np.array_equal(flat(found), flat(model))
    assert np.array_equal(flat(history.best_model), flat(model))
    with pytest.raises(ValueError, match="no epoch was finished: epoch 1: the loss or a weight"):
        _ = history.best


def test_every_epoch_is_announced():
    seen = []
    last, history = fit(small_network(1, (6, 8, 3)), regression(), on_epoch=lambda *heard: seen.append(heard))
    assert [record for record, _ in seen] == history.records
    assert np.array_equal(flat(seen[-1][1]), flat(last))


WARNED = """
import warnings, jax, numpy as np, optax, dfc_jax as dfc
split = dfc.Split(np.ones((8, 3), np.float32), np.eye(2, dtype=np.float32)[np.arange(8) % 2])
data = dfc.Dataset("noise", split, split, split, classification=True)
model, key = dfc.mlp((3, 2), key=jax.random.key(0)), jax.random.key(1)
average = dfc.PublishedAverage(dfc.PublishedEuler(0.9, 3))  # too long a step, and too few
options = dict(epochs=1, batch_size=8, progress=False)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    dfc.fit(model, dfc.DFC(average=average), data, optax.sgd(0.1), key=key, **options)  # line 10
    dfc.fit_many([model], dfc.DFC(average=average), data, optax.sgd(0.1), keys=[key], **options)  # line 11
for warning in caught:
    print(warning.filename, warning.lineno, str(warning.message).replace("\\n", " "))
"""


@pytest.mark.slow  # in a process of its own, without the suite's type checks between a user and the package
def test_warnings_point_at_the_users_line():
    done = subprocess.run([sys.executable, "-c", WARNED], capture_output=True, text=True, check=True)
    warned = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert [(name, line) for name, line, _ in warned] == [("<string>", n) for n in ("10", "10", "11", "11")]
    for first, second in (warned[:2], warned[2:]):
        assert "`scheme.dt` is 0.9" in first[2] and "of the samples converged in epoch 1" in second[2]


# Clipping


def test_the_bars_say_compiling_until_the_first_epoch_is_over(capsys):
    """Both of them, that of feedback pre-training first."""
    asleep = learning(pretraining_epochs=2, epochs_per_wake_epoch=0)
    fit(small_network(1, (6, 8, 3)), regression(), epochs=2, feedback_learning=asleep, progress=True)
    frames = capsys.readouterr().err.replace("\n", "\r").split("\r")
    for name in ("feedback pre-training", "Backprop"):
        shown = [frame for frame in frames if frame.startswith(name)]
        waiting = [" 0/2 " in frame and frame.endswith("compiling]") for frame in shown]
        assert any(waiting)
        assert [frame.endswith("compiling]") for frame in shown] == waiting
        assert " 2/2 " in shown[-1]


def test_clipping_is_by_tensor():
    updates = {
        "weight": jnp.asarray([[3.0, 0.0], [0.0, 4.0]]),
        "bias": jnp.asarray([0.3, 0.4]),
        "none": jnp.zeros(2),
    }
    clip = dfc.clip_by_tensor_norm(1.0)
    clipped, _ = clip.update(updates, clip.init(updates))
    assert relative_error(clipped["weight"], np.asarray([[0.6, 0.0], [0.0, 0.8]])) < 1e-12
    assert np.array_equal(clipped["bias"], updates["bias"]) and np.array_equal(clipped["none"], np.zeros(2))
    with pytest.raises(ValueError, match=r"`max_norm` is 0\.0; it must be a finite number greater than 0"):
        dfc.clip_by_tensor_norm(0.0)


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` is 0; it must be a whole number of at least 1"),
        ({"batch_size": 0}, "`batch_size` is 0; it must be a whole number of at least 1"),
        ({"batch_size": 97}, "`batch_size` is 97; the data have only 96 training samples"),
    ],
)
def test_wrong_arguments_of_fit(options, message):
    with pytest.raises(ValueError, match=message):
        fit(small_network(1, (6, 8, 3)), regression(), **options)


def test_models_that_do_not_fit_the_data():
    with pytest.raises(ValueError, match=r"`model` does not take the inputs of `data`, of shape \(6,\)"):
        fit(small_network(1, (5, 8, 3)), regression())
    with pytest.raises(ValueError, match="`model` has 4 outputs; `data` has targets of size 3"):
        fit(small_network(1, (6, 8, 4)), regression())


@pytest.mark.parametrize(
    "method, name",
    [
        (dfc.DFCSS(target=dfc.Clamp(0.9), loss=dfc.MeanSquaredError()), r"method\.target"),
        (dfc.LeastControl(0.1, dfc.MeanSquaredError(), class_value=0.9), "method"),
    ],
)
def test_targets_of_a_regression_are_not_softened_as_labels(method, name):
    model, data = small_network(1, (6, 8, 3)), regression()
    with pytest.raises(
        ValueError, match=rf"`{name}\.class_value` is 0\.9, .*; the targets of `data` are those"
    ):
        fit(model, data, method=method)
    with pytest.raises(ValueError, match="which leaves them so"):
        fit_many([model], data, method=method)


def test_a_loss_that_does_not_suit_the_data_is_refused():
    model, data = small_network(1, (6, 8, 3)), regression()
    match = r"`method\.loss` is CrossEntropy, .*, but the targets are those of a regression: try MeanSquared"
    with pytest.raises(ValueError, match=match):
        fit(model, data, method=dfc.DFCSS())
    with pytest.raises(ValueError, match=match):
        fit_many([model], data, method=dfc.Backprop())
    with pytest.raises(ValueError, match=r"`loss` is CrossEntropy, .*, but the targets are those"):
        dfc.evaluate(model, dfc.CrossEntropy(), data.test, classification=False)
    certain = dfc.Split(data.test.x, np.ones_like(data.test.y[:, :1]))
    one = dfc.Dataset("one", certain, certain, certain, classification=True)
    with pytest.raises(ValueError, match=r"`method\.loss` is CrossEntropy, .*, but there is one output"):
        fit(small_network(1, (6, 8, 1)), one, method=dfc.Backprop())
