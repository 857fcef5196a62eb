"""Models trained together are those trained alone, and each stops alone."""

import jax
import jax.random as jr
import numpy as np
import pytest
from helpers import flat, relative_error
from small_runs import ADAM, BACKPROP, fit, fit_many, in_single_precision, learning, regression, small_network

import dfc_jax as dfc


pytestmark = pytest.mark.usefixtures("standard_promotion")  # Optax mixes whole numbers and floats.


@pytest.mark.slow
@pytest.mark.parametrize("learned", [pytest.param(False, marks=pytest.mark.script), True])
def test_models_trained_together_are_those_trained_alone(learned):
    """Equal but for the rounding of matrix products, which a few epochs amplify a hundred times."""
    feedback = dfc.RandomFeedback() if learned else dfc.ProductOfWeights()
    models = [small_network(k, (6, 8, 3), feedback=feedback) for k in (1, 2, 3)]
    options = {"feedback_learning": learning()} if learned else {}
    method = in_single_precision(dfc.DFCSS(target=dfc.Nudge(0.1), loss=dfc.MeanSquaredError()))
    data, seen = regression(), []
    together = fit_many(models, data, method=method, on_epoch=lambda *args: seen.append(args), **options)
    assert [(i, record["epoch"]) for i, record, _ in seen] == [(i, e) for e in (1, 2, 3) for i in range(3)]
    for k, (model, history) in enumerate(together):
        alone, expected = fit(models[k], data, method=method, key=k, **options)
        assert relative_error(model, alone) < 2e-4
        assert history.best_epoch == expected.best_epoch and len(history.records) == 3
        for record, wanted in zip(history.records, expected.records, strict=True):
            assert record.keys() == wanted.keys()
            assert record["train_loss"] == pytest.approx(wanted["train_loss"], rel=1e-4)
        assert [record for i, record, _ in seen if i == k] == history.records


@pytest.mark.slow
def test_one_model_of_several_stops_alone():
    data, models = regression(), [small_network(k, (6, 8, 3)) for k in (1, 2)]
    models[0] = jax.tree.map(lambda leaf: 1e30 * leaf, models[0])
    (broken, stopped), (_, history) = fit_many(models, data)
    assert stopped.stopped.startswith("epoch 1") and stopped.records == []
    assert np.array_equal(flat(broken), flat(models[0]))
    assert history.stopped is None and len(history.records) == 3
    _, expected = fit(models[1], data, key=1)
    assert history.records[-1]["train_loss"] == pytest.approx(expected.records[-1]["train_loss"], rel=1e-4)


def test_models_that_cannot_train_together():
    data, small = regression(), small_network(1, (6, 8, 3))
    with pytest.raises(ValueError, match="`keys` are 1 and `models` 2"):
        dfc.fit_many([small, small], BACKPROP, data, ADAM, epochs=1, keys=[jr.key(0)])
