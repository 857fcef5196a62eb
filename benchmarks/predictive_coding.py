"""Predictive coding's update, exact and by gradient flow as jpc finds it: how far off it is, and its cost.

    python benchmarks/predictive_coding.py               # MNIST, by TFDS_DATA_DIR; Diffrax stands in for jpc
    python benchmarks/predictive_coding.py --jpc PYTHON  # jpc itself; figures go to runs/benchmarks
    python benchmarks/predictive_coding.py --small       # a small network and digits, for a first look

PYTHON is the interpreter of an environment of jpc's own, since it needs an older JAX than dfc_jax:
`python -m venv jpcenv`, `jpcenv/bin/pip install jpc` as its authors say, `--jpc jpcenv/bin/python`. Both
programs get the same weights and the same batch; each times its own backprop, so that no ratio mixes two.

All minimise the same energy, the output clamped to the target: jpc's with squared error and its standard
parametrisation. jpc follows the energy's gradient over all neurons for a time T. Its energy is the batch's
mean, which slows every neuron by the batch size: T = 20, the default, is 0.16 time constants in a batch of
128. "Each sample alone" makes a batch of every sample, and T a number of time constants. Errors are to the
minimum in float64, found by Newton's method over all neurons.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any, Literal

import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array
from pc_inference import by_diffrax, CLOSEST, INFERENCES, update_by, Weights
from pc_reference import exact_update
from regimes import digits, trained
from reporting import (
    check,
    COLOURS,
    environment,
    finish,
    heading,
    machine,
    MARKERS,
    OUT,
    outermost,
    parse,
    plt,
    save,
    settings_of,
    shown,
    table,
)
from timing import compile_case, cost, measure
from updates import angle_degrees, as_vector, quality, update_of

import dfc_jax as dfc


BASELINE, EXACT = "Backprop", "dfc.PredictiveCoding"
LOSS = dfc.MeanSquaredError()
METHODS = {BASELINE: dfc.Backprop(LOSS), EXACT: dfc.PredictiveCoding(alpha=0.0, loss=LOSS)}
HIDDEN = ((256,) * 3, (128,) * 8, (128,) * 16)
COLUMNS = {
    "time": ("update_ratio", ".3g"),
    "angle": ("angle_degrees", ".2g"),
    "error": ("relative_error", ".1e"),
    "converged": ("converged", ".0%"),
}
LEGEND = (
    "time: of an update, over that of backprop's gradient in the same process; angle: of the update to that "
    "at the exact minimum, in degrees, all layers as one vector; error: the length of their difference over "
    f"that of the exact one; converged: samples certified to be at the minimum, which only {EXACT} does. T: "
    "how long the neurons follow the gradient of the batch's mean energy. A time constant of theirs is then "
    "as long as the batch has samples, or 1 where each sample is alone, a batch of its own. The row "
    f'"{CLOSEST}" shows that all mean the same minimum, where it is long enough to come to rest.'
)
STAND_IN = (
    "jpc was not there to be measured. In its place stands gradient flow on the same energy by Diffrax, with "
    "the solver, the step-size control and the durations that jpc hands to Diffrax."
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    jpc: str | None = None
    """The interpreter of an environment in which jpc is installed."""
    dataset: Literal["digits", "mnist"] = "mnist"
    steps: int = 400
    """Steps of backprop with Adam after which everything is measured once more."""
    batch_size: int = 128
    rounds: int = 9
    """Rounds of measurements."""
    seconds: float = 5.0
    """A method stops taking part after so many seconds of measurements (but not before three rounds)."""
    small: bool = False
    """A small network, digits, a small batch and three rounds, whatever else is said."""
    seed: int = 0
    out: pathlib.Path = OUT
    """The folder for the figures; benchmarks/results holds the published ones."""


@outermost
def main(options: Options) -> None:
    """Measure, print and write."""
    hidden = HIDDEN
    if options.small:
        hidden = ((32, 32),)
        options = dataclasses.replace(options, dataset="digits", batch_size=16, rounds=3, seconds=1.0)
    check(options, "predictive_coding")
    jpc = options.jpc if _has_jpc(options.jpc) else None
    images, labels = _images(options.dataset)
    networks, versions = {}, {}
    for sizes in hidden:
        for name, model in _models(sizes, images, labels, options).items():
            print(name)
            batch = images[: options.batch_size], labels[: options.batch_size]
            networks[name], versions = _measure(model, *batch, jpc, options)
    where = environment("benchmarks/predictive_coding.py")
    where["jpc_process"] = versions
    if options.jpc is not None:
        where["command"] = where["command"].replace(options.jpc, "PYTHON")
    settings = settings_of(options)
    del settings["jpc"]
    _write({"environment": where, "settings": settings, "networks": networks}, options.out)


def _has_jpc(python: str | None) -> bool:
    if python is None:
        return False
    tried = subprocess.run([python, "-c", "import jpc"], capture_output=True, text=True)
    if tried.returncode:
        print(f"{python} cannot import jpc; Diffrax stands in. It says:\n{tried.stderr}", file=sys.stderr)
    return tried.returncode == 0


def _images(dataset: str) -> tuple[Array, Array]:
    if dataset == "digits":
        return jax.device_put(digits(1257))
    data = dfc.load(dataset)
    return jax.device_put((data.train.x, data.train.y))


def _models(sizes: tuple[int, ...], x: Array, y: Array, options: Options) -> dict[str, dfc.Network]:
    """The initial network and the one after some training."""
    model_key, train_key = jr.split(jr.key(options.seed))
    model = dfc.mlp((784, *sizes, 10), key=model_key)
    network = f"{len(sizes)} hidden layers of {sizes[0]}"
    later = trained(model, x, y, train_key, options.steps, METHODS[BASELINE])
    return {f"{network}, initial": model, f"{network}, after {options.steps} steps": later}


def _measure(
    model: dfc.Network, x: Array, y: Array, jpc: str | None, options: Options
) -> tuple[dict[str, Any], dict[str, str]]:
    """Every method on one network, and the versions in jpc's process."""
    weights = [(layer.transform.weight, layer.transform.bias) for layer in model.layers]
    exact, slope = exact_update(weights, x, y)
    cases = {name: compile_case(update_of, method, model, x, y, None) for name, method in METHODS.items()}
    found = {name: case.call() for name, case in cases.items()}
    updates = {name: as_vector(update) for name, (update, _) in found.items()}
    figures = {name: quality(report) for name, (_, report) in found.items()}
    costs, versions = {}, {}
    if jpc is not None:
        of_jpc, costs, versions = _by_jpc(jpc, weights, x, y, options)
        updates |= of_jpc
    else:
        for name, inference in INFERENCES.items():
            run = lambda *given, i=inference: update_by(by_diffrax, i, *given)
            cases[name] = compile_case(run, weights, x, y)
            updates[name] = as_vector(cases[name].call())
    measure(list(cases.values()), options.rounds, options.seconds)
    costs |= {name: cost("update", case, cases[BASELINE]) for name, case in cases.items()}
    for name, update in updates.items():
        error = {"relative_error": float(np.linalg.norm(update - exact) / np.linalg.norm(exact))}
        angle = {"angle_degrees": angle_degrees(update, exact)}
        figures[name] = figures.get(name, {}) | angle | error | costs[name]
    # Its gradient is of another loss, whose length says nothing here.
    figures[BASELINE]["relative_error"] = None
    return {"slope_of_the_reference": slope, "methods": figures}, versions


