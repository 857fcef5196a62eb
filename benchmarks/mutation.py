"""Mutation testing of the numerical core.

    python benchmarks/mutation.py --sample 300       a random sample of the mutants, an hour or so on a core
    python benchmarks/mutation.py --report           only write the report again, with new reasons

Cosmic Ray changes one place of the source at a time; the tests, fast and slow, that run that place must
notice. Each place is changed once, an operator or a comparison into a random other. Annotations are left
alone, for a broken one would be found by import alone, and so is `zip(..., strict=True)`, which checks what
already holds. The work is done in clones of HEAD, the verdicts are kept in `--work`, so that the same command
goes on after an interruption; `--retry` tries survivors again with the tests of a later HEAD. The report is
`mutation.md`; reasons for survivors are kept in `mutation_survivors.json`, by their number.
"""

import ast
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Iterable

from mutation_places import CORE, Mutant, mutants, ROOT, SOURCE
from mutation_report import write_report
from reporting import OUT, outermost, parse


SUITE = "not script"
# Tests of every constructor, for what a class says outside its methods.
ALWAYS = "tests/test_public_arguments.py::test_"


@dataclasses.dataclass(frozen=True)
class Options:
    """How much, and where."""

    sample: int | None = None
    """Mutants tried, drawn at random; all by default."""
    seed: int = 0
    workers: int = 2
    retry: bool = False
    """Try the survivors again with the tests of the present HEAD, whose numerical core must be the same."""
    seconds: float = 60.0
    """Tests tried on a mutant, shortest first, by the time they take without it; at least ten."""
    work: pathlib.Path = pathlib.Path("runs/mutation")
    report: bool = False
    """Only write the report from the verdicts in `work`."""
    out: pathlib.Path = OUT
    """The folder for the report; benchmarks/results holds the published one."""


def run(*command: str, folder: pathlib.Path) -> None:
    """One command in the clone, its own source first."""
    variables = os.environ | {"PYTHONPATH": str(folder / "src"), "MPLBACKEND": "Agg"}
    subprocess.run(command, cwd=folder, env=variables, check=True)


def prepare(work: pathlib.Path) -> pathlib.Path:
    """A clone of HEAD in which the suite has run once: what each test runs, and how long it takes."""
    clone = work / "clone"
    if not clone.exists():
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    if not (clone / "times-0.xml").exists():
        observe(clone, 0)
    return clone


def observe(clone: pathlib.Path, run_number: int, *files: str) -> None:
    """Run all tests, or those of `files`, and note what they run and for how long."""
    covered = ["--cov=dfc_jax", "--cov-context=test", "--cov-report=", "--cov-append", "-m", SUITE]
    timed = [f"--junitxml=times-{run_number}.xml", "-o", "junit_family=xunit1"]
    run(sys.executable, "-m", "pytest", *covered, *timed, *files, folder=clone)


def renew(work: pathlib.Path) -> None:
    """Bring the clone to the present HEAD and observe the tests that have changed.

    **Raises:** `SystemExit` if the numerical core has changed: its mutants are others now.
    """
    clone = work / "clone"
    git = lambda *arguments: subprocess.run(
        ["git", "-C", str(clone), *arguments], check=True, capture_output=True, text=True
    ).stdout.split()
    git("fetch", "--quiet")
    changed = git("diff", "--name-only", "HEAD", "FETCH_HEAD")
    core = [f"{SOURCE}/{module}.py" for module in CORE]
    if found := sorted(set(core) & set(changed)):
        raise SystemExit(f"{found[0]} has changed since: start anew, in another --work folder.")
    git("merge", "--quiet", "--ff-only", "FETCH_HEAD")
    tests = [name for name in changed if name.startswith("tests/test_") and (clone / name).exists()]
    if tests:
        observe(clone, len(list(clone.glob("times-*.xml"))), *tests)
    for folder in work.glob("worker-*"):
        shutil.rmtree(folder)


class Tests:
    """Which tests run a line, shortest first."""

    def __init__(self, clone: pathlib.Path, worker: pathlib.Path) -> None:
        import coverage  # an extra, which --help does without

        self.clone, self.worker = clone, worker
        self.data = coverage.CoverageData(str(clone / ".coverage"))
        self.data.read()
        self.seconds: dict[str, float] = {}
        for number in range(len(list(clone.glob("times-*.xml")))):
            cases = list(xml.etree.ElementTree.parse(clone / f"times-{number}.xml").iter("testcase"))
            observed = {case.get("file") for case in cases}
            kept = {n: t for n, t in self.seconds.items() if n.partition("::")[0] not in observed}
            self.seconds = kept | {f"{c.get('file')}::{c.get('name')}": float(c.get("time")) for c in cases}
        self.seconds = {n: t for n, t in self.seconds.items() if (clone / n.partition("::")[0]).exists()}

    def of(self, path: pathlib.Path, line: int, seconds: float) -> list[str]:
        """Those of the statement's lines or, if import alone runs it, of the whole file."""
        statements = [
            node
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.stmt)
        ]
        around = [node for node in statements if node.lineno <= line <= node.end_lineno]
        smallest = min(around, key=lambda node: node.end_lineno - node.lineno)
        by_line = self.data.contexts_by_lineno(str(self.clone / path.relative_to(self.worker)))
        lines = range(smallest.lineno, smallest.end_lineno + 1)
        contexts = {context for number in lines for context in by_line.get(number, ())}
        names, every = self._names(contexts), self._names(c for found in by_line.values() for c in found)
        within = any(isinstance(node, ast.FunctionDef) for node in around)
        first = [] if within else [n for n in self.seconds if n.startswith(ALWAYS) and self.seconds[n] < 60]
        # What is compiled runs in the first test that needs it only: others of the file may notice as well.
        chosen, total = [], 0.0
        for name in [*sorted(names, key=self.seconds.get), *sorted(every - names, key=self.seconds.get)]:
            total += self.seconds[name]
            if total > seconds and len(chosen) >= 10:
                break
            chosen.append(name)
        return [*first, *(name for name in chosen if name not in first)]

    def _names(self, contexts: Iterable[str]) -> set[str]:
        return {context.partition("|")[0] for context in contexts} & set(self.seconds)


