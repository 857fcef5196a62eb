"""How exact every solver is and what it costs, in the regimes that a training run goes through.

    python benchmarks/solvers.py            # minutes; writes to runs/benchmarks
    python benchmarks/solvers.py --small    # a small network and few solvers, for a first look
    python benchmarks/solvers.py --precisions float32 default    # what TF32 would do, on a GPU

Updates are computed in float32 and in float64, or in float32 with products as JAX has them by default on the
device (which rounds their operands: on recent GPUs to TF32), where the library asks for full ones. Angles and
errors are to a float64 reference of the same method, itself checked by a second scheme that shares nothing
with the first: steady states by pseudo-transient continuation and by Broyden's method, averages by implicit
Euler in 1600 steps and by Tsit5. Times are medians over rounds of the ratio to backprop's gradient in the
same round and precision.
"""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import Any, Literal

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from contenders import AVERAGE, NUDGED_ONLY, SMALL, STEADY
from jaxtyping import Array, Float, PyTree
from regimes import make_regimes, Regime
from reporting import (
    check,
    environment,
    finish,
    heading,
    machine,
    OUT,
    outermost,
    parse,
    plt,
    save,
    settings_of,
    shown,
    table,
)
from sweeps import sweeps
from timing import Case, compile_case, cost, measure, memory_added
from updates import angle_degrees, as_vector, compiled_update, default_products, update_of

import dfc_jax as dfc


