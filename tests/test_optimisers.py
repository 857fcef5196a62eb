"""Optimisers of every kind train, one program serves those that differ in numbers, and states are saved."""

import pathlib
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import optax.contrib
import pytest
from helpers import cast, flat, relative_error
from jaxtyping import Array, PRNGKeyArray

import dfc_jax as dfc
from dfc_jax._training.batches import shuffled_batches
from dfc_jax._training.traced import trace


MAPS = pathlib.Path("/proc/self/maps")


pytestmark = pytest.mark.usefixtures("standard_promotion")  # Optax mixes whole numbers and floats.


def data() -> dfc.Dataset:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((48, 6)), np.eye(3)[rng.integers(0, 3, 48)]
    splits = [dfc.Split(x[part], y[part]) for part in (slice(32), slice(32, 40), slice(40, 48))]
    return dfc.Dataset("noise", *splits, classification=True)


def network(feedback: eqx.Module = dfc.ProductOfWeights()) -> dfc.Network:
    return dfc.mlp((6, 5, 3), key=jr.key(0), feedback=feedback)


class Counted(dfc.AbstractMethod):
    """Backpropagation that counts how often it is traced, which is once a program."""

    loss: dfc.AbstractLoss
    traced: Callable[[], None] = eqx.field(static=True)

    def __call__(
        self, model: dfc.Network, x: Array, y: Array, *, key: PRNGKeyArray | None = None
    ) -> tuple[dfc.Network, dfc.Report]:
        self.traced()
        return dfc.Backprop(self.loss)(model, x, y, key=key)


def fit(optimiser: optax.GradientTransformation, method: dfc.AbstractMethod = dfc.Backprop(), **options):
    options = {"epochs": 2, "key": jr.key(1), "batch_size": 8, "progress": False} | options
    return dfc.fit(options.pop("model", network()), method, data(), optimiser, **options)


# One program for all numbers


def test_a_sweep_compiles_once_and_holds_no_memory() -> None:
    """Of learning rates and schedules, of the forward and the feedback weights, and of augmentations."""
    traced: list[None] = []
    method = Counted(dfc.CrossEntropy(), lambda: traced.append(None))
    model, scheme = network(dfc.RandomFeedback()), dfc.PublishedEuler(dt=0.002, states=3, proactive=False)

    def fit_once(number: float) -> float:
        schedule = optax.cosine_decay_schedule(number, 100 + int(1e4 * number))
        learning = dfc.FeedbackLearning(
            optax.sgd(number), dfc.SleepPhase(scheme=scheme), pretraining_epochs=1
        )
        noisy = lambda x, key: x + number * jr.normal(key, x.shape)
        options = {"model": model, "feedback_learning": learning, "augment": noisy, "epochs": 1}
        _, history = fit(optax.adam(schedule), method, **options)
        return history.records[0]["train_loss"]

    losses, held = [fit_once(0.1)], len(MAPS.read_text().splitlines()) if MAPS.exists() else 0
    losses += [fit_once(float(number)) for number in np.linspace(0.0, 0.09, 10)]
    assert len(traced) == 1 and len(set(losses)) == 11  # each with its own numbers
    if MAPS.exists():
        assert len(MAPS.read_text().splitlines()) < held + 50  # it was some hundred for every fit


def test_other_optimisers_are_other_programs() -> None:
    weights, arguments = network().layers, []
    for optimiser in (optax.sgd(0.1), optax.sgd(0.2), optax.sgd(0.1, momentum=0.9), optax.lion(0.1)):
        state = optimiser.init(weights)
        arguments.append(trace(optimiser.update, weights, state, weights).program)
    assert arguments[0] == arguments[1] and hash(arguments[0]) == hash(arguments[1])
    assert len(set(arguments)) == 3


OPTIMISERS = {
    "adam": optax.adam(1e-2),
    "schedule": optax.adamw(optax.cosine_decay_schedule(1e-2, 10), weight_decay=0.1),
    "masked": optax.masked(optax.sgd(0.1), lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree)),
    "several steps": optax.MultiSteps(optax.adam(1e-2), 2).gradient_transformation(),
    "hyperparameters in the state": optax.inject_hyperparams(optax.adam)(1e-2),
    "matrices": optax.contrib.muon(1e-2),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_traced_optimiser_steps_as_it_did(name: str) -> None:
    optimiser, weights = OPTIMISERS[name], network().layers
    state = states = optimiser.init(weights)
    traced = trace(optimiser.update, weights, state, weights)
    for _ in range(3):
        change, state = traced(weights, state, weights)
        wanted, states = optimiser.update(weights, states, weights)
        assert jax.tree.structure(change) == jax.tree.structure(wanted)
        assert relative_error((change, state), (wanted, states)) < 1e-12


