"""Mutation testing of the numerical core: `python benchmarks/mutation.py --help`.

    python benchmarks/mutation.py --sample 300       a random sample of the mutants, an hour or so on a core
    python benchmarks/mutation.py --report           only write the report again, with new reasons

Cosmic Ray changes one place of the source at a time; the tests, fast and slow, that run that place must
notice. Each place is changed once, an operator or a comparison into a random other. Annotations are left
alone, for a broken one would be found by import alone, and so is `zip(..., strict=True)`, which checks what
already holds. The work is done in clones of HEAD, the verdicts are kept in `--work`, so that the same command
goes on after an interruption; `--retry` tries survivors again with the tests of a later HEAD. The report is
`results/mutation.md`; reasons for survivors are kept in `mutation_survivors.json`, by their number.
"""

import ast
import collections
import concurrent.futures
import dataclasses
import io
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Iterable

import cosmic_ray.plugins
import coverage
import scipy.stats
import tyro
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_item import MutationSpec, TestOutcome
from reporting import heading, save, table
from training_step import environment


ROOT = pathlib.Path(__file__).parent.parent
RESULTS = pathlib.Path(__file__).parent / "results"
SUITE = "not script"
# Tests of every constructor, for what a class says outside its methods.
ALWAYS = "tests/test_public_arguments.py::test_"
REASONS = pathlib.Path(__file__).parent / "mutation_survivors.json"
SOURCE = pathlib.Path("src", "dfc_jax")
# What is no part of the numerical core: data, training loops, folders, checkpoints and their like.
AROUND = {
    *("__init__", "_checks", "_fields", "_analysis/diagnostics", "_analysis/failures"),
    *("_data/*", "_runs/*", "_training/*", "*/__init__"),
}


def core_modules() -> list[str]:
    """The modules of the numerical core, as `_dynamics/closed_loop`."""
    found = (path.relative_to(ROOT / SOURCE) for path in (ROOT / SOURCE).rglob("*.py"))
    return sorted(p.with_suffix("").as_posix() for p in found if not is_around(p.with_suffix("")))


def is_around(module: pathlib.Path) -> bool:
    return any(module.match(pattern) for pattern in AROUND if "/" in pattern) or module.as_posix() in AROUND


