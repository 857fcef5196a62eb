"""Imports run one way: a package uses only those below it."""

import ast
import pathlib


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
                assert package in (*below, "_checks", "_fields"), f"{file}: {node.module}"
