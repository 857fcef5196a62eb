"""Formulas as MathML, which browsers draw themselves: without JavaScript and without the network."""

import html

import math_core
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator


TO_MATHML = math_core.LatexToMathML()
LOGGER = logging.getLogger(__name__)


def mathml(node: nodes.math | nodes.math_block, block: bool) -> str:
    """The formula's MathML; its LaTeX, with a warning, where that is not understood."""
    try:
        return TO_MATHML.convert_with_local_state(node.astext(), displaystyle=block)
    except math_core.LatexError as error:
        LOGGER.warning("%s", error, location=node)
        return f"<code>{html.escape(node.astext())}</code>"


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(mathml(node, block=False))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """A formula, and its number beside it: neither covers the other, however narrow the window."""
    translator.body.append(translator.starttag(node, "div", CLASS="equation"))
    translator.body.append(f'<div class="formula">{mathml(node, block=True)}</div>')
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
