"""What a training run leaves: the records of its epochs, and the best model."""

from typing import Any

import equinox as eqx

from dfc_jax._checks import require
from dfc_jax._network.network import Network


Record = dict[str, Any]  # the metrics of one epoch, ready for JSON


class History(eqx.Module):
    """The records of a training run, one an epoch."""

    records: list[Record]
    best_epoch: int  # the one with the best validation accuracy (or loss, for regression); 0 if none
    best_model: Network  # the model after that epoch
    stopped: str | None  # why training ended early, if it did
    doubts: list[str]  # why its numbers are not to be trusted, if samples failed to converge

    @property
    def best(self) -> Record:
        """The record of the best epoch.

        **Raises:** `ValueError` if training stopped before one was finished.
        """
        require(self.best_epoch > 0, f"no epoch was finished: {self.stopped}")
        return next(r for r in self.records if r["epoch"] == self.best_epoch)