COLUMNS = {
    "time": ("update_ratio", ".3g"),
    "angle": ("angle_degrees", ".2g"),
    "error of u": ("largest_error_of_control", ".0e"),
    "residual": ("largest_residual", ".0e"),
    "sweeps": ("sweeps", "d"),
    "converged": ("converged", ".1%"),
    "wrong labels": ("converged_wrong_labels", ".1%"),
    "fallback": ("fallback_wrong_labels", ".1%"),
    "compile": ("compile_seconds", ".2f"),
    "memory": ("memory_added_mib", ".1f"),
}
PRECISIONS = {"float32": jnp.float32, "float64": jnp.float64, "default": jnp.float32}
FILLED = {"float32": ("full", "filled"), "float64": ("none", "hollow"), "default": ("bottom", "half")}
NUDGED = ("init-nudge", "mid-nudge", "late-nudge")
REGIMES = (*NUDGED, "init-strong", "late-strong", "random-feedback", "stale-feedback")
LEGEND = (
    "time: of an update, over backprop's gradient; angle: of the update to the float64 reference of the same "
    "method, in degrees; error of u: the batch's largest, of the control at the end, relative to the "
    "reference's (for averages that after T = 10); residual: the batch's largest, relative to the target "
    "error (for averages that of the last state, which need not be at rest); sweeps: how often the batch's "
    "network is computed under control, which is what a vector field costs, the teaching signals included, "
    "Jacobians not; converged: samples of the batch, then with permuted labels; fallback: samples with "
    "permuted labels that needed it; compile: seconds of wall-clock on this machine; memory: MiB of "
    "temporary memory that XLA plans beyond backprop's. Rows under default: float32 with products as JAX has "
    "them by default on this device, where the library asks for full ones."
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    hidden: tuple[int, ...] = (256, 256, 256)
    batch_size: int = 128
    regimes: tuple[str, ...] = REGIMES
    """Which ones."""
    solvers: tuple[str, ...] = (*STEADY, *AVERAGE)
    """Which ones."""
    precisions: tuple[Literal["float32", "float64", "default"], ...] = ("float32", "float64")
    """float32 among them; default: float32 with products as JAX has them by default on the device."""
    rounds: int = 11
    """Rounds of measurements."""
    seconds: float = 2.0
    """A solver stops taking part after so many seconds of measurements (but not before three rounds)."""
    small: bool = False
    """A small network, a small batch, few solvers, three rounds, whatever else is said."""
    seed: int = 0
    out: pathlib.Path = OUT
    """The folder for the figures; benchmarks/results holds the published ones."""


@outermost
def main(options: Options) -> None:
    """Measure, print and write."""
    jax.config.update("jax_enable_x64", True)  # for the references; what is timed stays in float32
    if options.small:
        options = dataclasses.replace(options, hidden=(32, 32), batch_size=16, rounds=3, seconds=1.0)
        options = dataclasses.replace(options, regimes=("init-nudge", "late-strong"), solvers=SMALL)
    check(options, "solvers")
    for kind, known in (("regimes", REGIMES), ("solvers", (*STEADY, *AVERAGE)), ("precisions", PRECISIONS)):
        if not getattr(options, kind) or not set(getattr(options, kind)) <= set(known):
            raise ValueError(f"`{kind}` is {getattr(options, kind)}; it must be some of {', '.join(known)}.")
    if "float32" not in options.precisions:
        raise ValueError(f"`precisions` is {options.precisions}; float32 must be among them.")
    regimes = make_regimes(options.hidden, options.batch_size, options.seed)
    results, programs = {}, {}
    for name in options.regimes:
        print(f"{name}")
        results[name] = _measure_regime(regimes[name], programs, options)
    result = {
        "environment": environment("benchmarks/solvers.py"),
        "settings": settings_of(options),
        "regimes": results,
    }
    _write(result, options.out)


def _measure_regime(regime: Regime, programs: dict[tuple, Case], options: Options) -> dict[str, Any]:
    """Every solver in one regime and all precisions, and how far the references of a method are apart.

    Compiled programs are kept in `programs`: the regimes of one kind of target share them.
    """
    chosen = {n: make for n, make in (STEADY | AVERAGE).items() if n in options.solvers}
    if not isinstance(regime.target, dfc.Nudge):
        chosen = {n: make for n, make in chosen.items() if n not in NUDGED_ONLY}
    references = {kind: _references(kind, _in(jnp.float64, regime)) for kind in ("SS", "DFC")}
    solvers = {
        precision: _measure(regime, precision, chosen, references, programs, options)
        for precision in options.precisions
    }
    apart = {kind: angle_degrees(*(r.update for r in pair)) for kind, pair in references.items()}
    return {"references_apart_degrees": apart, "solvers": solvers}


@dataclasses.dataclass(frozen=True)
class Reference:
    """What is compared with."""

    update: np.ndarray
    control: Float[np.ndarray, "batch out"]


def _measure(
    regime: Regime,
    precision: str,
    chosen: dict[str, Callable],
    references: dict[str, tuple[Reference, Reference]],
    programs: dict[tuple, Case],
    options: Options,
) -> dict[str, Any]:
    """Every solver in one regime and precision."""
    regime = _in(PRECISIONS[precision], regime)
    wrong = jr.permutation(jr.fold_in(jr.key(options.seed), 3), regime.y)  # the first three made the regimes

    def case(name: str, method: dfc.AbstractMethod) -> Case:
        arguments = method, regime.model, regime.x, regime.y, None
        key = name, type(regime.target), precision
        if key not in programs:
            with default_products() if precision == "default" else contextlib.nullcontext():
                programs[key] = compile_case(update_of, *arguments)
        return programs[key].with_arguments(*arguments)

    baseline, cases, entries = case("Backprop", dfc.Backprop()), {}, {}
    for name, make in chosen.items():
        arguments = make(regime.target), regime.model, regime.x
        cases[name] = case(name, arguments[0])
        update, report = cases[name].call()
        wrong_report = cases[name].on(*arguments, wrong, None)[1]
        reference = references["DFC" if "DFC" in name else "SS"][0]
        entries[name] = {
            "angle_degrees": angle_degrees(as_vector(update), reference.update),
            "largest_error_of_control": _largest_error(report.control, reference.control),
            "largest_residual": float(np.max(report.residual)),
            "sweeps": sweeps(*arguments, regime.y),
            "converged": float(np.mean(report.converged)),
            "converged_wrong_labels": float(np.mean(wrong_report.converged)),
            "fallback_wrong_labels": float(np.mean(wrong_report.fallback)),
        }
    measure([baseline, *cases.values()], options.rounds, options.seconds)
    for name, case in cases.items():
        entries[name] |= cost("update", case, baseline) | memory_added(case, baseline)
        entries[name]["compile_seconds"] = case.compile_seconds
    return entries


def _largest_error(control: Float[Array, "batch out"], reference: Float[np.ndarray, "batch out"]) -> float:
    difference = np.linalg.norm(np.asarray(control, np.float64) - reference, axis=1)
    return float(np.max(difference / np.linalg.norm(reference, axis=1)))


def _references(kind: str, precise: Regime) -> tuple[Reference, Reference]:
    """Update and control by two independent schemes."""
    target = precise.target
    if kind == "SS":
        schemes = (dfc.PseudoTransient(1e-9, 300), dfc.Broyden(1e-9, 100))
        methods = [dfc.DFCSS(target=target, equilibrium=scheme, fallback=None) for scheme in schemes]
    else:
        graded = dfc.ImplicitAverage(segments=((400, 0.02), (600, 0.18), (600, 0.8)))
        adaptive = diffrax.PIDController(rtol=1e-7, atol=1e-7)
        schemes = (graded, dfc.DiffraxAverage(stepsize_controller=adaptive, max_steps=20_000))
        methods = [dfc.DFC(target=target, average=scheme) for scheme in schemes]
    found = [compiled_update(method, precise.model, precise.x, precise.y, None) for method in methods]
    return tuple(Reference(as_vector(update), np.asarray(report.control)) for update, report in found)


def _in(dtype: type, regime: Regime) -> Regime:
    """The regime in one precision."""

    def cast(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, tree)

    return Regime(cast(regime.model), cast(regime.target), cast(regime.x), cast(regime.y))


def _write(result: dict[str, Any], folder: pathlib.Path) -> None:
    """The figures as JSON, Markdown and a chart."""
    settings, where = result["settings"], result["environment"]
    sizes = "-".join(map(str, (784, *settings["hidden"], 10)))
    caption = f"{sizes} tanh, batch {settings['batch_size']}, {machine(where)}"
    lines = heading(where, caption, LEGEND)
    for regime, figures in result["regimes"].items():
        apart = (f"{kind} {value:.1g}" for kind, value in figures["references_apart_degrees"].items())
        said = f"The two references of each method are apart by {', '.join(apart)} degrees."
        lines += ["", f"## {regime}", "", said]
        for precision, solvers in figures["solvers"].items():
            rows = [
                [name, *(shown(entry[key], spec) for key, spec in COLUMNS.values())]
                for name, entry in solvers.items()
            ]
            lines += ["", *table([precision, *COLUMNS], rows)]
    save(result, lines, folder, "solvers")
    _draw(result["regimes"], caption, folder / "solvers.png")


def _draw(regimes: dict[str, Any], caption: str, path: pathlib.Path) -> None:
    """Work and precision: a panel a regime, a point a solver in one precision."""
    columns = min(4, len(regimes))
    rows = -(-len(regimes) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(3.6 * columns, 3.2 * rows + 0.9), layout="constrained", sharex=True,
        sharey=True, squeeze=False,
    )  # fmt: skip
    names = list(dict.fromkeys(name for f in regimes.values() for name in f["solvers"]["float32"]))
    for axes, (regime, figures) in zip(grid.flat, regimes.items(), strict=False):
        for precision, solvers in figures["solvers"].items():
            for i, name in enumerate(names):
                entry = solvers.get(name)
                if entry is not None and entry["angle_degrees"] is not None:
                    style = dict(marker="osD^vPX*hp<>"[i], color=f"C{i % 10}", linestyle="none")
                    style |= dict(label=name) if precision == "float32" else {}
                    style |= dict(fillstyle=FILLED[precision][0])
                    axes.plot(entry["update_ratio"], max(entry["angle_degrees"], 1e-6), **style)
        axes.set(xscale="log", yscale="log", title=regime)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[len(regimes) :]:
        axes.set_axis_off()
    for axes in grid.flat[max(len(regimes) - columns, 0) : len(regimes)]:
        axes.tick_params(labelbottom=True)  # also where the panel below is empty
    figure.supxlabel("time relative to backpropagation")
    figure.supylabel("angle to the exact update (degrees)")
    fills = ", ".join(f"{FILLED[name][1]}: {name}" for name in next(iter(regimes.values()))["solvers"])
    figure.suptitle(f"{caption}; {fills}", fontsize=10)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    finish(figure, path)


@outermost
def command() -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, None, __doc__))


if __name__ == "__main__":
    sys.exit(command())
