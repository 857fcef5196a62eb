"""Tables of the repository, and README's, are what the committed runs give."""

import dataclasses
import importlib
import json
import re
import shlex
from typing import Any

import compare
import feedback
import late_rise
import numpy as np
import pytest
import sweep
import table1
import theories
from committed import BENCHMARKS, COMPARED, read, RESULTS
from options.read_back import from_dict
from report.curves import read_curves
from sweeping import report
from sweeping.description import Sweep
from weight_transport.branches import BRANCHES
from weight_transport.branches_table import table


SUMMARIES = sorted(path.parent for path in RESULTS.glob("*/**/summary.json"))


@pytest.mark.parametrize("name", ["table1", "table1-full", "table1-longer"])
def test_table_1_is_that_of_its_cells(name, tmp_path):
    table1.write(table1.collect(RESULTS / name), tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (RESULTS / name / path.name).read_bytes()


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RESULTS.glob("feedback/*/feedback.md")))
def test_the_feedback_tables_are_those_of_their_runs(name):
    folder = RESULTS / "feedback" / name
    held = read(folder / "feedback.json")
    options = dataclasses.replace(from_dict(feedback.Options, held["options"]), out=folder)
    rows = feedback.collect(options)
    assert rows == held["rows"]
    assert "\n".join(feedback._table(options, rows)) + "\n" == (folder / "feedback.md").read_text("utf-8")


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RESULTS.glob("theories/*/theories.md")))
def test_the_theories_tables_are_those_of_their_runs(name, tmp_path):
    folder = RESULTS / "theories" / name
    held = read(folder / "theories.json")
    options = dataclasses.replace(from_dict(theories.Options, held["options"]), out=folder)
    methods = theories.collect(options)
    assert methods == held["methods"]
    theories.write(dataclasses.replace(options, out=tmp_path), methods, held["angles"], moved_of(held))
    assert (tmp_path / "theories.md").read_bytes() == (folder / "theories.md").read_bytes()


def test_the_table_of_the_late_rise_is_that_of_its_runs():
    folder = RESULTS / "late-rise"
    held = read(folder / "late_rise.json")
    options = dataclasses.replace(from_dict(late_rise.Options, held["options"]), out=folder)
    rows = late_rise.collect(options)
    lines = table(options.given(), rows, read(folder / "start" / "slept.json"))
    assert rows == held["rows"] and list(rows) == list(BRANCHES)
    assert "\n".join(lines) + "\n" == (folder / "late_rise.md").read_text("utf-8")


def moved_of(held: dict[str, Any]) -> dict[str, Any]:
    return {name: found for name, found in held["interference"].items() if name not in ("rates", "samples")}


@pytest.mark.parametrize("name", ["predictive_coding", "optimal_control"])
def test_a_benchmarks_tables_are_those_of_its_figures(name, tmp_path):
    importlib.import_module(name)._write(read(BENCHMARKS / f"{name}.json"), tmp_path)
    assert (tmp_path / f"{name}.md").read_bytes() == (BENCHMARKS / f"{name}.md").read_bytes()


@pytest.mark.parametrize("name", COMPARED)
def test_compared_tables_are_those_of_their_runs(name, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "drawn", lambda *_: None)
    compare.compare([RESULTS / name / run for run in COMPARED[name]], tmp_path)
    assert (tmp_path / "table.md").read_bytes() == (RESULTS / name / "table.md").read_bytes()


def test_a_sweeps_table_is_that_of_its_runs(tmp_path, monkeypatch):
    folder = RESULTS / "theories" / "rates"
    environment = read(folder / "000" / "config.json")["environment"]
    options, words = sweep.read(shlex.split(environment["command"])[2:])
    searched = Sweep(tuple(words), options.search)
    for run in folder.glob("*/config.json"):
        (tmp_path / run.parent.name).symlink_to(run.parent)
    held = {"sweep": dataclasses.asdict(searched), "environment": environment}
    (tmp_path / "sweep.json").write_text(json.dumps(held))
    monkeypatch.setattr(report, "drawn", lambda *_: None)
    report.report(searched, tmp_path)
    for name in ("table.md", "table.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_the_best_epochs_of_all_summaries_are_in_their_metrics():
    assert len(SUMMARIES) > 50
    for folder in SUMMARIES:
        summary, curves = read(folder / "summary.json"), read_curves(folder)
        for row, seed in enumerate(sorted(summary["seeds"], key=int)):
            found, metric = summary["seeds"][seed], summary["metric"]
            score = curves.get("validation_accuracy", -curves["validation_loss"])[row]
            best = found["best_epoch"] - 1
            assert score[best] == np.nanmax(score), folder
            assert curves[metric][row, best] == found[metric], folder
            last = curves["train_loss"][row][: found["epochs"]][-1]
            assert last == found["last_train_loss"] or found["stopped"], folder


def test_no_result_calls_condition_three_stable():
    """As versions before did, which also called by that name whether an error had halved."""
    for path in RESULTS.glob("**/metrics.jsonl"):
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert all("condition_three" in record for record in records if "stable" in record), path
    for folder in SUMMARIES:
        means = read(folder / "summary.json")["mean"]
        assert "fraction_condition_three" in means or "fraction_stable" not in means, folder


def test_no_result_names_a_path_of_the_machine_that_made_it():
    for folder in (RESULTS, BENCHMARKS):
        for path in folder.rglob("*"):
            if path.suffix in (".json", ".jsonl", ".md", ".csv"):
                found = re.search(r"(?<![\w.])/(tmp|home|root|work|Users)/\S*", path.read_text("utf-8"))
                assert found is None, (path, found)
