"""How many runs of a program fit into the memory at once."""

import os
from collections.abc import Iterator
from typing import Any

import jax

from dfc_jax._bar import progress_bar
from dfc_jax._data.dataset import Dataset
from dfc_jax._training.devices import placed
from dfc_jax._training.evaluation import evaluation
from dfc_jax._training.recipes import Given, Recipe
from dfc_jax._training.sleep_epochs import parts_of, sleep_epoch
from dfc_jax._training.start import Options, pretraining_state_of, start_of
from dfc_jax._training.wake import wake_epoch


def most_at_once(given: list[Given], recipes: list[Recipe], data: Dataset, options: Options) -> int:
    """As many of the runs, which differ in numbers alone, as fit by what the compiler plans, at least one.

    All of them where the device does not say what it has, and where there are several processes, which would
    have to agree. What is compiled for this serves training, too.
    """
    number = len(given)
    device = jax.devices()[0] if options.mesh is None else options.mesh.devices.flat[0]
    free = None if number == 1 or jax.process_count() > 1 else free_memory(device)
    while free is not None and number > 1:
        needed = _needed(given[:number], recipes[:number], data, options)
        if needed is None:
            number //= 2
        elif needed > free:
            number = max(1, min(number - 1, free * number // needed))
        else:
            break
    return number


# What an allocator cannot use, and what is needed between epochs.
_SPARE = 0.1


def free_memory(device: jax.Device) -> int | None:
    """The bytes that a device has left for programs; of a CPU all that the machine has, where it says."""
    known = device.memory_stats() or {}
    if "bytes_limit" in known:
        return int((1 - _SPARE) * known["bytes_limit"]) - known.get("bytes_in_use", 0)
    if device.platform != "cpu" or "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return int((1 - _SPARE) * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _needed(given: list[Given], recipes: list[Recipe], data: Dataset, options: Options) -> int | None:
    """The bytes of the largest of the programs; None if the compiler says itself that it is too large."""
    name = f"{type(given[0].method).__name__}, compiling"
    bar = progress_bar(_programs(given, recipes, data, options), name, leave=False, progress=options.progress)
    most = 0
    for program in bar:
        try:
            planned = program.compile().compiled.memory_analysis()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return None
        if planned is not None:  # as it is on a platform that does not say
            moved = planned.argument_size_in_bytes + planned.output_size_in_bytes
            most = max(most, moved + planned.temp_size_in_bytes - planned.alias_size_in_bytes)
    return most


def _programs(given: list[Given], recipes: list[Recipe], data: Dataset, options: Options) -> Iterator[Any]:
    """Those that training runs, lowered one after another."""
    start, mesh, many = start_of(given, recipes, data, options), options.mesh, len(given) > 1
    shared, batches = start.shared, start.batches
    own, state = placed((start.own, start.state), mesh)
    key = placed(start.key, mesh)  # of no draw: nothing is run here
    if shared.pretrainer is not None and shared.pretraining_epochs > 0:
        part, asleep = parts_of(shared.pretraining_epochs)[0], placed(pretraining_state_of(given), mesh)
        run = state.model, asleep, key, own.pretrainer
        yield _lowered(sleep_epoch, many, run, shared.pretrainer, batches, part)
    if shared.learner is not None and shared.sleep_epochs > 0:
        part = parts_of(shared.sleep_epochs)[0]
        run = state.model, state.feedback_state, key, own.learner
        yield _lowered(sleep_epoch, many, run, shared.learner, batches, part)
    run = state.model, (state.weights_state, state.feedback_state), key, own
    yield _lowered(wake_epoch, many, run, shared, batches)
    for split in (data.validation, data.test):
        judged = state.model, own.method.loss
        yield _lowered(evaluation, many, judged, shared.method.loss, split.x, split.y, mesh)


def _lowered(program: Any, *arguments: Any) -> Any:
    return program.lower(*arguments)  # which the types of Equinox's jit do not know of
