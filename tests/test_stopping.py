"""Which epoch is the best, what ends a run early, and metrics of one's own: by brute force."""

import contextlib
import math
import signal

import jax
import numpy as np
import pytest
from helpers import adam, flat, sgd
from hypothesis import given, settings, strategies as st
from small_runs import fit, fit_many, regression, small_network, without_times

import dfc_jax as dfc
from dfc_jax._training import programs
from dfc_jax._training.state import Run


pytestmark = pytest.mark.usefixtures("standard_promotion")  # Optax mixes whole numbers and floats.

MODEL = (6, 8, 3)
CLASSES = dfc.Backprop()
MODELS = [dfc.mlp((2, 2), key=jax.random.key(k)) for k in range(7)]


def classes(samples=96):
    """Three classes, not quite separable."""
    held, generator = regression(samples), np.random.default_rng(1)

    def split(part):
        labels = np.argmax(part.y + 0.3 * generator.standard_normal(part.y.shape), axis=1)
        return dfc.Split(part.x, np.eye(3, dtype=np.float32)[labels])

    splits = [split(getattr(held, name)) for name in ("train", "validation", "test")]
    return dfc.Dataset("classes", *splits, classification=True)


def train(**options):
    options = {"epochs": 6, "optimiser": adam(1e-2), "method": CLASSES} | options
    return fit(small_network(1, MODEL), options.pop("data", classes()), **options)


@settings(deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.5, 0.75, 1.0]), st.sampled_from([0.1, 0.2, math.inf, math.nan])),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["validation_accuracy", "validation_loss"]),
)
def test_the_best_is_the_first_of_the_best_by_brute_force(scores, best):
    run = Run(MODELS[0], MODELS[0])
    for epoch, (accuracy, loss) in enumerate(scores, start=1):
        record = {"epoch": epoch, "validation_accuracy": accuracy, "validation_loss": loss}
        run.add(record, MODELS[epoch], best)
    loss_of = lambda epoch: math.inf if math.isnan(scores[epoch][1]) else scores[epoch][1]
    if best == "validation_accuracy":
        order = sorted(range(len(scores)), key=lambda i: (-scores[i][0], loss_of(i), i))
    else:
        order = sorted(
            (i for i in range(len(scores)) if loss_of(i) < math.inf), key=lambda i: (loss_of(i), i)
        )
    assert run.best_epoch == (order[0] + 1 if order else 0)
    assert run.best_model is MODELS[run.best_epoch]


@pytest.mark.parametrize("best", [None, "validation_accuracy", "validation_loss", "validation_right"])
def test_the_best_epoch_is_by_what_was_asked_for(best):
    right = lambda y, outputs: int(np.sum(np.argmax(y, 1) == np.argmax(outputs, 1)))
    _, history = train(best=best, metrics={"right": right})
    score = lambda record: (
        -record[best] if best == "validation_loss" else record[best or "validation_accuracy"]
    )
    ranks = [(score(record), -record["validation_loss"]) for record in history.records]
    assert history.best_epoch == 1 + ranks.index(max(ranks))
    assert history.best is history.records[history.best_epoch - 1]
    for record in history.records:
        assert record["validation_right"] == pytest.approx(32 * record["validation_accuracy"])
        assert record["test_right"] == pytest.approx(32 * record["test_accuracy"])
    scores = dfc.evaluate(history.best_model, CLASSES.loss, classes().test, classification=True)
    assert scores["accuracy"] == history.best["test_accuracy"]


def test_a_metric_sees_a_whole_split_as_arrays_of_numpy():
    seen = []

    def absolute(y, outputs):
        seen.append((type(y), y.shape, type(outputs), outputs.shape))
        return np.mean(np.abs(y - outputs))

    data = regression()
    found, history = train(data=data, method=dfc.Backprop(dfc.MeanSquaredError()), metrics={"mae": absolute})
    assert set(seen) == {(np.ndarray, (32, 3), np.ndarray, (32, 3))}
    wanted = np.mean(np.abs(data.test.y - np.asarray(dfc.predict(found, data.test.x))))
    assert history.records[-1]["test_mae"] == pytest.approx(wanted)


@pytest.mark.parametrize("patience", [1, 2])
def test_patience_ends_a_run_that_gets_no_better(patience, tmp_path):
    still = {"optimiser": sgd(0.0), "patience": patience, "resume": tmp_path}
    _, history = train(**still)
    assert len(history.records) == 1 + patience and history.best_epoch == 1
    assert history.stopped_by == "patience"
    assert history.stopped == f"epoch {1 + patience}: no better validation_accuracy in {patience} epochs."
    _, again = train(**still)
    assert again.records == history.records and again.stopped == history.stopped


def test_patience_starts_anew_with_every_better_epoch():
    _, history = train(best="validation_loss", patience=1, epochs=4)
    losses = [record["validation_loss"] for record in history.records]
    assert losses == sorted(losses, reverse=True) and len(losses) == 4 and history.stopped is None


@pytest.mark.parametrize("answer, epochs", [(True, 2), (np.True_, 2), (None, 4), (False, 4), (12, 4)])
def test_on_epoch_ends_a_run_by_true_alone(answer, epochs):
    """Functions that write return how much they wrote."""
    found, history = train(epochs=4, on_epoch=lambda record, model: answer if record["epoch"] == 2 else None)
    wanted, whole = train(epochs=epochs)
    assert without_times(history) == without_times(whole) and np.array_equal(flat(found), flat(wanted))
    assert history.stopped == ("epoch 2: `on_epoch` returned True." if epochs == 2 else None)
    assert history.stopped_by == ("on_epoch" if epochs == 2 else None)


