"""Figures that pages quote are those of the committed results."""

import re

import numpy as np
import pytest
import table1
from committed import BENCHMARKS, COMPARED, read, RESULTS, ROOT
from neurips2021.printed_table import COLUMNS, ROWS
from prospective.picture import LABELS
from report.spread import shown


SCHEDULES = ("mnist", "mnist-constant")


def test_readmes_first_table_is_that_of_the_committed_runs():
    """At the paper's length where they have been run so long."""
    found = [*table1.collect(RESULTS / "table1"), *table1.collect(RESULTS / "table1-full")]
    cells = {cell["row"]: cell for cell in found if cell["task"] == "mnist"}
    lines = []
    for row, (mean, std) in zip(ROWS, COLUMNS["mnist"].paper, strict=True):
        ours, length = cells[row], f"{cells[row]['epochs']}, {len(cells[row]['values'])}"
        lines.append(
            f"| {row} | {ours['mean']:.3g} ± {ours['std']:.2g} | {length} | {mean:.3g} ± {std:.2g} |"
        )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\n".join(["| method | ours | epochs, seeds | paper |", "|---|---:|---:|---:|", *lines]) in readme
    away = sorted(abs(cells[row]["mean"] - cells[row]["paper_mean"]) for row in ROWS)
    said = re.search(r"within (\S+) points of the paper, all but two within (\S+)\n", readme).groups()
    assert said == (f"{away[-1]:.2f}", f"{away[-3]:.2f}")


def test_readmes_times_are_those_of_the_benchmark():
    methods = read(BENCHMARKS / "training_step.json")["methods"]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    said = re.search(
        r"a DFC-SS training step took (\S+) times a backprop step, one of DFC-SSA (\S+) times", readme
    )
    steps = [methods[name]["step_ratio"] for name in ("DFC-SS, Broyden", "DFC-SSA")]
    assert said.groups() == tuple(f"{step:.1f}" for step in steps)
    ratios = read(BENCHMARKS / "epoch.json")["ratios"]
    epochs = [f"{np.median(ratios[name]):.1f}" for name in ("DFC-SS", "DFC-SSA")]
    assert f"an epoch of MNIST with all around it [{' and '.join(epochs)}](" in readme
    convolutional = read(BENCHMARKS / "training_step_conv.json")["methods"]["DFC-SS, Broyden"]["step_ratio"]
    (said,) = re.findall(r"A DFC-SS step of this network took \[(\S+) backprop steps\]", readme)
    assert said == f"{convolutional:.1f}"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (r"a tau_u after the start: (\S+)x against (\S+)x\.", ["two phases, Broyden", "two phases, after T"]),
        (
            r"\(128 steps: (\S+)x; .* feedforward state: (\S+)x\)",
            ["single phase, 128 steps", "single phase"],
        ),
        (r"which forward weights learn from: (\S+)x\.", ["single phase, linearised"]),
    ],
)
def test_times_of_strong_feedback_are_those_of_the_benchmark(pattern, names):
    methods = read(BENCHMARKS / "training_step.json")["methods"]
    page = " ".join((ROOT / "benchmarks" / "WHICH_SOLVER.md").read_text(encoding="utf-8").split())
    times = [methods[f"Strong-DFC, {name}"]["update_ratio"] for name in names]
    assert re.search(pattern, page).groups() == tuple(f"{time:.3g}" for time in times)


def test_times_of_the_default_solver_are_those_of_the_benchmark():
    page = " ".join((ROOT / "benchmarks" / "WHICH_SOLVER.md").read_text(encoding="utf-8").split())
    for regime in read(BENCHMARKS / "solvers.json")["regimes"].values():
        broyden = regime["solvers"]["float32"]["SS, Broyden"]
        assert broyden["converged"] == broyden["converged_wrong_labels"] == 1
    nudged, strong = times_of("SS, Broyden")
    assert f"at {nudged} nudged and {strong} with strong feedback. Little of that" in page


def times_of(solver: str) -> list[str]:
    """From the shortest to the longest in the regimes that are nudged, and in those of strong feedback."""
    found = {"nudged": [], "strong": []}
    for name, regime in read(BENCHMARKS / "solvers.json")["regimes"].items():
        held = regime["solvers"]["float32"].get(solver)
        found["strong" if name.endswith("strong") else "nudged"] += [held["update_ratio"]] if held else []
    return [f"{min(times):.3g}x to {max(times):.3g}x" for times in found.values() if times]


def test_times_of_the_averages_are_those_of_the_benchmark():
    page = " ".join((ROOT / "benchmarks" / "WHICH_SOLVER.md").read_text(encoding="utf-8").split())
    (closed,) = times_of("DFC, closed form")
    assert f"`DFC(average=ClosedFormAverage())`.** {closed}, and within" in page
    nudged, strong = times_of("DFC, implicit, 24 steps")
    assert f"target error: {nudged} nudged and {strong} with strong feedback." in page


def test_times_of_sleep_are_those_of_the_benchmark():
    page = (ROOT / "benchmarks" / "WHICH_SOLVER.md").read_text(encoding="utf-8")
    noises = read(BENCHMARKS / "sleep.json")["noises"].values()
    of = lambda kind: np.median([noise[f"{kind}_update_ratio"] for noise in noises])
    expected, drawn, linearised = map(of, ("expected", "simulated", "linearised"))
    assert f"in mean and covariance, at {linearised:.0f}x instead of\n  {drawn:.0f}x with ten" in page
    assert (
        f"About {expected:.0f}x with ten outputs, where one draw of `SleepPhase` takes {drawn:.0f}x" in page
    )
    assert f"**`SleepPhase()`**, about {drawn:.0f}x, is" in page


