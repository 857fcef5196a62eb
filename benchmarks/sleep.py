"""How exact the updates of the feedback weights are, and what they cost.

    python benchmarks/sleep.py            # minutes; writes to runs/benchmarks
    python benchmarks/sleep.py --small    # a small network and few draws, for a first look

The network is one in the middle of training whose feedback weights are off by half their size. What one
draw of the noise gives, and the mean of several, is compared with the mean of many: its two halves say how
far that mean itself can be trusted. The expected update should be no further from it than that.
"""

import dataclasses
import pathlib
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array
from regimes import make_regimes, Regime
from reporting import (
    check,
    COLOURS,
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
from timing import compile_case, cost, measure, memory_added
from updates import angle_degrees, update_of

import dfc_jax as dfc


SIGMA, OUTPUT_SIGMA = 0.01, 0.1
WHITE, FILTERED = dfc.WhiteNoise(SIGMA, OUTPUT_SIGMA), dfc.FilteredNoise(SIGMA, 0.8, OUTPUT_SIGMA)
SETTINGS = {  # noise, apical low-pass, proportional gain
    "white, apical low-pass, k_p = 0": (WHITE, 0.3, 0.0),
    "white, apical low-pass, k_p = 0.1": (WHITE, 0.3, 0.1),
    "filtered, k_p = 0": (FILTERED, None, 0.0),
    "filtered, k_p = 0.1": (FILTERED, None, 0.1),
    "filtered, apical low-pass, k_p = 0.1": (FILTERED, 0.3, 0.1),
}
LEGEND = (
    "Angles in degrees to the mean of all simulated draws, over all feedback weights: of the mean of so many "
    "draws, simulated or linearised, and of the expected update; trust: how far that mean itself "
    "is off, from the angle between the means of its two halves; norm: the expected update's over that "
    "mean's; layers: the expected update's angle, and the trust, layer by layer; time: of an update, over "
    "backprop's gradient; memory: MiB of temporary memory that XLA plans beyond backprop's."
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    hidden: tuple[int, ...] = (256, 256, 256)
    batch_size: int = 128
    draws: int = 1000
    """Draws of the noise in the mean; an even number."""
    rounds: int = 11
    """Rounds of measurements."""
    small: bool = False
    """A small network, 100 draws and three rounds, whatever else is said."""
    seed: int = 0
    out: pathlib.Path = OUT
    """The folder for the figures; benchmarks/results holds the published ones."""


@outermost
def main(options: Options) -> None:
    """Measure, print and write."""
    if options.small:
        options = dataclasses.replace(options, hidden=(32, 32), batch_size=16, draws=100, rounds=3)
    check(options, "sleep")
    if options.draws < 4 or options.draws % 2:
        raise ValueError(f"`draws` is {options.draws}; it must be an even number of at least 4.")
    regime = make_regimes(options.hidden, options.batch_size, options.seed)["mid-nudge"]
    disturbance_key, key = jr.split(jr.fold_in(jr.key(options.seed), 3))  # the first three made the regimes
    model = _disturbed(regime.model, disturbance_key)
    results = {}
    for name, setting in SETTINGS.items():
        print(name)
        results[name] = _measure_setting(setting, dataclasses.replace(regime, model=model), key, options)
    where = environment("benchmarks/sleep.py")
    _write({"environment": where, "settings": settings_of(options), "noises": results}, options.out)


def _disturbed(model: dfc.Network, key: Array) -> dfc.Network:
    """Feedback weights with noise of half their size."""
    weights = model.feedback.weights
    noise = [jr.normal(k, Q.shape) for k, Q in zip(jr.split(key, len(weights)), weights, strict=True)]
    pairs = zip(weights, noise, strict=True)
    moved = [Q + 0.5 * jnp.linalg.norm(Q) / jnp.linalg.norm(n) * n for Q, n in pairs]
    return eqx.tree_at(lambda m: m.feedback.weights, model, tuple(moved))


def _measure_setting(
    setting: tuple[dfc.WhiteNoise | dfc.FilteredNoise, float | None, float],
    regime: Regime,
    key: Array,
    options: Options,
) -> dict[str, Any]:
    """One draw, the means of several, and the expected update, in one setting of the noise.

    All settings share `key`.
    """
    noise, tau_apical, k_p = setting
    controller = dfc.PIController(k_p, 0.25)
    simulated = dfc.SleepPhase(controller, noise, tau_apical=tau_apical)
    linearised = dfc.LinearisedSleepPhase(controller, noise, tau_apical=tau_apical)
    expected = dfc.ExpectedSleepPhase(controller, noise, tau_apical=tau_apical)
    arguments = regime.model, regime.x, regime.y
    *half_keys, draws_key, timing_key = jr.split(key, 4)
    cases = {
        "backprop": compile_case(update_of, dfc.Backprop(), *arguments, None),
        "simulated": compile_case(update_of, simulated, *arguments, timing_key),
        "linearised": compile_case(update_of, linearised, *arguments, timing_key),
        "expected": compile_case(update_of, expected, *arguments, timing_key),
    }
    joined = np.concatenate
    halves = [_mean(simulated, *arguments, k, options.draws // 2) for k in half_keys]
    whole = [(a + b) / 2 for a, b in zip(*halves, strict=True)]
    exact = [np.ravel(Q) for Q in jax.tree.leaves(cases["expected"].call()[0])]
    counts = [n for n in (1, 10, 100) if n <= options.draws // 4]
    phases = {"draws": simulated, "linearised_draws": linearised}
    drawn = {
        f"{name}_angle_degrees": {
            str(n): angle_degrees(
                joined(_mean(phase, *arguments, jr.fold_in(draws_key, n), n)), joined(whole)
            )
            for n in counts
        }
        for name, phase in phases.items()
    }
    entry = {
        "angle_degrees": angle_degrees(joined(exact), joined(whole)),
        "trust_degrees": _trust(*map(joined, halves)),
        "layer_angles_degrees": [angle_degrees(*pair) for pair in zip(exact, whole, strict=True)],
        "layer_trusts_degrees": [_trust(*pair) for pair in zip(*halves, strict=True)],
        **drawn,
        "norm_ratio": float(np.linalg.norm(joined(exact)) / np.linalg.norm(joined(whole))),
    }
    measure(list(cases.values()), options.rounds, seconds=5.0)
    for name in KINDS:
        figures = cost("update", cases[name], cases["backprop"])
        figures["compile_seconds"] = cases[name].compile_seconds
        figures |= memory_added(cases[name], cases["backprop"])
        entry |= {f"{name}_{figure}": value for figure, value in figures.items()}
    return entry


def _trust(first: np.ndarray, second: np.ndarray) -> float:
    """How far, in degrees, the mean of two independent estimates is from what they estimate.

    With errors of relative size r in random directions, the cosine between the two is 1 / (1 + r^2), and the
    mean of both has the error r / sqrt(2).
    """
    cosine = np.cos(np.radians(angle_degrees(first, second)))
    return float(np.degrees(np.arctan(np.sqrt((1 / cosine - 1) / 2)))) if cosine > 0 else 90.0


def _mean(
    phase: dfc.AbstractSleepPhase, model: dfc.Network, x: Array, y: Array, key: Array, draws: int
) -> list[np.ndarray]:
    """The mean update over so many draws, layer by layer."""

    @eqx.filter_jit
    def total(phase: dfc.AbstractSleepPhase, model: dfc.Network, x: Array, y: Array, keys: Array) -> tuple:
        def add(sums: tuple, key: Array) -> tuple[tuple, None]:
            update = phase(model, x, y, key=key).feedback.weights
            return jax.tree.map(jnp.add, sums, update), None

        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, model.feedback.weights), keys)[0]

    return [np.ravel(Q) / draws for Q in total(phase, model, x, y, jr.split(key, draws))]


def _write(result: dict[str, Any], folder: pathlib.Path) -> None:
    """The figures as JSON, Markdown and a chart."""
    where, settings = result["environment"], result["settings"]
    sizes = "-".join(map(str, (784, *settings["hidden"], 10)))
    caption = f"{sizes} tanh, batch {settings['batch_size']}, float32, {machine(where)}"
    lines = heading(where, f"{caption}; means of {settings['draws']} draws", LEGEND)
    counts = list(next(iter(result["noises"].values()))["draws_angle_degrees"])
    rows, costs = [], []
    for name, entry in result["noises"].items():
        drawn = [
            shown(entry[f"{kind}_angle_degrees"][n], ".2g")
            for kind in ("draws", "linearised_draws")
            for n in counts
        ]
        layers = zip(entry["layer_angles_degrees"], entry["layer_trusts_degrees"], strict=True)
        by_layer = ", ".join(f"{angle:.2g} ({trust:.2g})" for angle, trust in layers)
        figures = [shown(entry["angle_degrees"], ".2g"), shown(entry["trust_degrees"], ".2g")]
        rows.append([name, *drawn, *figures, shown(entry["norm_ratio"], ".3f"), by_layer])
        keys = ("update_ratio", "compile_seconds", "memory_added_mib")
        costs.append([name, *(shown(entry[f"{kind}_{k}"], ".3g") for kind in KINDS for k in keys)])
    draws = [f"{n} {kind}" for kind in ("simulated", "linearised") for n in counts]
    lines += ["", *table(["noise", *draws, "expected", "trust", "norm", "layers: expected (trust)"], rows)]
    columns = [f"{kind}: {figure}" for kind in KINDS for figure in ("time", "compile", "memory")]
    lines += ["", *table(["noise", *columns], costs)]
    save(result, lines, folder, "sleep")
    _draw(result["noises"], settings["draws"], caption, folder / "sleep.png")


KINDS = ("simulated", "linearised", "expected")


def _draw(noises: dict[str, Any], draws: int, caption: str, path: pathlib.Path) -> None:
    """A panel a noise: angle to the mean of all draws against time."""
    size = (3.1 * len(noises), 3.6)
    figure, panels = plt.subplots(1, len(noises), figsize=size, layout="constrained", sharey=True)
    for panel, (name, entry) in zip(panels, noises.items(), strict=True):
        for kind, drawn, colour in (("simulated", "draws", 0), ("linearised", "linearised_draws", 1)):
            angles = entry[f"{drawn}_angle_degrees"]
            times = [int(n) * entry[f"{kind}_update_ratio"] for n in angles]
            label = f"{kind}: {', '.join(angles)} draws"
            panel.plot(times, list(angles.values()), "o-", color=COLOURS[colour], label=label)
        panel.plot(
            entry["expected_update_ratio"], entry["angle_degrees"], "D", color=COLOURS[3], label="expected"
        )
        label = f"error of the mean of {draws} draws"
        panel.axhline(entry["trust_degrees"], color="black", linestyle=":", label=label)
        panel.set(xscale="log", yscale="log")
        panel.set_title(name.replace(", k_p", "\nk_p"), fontsize=10)
    panels[0].set_ylabel("angle to the mean of all draws (degrees)")
    panels[len(noises) // 2].set_xlabel("time relative to backpropagation")
    figure.suptitle(caption, fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    finish(figure, path)


@outermost
def command() -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, None, __doc__))


if __name__ == "__main__":
    sys.exit(command())
