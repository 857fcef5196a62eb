"""The report of the mutation tests: what was killed, and every survivor."""

import dataclasses
import io
import json
import pathlib
import subprocess

import scipy.stats
from mutation_places import CORE, Mutant
from reporting import environment, heading, save, table


REASONS = pathlib.Path(__file__).parent / "mutation_survivors.json"


def covered(clone: pathlib.Path) -> float:
    """The percentage of lines that the suite has run in the clone."""
    import coverage

    data = coverage.Coverage(data_file=str(clone / ".coverage"))
    data.load()
    return data.report(include=str(clone / "src" / "*"), file=io.StringIO())


def write_report(
    done: list[Mutant], clone: pathlib.Path, seed: int, seconds: float, out: pathlib.Path
) -> None:
    """The rate with its interval, by module, and every survivor with its reason.

    `seed` is that of the sample, `seconds` what the tests of a mutant may take.
    """
    reasons = json.loads(REASONS.read_text(encoding="utf-8")) if REASONS.exists() else {}
    survivors = sorted((m for m in done if m.verdict == "survived"), key=lambda m: (m.module, m.line))
    killed = sum(mutant.verdict == "killed" for mutant in done)
    low, high = scipy.stats.binomtest(killed, len(done)).proportion_ci()
    counts = {m: [d.verdict for d in done if d.module == m] for m in CORE}
    revision = ["git", "-C", str(clone), "rev-parse", "--short=12", "HEAD"]
    tested = subprocess.run(revision, check=True, capture_output=True, text=True).stdout.strip()
    where = environment("benchmarks/mutation.py") | {"revision": tested}
    legend = (
        "A random sample of the places at which Cosmic Ray can change the numerical core, one change each. "
        "Each was tried with the tests (fast and slow) that run the changed statement, shortest first, up "
        f"to {seconds:.0f} s of them; what survived earlier tests of the same core was tried again "
        "with those of this revision. Mutants that change no result survive as well: see the reasons."
    )
    rows = [[m, str(len(verdicts)), str(verdicts.count("killed"))] for m, verdicts in counts.items()]
    lines = [
        *heading(where, f"Mutation testing, sample of {len(done)}, seed {seed}", legend),
        "",
        f"Those tests run {covered(clone):.1f} % of the package's lines.",
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
    settings = {"seed": seed, "seconds": seconds}
    result = {"environment": where, "settings": settings, "mutants": [dataclasses.asdict(m) for m in done]}
    save(result, lines, out, "mutation")