def test_growth_with_the_outputs_is_that_of_the_benchmark():
    page = " ".join((ROOT / "benchmarks" / "WHICH_SOLVER.md").read_text(encoding="utf-8").split())
    points = read(BENCHMARKS / "scaling.json")["axes"]["outputs"]["points"]
    of = lambda method, outputs: points[outputs][method]["update_ratio"]
    many = [of("DFC-SS", outputs) for outputs in ("200", "500", "1000")]
    said = f"at 100 outputs it cost {of('DFC-SS', '100'):.2g}x, at 200 to 1000 outputs"
    assert f"{said} {min(many):.0f} to {max(many):.0f}x." in page
    small = ("Sleep, linearised", "Sleep, expected")
    assert all(of(phase, "10") < of("Sleep", "10") / 2 for phase in small)
    assert of("Sleep, expected", "32") > of("Sleep", "32")  # as the page says, and that the other is as long
    assert 0.7 < of("Sleep, linearised", "32") / of("Sleep", "32") < 1.4


def test_the_table_of_both_schedules_is_that_of_their_runs():
    page = (RESULTS / "theories" / "README.md").read_text("utf-8")
    cosine, constant = (read(RESULTS / "theories" / name / "theories.json")["methods"] for name in SCHEDULES)
    for name in cosine:
        cells = [shown(each[name]["last_test_accuracy"], 100) for each in (cosine, constant)]
        assert f"| {LABELS[name]} | {cells[0]} | {cells[1]} |\n" in page


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_strong_feedbacks_page_says_what_its_tables_say(name):
    page = (RESULTS / "strong" / "README.md").read_text("utf-8")
    runs = [read(RESULTS / "strong" / name / run / "summary.json") for run in COMPARED[f"strong/{name}"]]
    two, single, phases, backprop = (f"{100 * run['mean']['test_accuracy']:.2f} %" for run in runs)
    assert f"single phase {single}, two phases {phases}, DFC-SS {two}, backprop {backprop}." in page


def test_the_table_of_the_leak_is_that_of_its_runs_and_its_angles_are_those_of_the_figure():
    page = (RESULTS / "strong" / "README.md").read_text("utf-8")
    of = lambda run: read(RESULTS / "strong" / "controls" / run / "summary.json")["mean"]["test_accuracy"]
    rows = {
        "after half a tau_u": ("../mnist/strong-dfc-2phase", "after-t-cosine"),
        "at rest, leak 0.001": ("../mnist/strong-dfc-2phase-at-rest", "rest-cosine"),
        "at rest, leak 0.001, rate 3e-4": ("rest-slow", None),
        "at rest, leak 0.001, class value 0.9": ("rest-value-0.9", None),
        "at rest, leak 0.001, exact feedback": (None, "rest-exact-cosine"),
        "at rest, leak 0.4": ("rest-leak-0.4", None),
        "at rest, leak 1": ("rest-leak-1", None),
    }
    for name, runs in rows.items():
        cells = " | ".join("" if run is None else f"{100 * of(run):.2f} %" for run in runs)
        assert f"| {name} | {cells} |".replace("  ", " ") in page.replace("  ", " ")
    facts = read(RESULTS / "figures" / "strong-states.json")["facts"]
    near = [facts[f"trained at rest, epoch {i}, at rest, leak 0.4"]["angle_to_after"] for i in (0, 1, 3)]
    assert f"{min(near):.1f} to {max(near):.1f} degrees" in page


@pytest.mark.parametrize("row", ["direct-initial", "direct-sleep", "layered-initial", "layered-signs",
                                 "layered-mirror-kolen-pollack", "exact"])  # fmt: skip
def test_the_costs_of_feedback_are_those_of_the_benchmark(row):
    page = (RESULTS / "feedback" / "README.md").read_text("utf-8")
    files = (read(BENCHMARKS / f"feedback_cost{kind}.json") for kind in ("", "_dense"))
    medians = [f"{np.median(found['rows'][row]['ratios']):.2f}" for found in files]
    assert f"| {' | '.join(medians)} |\n" in page


def test_the_page_on_noise_says_what_its_figure_says():
    page = (RESULTS / "figures" / "README.md").read_text("utf-8").split("## Bias from noise")[1]
    facts = read(RESULTS / "figures" / "noise-bias.json")["facts"]
    accuracies = [value for name, value in facts.items() if name.endswith("test_accuracy")]
    assert len(accuracies) == 6 and all(f"{100 * value:.1f} %" in page for value in accuracies)
    biases = [facts[f"weak, single phase, sigma 0.1, bias_{layer}"] for layer in (1, 2, 3)]
    assert "{:.0f}, {:.1f} and {:.1f} times".format(*biases) in page
    errors = [facts[f"weak, single phase, sigma 0.1, error_{layer}"] for layer in (1, 2, 3)]
    assert "(standard errors {:.2f}, {:.2f}, {:.2f};".format(*errors) in page
    angles = [facts[f"weak, single phase, sigma 0.1, {name}"] for name in ("angle", "angle_less_bias")]
    assert "is at {:.0f}° to the gradient, less\nthe bias at {:.0f}°".format(*angles) in page