# Optimisers that ask for more than updates


def test_an_optimiser_is_given_the_loss_of_its_batch() -> None:
    """Polyak's steps, whose length is that of the loss, against a loop over the same batches."""
    optimiser, method = optax.polyak_sgd(max_learning_rate=0.5), dfc.Backprop()
    found, _ = fit(optimiser)
    model, held = network(), data().train
    state, (_, key) = optimiser.init(model.layers), jr.split(jr.key(1))
    for epoch in (1, 2):
        order, *_ = shuffled_batches(jr.fold_in(key, epoch), 32, 8)
        for indices in np.asarray(order):
            update, report = eqx.filter_jit(method)(model, held.x[indices], held.y[indices])
            loss = jnp.mean(report.loss)
            change, state = optimiser.update(update.layers, state, model.layers, value=loss)
            model = dfc.Network(eqx.apply_updates(model.layers, change), model.feedback)
    assert relative_error(found, model) < 1e-10


@pytest.mark.parametrize(
    "optimiser",
    [optax.chain(optax.adam(1e-2), optax.contrib.reduce_on_plateau(patience=1)), optax.contrib.momo(0.1)],
)
def test_optimisers_that_watch_the_loss_train(optimiser: optax.GradientTransformation) -> None:
    """In float32, as their states are."""
    with jax.enable_x64(False):
        small = cast(dfc.mlp((6, 5, 3), key=jr.key(0)), jnp.float32)
        _, history = fit(optimiser, cast(dfc.Backprop(), jnp.float32), model=small, epochs=4)
    losses = [record["train_loss"] for record in history.records]
    assert losses[-1] < losses[0]


def test_what_an_optimiser_lacks_is_said() -> None:
    with pytest.raises(ValueError, match=r"`optimiser` does not update these weights: .*'grad'"):
        fit(optax.lbfgs())
    with pytest.raises(ValueError, match=r"`optimiser` does not update these weights: .*'fast'"):
        fit(optax.lookahead(optax.sgd(0.1), 5, 0.5))
    asleep = dfc.FeedbackLearning(optax.polyak_sgd(), pretraining_epochs=0)
    with pytest.raises(ValueError, match=r"`feedback_learning\.optimiser` does not update .*'value'"):
        fit(optax.sgd(0.1), model=network(dfc.RandomFeedback()), feedback_learning=asleep)


def test_a_schedule_free_run_is_judged_by_its_average() -> None:
    """Optax steps one sequence of weights, and means another to be used."""
    optimiser = optax.contrib.schedule_free_sgd(0.5)
    found, history = fit(optimiser, epochs=1)
    model, held = network(), data().train
    state, (_, key) = optimiser.init(model.layers), jr.split(jr.key(1))
    order, *_ = shuffled_batches(jr.fold_in(key, 1), 32, 8)
    for indices in np.asarray(order):
        update, _ = eqx.filter_jit(dfc.Backprop())(model, held.x[indices], held.y[indices])
        change, state = optimiser.update(update.layers, state, model.layers)
        model = dfc.Network(eqx.apply_updates(model.layers, change), model.feedback)
    wanted = optax.contrib.schedule_free_eval_params(state, model.layers)
    assert relative_error(found.layers, wanted) < 1e-6 < relative_error(model.layers, wanted)
    scores = dfc.evaluate(found, dfc.CrossEntropy(), data().validation, classification=True)
    assert scores["loss"] == history.records[0]["validation_loss"]
    together = dfc.fit_many(
        [network()] * 2, dfc.Backprop(), data(), optimiser, epochs=1, keys=[jr.key(1), jr.key(2)],
        batch_size=8, progress=False,
    )  # fmt: skip
    assert relative_error(together[0][0], found) < 1e-6


# States of every kind


def counted(rate: float) -> optax.GradientTransformation:
    """Gradient descent whose state is a number of Python's and one of NumPy's at first."""

    def update(updates, state, params=None):
        count, factor = state
        change = jax.tree.map(lambda g: -rate * factor * g / (1 + count), updates)
        return change, (count + 1, factor)

    return optax.GradientTransformation(lambda params: (0, np.float64(0.5)), update)


@pytest.mark.parametrize(
    "optimiser", [counted(0.1), optax.noisy_sgd(1e-2, key=jr.key(3))], ids=["numbers", "keys"]
)
def test_states_of_every_kind_are_resumed(tmp_path: pathlib.Path, optimiser) -> None:
    whole, _ = fit(optimiser)
    fit(optimiser, epochs=1, resume=tmp_path)
    resumed, history = fit(optimiser, epochs=2, resume=tmp_path)
    assert np.array_equal(flat(resumed), flat(whole)) and len(history.records) == 2
