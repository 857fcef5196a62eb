"""A sweep's workers in jobs of a SLURM cluster."""

import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence

import submitit
from options.script import outermost, Stopped
from submitit.core.utils import DelayedSubmission, FailedJobError, UncompletedJobError
from sweeping.worker import work


EXPERIMENTS = pathlib.Path(__file__).parents[1]
LOGS = "slurm"  # the folder of jobs
SECONDS = 5.0  # between looks at them
TIMEOUTS = 10_000  # how often a job may run out of its time, and be queued again


class Job:
    """What a job of the cluster does; queued again where its time is over or others have precedence."""

    def __init__(self, out: pathlib.Path, command: Sequence[str]) -> None:
        self.out, self.command = out, list(command)

    def __call__(self) -> int:
        """Work until nothing is left; returns the exit status."""
        sys.argv = self.command
        return outermost(work)(self.out)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit queues in place of a job that is stopped: the same, since runs go on."""
        return DelayedSubmission(self)


def slurm(
    out: pathlib.Path, workers: int, parameters: dict[str, int | str], watch: Callable[[], None]
) -> None:
    """Work in so many jobs of a SLURM cluster, by submitit, and wait for them.

    **Raises:** as `slurm_executor`; `ChildProcessError` if a job failed.
    """
    jobs = submit(slurm_executor(out, parameters), out, workers)
    try:
        wait_for(jobs, watch, SECONDS)
    except (KeyboardInterrupt, Stopped) as stopped:
        stopped.add_note(f"jobs {', '.join(job.job_id for job in jobs)} go on, unless scancel ends them")
        raise


def slurm_executor(out: pathlib.Path, parameters: dict[str, int | str]) -> submitit.SlurmExecutor:
    """What queues the jobs. **Raises:** `ValueError` without SLURM, or for parameters that are not known."""
    try:
        executor = submitit.SlurmExecutor(out / LOGS, max_num_timeout=TIMEOUTS)
    except RuntimeError as error:
        raise ValueError(f"`where` is slurm, which is not here: {error}") from error
    try:
        executor.update_parameters(**{"job_name": "dfc-sweep"} | parameters)
    except ValueError as error:
        raise ValueError(f"`slurm` is not right: {' '.join(str(error).split())}") from error
    return executor


def submit(executor: submitit.Executor, out: pathlib.Path, workers: int) -> list[submitit.Job[int]]:
    """Jobs that work on the sweep in `out`, by any of submitit's executors."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(EXPERIMENTS), before))
    )  # where jobs find this
    try:
        return [executor.submit(Job(out.resolve(), sys.argv)) for _ in range(workers)]
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def wait_for(jobs: Sequence[submitit.Job[int]], watch: Callable[[], None], seconds: float) -> None:
    """Until all have ended; `watch` is called now and then.

    **Raises:** `ChildProcessError` if one of them failed.
    """
    while not all(job.done() for job in jobs):
        time.sleep(seconds)
        watch()
    if failed := [job for job in jobs if _failed(job)]:
        logs = ", ".join(str(job.paths.stderr) for job in failed)
        raise ChildProcessError(f"{len(failed)} of {len(jobs)} jobs failed; see {logs}")


def _failed(job: submitit.Job[int]) -> bool:
    try:
        return job.result() != 0
    except (FailedJobError, UncompletedJobError):
        return True
