"""Constructor calls in docstrings are accepted by the constructors."""

import inspect
import re

import diffrax
import jax
import jax.numpy as jnp
import optax
import optimistix as optx
import pandas
import pytest

import dfc_jax as dfc


RUN = {"history": dfc.History([{"epoch": 1}], 1, dfc.mlp((2, 2), key=jax.random.key(0)), None, None, [])}
MODULES = {"dfc": dfc, "diffrax": diffrax, "optx": optx, "optax": optax, "jax": jax, "jnp": jnp}
SCOPE = vars(diffrax) | vars(dfc) | MODULES | {"pandas": pandas} | RUN
# Name(...) between backticks, or alone on an indented line; numbers and parts given, nothing left out.
CALL = re.compile(r"`((?:\w+\.)?[A-Z]\w*\([^`]*\))`|^ {4,}((?:\w+\.)?[A-Z]\w*\(.*\))$", re.MULTILINE)


def examples() -> list[str]:
    found = set()
    for name in dir(dfc):
        text = inspect.getdoc(getattr(dfc, name)) or ""
        calls = [" ".join((inline or alone).split()) for inline, alone in CALL.findall(text)]
        found |= {call for call in calls if "..." not in call}
    return sorted(found)


def test_examples_are_found() -> None:
    assert "RootFind(optx.Dogleg(rtol=1e-6, atol=1e-6))" in examples() and len(examples()) > 10


@pytest.mark.parametrize("call", examples())
def test_what_a_docstring_writes_can_be_made(call: str) -> None:
    eval(call, SCOPE)
