"""What of `run.py`'s options suits a data set, where they are left open."""

import dataclasses
from typing import Literal

from options.groups import Schedule, Update

import dfc_jax as dfc


Dataset = Literal[
    "digits", "student_teacher", "mnist", "fashion_mnist", "mnist_autoencoder", "cifar10", "cifar100"
]
REGRESSION: tuple[Dataset, ...] = ("student_teacher", "mnist_autoencoder")
Model = Literal["mlp", "conv"]
Activation = Literal["tanh", "relu", "leaky-relu", "sigmoid", "linear"]

ACTIVATIONS = {
    "tanh": dfc.Tanh(),
    "relu": dfc.ReLU(),
    "leaky-relu": dfc.LeakyReLU(),
    "sigmoid": dfc.Sigmoid(),
    "linear": dfc.Linear(),
}


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What suits a data set: the papers' network, and lengths and rates for a first run."""

    hidden: tuple[int, ...] = (256, 256, 256)
    activations: tuple[Activation, ...] = ("tanh", "tanh", "tanh")
    epochs: int = 10
    lr: float = 1e-3
    feedback_lr: float = 1e-3
    pretraining_epochs: float = 1
    sleep_epochs: float = 1
    update: Update = "simulated"
    model: Model = "mlp"
    channels: tuple[int, ...] = ()
    weight_decay: float = 0.0
    schedule: Schedule = "constant"


# Direct feedback to as many neurons sleeps less.
COLOUR = Defaults(pretraining_epochs=0.5, sleep_epochs=0.1, update="expected")
COLOUR_CONV = dataclasses.replace(
    COLOUR,
    hidden=(),
    activations=("leaky-relu",) * 3,
    epochs=20,
    lr=3e-3,
    model="conv",
    channels=(32, 64, 128),
    weight_decay=0.1,
    schedule="cosine",
)
DEFAULTS: dict[Dataset, Defaults] = {
    "digits": Defaults((128, 128), ("tanh", "tanh"), 20, 3e-3, 5e-3, 10),
    "student_teacher": Defaults((10, 10), ("tanh", "tanh"), 50, 1e-2, 5e-3, 10),
    "mnist": Defaults(),
    "fashion_mnist": Defaults(),
    "mnist_autoencoder": Defaults((256, 32, 256), ("tanh", "linear", "tanh")),
    "cifar10": COLOUR_CONV,
    "cifar100": COLOUR_CONV,
}
