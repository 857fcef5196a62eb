"""The benchmarks, run as a user runs them, on a small network."""

import ast
import importlib
import json
import math
import os
import pathlib
import runpy
import subprocess
import sys

import jax
import numpy as np
import pc_inference
import pc_reference
import pytest
import scipy.optimize
from contenders import METHODS
from regimes import make_regimes
from solvers import REGIMES


SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "training_step.py"
OTHERS = {"rounds": 2, "sizes": (784, 8, 10), "batch_size": 3}
SCRIPTS = [path for path in sorted(SCRIPT.parent.glob("*.py")) if '"__main__"' in path.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_says_what_it_does_and_starts_nothing(script, monkeypatch, capsys):
    def started(*_, **__):
        raise AssertionError(f"{script.name} --help starts something")

    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.setattr(subprocess, "run", started)
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(script), run_name="__main__")
    assert left.value.code == 0
    shown, said = capsys.readouterr().out, ast.get_docstring(ast.parse(script.read_text()))
    assert " ".join(said.split()[:5]) in " ".join(shown.split())
    assert "--seed" in shown or "--out" in shown


def test_published_figures_are_not_replaced_by_those_of_a_trial(monkeypatch, capsys):
    """Not by default, and not by other settings."""
    published = SCRIPT.parent / "results"
    for script in SCRIPTS:
        module = importlib.import_module(script.stem)
        assert module.Options().out.absolute() != published
        if not (published / f"{script.stem}.json").exists() or not hasattr(module, "check"):
            continue
        settings = json.loads((published / f"{script.stem}.json").read_text())["settings"]
        name, held = next((n, v) for n, v in settings.items() if n in OTHERS)
        other = OTHERS[name]
        assert module.main(module.Options(out=published, **{name: other})) == 2
        assert f"with `{name}` {held!r}, not" in capsys.readouterr().err