_mine: tuple[pathlib.Path, Tests]  # of a worker process


def settle(work: pathlib.Path, numbers: multiprocessing.Queue) -> None:
    """Give a worker process a clone of its own."""
    global _mine
    clone = work / f"worker-{numbers.get()}"
    if clone.exists():  # of a call that was killed, perhaps in the middle of a mutant
        shutil.rmtree(clone)
    shutil.copytree(work / "clone", clone)
    _mine = clone, Tests(work / "clone", clone)


def judge(mutant: Mutant, options: Options) -> Mutant:
    """Mutate, test, restore, in the clone of this process."""
    from cosmic_ray.mutating import mutate_and_test
    from cosmic_ray.work_item import MutationSpec, TestOutcome

    clone, tests = _mine
    path = clone / SOURCE / f"{mutant.module}.py"
    chosen = tests.of(path, mutant.line, options.seconds)
    listed = clone / "chosen.txt"
    flags = ["-n0", "-x", "-pno:cacheprovider", "--no-header", "--no-cov", f"-m{SUITE}"]
    place = MutationSpec(path, mutant.operator, mutant.occurrence, (mutant.line, 0), (mutant.line, 1))
    os.chdir(clone)
    os.environ |= {"PYTHONPATH": str(clone / "src"), "MPLBACKEND": "Agg"}
    while True:
        listed.write_text("\n".join([*flags, *chosen]), encoding="utf-8")
        result = mutate_and_test([place], f"{sys.executable} -m pytest @{listed}", 10 * options.seconds)
        # A name that tells a value is another once the value has changed; the other tests are still to run.
        gone = tuple(re.findall(r"ERROR: not found: \S*/(tests/\S+::\w+)", result.output))
        left = [name for name in chosen if name.partition("[")[0] not in gone]
        if not left or len(left) == len(chosen):
            break
        chosen = left
    # pytest fails as well where it finds or runs no test: that kills nothing.
    ran = bool(chosen) and "no tests ran" not in result.output and "ERROR: not found" not in result.output
    killed = ran and result.test_outcome is TestOutcome.KILLED
    changed = [
        line
        for line in (result.diff or "").splitlines()
        if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    verdict = "killed" if killed else "survived"
    return dataclasses.replace(mutant, verdict=verdict, tests=len(chosen), diff="\n".join(changed))


def read_verdicts(file: pathlib.Path) -> list[Mutant]:
    """Those in `file`, from which a last line goes whose writing was interrupted."""
    if not file.exists():
        return []
    whole, end, _ = file.read_text(encoding="utf-8").rpartition("\n")
    file.write_text(whole + end, encoding="utf-8")
    return [Mutant(**json.loads(line)) for line in whole.splitlines()]


@outermost
def main(options: Options) -> None:
    """Try every mutant that has no verdict yet, then write the report."""
    options = dataclasses.replace(options, work=options.work.absolute())
    options.work.mkdir(parents=True, exist_ok=True)
    # What a mutant leaves as it was is compiled once.
    programs = {"JAX_COMPILATION_CACHE_DIR": str(options.work / "programs")}
    os.environ |= programs | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    verdicts = options.work / "verdicts.jsonl"
    done = read_verdicts(verdicts)
    if options.retry:
        done = [mutant for mutant in done if mutant.verdict == "killed"]
        renew(options.work)
        verdicts.write_text("".join(json.dumps(dataclasses.asdict(mutant)) + "\n" for mutant in done))
    if not options.report:
        clone, known = prepare(options.work), {mutant.number for mutant in done}
        drawn = mutants(clone, options.seed, options.sample)
        left = [mutant for mutant in drawn if mutant.number not in known]
        numbers = multiprocessing.Queue()
        for number in range(options.workers):
            numbers.put(number)
        with concurrent.futures.ProcessPoolExecutor(
            options.workers, initializer=settle, initargs=(options.work, numbers)
        ) as pool:
            for future in concurrent.futures.as_completed(pool.submit(judge, m, options) for m in left):
                done.append(future.result())
                print(f"{len(done)}: {done[-1].module}.py:{done[-1].line} {done[-1].verdict}", flush=True)
                with open(verdicts, "a") as file:
                    file.write(json.dumps(dataclasses.asdict(done[-1])) + "\n")
    write_report(done, options.work / "clone", options.seed, options.seconds, options.out)


@outermost
def command() -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, None, __doc__))


if __name__ == "__main__":
    sys.exit(command())
