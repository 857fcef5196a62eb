"""Sphinx: `sphinx-build -W --keep-going -n -b html docs docs/_build/html`, without the network.

Pages of the repository itself (README, results, notebooks) are copied to `repository/`, in their own folders,
so that their relative links and pictures work and are checked: a broken one fails the build. Links between
them and the pages of `docs` are written for a checkout, and turned to the copies here.
"""

import os
import pathlib
import re
import shutil
import sys
from importlib.metadata import version

from nbclient.output_widget import OutputWidget
from sphinx.application import Sphinx


DOCS = pathlib.Path(__file__).parent
sys.path.insert(0, str(DOCS / "extensions"))

# -- What the repository holds ------------------------------------------------------------------------------

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/*.md",
    "benchmarks/results/**/*.md",
    "experiments/results/**/*.md",
    "experiments/notebooks/*.ipynb",
)
# Pictures, and whatever else the pages may link to: those files become downloads.
LINKED = (
    "CITATION.cff",
    "LICENSE",
    "benchmarks/*.py",
    "benchmarks/results/**/*.png",
    "experiments/**/*.py",
    "experiments/results/**/*.png",
    "src/dfc_jax/**/*.py",
)


def with_title_and_picture(page: pathlib.Path) -> str:
    """The text of a results page; scripts write tables without a title, and their picture beside them."""
    text = page.read_text().replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
    if not text.startswith("# "):
        text = f"# {page.stem.replace('_', ' ').capitalize()}\n\n{text}"
    for picture in (page.with_suffix(".png"), page.with_name("comparison.png")):
        if picture.exists() and f"({picture.name})" not in text:
            text += f"\n![{picture.stem.replace('_', ' ')}]({picture.name})\n"
    return text


def seen_from_docs(page: pathlib.Path) -> str:
    """The text of a page. Pages of `docs` include those at the top, whose links start there."""
    text = page.read_text()
    if page.parent != DOCS.parent:
        return text

    def from_docs(link: re.Match) -> str:
        target = link[1].removeprefix("docs/")
        return f"](/{target}" if (DOCS / target).is_file() else f"](/repository/{target}"

    return re.sub(r"\]\((?!https?:|#)([^)#]+)", from_docs, text)


def copy_repository() -> None:
    root, target = DOCS.parent, DOCS / "repository"
    shutil.rmtree(target, ignore_errors=True)
    for pattern in (*PAGES, *LINKED):
        for path in root.glob(pattern):
            copy = target / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
            if path.suffix == ".md":
                results = "results" in path.parts
                copy.write_text(with_title_and_picture(path) if results else seen_from_docs(path))
                shutil.copystat(path, copy)  # so that a second build reads only what has changed


def with_links_to_copies(app: Sphinx, page: str, source: list[str]) -> None:
    """`source-read`: what a page of `docs` links to outside of it is in `repository` now."""
    up = "../" * page.count("/")
    if not page.startswith("repository/"):
        source[0] = source[0].replace(f"]({up}../", f"]({up}repository/")


def setup(app: Sphinx) -> None:
    app.connect("source-read", with_links_to_copies)


copy_repository()

# -- The pages ----------------------------------------------------------------------------------------------

project = "dfc_jax"
author = "The dfc_jax authors"
release = version = version("dfc_jax")
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinx_copybutton",
    "docstrings",
    "mathml",
    "names",
]
exclude_patterns = [
    "_build",
    "repository/README.md",  # index.md, guide.md, symbols.md and reproduction.md include its sections
    "repository/CONTRIBUTING.md",  # docs/CONTRIBUTING.md and docs/CHANGELOG.md include them
    "repository/CHANGELOG.md",
]
html_theme = "furo"
html_title = "dfc_jax"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_math_renderer = "mathml"
copybutton_prompt_text = r">>> |\.\.\. "  # what an example shows and a reader does not type
copybutton_prompt_is_regexp = True
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
highlight_language = "none"  # a block that names no language: commands and formulas

# -- Notebooks ----------------------------------------------------------------------------------------------

# Executed whenever they are read, so always in a fresh build, which is their test; `-D nb_execution_mode=off`
# skips that. The time limit is a cell's, of which compiling takes most on a slow machine.
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
# nbclient tells the kernel at once what a widget shows, and then misses the reply to the cell until the time
# limit is over (its issue 312). No page needs the kernel to know.
OutputWidget.sync_state = lambda self: None
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the pages must not depend on who builds them
os.environ.pop("MPLBACKEND", None)  # the kernel's own shows figures in the page

# -- The API ------------------------------------------------------------------------------------------------

autodoc_default_options = {"members": True, "special-members": "__call__", "member-order": "bysource"}
autodoc_typehints = "none"  # `docstrings` shows them
autodoc_inherit_docstrings = False  # a method that only does what its base class says stands there
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"
nitpick_ignore_regex = [
    # Types of other packages, whose documentation a build without the network cannot link to.
    (r"py:.*", r"(diffrax|eqx|jax|lx|np|optax|optx|os|pathlib)\..*"),
    (r"py:.*", r"Any|Array|ArrayLike|Bool|Callable|Complex|Float|Int|PRNGKeyArray|PyTree|Sequence|Shaped"),
    # What this library does not export.
    (r"py:.*", r"Augmentation|Lock|Measure|Metric|OnEpoch|StoppedBy|Transform"),
]
