"""What a script does before it imports anything else: say which packages of the project a machine lacks."""

import importlib.metadata
import pathlib
import sys
import tomllib


PROJECT = tomllib.loads((pathlib.Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = {"experiments": (), "test": ("pytest", "pytest-xdist")}  # all, or these of them
OWN = PROJECT["project"]["name"]


def wanted() -> list[str]:
    """What benchmarks need, as the project requires it, and the project itself."""
    extras = PROJECT["project"]["optional-dependencies"]
    chosen = [
        line for extra, names in EXTRAS.items() for line in extras[extra] if not names or _name(line) in names
    ]
    return [*PROJECT["project"]["dependencies"], *chosen, OWN]


def lacking(requirements: list[str]) -> list[str]:
    """A sentence for each requirement that is not met."""
    sentences = []
    for requirement in requirements:
        name, least = _name(requirement), requirement.partition(">=")[2]
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = None
        if found is None:
            sentences.append(f"{name} is not installed; {requirement} is needed.")
        elif least and _numbers(found) < _numbers(least):
            sentences.append(f"{name} is {found}; {requirement} is needed.")
    return sentences


def _name(requirement: str) -> str:
    return requirement.partition(">")[0].partition("=")[0]


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    parts = version.split(".")
    ends = next((i for i, part in enumerate(parts) if not part.isdigit()), len(parts))
    return tuple(map(int, parts[:ends]))


if problems := lacking(wanted()):
    remedy = "Without a network, carry them as wheels: benchmarks/on_gpu.sh says how."
    print("\n".join(["error: this machine lacks what benchmarks need.", *problems, remedy]), file=sys.stderr)
    sys.exit(2)