def test_one_of_several_is_stopped_alone():
    models = [small_network(k, MODEL) for k in (1, 2)]
    hear = lambda position, record, model: position == 1 and record["epoch"] == 2
    options = {"method": CLASSES, "epochs": 3}
    (_, whole), (found, stopped) = fit_many(models, classes(), on_epoch=hear, **options)
    assert len(whole.records) == 3 and whole.stopped is None
    assert len(stopped.records) == 2 and stopped.stopped_by == "on_epoch"
    wanted, _ = fit(models[1], classes(), method=CLASSES, epochs=2, key=1)
    assert np.allclose(flat(found), flat(wanted), rtol=1e-4)


def interrupt(record, model):
    if record["epoch"] == 2:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_returns_what_there_is_and_resuming_goes_on(tmp_path):
    found, history = train(epochs=4, on_epoch=interrupt, resume=tmp_path)
    whole, wanted = train(epochs=4)
    assert history.stopped == "interrupted before the end of epoch 3; the model is that before it."
    assert history.stopped_by == "interrupt" and history.best["epoch"] in (1, 2)
    assert without_times(history) == without_times(wanted)[:2]
    assert np.array_equal(flat(found), flat(train(epochs=2)[0]))
    gone_on, history = train(epochs=4, resume=tmp_path)
    assert np.array_equal(flat(gone_on), flat(whole))
    assert without_times(history) == without_times(wanted) and history.stopped is None


@pytest.mark.usefixtures("ctrl_c")
def test_a_ctrl_c_that_a_callback_has_swallowed_is_heard_after_the_epoch():
    """As JAX's callback of garbage collection does, whose exceptions Python prints and ignores."""

    def swallow(record, _):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    _, history = train(on_epoch=swallow, epochs=5)
    assert len(history.records) == 1 and history.stopped_by == "interrupt"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_amid_preparations_returns_what_was_given(monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(programs, "recipes_of", interrupted)
    found, history = train()
    assert (
        np.array_equal(flat(found), flat(small_network(1, MODEL)))
        and not history.records
        and history.stopped_by == "interrupt"
    )


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_before_the_first_epoch_has_no_best(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dfc_jax._training.epochs.wake_epoch", stop)
    found, history = train()
    assert np.array_equal(flat(found), flat(small_network(1, MODEL)))
    with pytest.raises(ValueError, match="no epoch was finished: interrupted before the end of epoch 1"):
        _ = history.best


def test_one_of_several_processes_does_not_leave_the_others_waiting(monkeypatch):
    def stop(record, model):
        raise KeyboardInterrupt

    monkeypatch.setattr("dfc_jax._training.epochs.jax.process_count", lambda: 2)
    monkeypatch.setattr("dfc_jax._training.epochs.check_agreement", lambda done: None)
    with pytest.raises(KeyboardInterrupt):
        train(on_epoch=stop)


def test_no_finite_score_is_no_best_epoch():
    _, history = train(best="validation_odd", metrics={"odd": lambda y, outputs: math.nan}, epochs=2)
    assert history.best_epoch == 0 and len(history.records) == 2
    assert np.array_equal(flat(history.best_model), flat(small_network(1, MODEL)))
    with pytest.raises(ValueError, match="no epoch is the best: no validation score is a finite number"):
        _ = history.best


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"best": "test_accuracy"}, "`best` is 'test_accuracy'; it must be one of 'validation_loss', 'val"),
        ({"best": "validation_f1"}, "`best` is 'validation_f1'; it must be one of"),
        ({"patience": 0}, "`patience` is 0; it must be a whole number of at least 1"),
        ({"patience": 2.5}, "`patience` is 2.5; it must be a whole number"),
        (
            {"metrics": {"loss": np.mean}},
            "`metrics` names 'loss'; it must be an identifier other than 'loss'",
        ),
        ({"metrics": {"f 1": np.mean}}, "`metrics` names 'f 1'; it must be an identifier"),
        ({"metrics": {"f1": 3}}, r"`metrics\['f1'\]` is 3; it must be a function"),
        (
            {"metrics": {"f1": lambda y, outputs: y}},
            r"`metrics\['f1'\]` returned .* it must return one number",
        ),
        (
            {"metrics": {"f1": lambda y, outputs: None}},
            r"`metrics\['f1'\]` returned None; it must return one",
        ),
        ({"metrics": [np.mean]}, "`metrics` is .* it must be of the type Mapping or None"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_choose_or_stop_is_said_before_training(options, problem):
    with pytest.raises(ValueError, match=problem):
        train(**options)


def test_accuracy_is_no_choice_for_a_regression():
    options = {"data": regression(), "method": dfc.Backprop(dfc.MeanSquaredError())}
    with pytest.raises(
        ValueError, match="`best` is 'validation_accuracy'; it must be one of 'validation_loss'"
    ):
        train(**options, best="validation_accuracy")


def test_a_run_is_not_resumed_with_another_choice(tmp_path):
    train(resume=tmp_path, epochs=1, patience=3)
    for changed in ({"patience": 4}, {"best": "validation_loss", "patience": 3}):
        with pytest.raises(ValueError, match=f"which holds another run: `{next(iter(changed))}` is"):
            train(resume=tmp_path, epochs=2, **changed)
