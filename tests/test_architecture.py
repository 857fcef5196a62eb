"""Imports run one way: a package uses only those below it. Only what is public shows."""

import ast
import pathlib
import types

import dfc_jax


SOURCE = pathlib.Path(__file__).parent.parent / "src" / "dfc_jax"
ABOVE_TO_BELOW = (
    "_training", "_analysis", "_methods", "_average", "_steady_state", "_dynamics",
    "_runs", "_data", "_network", "_numerics",
)  # fmt: skip


def test_a_package_imports_only_what_lies_below_it():
    for file in SOURCE.glob("*/*.py"):
        below = ABOVE_TO_BELOW[ABOVE_TO_BELOW.index(file.parent.name) :]
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dfc_jax."):
                package = node.module.split(".")[1]
                assert package in (*below, "_bar", "_checks", "_fields", "_lock"), f"{file}: {node.module}"


def test_no_module_shows_among_the_public_names():
    names = ("jaxtyping",)  # which the hook for the tests puts into every module
    shown = {n: thing for n, thing in vars(dfc_jax).items() if not n.startswith("_") and n not in names}
    assert not [name for name, thing in shown.items() if isinstance(thing, types.ModuleType)]
    foreign = {n for n, thing in shown.items() if not getattr(thing, "__module__", "").startswith("dfc_jax.")}
    assert foreign == {"DATASETS", "Record"}  # a tuple and a type of the standard library
