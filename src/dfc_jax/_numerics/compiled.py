"""Functions as programs that are compiled once, in an arithmetic that solvers can rely on."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import equinox as eqx
import jax
import numpy as np


_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def compiled(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """`function` as one program, as `one_program` makes it, whose products are those that solvers need.

    They have the precision of their operands, whatever JAX's default on the device. That rounds the
    operands of float32 products to 11 bits on GPUs (TF32) and to 8 on TPUs (bfloat16), which is less than the
    residuals that solvers are to reach: with it no sample of a DFC-SS step converges.
    """

    @functools.wraps(function)
    def precise(*args: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        with jax.default_matmul_precision("float32"):
            return function(*args, **options)

    return one_program(precise)


def one_program(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """`function` as one program for all arguments that differ in the numbers of their arrays only.

    Uncompiled, a loop or a branch of JAX's is compiled anew in every call, since its body is another function
    each time: seconds, and memory maps of which Linux grants a process so many. In another program this one
    is a part.
    """
    program = eqx.filter_jit(function)

    @functools.wraps(function)
    def call(*args: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        # What no program takes is left to the function's own checks, which name the argument.
        fits = all(map(_fits_a_program, jax.tree.leaves((args, options))))
        return program(*args, **options) if fits else function(*args, **options)

    return call


def _fits_a_program(leaf: object) -> bool:
    """Whether a leaf is an array of numbers or can be compared with that of the next call."""
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype.kind not in "OSUMm"  # objects, text and times
    try:
        hash(leaf)
    except TypeError:
        return isinstance(leaf, jax.Array)
    return True
