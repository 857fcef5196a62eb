"""Train networks by one or several methods and compare them: `python experiments/run.py --help`.

    python experiments/run.py                                    DFC-SS beside backprop on digits
    python experiments/run.py --dataset mnist --method dfc-ssa --feedback fixed --seeds 0 1 2

Every run writes a folder: `config.json`, `metrics.jsonl`, `summary.json` and `curves.png`. Then come the
table and the picture of all of them, as `compare.py` makes them.
"""

import contextlib
import dataclasses
import datetime
import json
import pathlib
import sys
import warnings
from typing import Any

import jax
import numpy as np
import tyro
from compare import compare
from icml2022.presets import strong_paper
from jax.experimental.multihost_utils import process_allgather
from neurips2021.presets import paper
from options.config import Config, from_dict, MAY_DIFFER, Method, WITH_CONTROLLER
from options.objects import make_augmentation, make_feedback_learning, make_method, make_model, make_optimiser
from report.curves import plot_curves
from report.event_files import check_installed, event_files

import dfc_jax as dfc


def train(config: Config, method: str, data: dfc.Dataset, folder: dfc.RunFolder) -> dict[str, Any]:
    """One run: `method` with every seed, all seeds as one program, every batch divided among all devices.

    Returns its summary; nothing where another process writes it.
    """
    loss = dfc.CrossEntropy() if data.classification else dfc.MeanSquaredError()
    learns = config.feedback == "learned" and method in WITH_CONTROLLER
    with contextlib.ExitStack() as stack:
        wanted = config.tensorboard and writes()
        scalars = stack.enter_context(event_files(folder.path, config.seeds)) if wanted else None

        def on_epoch(position: int, record: dfc.Record) -> None:
            folder.append(config.seeds[position], record)
            if scalars is not None:
                scalars(config.seeds[position], record)

        found = dfc.fit_many(
            [make_model(config, method, data, seed) for seed in config.seeds],
            make_method(config, method, loss),
            data,
            make_optimiser(config.optimiser),
            epochs=config.epochs,
            keys=[jax.random.fold_in(jax.random.key(seed), 1) for seed in config.seeds],
            batch_size=config.batch_size,
            feedback_learning=make_feedback_learning(config, method, loss) if learns else None,
            augment=make_augmentation(config, data),
            devices=jax.devices() if jax.device_count() > 1 else None,
            diagnostics=config.diagnostics and dfc.Diagnostics(config.diagnostics, damping=config.damping),
            on_epoch=on_epoch if writes() else None,
            progress=config.progress and writes(),
            resume=folder.checkpoints,
        )
    if not writes():
        return {}
    histories = {seed: history for seed, (_, history) in zip(config.seeds, found, strict=True)}
    metric = "test_accuracy" if data.classification else "test_loss"
    summary = folder.finish(histories, metric)
    plot_curves(folder.path)
    return summary


def writes() -> bool:
    """Whether this process is the one that writes results and talks."""
    return jax.process_index() == 0


def _any_process(failed: bool) -> bool:
    """Whether any process has failed: the others would wait for it for ever."""
    return bool(process_allgather(np.asarray(failed)).any()) if jax.process_count() > 1 else failed


@dataclasses.dataclass(frozen=True)
class Run:
    """One method, all its options, and where it writes."""

    method: Method
    config: Config
    folder: dfc.RunFolder


def prepare(config: Config) -> tuple[list[Run], dfc.Dataset]:
    """Check every value, load the data and make the folders: all that can fail before any work."""
    config.resolved()  # what concerns several methods, or none
    configs = _held(config) or {method: _chosen(config, method) for method in config.method}
    for method, chosen in configs.items():
        make_method(chosen, method, dfc.CrossEntropy())
        make_optimiser(chosen.optimiser)
        make_feedback_learning(chosen, method, dfc.CrossEntropy())
    if config.tensorboard:
        check_installed()
    config = dataclasses.replace(next(iter(configs.values())), out=config.out, resume=config.resume)
    data = dfc.load(config.dataset)
    if config.batch_size > len(data.train):
        raise ValueError(f"`batch_size` is {config.batch_size}; {data.name} has {len(data.train)} samples.")
    number = jax.device_count()
    if config.batch_size % number > 0:
        problem = f"`batch_size` is {config.batch_size}, which {number} devices cannot share evenly"
        raise ValueError(f"{problem}; make it a multiple of {number}.")
    for method, chosen in configs.items():
        make_model(chosen, method, data, 0)
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    out = pathlib.Path(config.out or f"runs/{config.dataset}-{now}")
    # A folder of several methods remains one, should only one of them be left in it.
    several = len(configs) > 1 or (out / next(iter(configs)) / "config.json").exists()
    runs = []
    for method, chosen in configs.items():
        chosen = dataclasses.replace(chosen, out=str(out))
        path, options = out / method if several else out, dataclasses.asdict(chosen)
        if not writes():
            folder = dfc.RunFolder(path)
        elif config.resume:
            folder = dfc.RunFolder.reopen(path, options, MAY_DIFFER)
        else:
            folder = dfc.RunFolder.create(path, options)
        runs.append(Run(method, chosen, folder))
    return runs, data


def _chosen(config: Config, method: Method) -> Config:
    """The options of one method, preset and defaults filled in."""
    translate = {None: lambda config, _: config, "strong-paper": strong_paper}.get(config.preset, paper)
    return dataclasses.replace(translate(config, method), method=(method,)).resolved()


def _held(config: Config) -> dict[Method, Config]:
    """The options of the runs in --out, where --resume is all that is given beside it; else none."""
    untouched = {name: getattr(Config(), name) for name in MAY_DIFFER if name != "epochs"}
    given = dataclasses.replace(config, **untouched)
    if not config.resume or given != Config():
        return {}
    out = pathlib.Path(config.out)
    files = [out / "config.json"] if (out / "config.json").exists() else sorted(out.glob("*/config.json"))
    found = [from_dict(Config, json.loads(file.read_text())["config"]) for file in files]
    # Runs of before there were convolutional networks do not say what kind theirs is.
    found = [one if one.model else dataclasses.replace(one, model="mlp", augment=False) for one in found]
    now = {"progress": config.progress, "tensorboard": config.tensorboard, "resume": True}
    found = [dataclasses.replace(one, **now) for one in found]
    return {one.method[0]: one for one in found}


def main(config: Config) -> int:
    """Run everything; returns the exit status."""
    try:
        if config.distributed:
            jax.distributed.initialize(config.coordinator, config.processes, config.process)
            if not writes():
                warnings.simplefilter("ignore")  # the process that talks gives the same
        runs, data = prepare(config)
        failed = False
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        failed = True
    if _any_process(failed):
        return 2
    paths, out = [run.folder.path for run in runs], pathlib.Path(runs[0].config.out)
    try:
        summaries = {run.method: train(run.config, run.method, data, run.folder) for run in runs}
        if writes():
            compare(paths, out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted: the same command with --out {out} --resume goes on", file=sys.stderr)
        return 130
    return _judge(summaries)


def _judge(summaries: dict[Method, dict[str, Any]]) -> int:
    """Say what is wrong with the runs; 1 if anything is."""
    said = []
    for method, summary in summaries.items():
        for seed, found in summary.get("seeds", {}).items():
            said += [f"{method}, seed {seed}: stopped in {found['stopped']}"] if found["stopped"] else []
            said += [f"{method}, seed {seed}: {' '.join(found['doubts'])}"] if found["doubts"] else []
    for line in said:
        print(line, file=sys.stderr)
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
