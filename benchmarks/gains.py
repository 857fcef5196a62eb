"""How far DFC()'s average is from that of the ODE, over the controller's gains, time constants and targets.

    python benchmarks/gains.py            # minutes; writes to runs/benchmarks
    python benchmarks/gains.py --small    # a small network, for a first look

The exact average is that of Diffrax's Kvaerno5 with tolerances of 1e-5 of every sample's target error. Inputs
are scikit-learn's digits, enlarged to 28 x 28; the networks are untrained.
"""

import dataclasses
import pathlib
import sys
from typing import Any

import diffrax
import jax
import jax.random as jr
import numpy as np
from regimes import digits
from reporting import (
    check,
    environment,
    heading,
    machine,
    OUT,
    outermost,
    parse,
    save,
    settings_of,
    shown,
    table,
)
from updates import angle_degrees, as_vector, compiled_update

import dfc_jax as dfc


GAINS = ((0.0, 0.2), (2.0, 0.2), (2.0, 0.02), (2.0, 0.00927), (5.0, 0.02), (10.0, 0.2), (10.0, 0.05))
TARGETS = {
    "Nudge(0.1)": dfc.Nudge(0.1),
    "Nudge(2)": dfc.Nudge(2.0),
    "Clamp(0.99)": dfc.Clamp(0.99),
    "Clamp()": dfc.Clamp(),
}
AVERAGES = {
    "24 steps": dfc.ImplicitAverage(),
    "10 steps": dfc.ImplicitAverage(segments=((4, 0.06), (6, 0.94))),
}
LEGEND = (
    "angle: of the update to that of the exact average, in degrees; error: the norm of their difference over "
    "the norm of the exact one; converged: samples whose every step was solved and whose error has halved. "
    "The library's defaults are k_p 2, tau_v 0.2; the published Strong-DFC has 2 and 0.00927 on MNIST."
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    batch_size: int = 32
    alpha: float = 1e-3
    small: bool = False
    """Three layers of 16 and 8 samples, whatever else is said."""
    seed: int = 0
    out: pathlib.Path = OUT
    """The folder for the figures; benchmarks/results holds the published ones."""


@outermost
def main(options: Options) -> None:
    """Measure, print and write."""
    hidden = (256, 256, 256)
    if options.small:
        options, hidden = dataclasses.replace(options, batch_size=8), (16, 16, 16)
    check(options, "gains")
    x, y = jax.device_put(digits(options.batch_size))
    model = dfc.mlp((784, *hidden, 10), key=jr.key(options.seed))
    entries = []
    for target in TARGETS:
        for k_p, tau_v in GAINS:
            entries.append(_compare(model, x, y, target, k_p, tau_v, options.alpha))
            print(entries[-1])
    where = environment("benchmarks/gains.py")
    caption = (
        f"784-{'-'.join(map(str, hidden))}-10 tanh, batch {options.batch_size}, float32, {machine(where)}"
    )
    columns = ["target", "k_p", "tau_v"]
    columns += [f"{name}: {what}" for name in AVERAGES for what in ("angle", "error", "converged")]
    lines = [*heading(where, caption, LEGEND), "", *table(columns, [_row(e) for e in entries])]
    save(
        {"environment": where, "settings": settings_of(options), "gains": entries},
        lines,
        options.out,
        "gains",
    )


def _compare(
    model: dfc.Network, x: jax.Array, y: jax.Array, target: str, k_p: float, tau_v: float, alpha: float
) -> dict[str, Any]:
    """The averages at one setting."""
    finder = diffrax.Kvaerno5(root_finder=dfc.ControlRootFinder())
    exact = dfc.DiffraxAverage(finder, diffrax.PIDController(rtol=1e-5, atol=1e-5))
    controller, key = dfc.PIController(k_p, alpha), jr.key(0)
    update = lambda average: compiled_update(
        dfc.DFC(controller, TARGETS[target], tau_v=tau_v, average=average), model, x, y, key
    )
    reference = as_vector(update(exact)[0])
    entry: dict[str, Any] = {"target": target, "k_p": k_p, "tau_v": tau_v}
    for name, average in AVERAGES.items():
        found, report = update(average)
        vector = as_vector(found)
        entry[name] = {
            "angle_degrees": angle_degrees(vector, reference),
            "relative_error": float(np.linalg.norm(vector - reference) / np.linalg.norm(reference)),
            "converged": float(np.mean(report.converged)),
        }
    return entry


def _row(entry: dict[str, Any]) -> list[str]:
    row = [entry["target"], f"{entry['k_p']:g}", f"{entry['tau_v']:g}"]
    for name in AVERAGES:
        figures = entry[name]
        row += [shown(figures["angle_degrees"], ".2f"), shown(figures["relative_error"], ".1%")]
        row += [shown(figures["converged"], ".0%")]
    return row


@outermost
def command() -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, None, __doc__))


if __name__ == "__main__":
    sys.exit(command())
