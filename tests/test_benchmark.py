"""The benchmarks, run as a user runs them, on a small network."""

import json
import pathlib
import subprocess
import sys

import pytest


pytestmark = pytest.mark.slow  # half a minute of compilation; .ci/run runs it beside the fast suite

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "training_step.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("results")
    command = [sys.executable, str(SCRIPT), "--small", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return out


def test_every_method_has_figures(folder):
    result = json.loads((folder / "training_step.json").read_text())
    methods = result["methods"]
    assert {"Backprop", "DFA", "DFC-SSA", "DFC-SS, Broyden", "DFC, implicit, 24 steps", "Sleep phase"} <= set(
        methods
    )
    assert len(methods) == 15
    for figures in methods.values():
        assert figures["update_ratio"] > 0 and figures["step_ratio"] > 0
        assert figures["update_rounds"] == figures["step_rounds"] == 3
        assert figures["compile_seconds"] > 0
    assert methods["Backprop"]["update_ratio"] == methods["Backprop"]["step_ratio"] == 1
    assert methods["Backprop"]["memory_added_mib"] == 0


def test_steady_states_agree(folder):
    methods = json.loads((folder / "training_step.json").read_text())["methods"]
    assert methods["DFC-SS, Broyden"]["angle_degrees"] == 0
    assert methods["DFC-SS, Newton"]["angle_degrees"] < 0.05
    assert methods["DFC-SS, Tsit5 to rest"]["angle_degrees"] < 0.05
    assert methods["DFC, implicit, 24 steps"]["angle_degrees"] < 5
    assert all(figures["converged"] in (None, 1) for figures in methods.values())
    assert methods["Backprop"]["converged"] is methods["Sleep phase"]["angle_degrees"] is None


def test_the_result_says_where_it_was_measured(folder):
    environment = json.loads((folder / "training_step.json").read_text())["environment"]
    assert environment["device"] and environment["cores"] >= 1 and environment["date"]
    assert {"python", "jax", "jaxlib", "equinox", "diffrax", "optax"} <= set(environment["versions"])


def test_table_and_chart_are_written(folder):
    table = (folder / "training_step.md").read_text()
    assert "python benchmarks/training_step.py" in table
    assert "| DFC-SS, Broyden |" in table
    assert (folder / "training_step.png").read_bytes().startswith(b"\x89PNG")


def test_the_solver_benchmark_runs_and_its_references_agree(tmp_path: pathlib.Path) -> None:
    script = SCRIPT.with_name("solvers.py")
    command = [sys.executable, str(script), "--small", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    regimes = json.loads((tmp_path / "solvers.json").read_text())["regimes"]
    assert set(regimes) == {"init-nudge", "late-strong"}
    for regime in regimes.values():
        assert max(regime["references_apart_degrees"].values()) < 0.05
        steady = regime["solvers"]["SS, Broyden"]
        assert steady["converged"] == steady["converged_wrong_labels"] == 1
        assert steady["angle_degrees"] < 0.05 and steady["update_ratio"] > 0
    assert regimes["init-nudge"]["solvers"]["DFC, closed form"]["angle_degrees"] < 0.5
    assert "closed form" not in str(regimes["late-strong"])
    assert "python benchmarks/solvers.py" in (tmp_path / "solvers.md").read_text()
    assert (tmp_path / "solvers.png").read_bytes().startswith(b"\x89PNG")
