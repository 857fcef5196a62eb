"""Train networks by one or several methods and compare them: `python experiments/run.py --help`.

    python experiments/run.py                                    DFC-SS beside backprop on digits
    python experiments/run.py --dataset mnist --method dfc-ssa --feedback fixed --seeds 0 1 2

Every run writes a folder: `config.json`, `metrics.jsonl`, `summary.json` and `curves.png`. Then come the
table and the picture of all of them, as `compare.py` makes them.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import options.needed  # noqa: F401
from compare import compare
from options import objects, together
from options.config import Config, MAY_DIFFER, Method, WITH_CONTROLLER
from options.held import check_same, options_of, options_to_go_on, runs_below, runs_in
from options.ready import check_objects, check_suits, load_data, of_method, with_own_labels
from options.script import outermost, parse, STOPS, undivided
from options.together import writes
from report.curves import drawn, plot_curves
from report.doubts import judge
from report.event_files import event_files
from report.written import comparison_in, new_folder, of_others, remove_comparison, TABLE

import dfc_jax as dfc


CURVES = "curves.png"
Heard = Callable[[int, dfc.Record], bool]  # of a seed's position and epoch: whether the seed is to stop


def train(
    config: Config, method: str, data: dfc.Dataset, folder: dfc.RunFolder, heard: Heard | None = None
) -> dict[str, Any]:
    """One run: `method` with every seed, all seeds as one program, every batch divided among all devices.

    Returns its summary; nothing where another process writes it.
    """
    data = with_own_labels(data, config, method)  # several runs share them
    loss = dfc.CrossEntropy() if data.classification else dfc.MeanSquaredError()
    learns = config.feedback == "learned" and method in WITH_CONTROLLER
    steps = objects.steps_of(config, data)
    with contextlib.ExitStack() as stack:
        wanted = config.tensorboard and writes()
        scalars = stack.enter_context(event_files(folder.path, config.seeds)) if wanted else None

        def on_epoch(position: int, record: dfc.Record, _: dfc.Network) -> bool:
            folder.append(config.seeds[position], record)
            (folder.path / CURVES).unlink(missing_ok=True)  # of fewer epochs
            if scalars is not None:
                scalars(config.seeds[position], record)
            return heard is not None and heard(position, record)

        found = dfc.fit_many(
            [objects.make_model(config, method, data, seed) for seed in config.seeds],
            objects.make_method(config, method, loss),
            data,
            objects.make_optimiser(config.optimiser, steps),
            epochs=config.epochs,
            keys=[jax.random.fold_in(jax.random.key(seed), 1) for seed in config.seeds],
            batch_size=config.batch_size,
            feedback_learning=objects.make_feedback_learning(config, method, loss, steps) if learns else None,
            augment=objects.make_augmentation(config, data),
            devices=jax.devices() if jax.device_count() > 1 else None,
            diagnostics=config.diagnostics and dfc.Diagnostics(config.diagnostics, damping=config.damping),
            on_epoch=on_epoch if writes() else None,
            best=config.best,
            patience=config.patience,
            progress=config.progress and writes(),
            resume=folder.checkpoints,
        )
    if not writes():
        return {}
    untrained = [objects.make_model(config, method, data, seed) for seed in config.seeds]
    histories = {
        seed: _doubted(history, _first_loss(model, loss, data))
        for seed, model, (_, history) in zip(config.seeds, untrained, found, strict=True)
    }
    metric = "test_accuracy" if data.classification else "test_loss"
    summary = folder.finish(histories, metric)
    drawn(CURVES, plot_curves, folder.path)
    return summary


def _first_loss(model: dfc.Network, loss: dfc.AbstractLoss, data: dfc.Dataset) -> float:
    """The loss of some training samples before anything is learnt."""
    some = dfc.Split(data.train.x[:1000], data.train.y[:1000])
    return float(dfc.evaluate(model, loss, some, classification=data.classification)["loss"])


def _doubted(history: dfc.History, untrained: float) -> dfc.History:
    """With a doubt where training has ended far above where it began, though every number is finite."""
    last = history.records[-1]["train_loss"] if history.records else 0.0
    if last <= 2 * untrained:
        return history
    doubt = f"The last train loss is {last:.3g}, that of the untrained network {untrained:.3g}: it diverged."
    return dataclasses.replace(history, doubts=[*history.doubts, doubt])


@dataclasses.dataclass(frozen=True)
class Run:
    """One method, all its options, and where it writes."""

    method: Method
    config: Config
    folder: dfc.RunFolder


def prepare(config: Config, arguments: Sequence[str] | None = None) -> tuple[list[Run], dfc.Dataset]:
    """Check every value, load the data and make the folders: all that can fail before any work.

    With `arguments`, the command line that made `config`, runs that go on keep the options it does not name.
    """

    def checked() -> tuple[dict[Method, tuple[Config, pathlib.Path]], dfc.Dataset]:
        chosen = _chosen(config, arguments)
        return chosen, _load(config, {method: options for method, (options, _) in chosen.items()})

    shared = lambda found: {m: _shared(options) for m, (options, _) in found[0].items()}
    chosen, data = together.agreed("options", checked, shared)
    if not writes():
        folders = {method: dfc.RunFolder(path) for method, (_, path) in chosen.items()}
        together.agreed("folders", lambda: None)
    else:
        folders = together.agreed("folders", lambda: _folders(chosen, config.resume))
    return [Run(method, options, folders[method]) for method, (options, _) in chosen.items()], data


def _shared(config: Config) -> dict[str, Any]:
    """What must be the same in all processes."""
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in ("process", "progress")}


def _chosen(config: Config, arguments: Sequence[str] | None) -> dict[Method, tuple[Config, pathlib.Path]]:
    """Every method's options, preset and defaults filled in or those of its run in `out`, and its folder."""
    config.checked()  # what concerns several methods, or none
    out = pathlib.Path(config.out).expanduser() if config.out else new_folder(config.dataset)
    held = runs_in(out) if config.resume else {}
    if config.resume:
        _check_resumed(out, held, config, given=arguments is not None)
    elif below := runs_below(out):
        names = "a run already" if below == [out] else f"runs already ({_some(below)})"
        resumed = ", or resume it" if below == [out] or runs_in(out) else ""
        raise ValueError(f"`out` is {str(out)!r}, which holds {names}; name a new folder{resumed}.")
    again = functools.partial(parse, Config, arguments, __doc__)
    configs = options_to_go_on(held, again) if held and arguments is not None else {}
    configs = configs or {method: of_method(config, method) for method in config.method}
    alone = out in held.values()
    if alone and not configs.keys() <= held.keys():
        problem = f"`method` is {config.method}; {str(out)!r} holds a run of {next(iter(held))} alone"
        raise ValueError(f"{problem}: name a new folder.")
    if of_others(out, list(held.values())):
        problem = f"`out` is {str(out)!r}, which holds {comparison_in(out)} of other runs"
        raise ValueError(f"{problem}; name a new folder, or move it.")
    # A folder of several methods remains one, should only one of them be left in it.
    several = len(configs) > 1 or bool(held and not alone)
    paths = {method: out / method if several else out for method in configs}
    # One that has no run yet must not get other options than the job: they are all to be given.
    new = not configs.keys() <= held.keys()
    for method, folder in held.items():
        if new or method in configs:
            check_same(folder, configs[method] if method in configs else of_method(config, method))
    return {m: (dataclasses.replace(c, out=str(out)), paths[m]) for m, c in configs.items()}


