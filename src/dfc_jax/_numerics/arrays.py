"""Names for the arrays that recur everywhere, and one row of numbers as several arrays."""

import itertools
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


Scalar = Float[Array, ""]
Flag = Bool[Array, ""]
OutputVector = Float[Array, " out"]  # of one sample
OutputMatrix = Float[Array, "out out"]
BatchInputs = Float[Array, "batch ..."]
BatchOutputs = Float[Array, "batch out"]
BatchFlags = Bool[Array, " batch"]


def cut(row: Float[Array, " numbers"], shapes: Sequence[tuple[int, ...]]) -> tuple[Float[Array, "..."], ...]:
    """All of `row`, as one array after another of these shapes."""
    ends = list(itertools.accumulate(map(math.prod, shapes)))
    parts = jnp.split(row, ends[:-1])
    return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
