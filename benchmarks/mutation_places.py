"""Where the numerical core can be changed: the mutants, one for each place."""

import ast
import collections
import dataclasses
import pathlib
import random


ROOT = pathlib.Path(__file__).parent.parent
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


def places(path: pathlib.Path, rng: random.Random) -> list[tuple[int, str, int]]:
    """Line, operator and occurrence of one mutation for every place of a file that is no annotation."""
    import cosmic_ray.plugins  # an extra, which --help does without
    from cosmic_ray.ast import ast_nodes, get_ast_from_path

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


def mutants(clone: pathlib.Path, seed: int, sample: int | None) -> list[Mutant]:
    """All of them, or a random sample, in random order."""
    rng = random.Random(seed)
    found = [(module, *place) for module in CORE for place in places(clone / SOURCE / f"{module}.py", rng)]
    numbered = [Mutant(number, *facts) for number, facts in enumerate(found)]
    rng.shuffle(numbered)
    return numbered[:sample]
