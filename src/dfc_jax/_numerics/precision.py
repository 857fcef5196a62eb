"""The arithmetic of matrix products, which accelerators shorten unless they are asked not to."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax


_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def in_full_precision(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """`function` with products in the precision of their operands, whatever JAX's default on the device.

    That rounds the operands of float32 products to 11 bits on GPUs (TF32) and to 8 on TPUs (bfloat16), which
    is less than the residuals that solvers are to reach: with it no sample of a DFC-SS step converges.
    """

    @functools.wraps(function)
    def precise(*args: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        with jax.default_matmul_precision("float32"):
            return function(*args, **options)

    return precise
