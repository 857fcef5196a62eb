"""What is known to go wrong with a method's solver: said before the first epoch, and after each."""

from collections.abc import Iterator

from jaxtyping import Array

from dfc_jax._analysis.failures import reasons_for_failure
from dfc_jax._checks import warn
from dfc_jax._dynamics.stability import LoopStability
from dfc_jax._methods.base import AbstractMethod
from dfc_jax._network.network import Network
from dfc_jax._training.recipes import Given
from dfc_jax._training.state import Run


def doubts_before(given: list[Given], models: list[Network], handful: tuple[Array, Array]) -> Iterator[str]:
    """What the methods know to go wrong, each of them asked once."""
    asked = set()
    for run, model in zip(given, models, strict=True):
        if id(run.method) not in asked:
            asked.add(id(run.method))
            yield from run.method.doubts(model, *handful)


# Of a loop whose stability costs little beside an epoch.
_MODES = 100
# The part of an epoch's samples that a fallback may have to solve before it is said.
_LEFT_OVER = 0.5


def judge_loops(model: Network, method: AbstractMethod, handful: tuple[Array, Array]) -> LoopStability | None:
    """Whether the loops of a handful of samples are stable after an epoch, if that is soon said."""
    return method.loop_stability(model, *handful, most=_MODES)


def doubt_epoch(
    run: Run,
    handful: tuple[Array, Array],
    method: AbstractMethod,
    min_converged: float,
    loops: LoopStability | None,
) -> None:
    """Note, and warn, that too few samples have converged, and why, that most had to be solved twice, or that
    loops are unstable; each once a run."""
    few = lambda record: record["converged"] < min_converged
    twice = lambda record: not few(record) and record["fallback"] > _LEFT_OVER
    first = lambda holds: holds(last) and not any(holds(record) for record in before)
    *before, last = run.records
    epoch, found = last["epoch"], []
    if first(twice):
        found = [
            f"The `equilibrium` left {last['fallback']:.0%} of the samples of epoch {epoch} to the "
            "`fallback`: the updates are right, but two schemes work for one. Look for one that finds these "
            "steady states."
        ]
    elif first(few):
        reasons = reasons_for_failure(method, run.model, *handful)
        unknown = "No cause was found in a handful of samples: look at the residuals in the method's report."
        found = [f"Only {last['converged']:.1%} of the samples converged in epoch {epoch}."]
        found += reasons or [unknown]
    if not run.unstable and loops is not None and loops.doubts:
        run.unstable = True
        found += [f"After epoch {epoch}: {doubt}" for doubt in loops.doubts if doubt not in found]
    if found:
        run.doubts += found
        warn(" ".join(found))
