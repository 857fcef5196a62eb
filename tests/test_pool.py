"""Seeds trained apart, pooled into one run."""

import dataclasses
import json
import pathlib
import shutil
import statistics

import jax
import pytest
from compare import command as compare_command, compare
from helpers import records
from options.config import Config
from pool import command as pool_command, pool
from run import main

from dfc_jax._runs.folder import first_difference


RESULTS = pathlib.Path(__file__).parents[1] / "experiments" / "results"


@pytest.fixture(scope="module")
def apart(tmp_path_factory) -> pathlib.Path:
    """The seeds 0 and 1 of DFC-SSA, each a run of its own, and of both feedbacks."""
    folder = tmp_path_factory.mktemp("apart")
    for feedback, seed in (("fixed", 0), ("fixed", 1), ("learned", 0)):
        options = Config(method=("dfc-ssa",), feedback=feedback, epochs=2, hidden=(8,), progress=False)
        slept = dataclasses.replace(options.feedback_learning, update="expected", pretraining_epochs=0.1)
        out = str(folder / f"{feedback}-{seed}")
        learning = slept if feedback == "learned" else options.feedback_learning
        options = dataclasses.replace(
            options, seeds=(seed,), out=out, diagnostics=2, feedback_learning=learning
        )
        with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            assert main(options) == 0
    return folder


def test_the_first_option_with_two_values_is_named() -> None:
    there = {"seeds": (0, 1), "optimiser": {"lr": 0.1, "clip": None}, "epochs": 3}
    assert first_difference(there, there | {"seeds": [0, 1], "epochs": 4}, ("epochs",)) is None
    now = there | {"optimiser": {"lr": 0.1, "clip": 1.0, "epochs": 5}}
    assert first_difference(there, now, ("epochs",)) == ("optimiser.clip", None, 1.0)
    assert first_difference(there, there | {"new": 1}) == ("new", None, 1)
    assert first_difference(there, there | {"new": 0}) == ("new", None, 0)
    assert first_difference(there, there | {"new": False}) is None
    assert first_difference(there | {"new": False}, there) is None
    assert first_difference(there | {"new": None}, there | {"new": False}) == ("new", None, False)
    assert first_difference(there, there | {"optimiser": {"lr": 0.1}}) is None  # None is what is not there


@pytest.mark.slow
def test_seeds_trained_apart_are_pooled_and_compared(apart):
    pool([apart / "fixed-0", apart / "fixed-1"], apart / "both")
    summary = json.loads((apart / "both" / "summary.json").read_text())
    alone = [json.loads((apart / f"fixed-{seed}" / "summary.json").read_text())["seeds"] for seed in (0, 1)]
    assert summary["seeds"] == alone[0] | alone[1]
    scores = [found["test_accuracy"] for found in summary["seeds"].values()]
    assert summary["mean"]["test_accuracy"] == pytest.approx(statistics.fmean(scores))
    assert summary["std"]["test_accuracy"] == pytest.approx(statistics.stdev(scores))
    assert [(r["seed"], r["epoch"]) for r in records(apart / "both")] == [(0, 1), (1, 1), (0, 2), (1, 2)]

    compare([apart / "both", apart / "learned-0"], apart / "table")
    for name in ("comparison.png", "alignment.png"):
        assert (apart / "table" / name).read_bytes().startswith(b"\x89PNG")
    assert f"{100 * statistics.fmean(scores):.2f} ±" in (apart / "table" / "table.md").read_text()


def test_seeds_of_another_script_are_pooled_without_its_pictures(tmp_path, capfd):
    held, other = RESULTS / "feedback" / "cifar10" / "bp", tmp_path / "other"
    other.mkdir()
    for name in ("metrics.jsonl", "summary.json", "config.json"):  # the same with seed 1
        text = (held / name).read_text().replace('"seed": 0', '"seed": 1').replace('"0": {', '"1": {')
        (other / name).write_text(text.replace('"seeds": [\n      0\n', '"seeds": [\n      1\n'))
    assert pool_command([str(held), str(other), "--out", str(tmp_path / "both")]) == 0
    assert {r["seed"] for r in records(tmp_path / "both")} == {0, 1}
    assert capfd.readouterr() == ("", "")
    names = ("config.json", "metrics.jsonl", "summary.json")
    assert {path.name for path in (tmp_path / "both").iterdir()} == {*names}


LINE = '{"seed": 0, "epoch": 1, "train_loss": 1.0, "test_accuracy": 0.5}\n'
SUMMARY = '{{"metric": "test_accuracy", "mean": {{"test_accuracy": 0.5}}, "std": {{}}, "seeds": {}}}'
CONFIG = '{{"config": {{"method": ["bp"], "seeds": [0], {}}}, "environment": {{}}}}'