def _some(folders: Sequence[pathlib.Path]) -> str:
    """The names of a few, for a sweep has hundreds."""
    more = f" and {len(folders) - 3} more" if len(folders) > 4 else ""
    return ", ".join(folder.name for folder in folders[: 3 if more else 4]) + more


def _check_resumed(out: pathlib.Path, held: dict[Method, pathlib.Path], config: Config, given: bool) -> None:
    if held:
        return
    if below := runs_below(out):
        problem = f"`out` is {str(out)!r}, which holds no run of its own but {_some(below)}"
        raise ValueError(f"{problem}; name one of them.")
    untouched = {name: getattr(Config(), name) for name in MAY_DIFFER}
    if given and dataclasses.replace(config, **untouched) == Config():
        raise ValueError(f"`out` is {str(out)!r}, which holds no run to go on with.")


def _load(config: Config, configs: dict[Method, Config]) -> dfc.Dataset:
    """The data, once all else has been checked, and whether they suit the options."""
    for method, chosen in configs.items():
        check_objects(chosen, method)
    data = load_data(next(iter(configs.values())))
    for method, chosen in configs.items():
        check_suits(chosen, method, data, jax.device_count())
    return data


def _folders(chosen: dict[Method, tuple[Config, pathlib.Path]], resume: bool) -> dict[Method, dfc.RunFolder]:
    """All of them, or none but for a crash, so that every method is there to go on with."""
    made = {}
    with undivided():
        for method, (options, path) in chosen.items():
            there = (path / "config.json").exists()
            if resume and there:  # whose options are checked, defaults of other versions filled in
                made[method] = dfc.RunFolder.reopen(path, dataclasses.asdict(options), _OPTIONS)
            else:
                made[method] = dfc.RunFolder.create(path, dataclasses.asdict(options))
            if resume:
                print(f"{path}: {_goes_on(path) if there else 'a new run'}")
    return made


