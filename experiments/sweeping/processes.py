"""A sweep's workers in processes of this machine."""

import multiprocessing
import multiprocessing.connection
import os
import pathlib
import sys
import threading
from collections.abc import Callable

import jax
from options.script import outermost
from sweeping.worker import work


POLL = 0.5  # seconds between looks at them


def processes(out: pathlib.Path, workers: int, watch: Callable[[], None]) -> None:
    """Work in so many processes, which end with this one; `watch` is called now and then.

    **Raises:** `ChildProcessError` if one of them ended before its work.
    """
    context = multiprocessing.get_context("spawn")
    gpus = _gpus()
    started = []
    try:
        for worker in range(workers):
            if gpus:
                os.environ["CUDA_VISIBLE_DEVICES"] = gpus[worker % len(gpus)]
            arguments = out, worker, workers, sys.argv
            process = context.Process(target=_process, args=arguments, daemon=True)
            process.start()
            started.append(process)
        while any(process.is_alive() for process in started):
            multiprocessing.connection.wait([p.sentinel for p in started if p.is_alive()], POLL)
            watch()
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.join()
    failed = [process.exitcode for process in started if process.exitcode]
    if failed:
        codes = ", ".join(map(str, failed))
        raise ChildProcessError(f"{len(failed)} of {workers} workers ended early (exit status {codes})")


def _gpus() -> list[str]:
    """Names of this machine's GPUs, as far as they may be seen."""
    if jax.default_backend() != "gpu":
        return []
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return seen.split(",") if seen else [str(number) for number in range(jax.local_device_count())]


def _process(out: pathlib.Path, worker: int, workers: int, command: list[str]) -> None:
    """What a process does."""
    sys.argv = command  # which its runs note
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "sched_setaffinity"):
        # Its share of the cores: on all of them the workers would be in one another's way.
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[worker % len(cores) :: workers])
    sys.exit(outermost(work)(out))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)  # as if killed, which loses nothing
