"""How often an update computes the network under control: what a vector field costs, whatever the machine."""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Float
from updates import compiled_update

import dfc_jax as dfc


class Counted(dfc.Linear):
    """A linear activation that calls `count` whenever its layer is displaced."""

    count: Callable[[], None] = eqx.field(static=True)

    def difference(self, a: Float[Array, "*n"], d: Float[Array, "*n"]) -> Float[Array, "*n"]:
        jax.debug.callback(self.count)
        return super().difference(a, d)


def sweeps(method: dfc.AbstractMethod, model: dfc.Network, x: Array, y: Array) -> int:
    """How often the batch's output layer was displaced, counted while the update runs."""
    activation, seen = _counter()
    seen.clear()
    counted = eqx.tree_at(lambda m: m.layers[-1].activation, model, activation)
    jax.block_until_ready(compiled_update(method, counted, x, y, None))
    jax.effects_barrier()
    return len(seen)


@functools.cache
def _counter() -> tuple[Counted, list]:
    """One counter for all, so that programs that count are compiled once too."""
    seen = []
    return Counted(lambda: seen.append(1)), seen
