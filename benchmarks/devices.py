"""What dividing a batch among devices costs and gains.

    python benchmarks/devices.py                  all devices there are
    XLA_FLAGS=--xla_force_host_platform_device_count=8 python benchmarks/devices.py         a CPU as eight

Every round times one training step (the update and Adam) on the first 1, 2, 4, 8 and 16 devices, in one order
and the next time in the other, and takes its ratio to one device's in the same round; medians are reported.
Weak scaling: every device has a batch of its own of the same size, so that a perfect machine takes as long
as with one device. Strong scaling: they share the batch of the largest number. Virtual devices share the
cores of one machine, which bounds what can be gained.
"""

import dataclasses
import pathlib
import sys

import jax
import jax.random as jr
import numpy as np
import optax
from contenders import DEVICES, METHODS
from regimes import digits
from reporting import check, environment, heading, machine, OUT, outermost, parse, save, settings_of, table
from timing import Case, compile_case, cost, measure

import dfc_jax as dfc
from dfc_jax._training.devices import divided, everywhere, mesh_of, placed


DIGITS = 1024
OPTIMISER = optax.adam(1e-3)
LEGEND = (
    "weak: time of a step relative to one device's, every device with its own samples (1 is perfect; where "
    "virtual devices share cores, devices / cores). strong: the same with the samples shared (1 / devices is "
    "perfect, 1 / cores where they are fewer)."
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    sizes: tuple[int, ...] = (784, 256, 256, 256, 10)
    batch_size: int = 128
    """Samples of each device."""
    rounds: int = 15
    seconds: float = 20.0
    """A case stops taking part after so many seconds of measurements (but not before three rounds)."""
    out: pathlib.Path = OUT
    """The folder for the figures; benchmarks/results holds the published ones."""


def compiled(name: str, count: int, samples: int, options: Options) -> Case:
    """A training step of a batch of `samples` on the first `count` devices."""
    mesh, method = mesh_of(jax.devices()[:count]), METHODS[name]
    asleep = isinstance(method, dfc.AbstractSleepPhase)
    part = (lambda network: network.feedback) if asleep else (lambda network: network.layers)
    model = dfc.mlp(options.sizes, key=jr.key(0))

    def step(model, state, x, y, key):
        found = method(model, *divided((x, y), mesh), key=key)
        change, state = OPTIMISER.update(part(found if asleep else found[0]), state)
        return everywhere((optax.apply_updates(part(model), change), state), mesh)

    chosen = np.arange(samples) % DIGITS  # there are not more
    x, y = (array[chosen] for array in digits(DIGITS))
    given = model, OPTIMISER.init(part(model)), x, y, jr.key(1)
    return compile_case(step, *placed(given, mesh))


@outermost
def main(options: Options) -> None:
    """Measure and write."""
    check(options, "devices")
    counts = [n for n in (1, 2, 4, 8, 16) if n <= jax.device_count()]
    largest = counts[-1] * options.batch_size
    figures, rows = [], []
    for name in DEVICES:
        weak = [compiled(name, n, n * options.batch_size, options) for n in counts]
        strong = [compiled(name, n, largest, options) for n in counts]
        measure([*weak, *strong], options.rounds, options.seconds)
        for i, n in enumerate(counts):
            found = cost("weak", weak[i], weak[0]) | cost("strong", strong[i], strong[0])
            figures.append({"method": name, "devices": n} | found)
            shown = (f"{found[f'{kind}_ratio']:.2f}" for kind in ("weak", "strong"))
            rows.append([name, str(n), *shown])
    where = environment("benchmarks/devices.py")
    kind = "virtual devices" if jax.devices()[0].platform == "cpu" else "devices"
    sizes = "-".join(map(str, options.sizes))
    caption = f"{sizes} tanh, {options.batch_size} samples a device, {kind} of {machine(where)}"
    lines = [*heading(where, caption, LEGEND), "", *table(["method", "devices", "weak", "strong"], rows)]
    save(
        {"environment": where, "settings": settings_of(options), "figures": figures},
        lines,
        options.out,
        "devices",
    )


@outermost
def command() -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, None, __doc__))


if __name__ == "__main__":
    sys.exit(command())