CORE = core_modules()


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


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of one place, and the verdict on it."""

    number: int
    module: str
    line: int
    operator: str
    occurrence: int
    verdict: str = ""
    tests: int = 0
    diff: str = ""


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


def places(path: pathlib.Path, rng: random.Random) -> list[tuple[int, str, int]]:
    """Line, operator and occurrence of one mutation for every place of a file that is no annotation."""
    nodes, found = list(ast_nodes(get_ast_from_path(path))), collections.defaultdict(list)
    for name in cosmic_ray.plugins.operator_names():
        operator = cosmic_ray.plugins.get_operator(name)
        if operator.arguments() or "Decorator" in name:  # mostly abstractmethod: no behaviour to test
            continue
        positions = [p for node in nodes for p in operator().mutation_positions(node)]
        for occurrence, position in enumerate(positions):
            found[position, name.split("/")[1].partition("_")[0]].append((position[0][0], name, occurrence))
    untouched = annotations(path) | strict_zips(path)
    return [rng.choice(found[key]) for key in sorted(found) if not untouched & {key[0][0]}]


def annotations(path: pathlib.Path) -> set[tuple[int, int]]:
    """Every position (line, column) within an annotation."""
    inside: set[tuple[int, int]] = set()
    lines = path.read_text().splitlines()
    for node in ast.walk(ast.parse(path.read_text())):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if part is not None:
                for line in range(part.lineno, part.end_lineno + 1):
                    start = part.col_offset if line == part.lineno else 0
                    end = part.end_col_offset if line == part.end_lineno else len(lines[line - 1])
                    inside |= {(line, column) for column in range(start, end)}
    return inside


def strict_zips(path: pathlib.Path) -> set[tuple[int, int]]:
    """Every position (line, column) of the value of a `strict=`."""
    keywords = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.keyword)]
    values = [keyword.value for keyword in keywords if keyword.arg == "strict"]
    return {(value.lineno, value.col_offset) for value in values}


def mutants(clone: pathlib.Path, options: Options) -> list[Mutant]:
    """All of them, or a random sample, in random order."""
    rng = random.Random(options.seed)
    found = [(module, *place) for module in CORE for place in places(clone / SOURCE / f"{module}.py", rng)]
    numbered = [Mutant(number, *facts) for number, facts in enumerate(found)]
    rng.shuffle(numbered)
    return numbered[: options.sample]


class Tests:
    """Which tests run a line, shortest first."""

    def __init__(self, clone: pathlib.Path, worker: pathlib.Path) -> None:
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
        statements = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.stmt)]
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
    if not clone.exists():
        shutil.copytree(work / "clone", clone)
    _mine = clone, Tests(work / "clone", clone)


def judge(mutant: Mutant, options: Options) -> Mutant:
    """Mutate, test, restore, in the clone of this process."""
    clone, tests = _mine
    path = clone / SOURCE / f"{mutant.module}.py"
    chosen = tests.of(path, mutant.line, options.seconds)
    listed = clone / "chosen.txt"
    flags = ["-n0", "-x", "-pno:cacheprovider", "--no-header", "--no-cov", f"-m{SUITE}"]
    listed.write_text("\n".join([*flags, *chosen]))
    place = MutationSpec(path, mutant.operator, mutant.occurrence, (mutant.line, 0), (mutant.line, 1))
    os.chdir(clone)
    os.environ |= {"PYTHONPATH": str(clone / "src"), "MPLBACKEND": "Agg"}
    result = mutate_and_test([place], f"{sys.executable} -m pytest @{listed}", 10 * options.seconds)
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


def covered(clone: pathlib.Path) -> float:
    """The percentage of lines that the suite has run in the clone."""
    data = coverage.Coverage(data_file=str(clone / ".coverage"))
    data.load()
    return data.report(include=str(clone / "src" / "*"), file=io.StringIO())


def write_report(done: list[Mutant], options: Options) -> None:
    """The rate with its interval, by module, and every survivor with its reason."""
    reasons = json.loads(REASONS.read_text()) if REASONS.exists() else {}
    survivors = sorted((m for m in done if m.verdict == "survived"), key=lambda m: (m.module, m.line))
    killed = sum(mutant.verdict == "killed" for mutant in done)
    low, high = scipy.stats.binomtest(killed, len(done)).proportion_ci()
    counts = {m: [d.verdict for d in done if d.module == m] for m in CORE}
    revision = ["git", "-C", str(options.work / "clone"), "rev-parse", "--short=12", "HEAD"]
    tested = subprocess.run(revision, check=True, capture_output=True, text=True).stdout.strip()
    where = environment("benchmarks/mutation.py") | {"revision": tested}
    legend = (
        "A random sample of the places at which Cosmic Ray can change the numerical core, one change each. "
        "Each was tried with the tests (fast and slow) that run the changed statement, shortest first, up "
        f"to {options.seconds:.0f} s of them; what survived earlier tests of the same core was tried again "
        "with those of this revision. Mutants that change no result survive as well: see the reasons."
    )
    rows = [[m, str(len(verdicts)), str(verdicts.count("killed"))] for m, verdicts in counts.items()]
    lines = [
        *heading(where, f"Mutation testing, sample of {len(done)}, seed {options.seed}", legend),
        "",
        f"Those tests run {covered(options.work / 'clone'):.1f} % of the package's lines.",
        "",
        f"**{killed} of {len(done)} killed: {killed / len(done):.1%}** (95 %: {low:.1%} to {high:.1%})",
        "",
        *table(["module", "mutants", "killed"], rows),
        "",
        "Survivors:",
    ]
    for m in survivors:
        reason = reasons.get(str(m.number), "not looked into yet")
        lines += ["", f"- {m.number}, `{m.module}.py`, line {m.line}: {reason}", "", "  ```diff"]
        lines += [*(f"  {line}" for line in m.diff.splitlines()), "  ```"]
    settings = {"seed": options.seed, "seconds": options.seconds}
    result = {"environment": where, "settings": settings, "mutants": [dataclasses.asdict(m) for m in done]}
    save(result, lines, RESULTS, "mutation")


def main(options: Options) -> None:
    """Try every mutant that has no verdict yet, then write the report."""
    options = dataclasses.replace(options, work=options.work.absolute())
    options.work.mkdir(parents=True, exist_ok=True)
    # What a mutant leaves as it was is compiled once.
    programs = {"JAX_COMPILATION_CACHE_DIR": str(options.work / "programs")}
    os.environ |= programs | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3"}
    verdicts = options.work / "verdicts.jsonl"
    done = [Mutant(**json.loads(l)) for l in verdicts.read_text().splitlines()] if verdicts.exists() else []
    if options.retry:
        done = [mutant for mutant in done if mutant.verdict == "killed"]
        renew(options.work)
        verdicts.write_text("".join(json.dumps(dataclasses.asdict(mutant)) + "\n" for mutant in done))
    if not options.report:
        clone, known = prepare(options.work), {mutant.number for mutant in done}
        left = [mutant for mutant in mutants(clone, options) if mutant.number not in known]
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
    write_report(done, options)


if __name__ == "__main__":
    main(tyro.cli(Options))
