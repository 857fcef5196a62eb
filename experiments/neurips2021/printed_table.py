"""Table 1 of the NeurIPS 2021 paper: its rows, its columns and the figures printed in it."""

import dataclasses
from typing import Literal

import numpy as np
from neurips2021.presets import Task


Row = Literal[
    "BP", "DFC", "DFC-SSA", "DFC-SS", "DFC (fixed)", "DFC-SSA (fixed)", "DFC-SS (fixed)", "DFA"
]  # fmt: skip
TASKS: tuple[Task, ...] = ("mnist", "fashion_mnist", "mnist_autoencoder", "mnist_train_loss")
ROWS: tuple[Row, ...] = Row.__args__


@dataclasses.dataclass(frozen=True)
class Column:
    """What a task is judged by, and the paper's mean and standard deviation over 5 seeds for each of ROWS."""

    title: str
    metric: str  # of a summary's seeds
    scale: float  # from the metric to the unit of the title
    offset: float  # an error is 100 - accuracy
    paper: tuple[tuple[float, float], ...]

    def shown(self, values: np.ndarray) -> np.ndarray:
        """Values of the metric in the unit of the title."""
        return self.offset + self.scale * values


COLUMNS: dict[Task, Column] = {
    "mnist": Column(
        "MNIST, test error (%)", "test_accuracy", -100, 100,
        ((2.08, 0.15), (2.25, 0.094), (2.18, 0.16), (2.29, 0.097),
         (2.47, 0.12), (2.46, 0.11), (2.39, 0.22), (2.69, 0.11)),
    ),
    "fashion_mnist": Column(
        "Fashion-MNIST, test error (%)", "test_accuracy", -100, 100,
        ((10.60, 0.34), (11.17, 0.27), (11.28, 0.27), (11.15, 0.32),
         (11.62, 0.30), (11.44, 0.14), (11.55, 0.42), (11.38, 0.25)),
    ),
    "mnist_autoencoder": Column(
        "MNIST autoencoder, test MSE (1e-2)", "test_loss", 100, 0,
        ((9.42, 0.09), (11.28, 0.18), (11.27, 0.09), (11.21, 0.04),
         (33.37, 0.60), (31.90, 0.77), (32.31, 0.37), (29.95, 0.36)),
    ),
    "mnist_train_loss": Column(
        "MNIST, final train loss (1e-7)", "last_train_loss", 1e7, 0,
        ((1.53, 0.19), (0.761, 0.065), (0.489, 0.126), (0.480, 0.070),
         (13.0, 1.5), (17.3, 3.9), (16.7, 7.0), (7.09, 1.11)),
    ),
}  # fmt: skip
