"""A worker trains what is left of a sweep. Several may, in processes and on machines of their own: a run
belongs to the one that holds its folder's lock, and a folder with a summary is finished."""

import collections
import dataclasses
import pathlib
import statistics
import warnings
from collections.abc import Callable

import jax
from options.config import Config
from options.held import check_same
from options.ready import check_suits, load_data
from run import Heard, train
from sweeping.description import Sweep, sweep_in
from sweeping.search import turns
from sweeping.turn import Turn

import dfc_jax as dfc


def work(out: pathlib.Path, watch: Callable[[], object] = lambda: None) -> None:
    """Train what nobody else does of the sweep in `out`; `watch` is called at every run's end.

    **Raises:** `ValueError` if `out` holds no sweep, or a run of other options; `OSError` if it cannot be
    written.
    """
    sweep = sweep_in(out)
    if sweep is None:
        raise ValueError(f"`out` is {str(out)!r}, which holds no sweep.")
    data = None
    for turn in turns(sweep, out):
        config = config_of(sweep, turn)
        data = load_data(config) if data is None else data
        _train(sweep, turn, config, data)
        watch()


def config_of(sweep: Sweep, turn: Turn) -> Config:
    """The options of a turn's run, as `run.py` would have written them."""
    config = sweep.config(turn.setting)
    return dataclasses.replace(config, out=str(turn.folder), resume=True, progress=False)


def _train(sweep: Sweep, turn: Turn, config: Config, data: dfc.Dataset) -> None:
    (method,) = config.method
    check_suits(config, method, data, jax.device_count())
    if (turn.folder / "config.json").exists():
        check_same(turn.folder, config)
    names = [field.name for field in dataclasses.fields(Config)]
    folder = dfc.RunFolder.reopen(turn.folder, dataclasses.asdict(config), names)
    with warnings.catch_warnings():
        # Each is a doubt, which the run's summary and the sweep's table hold.
        warnings.simplefilter("ignore", UserWarning)
        train(config, method, data, folder, turn.pruned and _listener(turn.pruned, sweep.chosen_by))


def _listener(pruned: Callable[[int, float], bool], score: str) -> Heard:
    """Asks `pruned` of an epoch's mean over the seeds once the next has come, so that all of them stop in the
    same epoch."""
    scores: dict[int, list[float]] = collections.defaultdict(list)
    answers: dict[int, bool] = {}

    def heard(_: int, record: dfc.Record) -> bool:
        epoch, before = record["epoch"], record["epoch"] - 1
        if epoch not in answers:
            answers[epoch] = bool(scores[before]) and pruned(before, statistics.fmean(scores[before]))
        scores[epoch].append(record[score])
        return answers[epoch]

    return heard
