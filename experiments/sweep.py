"""Which values of `run.py`'s options are best: `python experiments/sweep.py --help`.

    python experiments/sweep.py --method dfc-ss --nudge 0.05 0.1 0.2 --optimiser.lr log 1e-4 1e-2 8
    python experiments/sweep.py --search optuna --trials 64 --optimiser.lr log 1e-4 1e-1 --hidden 64 or 64 64

Every option of `run.py` may stand here with several values: VALUE VALUE ..., or, for numbers, linear LOW HIGH
NUMBER and log LOW HIGH NUMBER, without NUMBER all between them. Options that take several words have `or`
between their values. What a method does not read is not searched for it. Data set and seeds are those of all
runs.

Each setting is a run of `run.py` in a folder of its own, with all seeds; runs are ranked by their validation
score. After an interruption, whatever it was, the same command goes on, and so does --out alone, here unless
--where says otherwise.
"""

import dataclasses
import os
import pathlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import jax
import options.needed  # noqa: F401
from options.config import Config
from options.held import runs_below
from options.ready import check_objects, check_suits, load_data
from options.script import outermost, parse, resumable, tidied
from report.written import new_folder
from sweeping import needed  # noqa: F401
from sweeping.description import check_same, Search, Sweep, sweep_in
from sweeping.processes import processes
from sweeping.report import report
from sweeping.search import finished, number_of_runs
from sweeping.worker import work

from dfc_jax._bar import progress_bar
from dfc_jax._checks import check_count
from dfc_jax._lock import Lock, lock_of_process


@dataclasses.dataclass(frozen=True)
class Options:
    """How to search, and where. All other options are `run.py`'s: see `run.py --help`."""

    search: Search = "grid"
    """grid: all combinations of the values. random: --trials of them, drawn, the same for each method and
    kind of feedback. optuna: --trials, methods and all, chosen by Optuna's TPE sampler from the validation
    scores so far."""
    trials: int | None = None
    """How many settings random and optuna try; a sweep that goes on may be given more."""
    sampling_seed: int = 0
    """Of random and optuna."""
    prune: bool = False
    """optuna: stop a run that is worse than the median of the others in an epoch (MedianPruner); one epoch
    later."""
    where: Literal["here", "processes", "slurm"] = "here"
    """here: one run after another. processes: --workers of them at a time on this machine, its cores, and its
    GPUs, divided among them. slurm: --workers jobs of a cluster, queued again when their time is over."""
    workers: int = 2
    """How many processes or jobs."""
    slurm: tuple[str, ...] = ()
    """Of jobs, as submitit names them: partition=gpu time=120 gpus_per_node=1 cpus_per_task=8. The time is in
    minutes."""
    out: pathlib.Path | None = None
    """Folder of the sweep; by default a new one below runs/."""
    progress: bool = True
    """Show a progress bar."""


OWN = {field.name for field in dataclasses.fields(Options)}
OWN |= {"no_prune", "no_progress", "h", "help", "version"}


def read(arguments: Sequence[str] | None) -> tuple[Options, list[str]]:
    """The sweep's own options, those of a sweep that goes on where they are not named; and `run.py`'s."""
    own: list[str] = []
    others: list[str] = []
    into = own
    for word in tidied(arguments):
        if word.startswith("--") or word == "-h":
            name = word.lstrip("-").partition("=")[0].replace("-", "_")
            into = own if name in OWN else others
        into.append(word)
    options = parse(Options, own, __doc__)
    held = sweep_in(options.out) if options.out else None
    if held is not None:
        kept = {name: getattr(held, name) for name in ("search", "trials", "sampling_seed", "prune")}
        options = parse(Options, own, __doc__, dataclasses.replace(Options(), **kept))
    return options, others


