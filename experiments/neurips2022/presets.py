"""The network of holomorphic equilibrium propagation (Laborieux & Zenke, NeurIPS 2022) for colour images: its
feature maps and epochs, so that accuracies can be compared. The activation, the batch, the optimiser and the
augmentation are ours, those of `run.py --dataset cifar10`, but for a smaller rate.
"""

import dataclasses

from options.config import Config, Method
from options.defaults import COLOUR_CONV, DEFAULTS
from options.published import set_by_preset


CHANNELS = (128, 256, 512, 512)  # of 3 x 3 convolutions, a mean over 2 x 2 after each; then the outputs
EPOCHS = 90
RATE = 1e-3  # after 150 steps of backprop ahead of 3e-4 and of 3e-3


def holomorphic_ep_net(config: Config, _: Method) -> Config:
    """`config` with this network, whatever the method; its epochs and its rate win.

    **Raises:** `ValueError` for a data set without colour images, or another network given beside it.
    """
    if DEFAULTS[config.dataset] != COLOUR_CONV:
        available = " and ".join(name for name, defaults in DEFAULTS.items() if defaults == COLOUR_CONV)
        raise ValueError(f"`preset` is {config.preset}, which exists for {available}, not {config.dataset}.")
    network = {"model": "conv", "channels": CHANNELS, "hidden": ()}
    for name, wanted in network.items():
        given = getattr(config, name)
        if given not in (None, wanted):
            raise set_by_preset(config, name, given)
    rate = RATE if config.optimiser.lr is None else config.optimiser.lr
    return dataclasses.replace(
        config,
        **network,
        epochs=EPOCHS if config.epochs is None else config.epochs,
        optimiser=dataclasses.replace(config.optimiser, lr=rate),
    )
