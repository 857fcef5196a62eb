"""The README's Python runs as it stands, block after block, in a fresh interpreter; so do the docstrings'."""

import doctest
import importlib
import pathlib
import pkgutil
import re
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from helpers import relative_error

import dfc_jax


README = pathlib.Path(__file__).parent.parent / "README.md"


@pytest.mark.slow
def test_the_examples_of_the_docstrings_run():
    names = [module.name for module in pkgutil.walk_packages(dfc_jax.__path__, "dfc_jax.")]
    found = [doctest.testmod(importlib.import_module(name)) for name in names]
    assert sum(result.failed for result in found) == 0
    assert sum(result.attempted for result in found) >= 14


def test_the_loop_of_ones_own_learns_the_layers_and_leaves_the_feedback(as_users_run):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    (loop,) = (block for block in blocks if "optimiser.init" in block)
    x, y = np.ones((4, 6), np.float32), np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    start, part = dfc_jax.mlp((6, 5, 3), key=jax.random.key(0)), dfc_jax.Split(x, y)
    data = dfc_jax.Dataset("four", part, part, part, classification=True)
    names = {"dfc": dfc_jax, "optax": optax, "model": start, "method": dfc_jax.DFCSSA(), "data": data}
    exec(loop, names)
    assert "weight_decay" in loop and relative_error(names["model"].layers, start.layers) > 1e-4
    assert relative_error(names["model"].feedback, start.feedback) == 0


@pytest.mark.slow  # compiles a dozen programs; .ci/run runs it beside the fast suite
def test_the_code_blocks_run_in_order():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 7
    program = "\n".join([*blocks, "print(control.shape)"])
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    accuracy, step, accuracies, diagnosed, by_layer, shape = done.stdout.splitlines()
    assert float(accuracy) > 0.9
    assert len(accuracies.split(",")) == 3
    angle, condition = map(float, diagnosed.split())
    assert 0 < angle < 90 and 0.5 < condition < 1
    assert all(0 < float(layer) < 60 for layer in by_layer.strip("[]").split(","))
    converged, residual, stable = map(float, step.split())
    assert converged == 1 and stable == 1 and 0 < residual <= 3e-5
    assert shape == "(101, 10)"
