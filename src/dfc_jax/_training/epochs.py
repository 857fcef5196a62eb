"""The loop over epochs, for one training run or for several as one program."""

import math
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from dfc_jax._bar import progress_bar
from dfc_jax._checks import warn
from dfc_jax._data.dataset import Dataset
from dfc_jax._methods.base import AbstractMethod
from dfc_jax._network.learned import learned_weights
from dfc_jax._network.network import Network
from dfc_jax._numerics.finite import all_finite
from dfc_jax._runs.history import History, Record
from dfc_jax._training.batches import Batches
from dfc_jax._training.devices import placed
from dfc_jax._training.doubts import doubt_epoch, doubts_before, judge_loops
from dfc_jax._training.evaluation import evaluate_all, own_scores
from dfc_jax._training.identity import identity_of
from dfc_jax._training.interrupts import heard_again
from dfc_jax._training.optimisers import network_to_use
from dfc_jax._training.recipes import Given, Recipe
from dfc_jax._training.resuming import check_agreement, resumed, save
from dfc_jax._training.several_runs import fold_in, split
from dfc_jax._training.sleep_epochs import DIVERGED, parts_of, pretrain, sleep
from dfc_jax._training.start import Options, pretraining_state_of, start_of
from dfc_jax._training.state import each, Run, some, State
from dfc_jax._training.wake import wake_epoch


def train(
    given: list[Given], recipes: list[Recipe], data: Dataset, options: Options
) -> tuple[list[tuple[Network, History]], bool]:
    """Train one model, or several that differ in numbers alone as one program; and whether Ctrl-C came.

    `data` are those of the options, on their devices.
    """
    runs, interrupted = [Run(run.model, run.model) for run in given], False
    try:
        with heard_again() as check_signals:
            _train(given, recipes, runs, data, options, check_signals)
    except KeyboardInterrupt:
        if jax.process_count() > 1:  # the others would wait for this one
            raise
        interrupted = True
        for run in runs:
            if not run.stopped:
                before = f"interrupted before the end of epoch {len(run.records) + 1}"
                run.stop("interrupt", f"{before}; the model is that before it.")
    return [run.result() for run in runs], interrupted


def _train(
    given: list[Given],
    recipes: list[Recipe],
    runs: list[Run],
    data: Dataset,
    options: Options,
    check_signals: Callable[[], None],
) -> None:
    """Train, and note in `runs` what is known of them."""
    many = len(runs) > 1
    handful = jnp.asarray(options.data.train.x[:8]), jnp.asarray(options.data.train.y[:8])
    learnings = [run.learning for run in given if run.learning is not None and run.learning.sleeps]
    for doubt in dict.fromkeys(doubt for learning in learnings for doubt in learning.phase.doubts()):
        warn(doubt)
    start = start_of(given, recipes, data, options)
    batches, state, own, shared = start.batches, start.state, start.own, start.shared
    pretraining_key, key = split(many, start.key)
    identity = {}
    if options.resume is not None:
        identity = identity_of(given, recipes, options.data, batches)
        identity |= {"best": options.best, "patience": options.patience}
    # Whose rows `state` has: all that learn, and some that have stopped.
    state, rows, done = resumed(state, runs, key, identity, options.resume, options.epochs)
    check_agreement(done)
    state, key, pretraining_key, own = placed((state, key, pretraining_key, own), options.mesh)
    if done is None:
        if shared.pretrainer is not None:
            pretrainer, epochs = (own.pretrainer, shared.pretrainer), shared.pretraining_epochs
            feedback_state = pretraining_state_of(given)
            learnt = state.model, feedback_state, pretrainer, epochs
            pretrained = pretrain(many, *learnt, batches, pretraining_key, options.progress)
            state = eqx.tree_at(lambda s: s.model, state, pretrained)
            _note_pretraining(runs, each(pretrained, len(runs)))
        done = 0
        save(options.resume, done, state, runs, rows, key, identity)
    # Of the model that learns now: feedback that was to be pre-trained need not have been right before.
    computed = [given[row] for row in rows]
    for doubt in dict.fromkeys(doubts_before(computed, each(state.model, len(rows)), handful)):
        warn(doubt)

    many, keys = len(rows) > 1, key
    if len(rows) < len(runs):
        keys, own = some((key, own), rows, options.mesh)
    weights = sum(leaf.size for leaf in jax.tree.leaves(learned_weights(given[0].model.layers)))
    work = weights * len(options.data.train)
    ahead, name = range(done + 1, options.epochs + 1), type(given[0].method).__name__
    bar = progress_bar(ahead, desc=name, unit="epoch", progress=options.progress)
    for epoch in bar:
        going = [row for row in rows if not runs[row].stopped]
        if not going:
            break
        fewer = _worth_compiling(len(rows), len(going), work)
        if fewer:
            left = [rows.index(row) for row in going]
            state, keys, own = some((state, keys, own), left, options.mesh)
            rows, many = going, len(going) > 1
        if epoch == done + 1 or fewer:
            bar.set_postfix_str("compiling")
        began = time.perf_counter()
        state, totals = _epoch(many, state, batches, fold_in(many, keys, epoch), own, shared)
        model = network_to_use(many, state.model, state.weights_state)
        loss = own.method.loss, shared.method.loss
        metrics = totals | evaluate_all(many, model, loss, data, options.mesh)
        found = list(zip(rows, each(model, len(rows)), each(metrics, len(rows)), strict=True))
        seconds = (time.perf_counter() - began) / len(rows)
        for row, candidate, values in found:
            run = runs[row]
            if run.stopped:
                continue
            if not all_finite((candidate, {name: values[name] for name in totals})):
                why = f"epoch {epoch}: the loss or a weight is no longer finite; the model is that before it."
                run.stop("divergence", why)
                continue
            method = given[row].method
            record = _record(epoch, values, seconds, candidate, method, options)
            loops = judge_loops(candidate, method, handful)
            if loops is not None:
                record["stable"] = float(np.mean(loops.stable))
            run.add(record, candidate, options.best)
            doubt_epoch(run, handful, method, options.min_converged, loops)
            _stop_if_asked(row, run, options)
        save(options.resume, epoch, state, runs, rows, key, identity)
        check_signals()
        bar.set_postfix_str(_line([run for run in runs if run.records and not run.stopped]))


