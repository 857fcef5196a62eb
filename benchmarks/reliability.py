"""What the tests of "never a lost run, never a silent wrong number" tried, in figures.

    python benchmarks/reliability.py            ten minutes or so: 20 runs are killed and resumed

Runs those tests, the long ones included, and writes `reliability.md` from what they record.
"""

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

from reporting import environment, heading, OUT, outermost, parse, save, table


ROOT = pathlib.Path(__file__).parent.parent
FILES = {
    "test_checkpoints.py": "damage, full disks, resuming from Python",
    "test_resuming.py": "resuming from the command line, kills",
    "test_public_arguments.py": "arguments of every public constructor, by Hypothesis",
    "test_public_functions.py": "arguments of every public function",
    "test_properties.py": "right answers whatever the numbers, by Hypothesis",
    "test_bad_input.py": "wrong batches, edges, bad numbers in one sample",
    "test_run.py": "the command line: options, folders, data sets, the same bytes twice",
    "test_pool.py": "runs that cannot be pooled",
    "test_event_files.py": "TensorBoard's files of a run that was killed",
    "test_data.py": "data sets of one's own and those that need no files",
    "test_own_data.py": "data sets made of labels, tables and lists",
    "test_images.py": "prepared data, damaged and half downloaded ones included",
    "test_crafted_runs.py": "run folders into which somebody has put something else",
    "test_failures.py": "reasons found for samples that fail to converge",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Where the figures go; there is nothing else to choose."""

    out: pathlib.Path = OUT
    """The folder for the figures; benchmarks/results holds the published ones."""


@outermost
def main(options: Options) -> None:
    """Run, count and write."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.xml"
        flags = ["-m", "", "-n0", f"--junitxml={report}", "-o", "junit_family=xunit1"]
        files = [f"tests/{name}" for name in FILES]
        command = [sys.executable, "-m", "pytest", *flags, *files]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"MPLBACKEND": "Agg"}, check=False)
        tree = xml.etree.ElementTree.parse(report)
    cases = list(tree.iter("testcase"))
    rows, failed = [], 0
    for name, what in FILES.items():
        mine = [case for case in cases if case.get("file") == f"tests/{name}"]
        broken = sum(case.find("failure") is not None or case.find("error") is not None for case in mine)
        skipped = sum(case.find("skipped") is not None for case in mine)
        rows.append([name, what, str(len(mine) - broken - skipped), str(broken), str(skipped)])
        failed += broken
    recorded = [[prop.get("name"), prop.get("value")] for prop in tree.iter("property")]
    figures = [[name, value] for name, value in recorded if not name.startswith("hypothesis-statistics")]
    where = environment("benchmarks/reliability.py")
    legend = (
        "Kills are SIGKILLs of a training run of two seeds with learned feedback; after the last one the run "
    )
    legend += "goes on to its end, and its models and metrics are, bit for bit, those of a run left alone."
    lines = [
        *heading(where, "Tests of what can go wrong", legend),
        "",
        *table(["figure", "number"], figures),
        "",
        *table(["file", "of what", "passed", "failed", "skipped"], rows, texts=2),
    ]
    save({"environment": where, "figures": figures, "tests": rows}, lines, options.out, "reliability")
    sys.exit(1 if failed else done.returncode)


@outermost
def command() -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, None, __doc__))


if __name__ == "__main__":
    sys.exit(command())
