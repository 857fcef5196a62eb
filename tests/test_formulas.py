"""Formulas in the documentation: MathML in the page itself, numbered; what is no formula is a warning."""

import pathlib
import re

import pytest


ROOT = pathlib.Path(__file__).parents[1]
PAGE = r"""# Page

Inline $\tau_v$.

```{math}
:label: control
u = u_\text{int} + k_p e
```
"""


def built(page: str, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The page as HTML, and the warnings of its build."""
    testing = pytest.importorskip("sphinx.testing.util")
    for needed in ("math_core", "myst_parser"):
        pytest.importorskip(needed)
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "extensions"))
    (folder / "index.md").write_text(page)
    settings = 'extensions = ["myst_parser", "mathml"]\nhtml_math_renderer = "mathml"\n'
    (folder / "conf.py").write_text(settings + 'myst_enable_extensions = ["dollarmath"]\n')
    app = testing.SphinxTestApp("html", srcdir=folder)
    app.build()
    found = (folder / "_build" / "html" / "index.html").read_text(), app.warning.getvalue()
    app.cleanup()
    return found


def test_formulas_are_in_the_page(tmp_path, monkeypatch):
    page, warnings = built(PAGE, tmp_path, monkeypatch)
    assert warnings == "" and not re.search(r"<script[^>]*https?://", page)
    inline, block = re.findall(r"<math.*?</math>", page, flags=re.DOTALL)
    assert "<msub><mi>τ</mi><mi>v</mi></msub>" in inline and 'display="block"' in block
    assert re.search(r"</math></div><span class=\"eqno\">\(1\)", page)


def test_what_is_no_formula_is_a_warning(tmp_path, monkeypatch):
    page, warnings = built("# Page\n\nInline $\\nocommand < 1$.\n", tmp_path, monkeypatch)
    assert "nocommand" in warnings and "<code>\\nocommand &lt; 1</code>" in page
