"""What is said in several files of the repository is the same in all of them."""

import pathlib
import re
import subprocess
import tomllib

import pytest

import dfc_jax


ROOT = pathlib.Path(__file__).parents[1]
TOP_FILES = {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md", "hatch_build.py"}
TOP_FILES |= {"pyproject.toml", ".gitignore", ".pre-commit-config.yaml", ".readthedocs.yaml"}
TOP = TOP_FILES | {".ci", ".github", "benchmarks", "docs", "experiments", "src", "tests"}
SUFFIXES = {"", ".py", ".sh", ".md", ".css", ".yml", ".json", ".jsonl", ".csv", ".txt", ".ipynb", ".typed"}
SUFFIXES |= {".png", ".pdf", ".woff2", ".npz", ".checkpoint"}
WORKFLOWS = (".github/workflows/tests.yml", ".github/workflows/release.yml")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("name", [".pre-commit-config.yaml", ".readthedocs.yaml", *WORKFLOWS])
def test_yaml_can_be_read(name):
    yaml = pytest.importorskip("yaml")
    assert isinstance(yaml.safe_load((ROOT / name).read_text()), dict)


def test_git_follows_nothing_that_was_built_or_fetched():
    """As a wheel that `pip download` left behind."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("this is no checkout")
    files = [pathlib.PurePosixPath(line) for line in listing.stdout.splitlines()]
    assert {file.parts[0] for file in files} == TOP
    strange = {file.suffix for file in files if file.parts[0] not in TOP_FILES} - SUFFIXES
    assert not strange


def test_pre_commit_has_the_pinned_ruff():
    (pinned,) = (name for name in project()["optional-dependencies"]["test"] if name.startswith("ruff=="))
    revisions = re.findall(r"ruff-pre-commit\n    rev: v(.*)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert revisions == [pinned.removeprefix("ruff==")]


def test_the_version_is_one():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", citation, flags=re.MULTILINE) == [project()["version"]]
    assert dfc_jax.__version__ == project()["version"]
    newest = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[0]
    assert newest == project()["version"]


def test_the_extra_of_every_hint_exists():
    extras = set(project()["optional-dependencies"])
    files = [*ROOT.glob("src/**/*.py"), *ROOT.glob("experiments/**/*.py"), *ROOT.glob("*.md")]
    text = "\n".join(path.read_text() for path in files)
    hints = re.findall(r"(?:dfc_jax|\.)\[([a-z,]+)\]['\"]", text)
    found = {extra for hint in hints for extra in hint.split(",")}
    assert found <= extras and {"experiments", "test", "tfds"} <= found


def read_yaml(name: str) -> dict:
    return pytest.importorskip("yaml").safe_load((ROOT / name).read_text())


def test_the_release_is_published_by_trust_and_no_secret():
    release = (ROOT / ".github/workflows/release.yml").read_text()
    assert "secrets." not in release and "password" not in release
    jobs = read_yaml(".github/workflows/release.yml")["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"} and jobs["publish"]["needs"] == "build"
    assert jobs["publish"]["steps"][-1]["uses"].startswith("pypa/gh-action-pypi-publish@")
    assert {"run": ".ci/wheel dist"} in jobs["build"]["steps"]


def test_the_documentations_host_installs_what_builds_it():
    hosted = read_yaml(".readthedocs.yaml")
    (install,) = hosted["python"]["install"]
    assert install == {"method": "pip", "path": ".", "extra_requirements": ["docs"]}
    assert (ROOT / hosted["sphinx"]["configuration"]).is_file()


def test_pre_commit_runs_what_ci_runs():
    hooks = [hook for repo in read_yaml(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    ci = (ROOT / ".ci/run").read_text().replace('"', "")
    commands = {"ruff-check": "/ruff check ", "ruff-format": "/ruff format ", "ty": "/ty check "}
    assert all(commands[hook["id"]] in ci for hook in hooks) and len(hooks) == len(commands)


def test_the_metadata_name_authors_and_every_python_from_the_oldest():
    given = project()
    assert given["authors"] and given["requires-python"] == ">=3.11"
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(given["classifiers"]))
    assert named == ["3.11", "3.12", "3.13", "3.14"]


def test_readme_lists_what_else_there_is():
    _, listed = (ROOT / "README.md").read_text().split("## See also\n")
    linked = re.findall(r"\]\((https://[^)]*)\)", listed.split("\n## ")[0])
    assert len(linked) >= 5 and len(set(linked)) == len(linked)


def test_all_addresses_are_of_one_repository():
    urls = project()["urls"]
    assert set(urls) == {"Homepage", "Documentation", "Changelog", "Issues"}
    files = [(ROOT / name).read_text() for name in ("pyproject.toml", "CHANGELOG.md")]
    written = [url for text in files for url in re.findall(r"https://github.com/[^\s\"']+", text)]
    assert len(written) >= 5 and all(f"{url}/".startswith(f"{urls['Homepage']}/") for url in written)
