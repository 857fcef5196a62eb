"""Several processes that train as one: they meet, and each hears of the others' failures and options.

They tell each other through JAX's coordination service, which waits as long as it is told to: its collective
operations give up after half a minute, and one process may take that long to read its data.
"""

import json
import os
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import jax
from jax._src.distributed import global_state

from dfc_jax._runs.folder import first_difference


Found = TypeVar("Found")
PATIENCE = 20.0  # seconds after which it is said that others are waited for
MINUTES = 20  # in which all processes must have come equally far


def writes() -> bool:
    """Whether this process is the one that writes results and talks."""
    return jax.process_index() == 0


def initialize(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Meet the other processes.

    **Raises:** `ValueError` in a sentence if the three numbers cannot be, or JAX finds no cluster without.
    """
    if coordinator is not None:
        _check_address(coordinator, listens=process == 0)
    for name, value, least in (("processes", processes, 1), ("process", process, 0)):
        if value is not None and value < least:
            raise ValueError(f"`{name}` is {value}; it must be at least {least}.")
    if processes is not None and process is not None and process >= processes:
        raise ValueError(f"`process` is {process}; of {processes} processes the last is {processes - 1}.")
    # Its service keeps SIGTERM to itself, and nobody asks it.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        _meet(coordinator, processes, process)
    except ValueError as error:
        problem = "`distributed` is given, but JAX does not find the other processes by itself"
        raise ValueError(f"{problem} ({error}); give --coordinator, --processes and --process.") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        problem = f"the {processes or 'other'} processes did not meet at {coordinator or 'one address'}"
        raise RuntimeError(f"{problem}: {reason}") from error
    if not writes():
        warnings.simplefilter("ignore")  # the process that talks gives the same


def _meet(*address: Any) -> None:
    """JAX's initialisation, beside the main thread, which hears signals: it takes minutes if others do not
    come."""
    failed: list[BaseException] = []

    def meet() -> None:
        try:
            jax.distributed.initialize(*address)
        except BaseException as error:
            failed.append(error)

    meeting = threading.Thread(target=meet, daemon=True)
    meeting.start()
    meeting.join(PATIENCE)
    if meeting.is_alive():
        print(f"waiting for the other processes at {address[0] or 'their address'}", file=sys.stderr)
    while meeting.is_alive():
        meeting.join(PATIENCE)
    if failed:
        raise failed[0]


def _check_address(coordinator: str, listens: bool) -> None:
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f"`coordinator` is {coordinator!r}; it must be HOST:PORT, as node7:1234.")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(f"`coordinator` is {coordinator!r}; there is no such host ({error}).") from error
    if not listens:
        return
    family = found[0][0]
    with socket.socket(family, socket.SOCK_STREAM) as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind(("", int(port)))
        except OSError as error:
            problem = f"`coordinator` is {coordinator!r}, whose port cannot be had here"
            raise ValueError(f"{problem} ({error.strerror}); choose another.") from error


def agreed(stage: str, work: Callable[[], Found], options: Callable[[Found], Any] = lambda _: None) -> Found:
    """What `work` finds, once every process has done it and its `options` are the same in all of them.

    **Raises:** what `work` does; `ValueError` if another process has failed or has other options, or
    `RuntimeError` if one does not answer.
    """
    if global_state.client is None:
        return work()
    try:
        found = work()
    except BaseException:
        _tell(stage, {"failed": True})
        raise
    mine = {"options": json.loads(json.dumps(options(found)))}
    _tell(stage, mine)
    for process in range(jax.process_count()):
        theirs = _heard(stage, process)
        if "failed" in theirs:
            raise ValueError(f"process {process} cannot run, and says why.")
        difference = first_difference(mine, theirs)
        if difference is not None:
            name, here, there = difference
            problem = f"the processes have other options: {name.partition('.')[2]} is {here!r} in process"
            raise ValueError(f"{problem} {jax.process_index()} and {there!r} in process {process}.")
    return found


def _tell(stage: str, what: dict[str, Any]) -> None:
    global_state.client.key_value_set(f"dfc/{stage}/{jax.process_index()}", json.dumps(what))


def _heard(stage: str, process: int) -> dict[str, Any]:
    try:
        told = global_state.client.blocking_key_value_get(f"dfc/{stage}/{process}", 60_000 * MINUTES)
    except RuntimeError as error:
        raise RuntimeError(f"process {process} is not heard of: {str(error).splitlines()[0]}") from error
    return json.loads(told)


def leave(code: int) -> NoReturn:
    """End this process; stopped, without waiting for others to end as well, who cannot go on alone."""
    if code > 2 and global_state.client is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
