"""What is said in several files of the repository is the same in all of them."""

import pathlib
import re
import tomllib

import pytest

import dfc_jax


ROOT = pathlib.Path(__file__).parents[1]
WORKFLOWS = (".github/workflows/tests.yml", ".github/workflows/release.yml")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("name", [".pre-commit-config.yaml", ".readthedocs.yaml", *WORKFLOWS])
def test_yaml_can_be_read(name):
    yaml = pytest.importorskip("yaml")
    assert isinstance(yaml.safe_load((ROOT / name).read_text()), dict)


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


def test_all_addresses_are_of_one_repository():
    urls = project()["urls"]
    assert set(urls) == {"Homepage", "Documentation", "Changelog", "Issues"}
    files = [(ROOT / name).read_text() for name in ("pyproject.toml", "CHANGELOG.md")]
    written = [url for text in files for url in re.findall(r"https://github.com/[^\s\"']+", text)]
    assert len(written) >= 5 and all(f"{url}/".startswith(f"{urls['Homepage']}/") for url in written)
