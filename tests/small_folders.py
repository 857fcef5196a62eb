"""A run folder that takes a moment to fill."""

import pathlib
from typing import Any

import jax.random as jr
import numpy as np
from helpers import sgd

import dfc_jax as dfc


CONFIG = {"seeds": [0], "epochs": 2, "lr": 0.1, "optimiser": {"clip": None}}
RECORD = {"epoch": 1, "train_loss": 0.5, "seconds": 1.0}


def data() -> dfc.Dataset:
    x, y = np.random.default_rng(0).standard_normal((12, 4)), np.eye(3)[np.arange(12) % 3]
    splits = [dfc.Split(x[part], y[part]) for part in (slice(6), slice(6, 9), slice(9, 12))]
    return dfc.Dataset("noise", *splits, classification=True)


def fit(folder: pathlib.Path, epochs: int = 2, **options: Any) -> tuple[dfc.Network, dfc.History]:
    options = {"key": jr.key(1), "batch_size": 3, "progress": False} | options
    model = dfc.mlp((4, 3, 3), key=jr.key(0))
    return dfc.fit(model, dfc.Backprop(), data(), sgd(0.1), epochs=epochs, resume=folder, **options)


def run(path: pathlib.Path, epochs: int = 2, **changed: Any) -> None:
    """What a script does: a new run, or the same one further."""
    config = CONFIG | {"epochs": epochs} | changed
    folder = (dfc.RunFolder.reopen if path.exists() else dfc.RunFolder.create)(path, config)
    _, history = fit(folder.checkpoints, epochs, on_epoch=lambda record, _: folder.append(0, record))
    folder.finish({0: history}, "test_accuracy")
