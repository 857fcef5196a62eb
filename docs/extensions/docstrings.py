"""Docstrings are Markdown here: MyST renders them. Signatures are shown as the source writes them.

Autodoc alone would read docstrings as reStructuredText, and show a module's arguments and defaults by their
`repr`, in which jaxtyping's shapes and Equinox's arrays are hard to read.
"""

import ast
import copy
import dataclasses
import inspect
import pathlib
import re
import textwrap
from typing import Any

import equinox as eqx
from docutils import nodes
from docutils.utils import new_document
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import dfc_jax


class Markdown(SphinxDirective):
    """A piece of Markdown within reStructuredText, which autodoc writes."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        document = new_document(self.get_source_info()[0], self.state.document.settings)
        MystParser().parse("\n".join(self.content), document)
        return document.children


def as_markdown(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """`autodoc-process-docstring`: wrap the docstring, and add what the class itself says."""
    text = re.sub(
        r"^>>> .*(?:\n.+)*", lambda found: f"```pycon\n{found[0]}\n```", "\n".join(lines), flags=re.M
    )
    if isinstance(thing, property):
        text += f"\n\nType: `{readable(parsed(thing.fget).body[0].returns)}`."
    if inspect.isclass(thing):
        fields = [] if "**Arguments:**" in text else described_fields(thing)
        text = "\n\n".join([text, *fields, *base_of(thing)])
    if text.strip():
        lines[:] = [".. markdown::", "", *textwrap.indent(text, "   ").splitlines(), ""]


def described_fields(module: type) -> list[str]:
    """The fields that a comment in the source explains, as a list."""
    source = inspect.getsource(module).splitlines()
    ends = {field: source[field.end_lineno - 1] for field in fields_of(module) if field.end_lineno}
    notes = {f.target.id: line.partition("  # ")[2] for f, line in ends.items() if "  # " in line}
    listed = "\n".join(f"- `{name}`: {note}" for name, note in notes.items())
    return [f"**Fields:**\n\n{listed}"] if listed else []


def base_of(module: type) -> list[str]:
    """The public class whose place an instance can take."""
    bases = [base.__name__ for base in module.__mro__[1:] if getattr(dfc_jax, base.__name__, None) is base]
    return [f"An implementation of `{bases[0]}`."] if bases else []


def as_written(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, arguments: str, returns: str
) -> tuple[str, str | None] | None:
    """`autodoc-process-signature`: the signature from the source."""
    if what == "class" and issubclass(thing, eqx.Module):
        return ("" if inspect.isabstract(thing) else f"({fields_signature(thing)})"), None
    if what not in ("function", "method"):
        return None
    (function,) = parsed(inspect.unwrap(thing)).body
    args = function.args
    if args.args and args.args[0].arg == "self":
        del args.args[0]
    return f"({readable(args)})", readable(function.returns) if function.returns else None


def fields_signature(module: type) -> str:
    """The arguments of a module's constructor, which are its fields."""
    written = {}
    for owner in reversed(module.__mro__):
        if issubclass(owner, eqx.Module) and owner is not eqx.Module:
            written |= {field.target.id: field for field in fields_of(owner)}
    fields = [(written[f.name].annotation, written[f.name], f.name) for f in dataclasses.fields(module)]
    return ", ".join(f"{name}: {readable(kind)}{default(field)}" for kind, field, name in fields)


def fields_of(module: type) -> list[ast.AnnAssign]:
    return [node for node in parsed(module).body[0].body if isinstance(node, ast.AnnAssign)]


def default(field: ast.AnnAssign) -> str:
    """The default of a field, also where `number`, `count`, `flag`, `default` or `eqx.field` holds it."""
    value = field.value
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("number", "count", "flag"):
        value = value.args[1]
    elif isinstance(value, ast.Call) and ast.unparse(value.func) == "default":
        value = ast.Call(value.args[0], value.args[1:], value.keywords)
    elif isinstance(value, ast.Call) and ast.unparse(value.func) == "eqx.field":
        value = next((k.value for k in value.keywords if k.arg == "default"), None)
    return "" if value is None else f" = {ast.unparse(value)}"


def readable(node: ast.AST) -> str:
    """Source text of annotations: aliases spelt out, shapes without jaxtyping's leading blank."""
    return ast.unparse(_Readable().visit(node))


def aliases() -> dict[str, ast.expr]:
    """The names of array types that the source defines for its own use, as `Name = Float[Array, "..."]`."""
    package = pathlib.Path(dfc_jax.__file__).parent
    sources = [package / part for part in ("_numerics/arrays.py", "_dynamics/states.py")]
    written = [node for path in sources for node in ast.parse(path.read_text()).body]
    assigned = [node for node in written if isinstance(node, ast.Assign)]
    return {node.targets[0].id: node.value for node in assigned if isinstance(node.value, ast.Subscript)}


ALIASES = aliases()


class _Readable(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.visit(copy.deepcopy(ALIASES[node.id])) if node.id in ALIASES else node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if not isinstance(node.value, str):
            return node
        if node.value in vars(dfc_jax):  # a class that is named before it exists
            return ast.Name(node.value)
        return ast.Constant(node.value.strip())


def parsed(thing: Any) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(thing)))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("markdown", Markdown)
    app.connect("autodoc-process-docstring", as_markdown)
    app.connect("autodoc-process-signature", as_written)
    return {"parallel_read_safe": True}
