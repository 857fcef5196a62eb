"""The benchmarks, run as a user runs them, on a small network."""

import ast
import importlib
import json
import math
import pathlib
import runpy
import subprocess
import sys

import pytest


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
    assert len(methods) == 19
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


def small_run(name: str, out: pathlib.Path) -> dict:
    """What a small run of a benchmark writes."""
    command = [sys.executable, str(SCRIPT.with_name(f"{name}.py")), "--small", "--out", str(out)]
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
def test_the_expected_sleep_update_is_the_mean_of_many_draws(tmp_path: pathlib.Path) -> None:
    noises = small_run("sleep", tmp_path)["noises"]
    assert len(noises) == 5
    for entry in noises.values():
        assert entry["angle_degrees"] < 1.3 * entry["trust_degrees"]
        assert entry["draws_angle_degrees"]["1"] > entry["angle_degrees"]
        assert entry["expected_update_ratio"] > 0 and entry["simulated_update_ratio"] > 0
        assert len(entry["layer_angles_degrees"]) == 3
