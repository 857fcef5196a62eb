"""One training run, or several along the first axis."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.random as jr
from jaxtyping import PyTree


def for_runs(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`function(run, *shared)` with one argument more, `many`, before them: whether `run` is several runs.

    The arrays of several runs lie along a first axis of `run`, and of what is returned. What the runs share
    is the same for all.
    """

    def of_runs(many: bool, run: PyTree, *shared: Any) -> PyTree:
        if not many:
            return function(run, *shared)
        axes = eqx.if_array(0), *[None] * len(shared)
        return eqx.filter_vmap(function, in_axes=axes)(run, *shared)

    # By which profiles and logs of compilations know it.
    of_runs.__name__ = getattr(function, "__name__", of_runs.__name__)
    return of_runs


fold_in = for_runs(jr.fold_in)  # (many, key, number)
split = for_runs(lambda key: tuple(jr.split(key)))  # (many, key): two keys
