"""Which settings a sweep tries: a list that is known beforehand, or what Optuna asks for next."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sweeping.description import DECISIVE, Sweep
from sweeping.results import Result, result_of
from sweeping.space import Choices, Setting, Swept

from dfc_jax._lock import Lock, lock_of_process


STUDY = "study"  # Optuna's folder
SETTING = "setting"  # what its trials have noted


@dataclasses.dataclass(frozen=True)
class Turn:
    """A setting, whose folder is this worker's while it trains."""

    folder: pathlib.Path
    setting: Setting
    pruned: Callable[[int, float], bool] | None = None
    """Hears of every epoch's score; whether training is to stop."""


def place(out: pathlib.Path, number: int) -> pathlib.Path:
    """The folder of a run."""
    return out / f"{number:03d}"


def begun(sweep: Sweep, out: pathlib.Path) -> list[tuple[pathlib.Path, Setting]]:
    """The folders of all settings that are known so far."""
    if sweep.search != "optuna":
        return [(place(out, number), setting) for number, setting in enumerate(sweep.listed)]
    trials = study_of(sweep, out).get_trials(deepcopy=False)
    return [(place(out, t.number), t.user_attrs[SETTING]) for t in trials if SETTING in t.user_attrs]


def finished(out: pathlib.Path) -> int:
    """How many runs have come to their end."""
    return len(list(out.glob("*/summary.json")))


def number_of_runs(sweep: Sweep) -> int:
    """How many runs the sweep has at its end."""
    return (sweep.trials or 0) if sweep.search == "optuna" else len(sweep.listed)


def turns(sweep: Sweep, out: pathlib.Path) -> Iterator[Turn]:
    """What is left for this worker to train, one after another; other workers take others."""
    yield from _asked(sweep, out) if sweep.search == "optuna" else _listed(sweep, out)


def _listed(sweep: Sweep, out: pathlib.Path) -> Iterator[Turn]:
    for number, setting in enumerate(sweep.listed):
        folder = place(out, number)
        with _claimed(folder) as mine:
            if mine:
                yield Turn(folder, setting)


@contextlib.contextmanager
def _claimed(folder: pathlib.Path) -> Iterator[bool]:
    """Whether the folder's run is not finished and this worker's, as it then is inside the block."""
    if (folder / "summary.json").exists():
        yield False
        return
    try:
        lock = lock_of_process(folder, "out")
    except ValueError:  # another worker's
        yield False
        return
    try:
        yield not (folder / "summary.json").exists()
    finally:
        lock.release()


def _asked(sweep: Sweep, out: pathlib.Path) -> Iterator[Turn]:
    """Those of Optuna's study, first the ones whose workers were killed."""
    study = study_of(sweep, out)
    orphans = [found.number for found in study.get_trials(deepcopy=False, states=[TrialState.RUNNING])]
    while True:
        trial = _again(sweep, study, orphans.pop(0)) if orphans else _next(sweep, study, out)
        if trial is None:
            return
        setting, folder = _suggested(sweep, trial), place(out, trial.number)
        trial.set_user_attr(SETTING, setting)
        with _claimed(folder) as mine:
            if mine:
                yield Turn(folder, setting, _pruning(trial) if sweep.prune else None)
        if result := result_of(folder, setting, sweep.chosen_by):
            _tell(study, trial, result)


def study_of(sweep: Sweep, out: pathlib.Path) -> optuna.Study:
    """Optuna's study of the sweep, from the journal that all its workers write."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # or it would tell of every trial
    (out / STUDY).mkdir(exist_ok=True)
    journal = JournalStorage(JournalFileBackend(str(out / STUDY / "journal.log")))
    direction = "maximize" if sweep.chosen_by == "validation_accuracy" else "minimize"
    return optuna.create_study(
        study_name="sweep",
        storage=journal,
        direction=direction,
        pruner=optuna.pruners.MedianPruner(),
        load_if_exists=True,
    )


def _again(sweep: Sweep, study: optuna.Study, number: int) -> optuna.Trial:
    """A trial that has begun, with the values that it has been given."""
    study.sampler = _sampler(sweep, number)
    return optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def _next(sweep: Sweep, study: optuna.Study, out: pathlib.Path) -> optuna.Trial | None:
    """A new trial; None where there are as many as there are to be."""
    with _waited_for(out / STUDY):
        number = sum(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))
        if number >= (sweep.trials or 0):
            return None
        study.sampler = _sampler(sweep, number)
        return study.ask()


def _sampler(sweep: Sweep, number: int) -> optuna.samplers.BaseSampler:
    """Of its own for every trial, so that a sweep that goes on does not begin its random numbers anew."""
    return optuna.samplers.TPESampler(seed=sweep.sampling_seed + number)


@contextlib.contextmanager
def _waited_for(folder: pathlib.Path) -> Iterator[None]:
    """The folder's lock, once no other worker has it."""
    while True:
        try:
            lock = Lock(folder, "out")
            break
        except ValueError:
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.release()


def _suggested(sweep: Sweep, trial: optuna.Trial) -> Setting:
    """A value for every option that is searched and read."""
    setting: Setting = {}
    for name in DECISIVE:
        if name in sweep.space:
            setting[name] = _value(trial, name, sweep.space[name])
    return {name: _value(trial, name, sweep.space[name]) for name in sweep.read(setting)}


def _value(trial: optuna.Trial, name: str, swept: Swept) -> str:
    if isinstance(swept, Choices):
        return str(trial.suggest_categorical(name, swept.values))
    if swept.whole:
        return str(trial.suggest_int(name, round(swept.low), round(swept.high), log=swept.log))
    return swept.written(trial.suggest_float(name, swept.low, swept.high, log=swept.log))


def _pruning(trial: optuna.Trial) -> Callable[[int, float], bool]:
    def pruned(epoch: int, score: float) -> bool:
        trial.report(score, epoch)
        return trial.should_prune()

    return pruned


def _tell(study: optuna.Study, trial: optuna.Trial, result: Result) -> None:
    """How a trial has ended, unless another worker has said so."""
    if result.validation is None:
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
    elif result.pruned:
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
    else:
        study.tell(trial, result.validation, skip_if_finished=True)
