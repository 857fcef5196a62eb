"""Tables and exit status say which runs diverged or are in doubt."""

import json
import pathlib
from typing import Any

import pytest
from compare import command
from finished_runs import finished_run, rows_of
from report.doubts import remark


def end(folder: pathlib.Path, seed: int, epochs: int, **ending: Any) -> None:
    """Let a seed of a finished run have ended otherwise, after so many epochs."""
    summary = json.loads((folder / "summary.json").read_text())
    measured = summary["seeds"][str(seed)] | {"epochs": epochs} if epochs else {}
    summary["seeds"][str(seed)] = measured | ending
    (folder / "summary.json").write_text(json.dumps(summary))
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    ended = lambda record: record["seed"] == seed and record["epoch"] > epochs
    (folder / "metrics.jsonl").write_text("".join(line for line in lines if not ended(json.loads(line))))


def test_seeds_that_diverged_or_are_in_doubt_are_remarked(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compare.drawn", lambda *_: None)
    monkeypatch.setenv("COLUMNS", "60")
    fine, doubted = (finished_run(tmp_path, f"nudge-{nudge}", nudge=nudge) for nudge in (0.1, 0.3))
    broken = finished_run(tmp_path, "broken", nudge=0.2, seeds=(0, 1, 2))
    why = "the loss or a weight is no longer finite."
    for seed, epochs in ((1, 1), (2, 0)):
        end(broken, seed, epochs, stopped=f"epoch {1 + epochs}: {why}", stopped_by="divergence", doubts=[])
    end(doubted, 0, 2, stopped=None, stopped_by=None, doubts=["Half converged.", "None is stable."])
    runs = [str(folder) for folder in (fine, broken, doubted)]
    assert command([*runs, "--out", str(tmp_path / "table")]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"dfc-ss (fixed feedback, nudge 0.2), seed 1: stopped in epoch 2: {why}",
        f"dfc-ss (fixed feedback, nudge 0.2), seed 2: stopped in epoch 1: {why}",
        "dfc-ss (fixed feedback, nudge 0.3), seed 0: Half converged. None is stable.",
    ]
    assert all(word in said.out for word in ("remark", "diverged,", "scores", "doubt"))
    assert [row[7:] for row in rows_of(tmp_path / "table")] == [
        [],
        ["2 of 3 seeds diverged, scores of 2 of 3 seeds"],
        ["in doubt"],
    ]
    assert "A seed that diverged" in (tmp_path / "table" / "table.md").read_text()
    assert command([runs[0], "--out", str(tmp_path / "alone")]) == 0
    assert "remark" not in (tmp_path / "alone" / "table.md").read_text()


def test_who_stopped_as_asked_is_in_no_doubt() -> None:
    of = lambda **ending: remark({"metric": "loss", "seeds": {"0": {"loss": 0.5, "doubts": [], **ending}}})
    assert of(stopped=None, stopped_by=None) == of(stopped="epoch 3", stopped_by="patience") == ""
    assert of(stopped="epoch 3", stopped_by="on_epoch") == "pruned"
    assert of(stopped="epoch 3: the loss is no longer finite.") == "diverged"  # as of an earlier version
