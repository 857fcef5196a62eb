"""A run's metrics as TensorBoard's event files, beside `metrics.jsonl`."""

import collections
import contextlib
import importlib.util
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence

import dfc_jax as dfc


def check_installed() -> None:
    """Raise `ImportError` if what writes event files is missing."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise ImportError("`tensorboard` is given, but tensorboardX is missing: pip install tensorboardX")


@contextlib.contextmanager
def event_files(folder: pathlib.Path, seeds: Sequence[int]) -> Iterator[Callable[[int, dfc.Record], None]]:
    """A function that writes the record of one seed's epoch, to be read by `tensorboard --logdir FOLDER`.

    Every seed has a folder of its own below `folder`. A thread writes to the disk, while training goes on.
    Epochs of an interrupted run that `metrics.jsonl` does not hold, and that come again, are hidden.
    """
    from tensorboardX import SummaryWriter  # not needed but where it is asked for

    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    kept = collections.Counter(json.loads(line)["seed"] for line in lines)
    with contextlib.ExitStack() as stack:
        writers = {}
        for seed in seeds:
            writer = SummaryWriter(str(folder / "tensorboard" / f"seed-{seed}"), purge_step=kept[seed] + 1)
            writers[seed] = stack.enter_context(writer)

        def write(seed: int, record: dfc.Record) -> None:
            epoch = record["epoch"]
            for name, value in record.items():
                if name == "epoch":
                    continue
                layers = value if isinstance(value, list) else [value]
                for layer, number in enumerate(layers, start=1):
                    tag = f"{name}/layer-{layer}" if isinstance(value, list) else name
                    writers[seed].add_scalar(tag, number, epoch)

        yield write
