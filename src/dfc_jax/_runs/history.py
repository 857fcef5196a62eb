"""What a training run leaves: the records of its epochs, and the best model."""

from typing import Any, Literal

import equinox as eqx

from dfc_jax._checks import require
from dfc_jax._network.network import Network


Record = dict[str, Any]  # the numbers of one epoch, ready for JSON: see `History`
StoppedBy = Literal["divergence", "patience", "on_epoch", "interrupt"]


def of_this_version(record: Record, prefix: str = "") -> Record:
    """A record without the `stable` of versions that had no `condition_three`: it was Condition 3 for some
    methods, and for others whether the control error had halved. Both names may have a prefix."""
    if f"{prefix}condition_three" in record:
        return record
    return {name: value for name, value in record.items() if name != f"{prefix}stable"}


class History(eqx.Module):
    """The records of a training run, one an epoch: `pandas.DataFrame(history.records)` is its table.

    Every record holds

    - `epoch`, from 1, and `seconds`: those that it took, the first one's with compiling.
    - `train_loss`: the mean over the epoch's samples, each before the step that it took part in.
    - `validation_loss`, `test_loss`: without control, after the epoch; `validation_accuracy` and
      `test_accuracy`, fractions, for classification; `validation_NAME` and `test_NAME` for `metrics` of
      one's own.
    - of the epoch's samples, the parts that `converged` and that the `fallback` scheme solved, and the mean
      number of `iterations`; of methods that have a loop also that for which `condition_three` holds.
    - `stable`: the part of a handful of training samples whose loop, with its gain and its lags, is stable
      after the epoch; of methods whose loop has at most 100 modes (outputs times layers and one).
    - what `diagnostics` measured, in the epochs in which it did.
    """

    records: list[Record]
    best_epoch: int  # the one that is best by `best` of `fit`; 0 if none
    best_model: Network  # the model after that epoch
    stopped: str | None  # why training ended early, if it did
    stopped_by: StoppedBy | None  # the same in a word
    doubts: list[str]  # why its numbers are not to be trusted, if samples failed to converge

    @property
    def best(self) -> Record:
        """The record of the best epoch.

        **Raises:** `ValueError` if training stopped before one was finished, or none has a validation score
        that is a finite number.
        """
        require(len(self.records) > 0, f"no epoch was finished: {self.stopped}")
        require(self.best_epoch > 0, "no epoch is the best: no validation score is a finite number.")
        return next(r for r in self.records if r["epoch"] == self.best_epoch)