def prepare(options: Options, arguments: Sequence[str]) -> tuple[Sweep, pathlib.Path, Lock]:
    """The sweep that is asked for, all that can be checked before any work checked, and its folder, which is
    this process's alone as long as the lock is kept.

    **Raises:** `ValueError` in a sentence for what cannot be, or a folder that holds something else.
    """
    check_count("workers", options.workers, 1)
    named = parameters(options)
    out = options.out or new_folder("sweep")
    held = sweep_in(out)
    words = tuple(arguments) if arguments or held is None else held.arguments
    sweep = Sweep(words, options.search, options.trials, options.sampling_seed, options.prune)
    if held is not None:
        check_same(held, sweep, out)
        sweep = dataclasses.replace(held, trials=sweep.trials)  # in whose order its runs are numbered
    elif runs_below(out):
        raise ValueError(
            f"`out` is {str(out)!r}, which holds runs that no sweep has made; name a new folder."
        )
    configs = sweep.check()
    for config in configs:
        check_objects(config, config.method[0])
    data = load_data(configs[0])
    devices = jax.device_count() if options.where == "here" else 1
    for config in {_network(config): config for config in configs}.values():
        check_suits(config, config.method[0], data, devices)
    if options.where == "slurm":
        from sweeping.cluster import slurm_executor  # which sets up logging where it is imported

        slurm_executor(out, named)
    lock = _locked(out, options)
    if sweep != held:
        sweep.write(out)
    return sweep, out, lock


def _network(config: Config) -> tuple[Any, ...]:
    """What it depends on whether a run's network and batches suit the data."""
    shape = config.model, config.channels, config.hidden, config.activation, config.batch_size
    return (*shape, config.method, config.feedback, config.layered)


def _locked(out: pathlib.Path, options: Options) -> Lock:
    """The folder's lock, without which several workers would train the same runs."""
    with warnings.catch_warnings():
        if options.where != "here":
            warnings.simplefilter("error", UserWarning)
        try:
            return lock_of_process(out, "out")
        except UserWarning as problem:
            raise ValueError(f"`where` is {options.where}, but {problem}") from problem


def parameters(options: Options) -> dict[str, int | str]:
    """Those of a cluster's jobs. **Raises:** `ValueError` unless each is NAME=VALUE, or where none run."""
    if options.slurm and options.where != "slurm":
        raise ValueError(f"`slurm` is given, but `where` is {options.where}.")
    for word in options.slurm:
        if not all(word.partition("=")):
            raise ValueError(f"`slurm` is {' '.join(options.slurm)}; {word!r} must be NAME=VALUE.")
    pairs = (word.partition("=") for word in options.slurm)
    return {name: int(value) if value.isdecimal() else value for name, _, value in pairs}


def train(options: Options, sweep: Sweep, out: pathlib.Path) -> None:
    """All runs that are not finished, wherever they are to be trained."""
    total, there = number_of_runs(sweep, out), finished(out)
    with progress_bar(total=total, initial=there, desc="runs", unit="run", progress=options.progress) as bar:
        look = lambda: bar.update(finished(out) - bar.n)
        if there == total:
            return
        match options.where:
            case "here":
                work(out, look)
            case "processes":
                processes(out, min(options.workers, total - there), look)
            case "slurm":
                from sweeping.cluster import slurm

                slurm(out, min(options.workers, total - there), parameters(options), look)
        bar.total = number_of_runs(sweep, out)  # fewer where Optuna has tried settings that cannot be
        bar.refresh()


@outermost
def main(options: Options, arguments: Sequence[str]) -> int:
    """Train what is missing, and report; returns the exit status."""
    if options.where == "processes":  # so that they, and this one, can share a GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    sweep, out, _lock = prepare(options, arguments)
    with resumable():
        try:
            train(options, sweep, out)
        finally:
            best = report(sweep, out)
    return 0 if best is not None and not best.doubts else 1


@outermost
def command(arguments: Sequence[str] | None = None) -> int:
    """The whole command; returns the exit status."""
    return main(*read(arguments))


if __name__ == "__main__":
    sys.exit(command())
