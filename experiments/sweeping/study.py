"""Optuna's study of a sweep: what to try next, told to one worker at a time, in a journal that survives."""

import contextlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sweeping.description import DECISIVE, Sweep
from sweeping.results import result_of
from sweeping.space import Choices, Setting, Swept
from sweeping.turn import claim, place, Turn

from dfc_jax._lock import Lock


STUDY = "study"  # its folder
SETTING = "setting"  # what its trials have noted


class Journal:
    """The journal's lock, as Optuna takes one: the operating system takes it back from a killed worker, its
    holder may acquire it again. A last line that was not written whole is cut off."""

    def __init__(self, folder: pathlib.Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.file = folder, folder / "journal.log"
        self._depth, self._lock = 0, None

    def acquire(self) -> bool:
        """Wait until no other worker has it."""
        while self._lock is None:
            try:
                self._lock = Lock(self.folder, "out")
            except ValueError:
                time.sleep(0.05)
        if self._depth == 0 and self.file.exists():
            _cut(self.file)
        self._depth += 1
        return True

    def release(self) -> None:
        """Once for every time it was acquired."""
        self._depth -= 1
        if self._depth == 0 and self._lock is not None:
            self._lock.release()
            self._lock = None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """What is read and written as a whole."""
        self.acquire()
        try:
            yield
        finally:
            self.release()


def _cut(file: pathlib.Path) -> None:
    with open(file, "r+b") as opened:
        text = opened.read()
        opened.truncate(text.rfind(b"\n") + 1)


def study_of(sweep: Sweep, out: pathlib.Path) -> tuple[optuna.Study, Journal]:
    """The study, from the journal that all workers write."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # or it would tell of every trial
    journal = Journal(out.resolve() / STUDY)
    direction = "maximize" if sweep.chosen_by == "validation_accuracy" else "minimize"
    with journal.alone():
        study = optuna.create_study(
            study_name="sweep",
            storage=JournalStorage(JournalFileBackend(str(journal.file), lock_obj=journal)),
            direction=direction,
            pruner=optuna.pruners.MedianPruner(),
            load_if_exists=True,
        )
    return study, journal


def settings_asked_for(sweep: Sweep, out: pathlib.Path) -> list[tuple[pathlib.Path, Setting]]:
    """The folders of all trials that have begun, and their settings."""
    trials = study_of(sweep, out)[0].get_trials(deepcopy=False)
    return [(place(out, t.number), t.user_attrs[SETTING]) for t in trials if SETTING in t.user_attrs]


def impossible(sweep: Sweep, out: pathlib.Path) -> int:
    """How many trials had settings that could not be."""
    failed = study_of(sweep, out)[0].get_trials(deepcopy=False, states=[TrialState.FAIL])
    return sum(SETTING not in trial.user_attrs for trial in failed)


def asked(sweep: Sweep, out: pathlib.Path) -> Iterator[Turn]:
    """What the study asks for, first what killed workers have left."""
    study, journal = study_of(sweep, out)
    while True:
        with journal.alone():
            found = _left(sweep, study, out) or _new(sweep, study, out)
        if found is None:
            return
        trial, turn, lock = found
        try:
            yield turn
        finally:
            lock.release()
        with journal.alone():
            _tell(sweep, study, trial, turn)


Found = tuple[optuna.Trial, Turn, Lock]


def _left(sweep: Sweep, study: optuna.Study, out: pathlib.Path) -> Found | None:
    """A trial that is said to run, but whose folder nobody holds."""
    for known in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        study.sampler = _sampler(sweep, known.number)
        trial = optuna.Trial(study, known._trial_id)
        turn = _turn(sweep, study, trial, out)
        if turn is not None and (lock := claim(turn.folder)) is not None:
            return trial, turn, lock
        if turn is not None:  # another worker's, or finished and not told
            _tell(sweep, study, trial, turn)
    return None


def _new(sweep: Sweep, study: optuna.Study, out: pathlib.Path) -> Found | None:
    """A new trial; None where there are as many as there are to be."""
    while True:
        number = sum(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))
        if number >= (sweep.trials or 0):
            return None
        study.sampler = _sampler(sweep, number)
        trial = study.ask()
        turn = _turn(sweep, study, trial, out)
        if turn is not None and (lock := claim(turn.folder)) is not None:
            return trial, turn, lock


def _sampler(sweep: Sweep, number: int) -> optuna.samplers.BaseSampler:
    """Of its own for every trial, so that a sweep that goes on does not begin its random numbers anew."""
    seed = np.random.SeedSequence((sweep.sampling_seed, number)).generate_state(1)[0]
    return optuna.samplers.TPESampler(seed=int(seed))


def _turn(sweep: Sweep, study: optuna.Study, trial: optuna.Trial, out: pathlib.Path) -> Turn | None:
    """With a value for every option that is searched and read; None if they cannot be together."""
    setting = trial.user_attrs.get(SETTING)
    if setting is None:
        decisive = {name: _value(trial, name, sweep.space[name]) for name in DECISIVE if name in sweep.space}
        setting = {name: _value(trial, name, sweep.space[name]) for name in sweep.read(decisive)}
        try:
            sweep.config(setting)
        except ValueError as problem:
            print(f"trial {trial.number} cannot be: {problem}", file=sys.stderr)
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            return None
        trial.set_user_attr(SETTING, setting)
    return Turn(place(out, trial.number), setting, _pruning(trial) if sweep.prune else None)


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


def _tell(sweep: Sweep, study: optuna.Study, trial: optuna.Trial, turn: Turn) -> None:
    """How a trial has ended, if it has, and no other worker has said so."""
    result = result_of(turn.folder, turn.setting, sweep.chosen_by)
    if result is None:
        return
    if result.validation is None or result.diverged:
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
    elif result.pruned:
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
    else:
        study.tell(trial, result.validation, skip_if_finished=True)
