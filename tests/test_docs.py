"""The documentation: every public name has one entry, and links lead somewhere in a checkout, too."""

import ast
import collections
import pathlib
import re

import pytest


ROOT = pathlib.Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(page for page in ROOT.glob("docs/**/*.md") if "repository" not in page.parts)]
ENTRY = re.compile(r"^\.\. (?:autoclass|autofunction|py:data):: (\w+)$", re.MULTILINE)


def test_every_public_name_has_one_entry():
    package = ast.parse((ROOT / "src/dfc_jax/__init__.py").read_text())
    imports = [node for node in package.body if isinstance(node, ast.ImportFrom)]
    names = [alias.asname for node in imports for alias in node.names]
    public = [name for name in names if name is not None and not name.startswith("_")]
    pages = (ROOT / "docs/api").glob("*.md")
    entries = collections.Counter(name for page in pages for name in ENTRY.findall(page.read_text()))
    assert entries == collections.Counter(public)
    assert len(public) > 100


def test_every_page_of_the_reference_is_in_its_table_of_contents():
    pages = {page.stem for page in (ROOT / "docs/api").glob("*.md")} - {"index"}
    index = (ROOT / "docs/api/index.md").read_text()
    assert pages == set(index.partition("{toctree}")[2].split("```")[0].split()[2:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_lines_of_code_fit_the_column(page):
    """Of a window 1366 pixels wide: as many characters as the code itself has."""
    text = page.read_text()
    blocks = "\n".join(re.findall(r"```\w+\n(.*?)```", text, flags=re.DOTALL)).splitlines()
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    indented = [line.removeprefix("    ") for line in prose.splitlines() if line.startswith("    ")]
    assert [line for line in (*blocks, *indented) if len(line) > 110] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_of_the_repository(page):
    """In the built documentation `sphinx-build -W` checks them."""
    copies = ROOT / "docs" / "repository"  # which only a build makes
    for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        target = (page.parent / link).resolve()
        assert target.is_file() and not target.is_relative_to(copies), f"{page.name}: {link}"
