"""What the built distributions must hold, and what they must not: `python .ci/contents.py DIST`."""

import pathlib
import re
import sys
import tarfile
import zipfile


SHARED = ("dfc_jax/__init__.py", "dfc_jax/_command.py", "dfc_jax/py.typed")
EXPERIMENTS = pathlib.Path(__file__).parents[1] / "experiments"
SCRIPTS = [str(file.relative_to(EXPERIMENTS)) for file in sorted(EXPERIMENTS.rglob("*.py"))]
UNWANTED = ("tests", "results", "notebooks", "benchmarks", "docs", "runs", "__pycache__")


def check(names: list[str], wanted: list[str], archive: pathlib.Path) -> None:
    missing = sorted(set(wanted) - set(names))
    unwanted = [name for name in names if set(pathlib.PurePosixPath(name).parts) & set(UNWANTED)]
    if missing or unwanted:
        sys.exit(f"{archive.name} lacks {missing} and holds {unwanted}, which it should not.")


def check_description(metadata: str, archive: pathlib.Path) -> None:
    """README as a package index shows it: without the files beside it, to which relative links lead."""
    links = re.findall(r"\]\(([^)]*)\)", metadata)
    relative = [link for link in links if not link.startswith("https://")]
    if not links or relative or "$HFPR" in metadata:
        sys.exit(f"README in {archive.name} has {len(links)} links, of which relative are {relative}.")


def main(dist: pathlib.Path) -> None:
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    root = source.name.removesuffix(".tar.gz")
    in_wheel = [*SHARED, *(f"dfc_jax/_experiments/{name}" for name in SCRIPTS)]
    in_wheel += [f"{root}.dist-info/{name}" for name in ("entry_points.txt", "licenses/LICENSE")]
    with zipfile.ZipFile(wheel) as archive:
        check(archive.namelist(), in_wheel, wheel)
        check_description(archive.read(f"{root}.dist-info/METADATA").decode(), wheel)
    in_source = [*(f"src/{name}" for name in SHARED), *(f"experiments/{name}" for name in SCRIPTS)]
    in_source += ["LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"]
    with tarfile.open(source) as archive:
        check(archive.getnames(), [f"{root}/{name}" for name in in_source], source)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
