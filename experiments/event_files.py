"""A run's metrics as TensorBoard's event files, beside `metrics.jsonl`."""

import contextlib
import importlib.util
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
    """
    from tensorboardX import SummaryWriter  # not needed but where it is asked for

    with contextlib.ExitStack() as stack:
        writers = {
            seed: stack.enter_context(SummaryWriter(str(folder / "tensorboard" / f"seed-{seed}")))
            for seed in seeds
        }

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
