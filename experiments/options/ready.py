"""Options of one method with nothing left open, and data that suit them: what training starts from."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax
from icml2022.presets import strong_paper
from neurips2021.presets import paper
from neurips2022.presets import holomorphic_ep_net
from options import objects, together
from options.checks import check_batch, check_measured, READERS
from options.config import Config, Method, Preset
from options.defaults import REGRESSION
from options.together import writes
from report.event_files import check_installed

import dfc_jax as dfc


def of_method(config: Config, method: Method) -> Config:
    """The options of one method, preset and defaults filled in."""
    if config.preset is not None:
        config = _PRESETS[config.preset](config, method)
    return dataclasses.replace(config, method=(method,)).resolved()


_PRESETS: dict[Preset, Callable[[Config, Method], Config]] = {
    "paper": paper,
    "paper-train-loss": paper,
    "strong-paper": strong_paper,
    "holomorphic-ep-net": holomorphic_ep_net,
}


def check_objects(config: Config, method: Method) -> None:
    """Raise in a sentence if the library has no such method, optimiser or feedback learning, no epoch would
    be measured, or something is not installed."""
    if config.tensorboard:
        check_installed()
    check_measured(config)
    loss = dfc.MeanSquaredError() if config.dataset in REGRESSION else dfc.CrossEntropy()
    objects.make_method(config, method, loss)
    objects.make_optimiser(config.optimiser, config.epochs)
    objects.make_feedback_learning(config, method, loss, config.epochs)


def load_data(config: Config) -> dfc.Dataset:
    """The samples, fetched first if that is asked for."""
    if config.download:
        fetch = lambda: dfc.download(config.dataset, progress=config.progress) if writes() else None
        together.agreed("download", fetch)
    try:
        return dfc.load(config.dataset)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} Or give --download.") from error


def with_own_labels(data: dfc.Dataset, config: Config, method: Method) -> dfc.Dataset:
    """What a run of `method` trains on: the data, their training labels smoothed if it reads that option."""
    if not config.label_smoothing or method not in READERS["label_smoothing"]:
        return data
    smoothed = np.asarray(optax.smooth_labels(jnp.asarray(data.train.y), config.label_smoothing))
    return dataclasses.replace(data, train=dfc.Split(data.train.x, smoothed))


def check_suits(config: Config, method: Method, data: dfc.Dataset, devices: int) -> None:
    """Raise `ValueError` in a sentence if batches or network do not suit the data, or so many devices."""
    check_batch(config.batch_size, data)
    if config.batch_size % devices > 0:
        problem = f"`batch_size` is {config.batch_size}, which {devices} devices cannot share evenly"
        raise ValueError(f"{problem}; make it a multiple of {devices}.")
    objects.make_model(config, method, data, 0)
