"""How the benchmarks measure time: programs compiled ahead, timed in turn, as ratios to a baseline."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree


@dataclasses.dataclass
class Case:
    """A compiled program, ready to be timed."""

    call: Callable[[], PyTree]
    on: Callable[..., PyTree]  # the same with other arguments, of the same shapes
    compile_seconds: float
    temporary_bytes: int
    calls: int  # in a row, so that a round is long enough for the clock
    times: dict[int, float] = dataclasses.field(default_factory=dict)  # seconds of one call, by round

    def with_arguments(self, *arguments: PyTree) -> "Case":
        """The same program with other arguments, of the same shapes, and no times yet."""
        return dataclasses.replace(self, call=lambda: self.on(*arguments), times={})


def compile_case(function: Callable[..., PyTree], *arguments: PyTree) -> Case:
    """Compile ahead of time: what is called afterwards spends next to no time in Python."""
    arrays, static = eqx.partition(arguments, eqx.is_array)
    start = time.perf_counter()
    compiled = jax.jit(lambda given: function(*eqx.combine(given, static))).lower(arrays).compile()
    seconds = time.perf_counter() - start
    call = lambda: compiled(arrays)
    on = lambda *others: compiled(eqx.filter(others, eqx.is_array))
    jax.block_until_ready(call())
    calls = math.ceil(0.02 / _seconds(call, 2))
    return Case(call, on, seconds, compiled.memory_analysis().temp_size_in_bytes, min(calls, 50))


def _seconds(call: Callable[[], PyTree], calls: int) -> float:
    """Of one call among so many in a row.

    A CPU would compute them side by side, so each is waited for. A GPU computes one after another while the
    host goes on to the next, as in training; waiting there would add half a millisecond to every method.
    """
    each = jax.block_until_ready if jax.default_backend() == "cpu" else lambda found: found
    start = time.perf_counter()
    for _ in range(calls):
        found = each(call())
    jax.block_until_ready(found)
    return (time.perf_counter() - start) / calls


def in_turn(items: Sequence[Any], turn: int) -> Sequence[Any]:
    """In one order, and in every other turn in the opposite one."""
    return items if turn % 2 == 0 else items[::-1]


def measure(cases: list[Case], rounds: int, seconds: float) -> None:
    """Time all cases in turn, in one order and then in the other; the slow ones drop out first."""
    spent = dict.fromkeys(range(len(cases)), 0.0)
    for turn in range(rounds):
        order = [i for i in spent if turn < 3 or spent[i] < seconds]
        for i in in_turn(order, turn):
            cases[i].times[turn] = _seconds(cases[i].call, cases[i].calls)
            spent[i] += cases[i].times[turn] * cases[i].calls


def memory_added(case: Case, baseline: Case) -> dict[str, float]:
    """MiB of temporary memory that XLA plans beyond the baseline's."""
    return {"memory_added_mib": (case.temporary_bytes - baseline.temporary_bytes) / 2**20}


def cost(kind: str, case: Case, baseline: Case) -> dict[str, Any]:
    """Median time, and quartiles of the ratio to the baseline in the same round."""
    ratios = [case.times[turn] / baseline.times[turn] for turn in case.times.keys() & baseline.times.keys()]
    lower, median, upper = np.percentile(ratios, [25, 50, 75]).tolist()
    milliseconds = 1e3 * float(np.median(list(case.times.values())))
    cost = {"ratio": median, "ratio_quartiles": [lower, upper], "milliseconds": milliseconds}
    return {f"{kind}_{name}": value for name, value in (cost | {"rounds": len(ratios)}).items()}
