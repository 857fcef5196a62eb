"""The tests of the numerical core, on the device that JAX takes by default.

    python benchmarks/core_tests.py            # a minute or two; writes to runs/benchmarks
    python benchmarks/core_tests.py --small    # one file of them

They hold the linear algebra, closed forms and equilibria to something outside the library, in float64. The
exit status is 1 if one fails; what there is is then written to core_tests_failed.
"""

import collections
import dataclasses
import os
import pathlib
import sys

import pytest
from reporting import check, environment, heading, machine, OUT, outermost, parse, save, settings_of, table


FILES = ("test_small_matrices", "test_linear_systems", "test_closed_form", "test_equilibrium")
LEGEND = "Tests by file; seconds: their sum, over all processes, compilation included."
OUTCOMES = ("passed", "failed", "skipped")


@dataclasses.dataclass(frozen=True)
class Options:
    """Which tests."""

    files: tuple[str, ...] = FILES
    """Files in tests/, without their ending."""
    processes: int = min(8, os.cpu_count() or 1)
    small: bool = False
    """The first file alone, in this process, whatever else is said."""
    out: pathlib.Path = OUT
    """The folder for the figures."""


class Outcomes:
    """A plugin of pytest that keeps how every test ended, by file."""

    def __init__(self) -> None:
        self.counts = collections.defaultdict(collections.Counter)
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test ends in its call, or before or after it if that did not pass."""
        counts = self.counts[pathlib.Path(report.nodeid.partition("::")[0]).stem]
        counts["seconds"] += report.duration
        if report.when == "call" or not report.passed:
            counts[report.outcome] += 1
        if report.failed:
            self.failed.append(report.nodeid)


@outermost
def main(options: Options) -> int:
    """Run them, print and write."""
    if options.small:
        options = dataclasses.replace(options, files=FILES[:1], processes=0)
    check(options, "core_tests")
    tests = pathlib.Path(__file__).parents[1] / "tests"
    files = [str(tests / f"{name}.py") for name in options.files]
    # Several processes share one device. Warnings of another version of JAX's are no failures.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    chosen = ["-o", "addopts=", "-m", "not slow and not script", "-W", "default", "-p", "no:cacheprovider"]
    chosen += ["--capture", "sys"]  # so that what ends the process is said
    outcomes = Outcomes()
    status = pytest.main(["-q", *chosen, "-n", str(options.processes), *files], plugins=[outcomes])
    where = environment("benchmarks/core_tests.py")
    passed = status == pytest.ExitCode.OK
    rows = [
        [name, *(str(counts[outcome]) for outcome in OUTCOMES), f"{counts['seconds']:.0f}"]
        for name, counts in outcomes.counts.items()
    ]
    caption = f"Tests of the numerical core, float64, {machine(where)}"
    lines = [*heading(where, caption, LEGEND), "", *table(["file", *OUTCOMES, "seconds"], rows)]
    lines += ["", *(f"- failed: {name}" for name in outcomes.failed)]
    result = {
        "environment": where,
        "settings": settings_of(options),
        "files": outcomes.counts,
        "failed": outcomes.failed,
    }
    save(result, lines, options.out, "core_tests" if passed else "core_tests_failed")
    return 0 if passed else 1


@outermost
def command() -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, None, __doc__))


if __name__ == "__main__":
    sys.exit(command())