def _by_jpc(
    python: str, weights: Weights, x: Array, y: Array, options: Options
) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, str]]:
    """Updates, costs and versions from a process in jpc's environment."""
    arrays = {"x": x, "y": y}
    for i, (W, b) in enumerate(weights):
        arrays |= {f"W{i}": W, f"b{i}": b}
    with tempfile.TemporaryDirectory() as folder:
        given, found = f"{folder}/given.npz", f"{folder}/found"
        np.savez(given, **arrays)
        program = "import sys, pc_inference; pc_inference.main(*sys.argv[1:])"
        numbers = str(options.rounds), str(options.seconds)
        command = [python, "-c", program, given, found, *numbers]
        subprocess.run(command, check=True, cwd=pathlib.Path(__file__).parent)
        written = json.loads(pathlib.Path(f"{found}.json").read_text(encoding="utf-8"))
        updates = {name: array.astype(float) for name, array in np.load(f"{found}.npz").items()}
    return updates, written["costs"], written["versions"]


def _write(result: dict[str, Any], folder: pathlib.Path) -> None:
    """The figures as JSON, Markdown and a chart."""
    settings, where = result["settings"], result["environment"]
    versions = where["jpc_process"]
    by = "jpc" if versions else "gradient flow"
    caption = f"{settings['dataset']}, tanh, batch {settings['batch_size']}, float32, {machine(where)}"
    lines = heading(where, caption, LEGEND)
    if versions:
        said = ", ".join(f"{name} {number}" for name, number in versions.items())
        lines += ["", f"jpc ran in a process of its own: {said}."]
    else:
        lines += ["", STAND_IN]
    for network, entry in result["networks"].items():
        rows = [
            [_title(name, by), *(shown(figures.get(key), spec) for key, spec in COLUMNS.values())]
            for name, figures in entry["methods"].items()
        ]
        lines += ["", f"## {network}", "", *table(["method", *COLUMNS], rows)]
    save(result, lines, folder, "predictive_coding")
    _draw(result["networks"], by, caption, folder / "predictive_coding.png")


def _title(name: str, by: str) -> str:
    return name if name in METHODS else f"{by}, {name}"


def _draw(networks: dict[str, Any], by: str, caption: str, path: pathlib.Path) -> None:
    """A panel a network: error of the update against its time."""
    columns = len(networks) // 2
    size = (3.6 * columns + 2, 7.5)
    figure, panels = plt.subplots(2, columns, figsize=size, layout="constrained", sharey=True, squeeze=False)
    for panel, (network, entry) in zip(panels.T.flat, networks.items(), strict=True):
        shown_names = [name for name in entry["methods"] if name != BASELINE]
        for i, name in enumerate(shown_names):
            figures = entry["methods"][name]
            style = {"marker": MARKERS[i], "color": COLOURS[i], "linestyle": "", "markersize": 8}
            panel.plot(figures["update_ratio"], figures["relative_error"], label=name, **style)
        panel.axhline(1, color="black", linewidth=0.8, linestyle=":")
        panel.set(xscale="log", yscale="log")
        panel.set_title(network.replace(", ", "\n"), fontsize=10)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_locator(plt.NullLocator())
    panels[-1, columns // 2].set_xlabel("time of an update relative to backpropagation")
    figure.supylabel("relative error of the update", fontsize=10)
    figure.suptitle(caption, fontsize=10)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    title = f"{EXACT}, and {by}:"
    figure.legend(handles, labels, title=title, loc="outside lower center", ncols=2, frameon=False)
    finish(figure, path)


@outermost
def command() -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, None, __doc__))


if __name__ == "__main__":
    sys.exit(command())
