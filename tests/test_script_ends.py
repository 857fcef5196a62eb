"""What ends a script early is one sentence and a code; what cannot be shown ends none."""

import errno
import gc
import os
import pathlib
import signal
import subprocess
import sys
import termios
import time

import jax
import pytest
from options import script
from options.script import outermost, Stopped, undivided
from report.screen import Screen, written

from dfc_jax._bar import progress_bar


EXPERIMENTS = pathlib.Path(__file__).parents[1] / "experiments"


@pytest.mark.parametrize(
    "error, code, said",
    [
        (ValueError("`x` is 3"), 2, "error: `x` is 3"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device"),
        (ZeroDivisionError("division by zero"), 2, "too large or too small (division by zero)"),
        (OverflowError(), 2, "too large or too small"),
        (ModuleNotFoundError("No module named 'coverage'", name="coverage"), 2, "dfc_jax[mutation]"),
        (RuntimeError("no backend\nand pages"), 2, "error: no backend; it"),
        (MemoryError("std::bad_alloc"), 3, "out of memory (std::bad_alloc)"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: so\nmuch"),
            3,
            "out of memory (RESOURCE_EXHAUSTED: so)",
        ),
        (jax.errors.JaxRuntimeError("INTERNAL: a\nb"), 3, "error: INTERNAL: a; it"),
        (KeyboardInterrupt(), 130, "interrupted; it goes on"),
        (Stopped(signal.SIGTERM), 143, "stopped by SIGTERM; it goes on"),
        (Stopped(signal.SIGHUP), 129, "stopped by SIGHUP; it goes on"),
        (ChildProcessError("1 of 2 workers ended early"), 3, "error: 1 of 2 workers ended early; it goes on"),
        (BrokenPipeError(), 141, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_ends_a_script_is_one_sentence(error, code, said, capfd):
    @outermost
    def main() -> None:
        error.add_note("it goes on")
        raise error

    assert main() == code
    found = capfd.readouterr().err
    assert said in found and len(found.splitlines()) == bool(said) and "Traceback" not in found


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="there is no full device here")
def test_a_full_disk_under_the_output_and_a_reader_that_left_are_no_tracebacks():
    code = (
        "import sys; from options.script import outermost; sys.exit(outermost(lambda: print('x' * 99999))())"
    )
    environment = os.environ | {"PYTHONPATH": str(EXPERIMENTS)}
    for target, status, said in (
        ("> /dev/full", 3, "error: standard output cannot be written (No space left on device)\n"),
        ("| head -c1 > /dev/null; exit ${PIPESTATUS[0]}", 141, ""),
        (">&-", 0, ""),
    ):
        command = ["bash", "-c", f'"{sys.executable}" -c "{code}" {target}']
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (status, said)


def test_a_fault_of_the_program_keeps_its_traceback(capsys):
    @outermost
    def main() -> None:
        raise KeyError("x")

    assert main() == 4
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("lost", [0, 1], ids=["", "though one wakes nobody"])
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_amid_garbage_collection_is_heard(number, code, lost, capsys, monkeypatch):
    """An exception in a callback of the collector is only reported, and the script would go on.

    One that comes as the main thread enters a system call is heard when the call is done, too late.
    """
    sent, send = [], script._signal_main_thread

    def send_but(number: int) -> None:
        sent.append(number)
        if len(sent) > lost:
            send(number)

    monkeypatch.setattr(script, "_signal_main_thread", send_but)
    found = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    came = []

    def amid(phase: str, _: object) -> None:
        if not came:
            came.append(phase)
            os.kill(os.getpid(), number)

    @outermost
    def main() -> None:
        gc.callbacks.append(amid)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(amid)
        time.sleep(30)

    hook, before = sys.unraisablehook, time.monotonic()
    try:
        assert main() == code and came
        assert time.monotonic() - before < 10  # it woke the main thread
        assert sys.unraisablehook is hook
    finally:
        signal.signal(number, found)
    assert "Traceback" not in capsys.readouterr().err


def test_who_cleans_up_after_a_signal_amid_garbage_collection_is_left_in_peace(capsys):
    """A script's command stands in `outermost`, and so does the main function that it calls."""
    found, came, cleaned = signal.signal(signal.SIGTERM, signal.SIG_DFL), [], []

    def amid(phase: str, _: object) -> None:
        if not came:
            came.append(phase)
            os.kill(os.getpid(), signal.SIGTERM)

    @outermost
    def main() -> None:
        gc.callbacks.append(amid)
        try:
            gc.collect()
            time.sleep(5)
        finally:
            gc.callbacks.remove(amid)
            time.sleep(5 * script.AGAIN)
            cleaned.append(True)

    try:
        assert outermost(main)() == 143 and cleaned
    finally:
        signal.signal(signal.SIGTERM, found)
    capsys.readouterr()


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_are_heard_and_what_is_undivided_is_finished(number, code, capsys):
    # A process in the background is born with some of them ignored.
    found = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    done, before = [], signal.getsignal(number)

    @outermost
    def main() -> None:
        with undivided():
            os.kill(os.getpid(), number)
            done.append("whole")
        done.append("after")

    try:
        assert main() == code and done == ["whole"]
        assert signal.getsignal(number) is before
    finally:
        signal.signal(number, found)
    capsys.readouterr()


class Gone:
    """A stream whose disk is full, or whose reader has left."""

    encoding = "utf-8"

    def __init__(self, error: OSError) -> None:
        self.error = error

    def write(self, text: str = "") -> None:
        raise self.error

    flush = write


def test_no_work_ends_because_its_bar_cannot_be_shown(monkeypatch):
    for stream in (Gone(OSError(errno.ENOSPC, "full")), Gone(BrokenPipeError()), None):
        monkeypatch.setattr(sys, "stderr", stream)
        shown = list(progress_bar(range(3), progress=True))
        monkeypatch.undo()
        assert shown == [0, 1, 2]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no terminals of such a kind here")
def test_a_bar_is_as_wide_as_its_terminal(monkeypatch):
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 60))
    with open(slave, "w") as terminal, open(master):
        monkeypatch.setattr(sys, "stderr", terminal)
        bar = progress_bar(range(3), progress=True)
        assert 50 < bar.ncols <= 60
        bar.close()
        monkeypatch.undo()


def test_who_cannot_show_results_says_where_they_are(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Gone(BrokenPipeError()))
    with pytest.raises(BrokenPipeError):
        Screen().print("x")
    monkeypatch.setattr(sys, "stdout", Gone(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full") as caught, written(pathlib.Path("there")):
        Screen().print("x")
    assert caught.value.__notes__ == ["the results are in there"]
