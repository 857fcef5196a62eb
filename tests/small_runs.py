"""Trainings that take a moment: a small network, a smooth map to learn, and `fit` with few epochs."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from helpers import adam, cast

import dfc_jax as dfc


ADAM = adam(1e-3)
BACKPROP = dfc.Backprop(dfc.MeanSquaredError())


def small_network(key, sizes=(64, 48, 32, 10), **options):
    """In float32, as the data are."""
    return cast(dfc.mlp(sizes, key=jr.key(key), **options), jnp.float32)


def in_single_precision(method):
    """Hyperparameters are arrays, which the tests would otherwise make 64 bits wide."""
    return cast(method, jnp.float32)


def regression(samples=96, inputs=6, outputs=3):
    """A smooth map that a small network learns quickly."""
    generator = np.random.default_rng(0)

    def split(samples):
        x = generator.uniform(-1, 1, (samples, inputs)).astype(np.float32)
        return dfc.Split(x, np.stack([np.sin(x[:, 0]), x[:, 1] * x[:, 2], x.mean(1)], 1)[:, :outputs])

    return dfc.Dataset("smooth", split(samples), split(32), split(32), classification=False)


def fit(model, data, *, method=BACKPROP, optimiser=None, epochs=3, key=0, **options):
    options = {"batch_size": 32, "progress": False} | options
    optimiser = ADAM if optimiser is None else optimiser
    return dfc.fit(model, method, data, optimiser, epochs=epochs, key=jr.key(key), **options)


def fit_many(models, data, *, method=BACKPROP, optimiser=ADAM, epochs=3, **options):
    keys = [jr.key(k) for k in range(len(models))]
    options = {"batch_size": 32, "progress": False} | options
    return dfc.fit_many(models, method, data, optimiser, epochs=epochs, keys=keys, **options)


def without_times(history):
    """The records, but for what the clock has said."""
    return [{name: value for name, value in r.items() if name != "seconds"} for r in history.records]


PHASE = cast(dfc.SleepPhase(scheme=dfc.PublishedEuler(dt=0.002, states=30, proactive=False)), jnp.float32)


def learning(rate=3e-3, **options):
    options = {"pretraining_epochs": 1, "epochs_per_wake_epoch": 1, "phase": PHASE} | options
    return dfc.FeedbackLearning(adam(rate), **options)