_OPTIONS = tuple(field.name for field in dataclasses.fields(Config))


def _goes_on(path: pathlib.Path) -> str:
    metrics = path / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    epoch = 1 + max((json.loads(line)["epoch"] for line in lines), default=0)
    return f"goes on from epoch {epoch}"


@outermost
def main(config: Config, arguments: Sequence[str] | None = None) -> int:
    """Run everything; returns the exit status."""
    if config.distributed:
        config.checked()
        together.initialize(config.coordinator, config.processes, config.process)
    runs, data = prepare(config, arguments)
    out = pathlib.Path(runs[0].config.out)

    def heard(*_: object) -> bool:
        if comparison_in(out):  # of fewer epochs
            remove_comparison(out, list(runs_in(out).values()))
        return False

    try:
        summaries = {run.method: train(run.config, run.method, data, run.folder, heard) for run in runs}
    except STOPS as stopped:
        stopped.add_note(f"--out {out} --resume goes on")
        with contextlib.suppress(OSError):  # stopped, not refused, so with the options of now
            for run in runs if writes() else ():
                if not _has_ended(run):
                    run.folder.go_on()
        raise
    if writes():
        _compare(out, runs)
    return judge(summaries)


def _has_ended(run: Run) -> bool:
    """Whether its folder holds the end of a run of as many epochs."""
    path = run.folder.path
    return (path / "summary.json").exists() and options_of(path).epochs == run.config.epochs


def _compare(out: pathlib.Path, runs: Sequence[Run]) -> None:
    """The table and picture of all finished runs in `out`, those of `runs` first, unless others were put
    there meanwhile."""
    paths = [run.folder.path for run in runs]
    others = [path for path in runs_in(out).values() if path not in paths]
    finished = [*paths, *(path for path in others if (path / "summary.json").exists())]
    if of_others(out, [*paths, *others]):
        print(f"{out / TABLE} is of other runs, and stays; for a table of these:")
        print(f"python experiments/compare.py {shlex.join(map(str, finished))} --out FOLDER")
    else:
        compare(finished, out)


@outermost
def command(arguments: Sequence[str] | None = None) -> int:
    """The whole command; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    return main(parse(Config, given, __doc__), given)


if __name__ == "__main__":
    together.leave(command())
