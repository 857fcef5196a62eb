"""Table 1 of the NeurIPS paper: its presets against the published formulas, and its command in small."""

import csv
import dataclasses
import json
import pathlib
import signal

import numpy as np
import pytest
import table1
from helpers import records
from neurips2021.presets import BATCH_SIZE, paper, TABLE_1
from options.config import Config
from options.groups import Optimiser
from report.paired import paired_difference
from scipy import stats

import dfc_jax as dfc


@pytest.fixture
def small_mnist(as_users_run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random images in place of MNIST."""
    x = np.random.default_rng(0).standard_normal((256, 784)).astype(np.float32)
    split = dfc.Split(x, np.eye(10, dtype=np.float32)[np.arange(256) % 10])
    small = dfc.Dataset("mnist", split, split, split, classification=True)
    monkeypatch.setattr(dfc, "load", lambda name: small)


def options(out: pathlib.Path, **changed: object) -> table1.Options:
    rows = ("BP", "DFC-SSA (fixed)", "DFC-SS")
    start = table1.Options(("mnist",), rows, (3, 5), 0.02, sleep_epochs=1, pretraining_epochs=0.5, out=out)
    return dataclasses.replace(start, progress=False, **changed)


@pytest.mark.script
def test_cells_are_run_once_and_tabled(small_mnist, tmp_path: pathlib.Path, monkeypatch) -> None:
    assert table1.main(options(tmp_path, rows=("BP",))) == 0
    assert table1.main(options(tmp_path)) == 0
    cells = {cell["row"]: cell for cell in json.loads((tmp_path / "table1.json").read_text())}
    assert list(cells) == ["BP", "DFC-SS", "DFC-SSA (fixed)"]
    for cell in cells.values():
        assert cell["epochs"] == 2 and set(cell["values"]) == {"3", "5"}
        assert cell["mean"] == pytest.approx(np.mean(list(cell["values"].values())))
        assert cell["std"] == pytest.approx(np.std(list(cell["values"].values()), ddof=1))
    assert cells["BP"]["minus_bp"] is None and cells["DFC-SS"]["sleep_epochs"] == 1
    with open(tmp_path / "table1.csv", newline="") as file:
        assert [row["row"] for row in csv.DictReader(file)] == list(cells)
    lines = (tmp_path / "table1.md").read_text().splitlines()
    assert any(line.startswith("| DFC-SS |") and "(2.29 ± 0.097)" in line for line in lines)

    monkeypatch.setattr(table1, "train", None)  # nothing is left to do
    assert table1.main(options(tmp_path)) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupted_cell_goes_on_and_another_one_is_refused(
    small_mnist, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    append, appended = dfc.RunFolder.append, []

    def interrupted(folder: dfc.RunFolder, seed: int, record: dict) -> None:
        append(folder, seed, record)
        appended.append((seed, record["epoch"]))
        if len(appended) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(dfc.RunFolder, "append", interrupted)
    whole, broken = (options(tmp_path / name, rows=("BP",)) for name in ("whole", "broken"))
    assert table1.main(broken) == 130 and "the same command goes on" in capsys.readouterr().err
    assert table1.main(broken) == table1.main(whole) == 0
    assert appended[3:5] == [(3, 2), (5, 2)]  # the first epochs were kept
    assert records(tmp_path / "whole/mnist/bp") == records(tmp_path / "broken/mnist/bp")
    assert table1.main(dataclasses.replace(whole, seeds=(1,))) == 2
    assert "seeds = [3, 5], not [1]" in capsys.readouterr().err


def test_the_closed_form_is_for_long_trajectories_only() -> None:
    choose = lambda task, row: table1.cell(table1.Options(), task, row).solver.trajectory
    assert choose("mnist", "DFC") == choose("mnist", "DFC (fixed)") == "closed-form"  # 20 and 10 tau_u
    assert choose("fashion_mnist", "DFC") == "closed-form"  # 6
    assert choose("fashion_mnist", "DFC (fixed)") == choose("mnist_train_loss", "DFC") == "implicit"


def test_a_cell_all_of_whose_seeds_stopped_in_their_first_epoch_is_tabled() -> None:
    nothing = {"mean": None, "std": None, "values": {}, "converged": None, "minus_bp": None, "sleep": None}
    cell = {"task": "mnist", "row": "BP", "paper_mean": 1.0, "paper_std": 0.1, "epochs": 1, "sleep_epochs": 0}
    cell |= {"seconds": 0.0, "device": "one", "revision": "abc", "remark": "diverged", **nothing}
    lines = table1._markdown([cell])
    assert any(line.startswith("| BP | diverged |") for line in lines)
    assert "| mnist | BP | 0 | 1 | 0 |  |  | 0 | abc |" in lines


def test_a_final_loss_is_of_seeds_that_came_to_the_end(tmp_path, monkeypatch, capsys) -> None:
    folder = tmp_path / "mnist_train_loss" / "bp"
    folder.mkdir(parents=True)
    environment = dict.fromkeys(("processor", "cores", "device", "git_revision"), "x")
    config = {"config": {"feedback": "fixed", "epochs": 3}, "environment": environment}
    whole = {"last_train_loss": 2e-7, "epochs": 3, "seconds_per_epoch": 1.0, "stopped": None}
    early = {"stopped": "epoch 2: the loss is no longer finite.", "stopped_by": "divergence", "doubts": []}
    early = whole | early | {"last_train_loss": 0.9, "epochs": 1}
    summary = {"metric": "test_accuracy", "mean": {}, "std": {}, "seeds": {"0": whole, "1": early}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").write_text(json.dumps(summary))
    (cell,) = table1.collect(tmp_path)
    assert cell["values"] == {0: pytest.approx(2)} and cell["seconds"] == 4

    monkeypatch.setattr(table1, "run_cell", lambda _: None)
    assert table1.main(table1.Options(("mnist_train_loss",), ("BP",), (0, 1), out=tmp_path)) == 1
    said = capsys.readouterr()
    assert said.err == "mnist_train_loss, BP, seed 1: stopped in epoch 2: the loss is no longer finite.\n"
    assert "| BP | 2 (1.53 ± 0.19), 1 of 2 seeds diverged" in said.out


def test_paired_differences_are_a_paired_t_test() -> None:
    ours, theirs = {0: 2.0, 1: 2.5, 2: 2.2, 9: 7.0}, {0: 1.9, 1: 2.2, 2: 2.2}
    found = paired_difference(ours, theirs)
    wanted = stats.ttest_rel([2.0, 2.5, 2.2], [1.9, 2.2, 2.2])
    assert found["mean"] == pytest.approx(0.4 / 3)
    assert found["p"] == pytest.approx(wanted.pvalue)
    assert (found["low"], found["high"]) == pytest.approx(tuple(wanted.confidence_interval(0.95)))
    assert paired_difference(ours, {0: 1.0}) is None


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_differences_that_are_the_same_but_for_rounding_are_not_tested(kind: type) -> None:
    theirs, ours = ({s: 100 * float(kind((300 + 2 * s + more) / 360)) for s in (0, 1)} for more in (0, 1))
    assert len({ours[seed] - theirs[seed] for seed in ours}) == 2  # of one test sample each
    assert paired_difference(ours, theirs) is None
    assert paired_difference(ours, theirs | {1: theirs[1] - 100 / 10_000}) is not None
    assert paired_difference({0: 1e-9, 1: 2e-9}, {0: 0.0, 1: 0.0})["mean"] == pytest.approx(1.5e-9)


@pytest.mark.parametrize("task", list(TABLE_1))
def test_presets_undo_the_published_scales(task: str) -> None:
    """Ours times 2 nudge is the published update; eps and clip are compared with it."""
    preset = "paper-train-loss" if task == "mnist_train_loss" else "paper"
    config = Config(dataset="mnist" if task == "mnist_train_loss" else task, preset=preset)
    published = TABLE_1[task]
    learned, fixed = (
        paper(dataclasses.replace(config, feedback=feedback), "dfc-ss") for feedback in ("learned", "fixed")
    )
    for chosen, (forward, dynamics, *_) in ((learned, published.trained), (fixed, published.fixed)):
        assert chosen.nudge * BATCH_SIZE == pytest.approx(forward.target_stepsize)
        scale = 2 * chosen.nudge
        assert chosen.optimiser.lr == pytest.approx(forward.lr / forward.target_stepsize)
        assert chosen.optimiser.eps * scale == pytest.approx(forward.epsilon)
        assert chosen.optimiser.clip * scale == pytest.approx(1)
        assert chosen.controller.alpha == dynamics.alpha_di
        assert chosen.solver.duration == pytest.approx(dynamics.dt_di[1] * dynamics.tmax_di[1])
    sleep, learning = learned.feedback_learning, published.trained[2]
    scale = sleep.sigma**2 / max(sleep.sigma, 0.01) ** 2
    assert sleep.weight_decay * scale == pytest.approx(learning.feedback_wd)
    assert sleep.eps * scale == pytest.approx(learning.epsilon_fb) and sleep.clip * scale == pytest.approx(1)
    assert sleep.sleep_epochs == 3 and sleep.pretraining_epochs == learning.epochs_fb
    bp = paper(config, "bp")
    assert bp.optimiser.lr == pytest.approx(1e3 * published.bp.lr)
    assert (bp.optimiser.eps, bp.optimiser.clip) == (published.bp.epsilon, None)


@pytest.mark.parametrize(
    "row, held, problem",
    [
        ("DFC-SS", {}, None),
        ("DFC-SS", {"feedback_learning": {"update": "simulated"}}, "feedback_learning.update = simulated"),
        ("DFC-SS (fixed)", {"feedback_learning": {"update": "simulated"}}, None),
        ("DFC-SS", {"seeds": [0]}, r"seeds = \[0\], not \[0, 1\]"),
        ("BP", {"epochs": 1}, "epochs = 1, not 100"),
    ],
)
def test_a_finished_cell_is_left_alone_or_refused(tmp_path, row, held, problem) -> None:
    options = table1.Options(out=tmp_path, seeds=(0, 1))
    config = table1.cell(options, "mnist", row)
    folder = pathlib.Path(config.out)
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text("{}")
    # The preset has filled in what was left open.
    finished = dataclasses.asdict(config)
    finished["feedback_learning"] |= {"sleep_epochs": 3} | held.pop("feedback_learning", {})
    (folder / "config.json").write_text(json.dumps({"config": finished | held}))
    if problem is None:
        assert table1.run_cell(config) is None
    else:
        with pytest.raises(ValueError, match=problem):
            table1.run_cell(config)


def test_what_a_preset_sets_must_not_be_given_beside_it() -> None:
    with pytest.raises(ValueError, match="`optimiser` is"):
        paper(Config(dataset="mnist", preset="paper", optimiser=Optimiser(lr=0.1)), "bp")
    with pytest.raises(ValueError, match="exists for mnist, fashion_mnist, mnist_autoencoder, not digits"):
        paper(Config(preset="paper"), "bp")
    with pytest.raises(ValueError, match="`method` is mn"):
        paper(Config(dataset="mnist", preset="paper"), "mn")
