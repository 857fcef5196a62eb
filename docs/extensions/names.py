"""Public names in backticks, `DFCSS` or `DFCSS(target=...)`, link to the API, on every page alike."""

import re

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

import dfc_jax


class LinkNames(SphinxTransform):
    default_priority = 500

    def apply(self) -> None:
        for literal in list(self.document.findall(nodes.literal)):
            name = re.match(r"(?:dfc\.|dfc_jax\.)?(\w+)(?:$|\(.*\)$|\.\w+$)", literal.astext())
            thing = getattr(dfc_jax, name[1], None) if name else None
            if not getattr(thing, "__module__", "").startswith("dfc_jax.") or _is_link_or_title(literal):
                continue
            link = pending_xref(
                "",
                refdomain="py",
                reftype="obj",
                reftarget=f"dfc_jax.{name[1]}",
                refexplicit=True,
                refdoc=self.env.docname,
            )
            literal.replace_self(link)
            link += literal


def _is_link_or_title(node: nodes.Node) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, nodes.reference | pending_xref | nodes.title):
            return True
    return False


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(LinkNames)
    return {"parallel_read_safe": True}