@pytest.fixture
def finished(tmp_path) -> pathlib.Path:
    """What a finished run of backprop, one seed and one epoch, leaves for `compare`."""
    folder = tmp_path / "run"
    folder.mkdir()
    numbers = {
        "test_accuracy": 0.5,
        "last_train_loss": 1.0,
        "fraction_converged": 1.0,
        "seconds_per_epoch": 1.0,
        "epochs": 1,
    }
    names = ("processor", "cores", "device", "python", "git_revision", "command")
    environment = dict.fromkeys(names, "x") | {"versions": {}}
    config = dataclasses.asdict(Config(method=("bp",)).resolved()) | {"epochs": 1}
    summary = {"metric": "test_accuracy", "mean": numbers, "std": {}, "seeds": {"0": numbers}}
    (folder / "config.json").write_text(json.dumps({"config": config, "environment": environment}))
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text(
        '{"seed": 0, "epoch": 1, "train_loss": 1.0, "test_accuracy": 0.5}\n'
    )
    return folder


@pytest.mark.parametrize("columns", ["20", "40"])
def test_a_table_says_what_is_there_and_replaces_no_other(finished, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    command = [str(finished)]
    assert compare_command(command) == 0
    shown, table = capsys.readouterr().out, (finished.parent / "table.md").read_text(encoding="utf-8")
    assert "digits, 1 epoch, 1 seed" in shown and "50.00" in shown and "…" not in shown
    assert "The last column is the difference" not in table  # there is none
    assert compare_command(command) == 2
    assert "holds table.md already" in capsys.readouterr().err
    assert compare_command([*command, "--out", str(finished.parent)]) == 0  # which asks for it


@pytest.mark.parametrize(
    "file, text, said",
    [
        ("summary.json", "{}", "summary.json has no `metric`"),
        ("summary.json", "{", "summary.json: "),
        ("config.json", "[]", "config.json has no `config`"),
        ("summary.json", "[" * 100_000, "summary.json: "),
        (
            "summary.json",
            SUMMARY.format('{"5": {"epochs": 1}}'),
            "seeds of summary.json are 5, and 0 were asked",
        ),
        ("summary.json", SUMMARY.format("{}"), "seeds of summary.json are none"),
        ("summary.json", SUMMARY.format('{"0": {"epochs": 2}}'), "hold other epochs of seed 0"),
        ("summary.json", SUMMARY.format('{"0": {"epochs": "x"}}'), "hold other epochs of seed 0"),
        ("summary.json", SUMMARY.format('{"0": 5}'), "summary.json has no `seeds.0`"),
        ("summary.json", SUMMARY.format('{"0": {"doubts": 5}}'), "`seeds.0.doubts` of summary.json is 5"),
        ("summary.json", SUMMARY.format('{"0": {"doubts": [5]}}'), "`seeds.0.doubts` of summary.json is [5]"),
        ("metrics.jsonl", "[" * 100_000, "metrics.jsonl: RecursionError"),
        ("metrics.jsonl", "", "hold other epochs of seed 0"),
        ("metrics.jsonl", 2 * LINE, "hold other epochs of seed 0"),
        ("metrics.jsonl", LINE + LINE.replace('"seed": 0', '"seed": 1'), "not asked for: 1"),
        ("metrics.jsonl", LINE.replace('"epoch": 1', '"epoch": "one"'), "hold other epochs of seed 0"),
        ("metrics.jsonl", LINE[:20], "metrics.jsonl: JSONDecodeError"),
        ("metrics.jsonl", None, "there is no metrics.jsonl"),
        (
            "config.json",
            '{"config": {"method": ["bp"], "seeds": [0]}, "environment": "x"}',
            "no `environment`",
        ),
        ("config.json", CONFIG.format('"epochs": null'), "`epochs` is None"),
        ("config.json", CONFIG.format('"epochs": true'), "`epochs` is True"),
        ("config.json", CONFIG.format('"epochs": 1, "dataset": "nope"'), "`dataset` is 'nope'"),
        ("config.json", '{"config": {"method": ["x"]}, "environment": {}}', "`method` is 'x' in"),
        ("config.json", '{"config": {"method": 5}, "environment": {}}', "`method` is 5 in"),
        ("config.json", '{"config": {"method": [["bp"]]}, "environment": {}}', "`method` is ['bp'] in"),
        ("config.json", '{"config": {"method": {"bp": 1}}, "environment": {}}', "`method` is {'bp': 1} in"),
        ("config.json", '{"config": {"method": "bp"}, "environment": {}}', "must be a list with one of bp"),
        ("metrics.jsonl", "[]", "metrics.jsonl: TypeError"),
    ],
)
def test_what_is_no_finished_run_is_not_compared(finished, file, text, said, capsys):
    (finished / file).unlink()
    if text is not None:
        (finished / file).write_text(text)
    assert compare_command([str(finished)]) == 2
    assert said in capsys.readouterr().err and not (finished.parent / "table.md").exists()


NEEDED = {
    "config.json": (
        *("config.dataset", "environment.command", "environment.versions", "environment.processor"),
        *("environment.cores", "environment.device", "environment.python", "environment.git_revision"),
    ),
    "summary.json": (
        *("mean.test_accuracy", "mean.last_train_loss"),
        *("mean.fraction_converged", "mean.seconds_per_epoch"),
    ),
}
OF_ANOTHER_KIND = {
    "config.json": ("environment.versions", "environment.command"),
    "summary.json": (*NEEDED["summary.json"], "seeds.0.test_accuracy", "std.test_accuracy"),
}
LACKING = [(file, name, False) for file, names in NEEDED.items() for name in names]
LACKING += [(file, name, True) for file, names in OF_ANOTHER_KIND.items() for name in names]


@pytest.mark.parametrize(("file", "name", "there"), LACKING)
def test_a_run_that_lacks_what_a_table_says_is_not_compared(finished, file, name, there, capsys):
    """Or has something else there."""
    held = json.loads((finished / file).read_text())
    *groups, last = name.split(".")
    group = held
    for each in groups:
        group = group[each]
    group.pop(last, None)
    group |= {last: [1]} if there else {}
    (finished / file).write_text(json.dumps(held))
    assert compare_command([str(finished)]) == 2
    said = f"error: '{finished}' does not hold a finished run: {file} has no `{name}`.\n"
    assert capsys.readouterr().err == said and not (finished.parent / "table.md").exists()


@pytest.mark.parametrize(
    "file, text, said",
    [
        ("config.json", "[]", "config.json has no `config`"),
        ("config.json", '{"config": {"seeds": [0]}}', "config.json has no `environment`"),
        ("config.json", '{"config": {}, "environment": {}}', "`seeds` is None; they must be different"),
        ("summary.json", "{}", "summary.json has no `metric`"),
        ("summary.json", SUMMARY.format('{"5": {"epochs": 1}}'), "seeds of summary.json are 5"),
        ("metrics.jsonl", 2 * LINE, "hold other epochs of seed 0"),
    ],
)
def test_what_is_no_finished_run_is_not_pooled(finished, tmp_path, file, text, said, capsys):
    (finished / file).write_text(text)
    assert pool_command([str(finished), "--out", str(tmp_path / "both")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "both").exists()


def test_a_seed_that_stopped_at_once_is_pooled_and_said(finished, tmp_path, monkeypatch, capsys):
    """It has left no metrics."""
    other = shutil.copytree(finished, tmp_path / "other")
    (other / "metrics.jsonl").unlink()
    held, summary = (json.loads((other / f"{name}.json").read_text()) for name in ("config", "summary"))
    held["config"]["seeds"] = [1]
    ending = {"stopped": "epoch 1: the loss is no longer finite.", "stopped_by": "divergence", "doubts": []}
    summary |= {"mean": {}, "seeds": {"1": ending}}
    (other / "config.json").write_text(json.dumps(held))
    (other / "summary.json").write_text(json.dumps(summary))
    both = pool([finished, other], tmp_path / "both")
    summary = json.loads((both / "summary.json").read_text())
    assert summary["mean"]["test_accuracy"] == 0.5 and summary["seeds"]["1"] == ending
    assert [record["seed"] for record in records(both)] == [0]
    monkeypatch.setattr("pool.drawn", lambda *_: None)
    assert pool_command([*map(str, (finished, other)), "--out", str(tmp_path / "again")]) == 1
    assert f"{tmp_path / 'again'}, seed 1: stopped in epoch 1" in capsys.readouterr().err
    assert pool_command([str(finished), "--out", str(tmp_path / "one")]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "folders, problem",
    [
        (("fixed-0", "learned-0"), "differs from .* in `feedback`, not in its seeds alone"),
        (("fixed-0", "fixed-0"), "have a seed in common"),
        (("fixed-0", "nothing"), "does not hold a finished run"),
    ],
)
def test_other_runs_are_not_pooled(apart, folders, problem, tmp_path):
    with pytest.raises(ValueError, match=problem):
        pool([apart / name for name in folders], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_of_two_versions_are_pooled_with_both_revisions_and_without_the_old_name(finished, tmp_path):
    """An earlier version called Condition 3 `stable`; what not all seeds have is in no mean."""
    later = shutil.copytree(finished, tmp_path / "later")
    of_epoch, of_run = {"stable": 0.5, "condition_three": 1.0}, {"fraction_stable": 0.5}
    old = {"stable": 1.0, "fraction_stable": 1.0}, "a"
    new = {**of_epoch, **of_run, "fraction_condition_three": 1.0}, "b"
    for seed, (folder, (numbers, revision)) in enumerate(((finished, old), (later, new))):
        held, summary = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "summary"))
        held["config"]["seeds"], held["environment"]["git_revision"] = [seed], revision
        shares = {name: value for name, value in numbers.items() if name.startswith("fraction")}
        summary["seeds"] = {str(seed): summary["seeds"]["0"] | shares}
        record = {"seed": seed, "epoch": 1} | {n: v for n, v in numbers.items() if n not in shares}
        (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        (folder / "config.json").write_text(json.dumps(held))
        (folder / "summary.json").write_text(json.dumps(summary))
    pooled = pool([finished, later], tmp_path / "both")
    assert json.loads((pooled / "config.json").read_text())["environment"]["git_revision"] == "a; b"
    summary = json.loads((pooled / "summary.json").read_text())
    assert "fraction_stable" not in summary["seeds"]["0"] and summary["seeds"]["1"]["fraction_stable"] == 0.5
    assert not any(name.startswith("fraction_stable") for name in summary["mean"])
    assert ["stable" in record for record in records(pooled)] == [False, True]
