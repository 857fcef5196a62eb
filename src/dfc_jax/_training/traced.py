"""Functions by what they compute: one compiled program serves all that differ in their numbers alone.

JAX compiles anew for every other function object and keeps what it compiled: each `optax.adam(rate)` of a
sweep would cost seconds and memory until the process ends.
"""

from collections.abc import Callable
from typing import Any, cast

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal, Var
from jaxtyping import Array, PyTree


class _Program:
    """What a function computes, its numbers apart, which come first of its inputs; equal to others that
    compute the same."""

    def __init__(self, jaxpr: Jaxpr, numbers: int, outputs: PyTree) -> None:
        self.jaxpr, self.outputs = jaxpr, outputs
        # By the digest of this text runs know their optimiser again; JAX 0.10 tells constants from inputs.
        self.text = str(jaxpr.replace(constvars=jaxpr.invars[:numbers], invars=jaxpr.invars[numbers:]))

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        # Functions that a text names by their address are alive as long as the program that holds them.
        same = isinstance(other, _Program) and self.text == other.text
        return same and bool(eqx.tree_equal(self.outputs, other.outputs))


class Traced(eqx.Module):
    """A function for arguments of certain shapes, with its numbers as arrays: `trace` makes one."""

    numbers: tuple[Array, ...]
    program: _Program = eqx.field(static=True)

    def __call__(self, *arguments: Any) -> Any:
        arrays = jax.tree.leaves(eqx.filter(arguments, eqx.is_array))
        wanted = [_dtype(place) for place in self.program.jaxpr.invars[len(self.numbers) :]]
        arrays = [_cast(array, dtype) for array, dtype in zip(arrays, wanted, strict=True)]
        found = jax.core.eval_jaxpr(self.program.jaxpr, (), *self.numbers, *arrays)
        shapes, rest = eqx.partition(self.program.outputs, _is_shape)
        return eqx.combine(jax.tree.unflatten(jax.tree.structure(shapes), found), rest)


def trace(function: Callable[..., Any], *arguments: Any) -> Traced:
    """`function`, for arguments of these shapes."""
    closed, shapes, rest = eqx.filter_make_jaxpr(function)(*arguments)
    jaxpr, numbers = _without_numbers(closed.jaxpr)
    numbers = [*map(jnp.asarray, closed.consts), *numbers]
    return Traced(tuple(numbers), _Program(jaxpr, len(numbers), eqx.combine(shapes, rest)))


def _without_numbers(jaxpr: Jaxpr) -> tuple[Jaxpr, list[Array]]:
    """The program with its constants and floating-point numbers as its first inputs, and the latter."""
    places: list[Var] = []
    numbers: list[Array] = []

    def place(atom: Var | Literal) -> Var | Literal:
        if not isinstance(atom, Literal) or not jnp.issubdtype(_dtype(atom), jnp.floating):
            return atom
        places.append(Var(atom.aval))
        numbers.append(jnp.asarray(atom.val, _dtype(atom)))
        return places[-1]

    steps = [step.replace(invars=[place(atom) for atom in step.invars]) for step in jaxpr.eqns]
    outputs = [place(atom) for atom in jaxpr.outvars]
    inputs = [*jaxpr.constvars, *places, *jaxpr.invars]
    return jaxpr.replace(constvars=[], invars=inputs, eqns=steps, outvars=outputs), numbers


def _dtype(atom: Var | Literal) -> Any:  # those of keys are not NumPy's
    return cast(jax.core.ShapedArray, atom.aval).dtype


def _cast(array: Array, dtype: Any) -> Array:
    return array if array.dtype == dtype else jnp.asarray(array, dtype)


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)