def test_the_regimes_are_those_that_can_be_asked_for() -> None:
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):  # as in a benchmark
        assert set(make_regimes((4,), 8, 0)) == set(REGIMES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("results")
    command = [sys.executable, str(SCRIPT), "--small", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return out


@pytest.mark.script
def test_every_method_has_figures(folder):
    result = json.loads((folder / "training_step.json").read_text())
    methods = result["methods"]
    assert {"Backprop", "DFA", "DFC-SSA", "DFC-SS, Broyden", "DFC, implicit, 24 steps", "Sleep phase"} <= set(
        methods
    )
    assert set(methods) == set(METHODS)
    for figures in methods.values():
        assert figures["update_ratio"] > 0 and figures["step_ratio"] > 0
        assert figures["update_rounds"] == figures["step_rounds"] == 3
        assert figures["compile_seconds"] > 0
    assert methods["Backprop"]["update_ratio"] == methods["Backprop"]["step_ratio"] == 1
    assert methods["Backprop"]["memory_added_mib"] == 0


@pytest.mark.script
def test_steady_states_agree(folder):
    methods = json.loads((folder / "training_step.json").read_text())["methods"]
    assert methods["DFC-SS, Broyden"]["angle_degrees"] == 0
    assert methods["DFC-SS, Newton"]["angle_degrees"] < 0.05
    assert methods["DFC-SS, Tsit5 to rest"]["angle_degrees"] < 0.05
    assert methods["DFC, implicit, 24 steps"]["angle_degrees"] < 5
    at_rest = {n: f for n, f in methods.items() if "single phase" not in n}
    assert all(figures["converged"] in (None, 1) for figures in at_rest.values())
    assert methods["Backprop"]["converged"] is methods["Sleep phase"]["angle_degrees"] is None


@pytest.mark.script
def test_the_result_says_where_it_was_measured(folder):
    environment = json.loads((folder / "training_step.json").read_text())["environment"]
    assert environment["device"] and environment["cores"] >= 1 and environment["date"]
    assert {"python", "jax", "jaxlib", "equinox", "diffrax", "optax"} <= set(environment["versions"])


@pytest.mark.script
def test_table_and_chart_are_written(folder):
    table = (folder / "training_step.md").read_text()
    assert "python benchmarks/training_step.py" in table
    assert "| DFC-SS, Broyden |" in table
    assert (folder / "training_step.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.script
def test_the_solver_benchmark_runs_and_its_references_agree(tmp_path: pathlib.Path) -> None:
    script = SCRIPT.with_name("solvers.py")
    command = [sys.executable, str(script), "--small", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    regimes = json.loads((tmp_path / "solvers.json").read_text())["regimes"]
    assert set(regimes) == {"init-nudge", "late-strong"}
    for regime in regimes.values():
        assert max(regime["references_apart_degrees"].values()) < 0.05
        for solvers in regime["solvers"].values():
            steady = solvers["SS, Broyden"]
            assert steady["converged"] == steady["converged_wrong_labels"] == 1
            assert steady["angle_degrees"] < 0.05 and steady["largest_error_of_control"] < 1e-3
            assert steady["update_ratio"] > 0
            # A sweep for each of ten steps and each correction, and one more for each teaching signal.
            assert solvers["DFC, implicit, 10 steps"]["sweeps"] > 20 > steady["sweeps"] > 2
    assert regimes["init-nudge"]["solvers"]["float32"]["DFC, closed form"]["angle_degrees"] < 0.5
    assert "closed form" not in str(regimes["late-strong"])
    assert "python benchmarks/solvers.py" in (tmp_path / "solvers.md").read_text()
    assert (tmp_path / "solvers.png").read_bytes().startswith(b"\x89PNG")


def small_run(name: str, out: pathlib.Path, *options: str) -> dict:
    """What a small run of a benchmark writes."""
    command = [sys.executable, str(SCRIPT.with_name(f"{name}.py")), "--small", "--out", str(out), *options]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    assert f"python benchmarks/{name}.py" in (out / f"{name}.md").read_text()
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((out / f"{name}.json").read_text())


@pytest.mark.script
def test_the_scaling_benchmark_measures_every_method_on_every_axis(tmp_path: pathlib.Path) -> None:
    axes = small_run("scaling", tmp_path)["axes"]
    assert set(axes) == {"width", "depth", "outputs", "batch"}
    for figures in axes.values():
        assert len(figures["points"]) == 2
        for entries in figures["points"].values():
            assert all(entry["update_ratio"] > 0 for entry in entries.values())
            assert entries["Backprop"]["update_ratio"] == 1
            assert entries["DFC-SS"]["converged"] == 1 and entries["DFC-SS"]["largest_residual"] <= 3e-5
        low, high = (entries["DFC-SS"]["update_milliseconds"] for entries in figures["points"].values())
        sizes = [int(size) for size in figures["points"]]
        slope = math.log(high / low) / math.log(sizes[1] / sizes[0])
        assert figures["exponents"]["DFC-SS"] == pytest.approx(slope)
    assert "Sleep, expected" not in axes["outputs"]["points"]["40"]


@pytest.mark.script
def test_the_cost_of_feedback_is_measured_for_every_row(tmp_path: pathlib.Path) -> None:
    asked = ("bp", "dfa", "direct-sleep", "layered-mirror-kolen-pollack", "exact")
    rows = small_run("feedback_cost", tmp_path, "--rows", *asked)["rows"]
    assert tuple(rows) == asked and set(rows["bp"]["ratios"]) == {1.0}
    for name in asked[2:]:  # no time, which is the machine's, but that every sample is solved
        assert len(rows[name]["ratios"]) == 2 and rows[name]["converged"] == 1


@pytest.mark.script
def test_the_expected_sleep_update_is_the_mean_of_many_draws(tmp_path: pathlib.Path) -> None:
    noises = small_run("sleep", tmp_path)["noises"]
    assert len(noises) == 5
    for entry in noises.values():
        assert entry["angle_degrees"] < 1.3 * entry["trust_degrees"]
        assert entry["draws_angle_degrees"]["1"] > entry["angle_degrees"]
        assert entry["expected_update_ratio"] > 0 and entry["simulated_update_ratio"] > 0
        drawn = [entry[f"{kind}_angle_degrees"]["10"] for kind in ("draws", "linearised_draws")]
        assert drawn[1] == pytest.approx(drawn[0], rel=0.3)
        assert len(entry["layer_angles_degrees"]) == 3


def test_the_update_of_predictive_coding_is_the_slope_of_its_least_energy() -> None:
    """At a minimum over the neurons, how the energy changes with a weight is its partial derivative alone."""
    numbers = np.random.default_rng(0)
    shapes = ((5, 6), (4, 5), (3, 4))
    weights = [(numbers.normal(size=s), numbers.normal(size=s[0])) for s in shapes]
    x, y = numbers.normal(size=(2, 6)), numbers.normal(size=(2, 3))
    update, slope = pc_reference.exact_update(weights, x, y)
    assert slope < 1e-12

    def least(shift: float, layer: int, place: tuple[int, int]) -> float:
        moved = [(W.copy(), b) for W, b in weights]
        moved[layer][0][place] += shift

        def energy(flat: np.ndarray) -> float:
            states = [*np.split(flat.reshape(2, 9), [5], axis=1), y]
            befores = [x, *map(np.tanh, states[:-1])]
            layers = zip(states, befores, moved, strict=True)
            return sum(np.sum((v - before @ W.T - b) ** 2) for v, before, (W, b) in layers) / 4

        start = np.concatenate(pc_reference.minimum(weights, x, y)[0], axis=1)
        return scipy.optimize.minimize(energy, np.ravel(start), tol=1e-10).fun

    for layer, place, entry in ((0, (1, 2), 8), (1, (3, 4), 35 + 19), (2, (0, 1), 35 + 24 + 1)):
        difference = (least(1e-3, layer, place) - least(-1e-3, layer, place)) / 2e-3
        assert difference == pytest.approx(update[entry], abs=1e-5)


@pytest.mark.script
def test_gradient_flow_ends_where_predictive_coding_is_found_at_once(tmp_path: pathlib.Path) -> None:
    result = small_run("predictive_coding", tmp_path)
    assert len(result["networks"]) == 2 and not result["environment"]["jpc_process"]
    for network in result["networks"].values():
        methods = network["methods"]
        exact, longest = methods["dfc.PredictiveCoding"], methods[pc_inference.CLOSEST]
        assert exact["converged"] == 1 and exact["relative_error"] < 1e-3
        assert longest["relative_error"] < 1e-3
        assert methods[pc_inference.DEFAULT]["relative_error"] > 0.1
        assert 1 < exact["update_ratio"] < longest["update_ratio"]
    assert "jpc was not there" in (tmp_path / "predictive_coding.md").read_text()


@pytest.mark.script
def test_least_control_is_counted_and_timed_early_and_late(tmp_path: pathlib.Path) -> None:
    networks = small_run("optimal_control", tmp_path)["networks"]
    stages, alphas = ("initial", "after 1 epoch", "after 3 epochs"), ("1", "0.1", "0.01")
    assert list(networks) == [f"{stage}, alpha {alpha}" for alpha in alphas for stage in stages]
    for name, figures in networks.items():
        assert figures["step_ratio"] > 0 and figures["update_ratio"] > 1
        assert figures["converged"] >= (0.9 if name.endswith("0.01") else 1)
    # The less control leaks, the further the state is from where the iteration starts.
    turns = [networks[f"initial, alpha {alpha}"]["iterations"] for alpha in alphas]
    assert turns == sorted(turns)


JPC = """
import jax, jax.numpy as jnp
__version__ = "of the test"

def init_activities_with_ffwd(model, x):
    states = []
    for layer in model:
        x = jax.vmap(layer)(x)
        states.append(x)
    return states

def energy(params, states, y, x):
    befores = [x, *states[:-1]]
    pairs = zip([*states[:-1], y], befores, params[0], strict=True)
    return sum(jnp.sum((v - jax.vmap(layer)(before)) ** 2) for v, before, layer in pairs) / 2 / len(x)

def solve_inference(params, activities, y, *, input, solver, max_t1, stepsize_controller):
    slopes = lambda states: jax.grad(energy, 1)(params, states, y, input)
    down = lambda _, states: [v - 0.1 * len(y) * s for v, s in zip(states, slopes(states), strict=True)]
    return [v[None] for v in jax.lax.fori_loop(0, 2000, down, activities)]

def compute_pc_param_grads(params, activities, y, *, x):
    import equinox as eqx
    return eqx.filter_grad(energy)(params, activities, y, x)
"""


@pytest.mark.script
def test_jpc_gets_the_same_weights_and_batch_in_its_own_process(tmp_path: pathlib.Path, monkeypatch) -> None:
    (tmp_path / "jpc.py").write_text(JPC)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    result = small_run("predictive_coding", tmp_path, "--jpc", sys.executable)
    assert result["environment"]["jpc_process"]["jpc"] == "of the test"
    assert sys.executable not in json.dumps(result)
    for network in result["networks"].values():
        for name in pc_inference.INFERENCES:
            assert network["methods"][name]["relative_error"] < 1e-3
            assert network["methods"][name]["update_ratio"] > 1
    assert "| jpc, T = 200 |" in (tmp_path / "predictive_coding.md").read_text()