# Weights times samples of runs that have stopped, from which on leaving them out saves in a few epochs what
# compiling takes. Not the clock decides, nor how many epochs are left: a resumed run has to do the same.
_WORTH_COMPILING = 1e9


def _worth_compiling(rows: int, going: int, work: int) -> bool:
    """Whether the runs that are going leave the others of so many out, each of which is so much work."""
    return 2 * going <= rows and (rows - going) * work >= _WORTH_COMPILING


def _stop_if_asked(position: int, run: Run, options: Options) -> None:
    """Stop a run whose `patience` is over, or whose `on_epoch`, which hears of this epoch, returns True."""
    epoch, patience = run.records[-1]["epoch"], options.patience
    if patience is not None and epoch - run.best_epoch >= patience:
        run.stop("patience", f"epoch {epoch}: no better {options.best} in {patience} epochs.")
    answer = None if options.on_epoch is None else options.on_epoch(position, run.records[-1], run.model)
    if isinstance(answer, bool | np.bool_) and answer:  # what writes returns how much it wrote
        run.stop("on_epoch", f"epoch {epoch}: `on_epoch` returned True.")


def _epoch(
    many: bool,
    state: State,
    batches: Batches,
    key: Key[Array, "*runs"],
    own: PyTree,
    shared: Recipe,
) -> tuple[State, dict[str, Array]]:
    """The sleep epochs that come before every wake epoch, or a part of one, and a wake epoch."""
    model, feedback_state = state.model, state.feedback_state
    asleep = parts_of(shared.sleep_epochs)
    if shared.learner is not None and asleep:
        sleep_key, key = split(many, key)
        learner = own.learner, shared.learner
        model, feedback_state = sleep(asleep, many, model, feedback_state, learner, batches, sleep_key)
    run = model, (state.weights_state, feedback_state), key, own
    model, states, totals = wake_epoch(many, run, shared, batches)
    return State(model, *states), totals


def _record(
    epoch: int,
    values: dict[str, Array],
    seconds: float,
    model: Network,
    method: AbstractMethod,
    options: Options,
) -> Record:
    numbers = {name: float(value) for name, value in values.items()}
    diagnostics = options.diagnostics
    if diagnostics is not None and epoch % diagnostics.every == 0:
        numbers |= diagnostics(model, method, options.data.validation)
    for part in ("validation", "test"):
        own = own_scores(options.metrics, model, getattr(options.data, part))
        numbers |= {f"{part}_{name}": value for name, value in own.items()}
    return {"epoch": epoch} | numbers | {"seconds": seconds}


def _note_pretraining(runs: list[Run], models: list[Network]) -> None:
    for run, model in zip(runs, models, strict=True):
        if all_finite(model):
            run.model = run.best_model = model
        else:
            run.stop("divergence", DIVERGED)


def _line(runs: list[Run]) -> str:
    """Means over the runs, and whether they can be trusted."""
    records = [run.records[-1] for run in runs]
    mean = lambda name: math.fsum(record[name] for record in records) / len(records)
    names = ["train_loss", "validation_accuracy", "validation_loss", "converged"]
    means = {name: mean(name) for name in names if records and name in records[0]}
    if records and mean("fallback") > 0:
        means["by the fallback"] = mean("fallback")
    line = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in means.items())
    return line + (" (in doubt)" if any(run.doubts for run in runs) else "")
