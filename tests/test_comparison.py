"""Tables and pictures of several runs: none takes the place of others', and each row says what it is of."""

import functools
import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import run
from compare import compare
from finished_runs import finished_run, rows_of
from matplotlib.colors import to_rgb
from options.config import Config
from options.groups import Feedback, Optimiser
from report import curves
from report.naming import named
from report.written import of_others

import dfc_jax as dfc


Make = Callable[..., pathlib.Path]


@pytest.fixture
def finished(tmp_path: pathlib.Path) -> Make:
    return functools.partial(finished_run, tmp_path)


# Nobody's table is lost


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs whose folders are made, and that end at once."""
    monkeypatch.setattr(run, "train", lambda *_: {})
    monkeypatch.setattr(run, "compare", lambda *_: None)


def contents(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


NEW = ["--method", "bp", "--hidden", "8", "--no-progress"]


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("options", [[], ["--resume"]], ids=["new", "resume"])
@pytest.mark.parametrize("name", ["table.md", "comparison.png", "alignment.png"])
def test_a_new_run_leaves_a_table_and_a_picture_that_are_there(tmp_path, name, options, capsys):
    (tmp_path / name).write_text("of others")
    before = contents(tmp_path)
    assert run.command([*NEW, "--out", str(tmp_path), *options]) == 2
    assert f"holds {name} of other runs; name a new folder, or move it" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("untrained")
def test_a_run_does_not_take_the_folder_of_another_method(tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    assert run.command(["--method", "dfa", *NEW[2:], *out]) == 0
    (tmp_path / "run" / "summary.json").write_text("{}")
    before = contents(tmp_path)
    for options in ([], ["--resume"]):
        assert run.command([*NEW, *out, *options]) == 2
    assert "holds a run of dfa alone: name a new folder" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("command", [None, "the same"], ids=["another command", "more rows"])
def test_a_run_that_goes_on_leaves_a_table_of_more_runs_than_its_own(finished, command, capsys):
    mine, others = (finished(name, command=command) for name in ("mine", "others"))
    resume = ["--out", str(mine), "--resume", "--no-progress", "--epochs", "3"]
    compare([mine, others], mine)
    before = contents(mine)
    assert run.command(resume) == 2
    assert "holds table.md of other runs" in capsys.readouterr().err and contents(mine) == before
    compare([mine], mine)
    assert not of_others(mine, [mine])
    (mine / "metrics.jsonl").unlink()  # for there are no checkpoints
    assert run.command(resume) == 0


def test_a_table_made_during_training_stays(finished, capsys):
    mine, others = finished("mine"), finished("others", nudge=0.2)
    config = Config(method=("dfc-ss",))
    runs = [run.Run("dfc-ss", config, dfc.RunFolder(mine))]
    compare([mine, others], mine)
    before = contents(mine)
    run._compare(mine, runs)
    assert contents(mine) == before
    assert f"python experiments/compare.py {mine} --out FOLDER" in capsys.readouterr().out
    (mine / "table.md").unlink()
    run._compare(mine, runs)
    assert (mine / "table.md").exists() and contents(mine) != before


def test_commands_come_in_the_order_of_the_rows(finished, tmp_path):
    runs = [finished(name, command=f"python {name}.py") for name in ("z", "a", "m")]
    again = finished("again", command="python z.py")
    compare([*runs, again], tmp_path)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert [line for line in lines if line.startswith("- `")] == [f"- `python {n}.py`" for n in "zam"]


# Rows and curves are told apart


def legend_and_colours(folders: list[pathlib.Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the picture's legend says, and in which colours."""
    figures = []
    monkeypatch.setattr(curves.plt, "close", figures.append)
    assert curves.plot_comparison(folders, folders[0].parent / "picture.png") is not None
    monkeypatch.undo()
    (legend,) = figures[0].legends
    lines = legend.get_lines()
    curves.plt.close(figures[0])
    return {t.get_text(): str(line.get_color()) for t, line in zip(legend.get_texts(), lines, strict=True)}


def told(folders: list[pathlib.Path]) -> list[dict[str, str]]:
    return [run.told for run in named(folders)[0]]


def test_runs_of_a_sweep_are_named_by_what_is_swept(finished, tmp_path, monkeypatch):
    sweep = [finished(f"n{nudge}", nudge=nudge) for nudge in (0.1, 0.4, 0.05, 0.2)]
    compare(sweep, tmp_path)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[2].startswith("| method | feedback | nudge | test accuracy")
    assert [line.split(" | ")[2] for line in lines[4:8]] == ["0.1", "0.4", "0.05", "0.2"]
    entries = legend_and_colours(sweep, monkeypatch)
    assert list(entries) == [*(f"DFC-SS, nudge {n}" for n in ("0.1", "0.4", "0.05", "0.2")), "train", "test"]
    red, green, blue = np.array([to_rgb(colour) for colour in list(entries.values())[:4]]).T
    brightness = 0.3 * red + 0.59 * green + 0.11 * blue
    assert np.argsort(-brightness).tolist() == [2, 0, 3, 1]  # from light to dark, by the nudge


def test_methods_alone_need_no_more_than_their_names(finished, monkeypatch):
    runs = [finished("a", "dfc-ss", nudge=0.3), finished("b", "bp", optimiser=Optimiser(lr=0.1))]
    runs += [finished("c", "dfc-ss", feedback="learned")]
    assert told(runs) == [{}, {}, {}]
    assert list(legend_and_colours(runs, monkeypatch)) == [
        "DFC-SS, fixed",
        "backprop",
        "DFC-SS, learned",
        "train",
        "test",
    ]


def test_what_follows_from_another_option_or_is_not_read_is_not_named(finished):
    learning = [Feedback(lr=rate) for rate in (0.1, 0.2)]  # which is that of pre-training, too
    runs = [finished(f"f{f.lr}", feedback="learned", feedback_learning=f) for f in learning]
    assert told(runs) == [{"feedback_learning.lr": "0.1"}, {"feedback_learning.lr": "0.2"}]
    runs = [finished(f"m{model}", "bp", model=model, nudge=n) for model, n in (("mlp", 0.1), ("conv", 0.2))]
    assert told(runs) == [{"model": "mlp"}, {"model": "conv"}]  # with its own channels and hidden layers


def test_runs_that_differ_in_their_seeds_alone_are_one_row(finished, tmp_path):
    folders = [finished("a", nudge=0.1), finished("b", nudge=0.2), finished("c", nudge=0.1, seeds=(1,))]
    folders.append(finished("d", nudge=0.2))  # whose seed is b's
    compare(folders, tmp_path / "table")
    rows = rows_of(tmp_path / "table")
    assert [row[2] for row in rows] == ["0.1", "0.2", "0.2"]
    assert any("50.00 ± 0.00" in cell for cell in rows[0]) and not any("±" in cell for cell in rows[1])
    assert "`python run.py a; python run.py c`" in (tmp_path / "table" / "table.md").read_text()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables without their pictures."""
    monkeypatch.setattr("compare.drawn", lambda *_: None)


@pytest.mark.usefixtures("undrawn")
def test_rows_of_several_runs_may_be_of_folders_that_are_called_the_same(finished, tmp_path):
    settings = {"a": (0.1, 0), "b": (0.1, 1), "c": (0.2, 0), "d": (0.2, 1)}
    runs = [finished(f"{name}/dfc-ss", nudge=n, seeds=(seed,)) for name, (n, seed) in settings.items()]
    compare(runs, tmp_path / "table")
    assert [row[2] for row in rows_of(tmp_path / "table")] == ["0.1", "0.2"]


@pytest.mark.usefixtures("undrawn")
def test_rows_of_many_runs_are_told_apart_by_short_names(finished, tmp_path):
    """The names of all runs together are longer than that of a file can be."""
    names = [f"digits-20250101-120000-{seed:06x}" for seed in range(12)]
    runs = [finished(f"{p}/{name}", seeds=(seed,)) for p in "ab" for seed, name in enumerate(names)]
    compare(runs, tmp_path / "table")
    first, second = (row[2] for row in rows_of(tmp_path / "table"))
    assert first != second and len(first) == len(second) == 60


def test_of_hundreds_the_screen_and_the_picture_show_the_first_and_the_best(
    finished, tmp_path, capsys, monkeypatch
):
    folders = [finished(f"{i:03d}", nudge=round(0.01 * (i + 1), 2)) for i in range(300)]
    for i, folder in enumerate(folders):
        summary = json.loads((folder / "summary.json").read_text())
        summary["mean"]["test_accuracy"] = 0.5 + 0.001 * (i % 150)
        (folder / "summary.json").write_text(json.dumps(summary))
    drawn = []
    monkeypatch.setattr("compare.plot_comparison", lambda folders, _: drawn.extend(folders))
    compare(folders, tmp_path / "table")
    assert len(rows_of(tmp_path / "table")) == 300
    assert drawn == [folders[i] for i in (0, *range(144, 150), *range(295, 300))]
    said = capsys.readouterr().out
    assert "the first and the best of 300" in said
    assert [said.count(f"│ {score:.2f} ") for score in (64.9, 64.0, 63.0)] == [2, 1, 0]


def test_seeds_and_at_last_folders_tell_runs_of_the_same_setting_apart(finished):
    runs = [finished("a/x", seeds=(0, 1)), finished("b/x", seeds=(2,)), finished("c/x", "bp")]
    assert told(runs) == [{"seeds": "0 1"}, {"seeds": "2"}, {"seeds": ""}]
    runs = [*runs, finished("d/x", seeds=(2,))]
    assert [found["folder"] for found in told(runs)] == ["", "b/x", "", "d/x"]


def test_no_table_shows_the_temporary_folder_of_runs_that_are_pooled_for_it(finished, tmp_path):
    apart = [finished(f"{where}/x", seeds=(seed,)) for seed, where in enumerate("ab")]
    others = [finished("c/x", seeds=(0, 1)), finished("d/x", seeds=(0, 1))]
    compare([*apart, *others], tmp_path / "table")
    assert [row[2] for row in rows_of(tmp_path / "table")] == ["1-x+x", "c/x", "d/x"]


def test_what_there_is_no_room_for_is_said_below_the_table(finished, tmp_path):
    many = {"nudge": 0.2, "hidden": (8,), "batch_size": 32, "best": "validation_loss", "patience": 3}
    compare([finished("a"), finished("b", **many)], tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "| feedback | hidden | batch_size | best | patience | test" in text
    assert "The runs differ in `nudge`, too." in text


def test_a_run_without_an_epoch_is_in_the_table_and_not_in_the_legend(finished, tmp_path, monkeypatch):
    runs = [finished("a", "bp"), finished("b", "dfa", epochs=0)]
    compare(runs, tmp_path)
    assert "| dfa | random | no score |" in (tmp_path / "table.md").read_text()
    assert list(legend_and_colours(runs, monkeypatch)) == ["backprop", "train", "test"]
    lone = finished("c", epochs=0)
    assert curves.plot_curves(lone) is None and not (lone / "curves.png").exists()


def test_a_wide_table_keeps_its_numbers_whole_on_a_narrow_screen(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    shapes = {"a": ((8,), 16), "b": ((16, 16), 32), "c": ((32,), 64)}
    runs = [
        finished(
            name, hidden=hidden, batch_size=batch, nudge=batch / 100, optimiser=Optimiser(lr=batch / 1000)
        )
        for name, (hidden, batch) in shapes.items()
    ]
    compare(runs, tmp_path / "compared")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    assert [row[1:] for row in cells if row[1]] == [["50.00", "1", "100.00", "1.00"]] * 3
    said = " ".join(row[0] for row in cells)
    assert all(f"optimiser.lr {lr}" in said for lr in (0.016, 0.032, 0.064)) and "hidden 16 16" in said


@pytest.mark.parametrize("letters", [10, 40, 41, 90, 300])
def test_a_legend_of_any_length_covers_no_panel_and_is_whole(letters: int) -> None:
    figure, axes = curves.plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    words = " ".join(["option"] * letters)[:letters].strip()
    curves._explain(figure, [curves.Line2D([], [], label=f"{words}{i}") for i in range(9)])
    figure.draw_without_rendering()
    (legend,), whole = figure.legends, figure.bbox
    covered = legend.get_window_extent()
    assert not any(covered.overlaps(ax.get_tightbbox()) for ax in axes)
    assert whole.x0 <= covered.x0 and covered.x1 <= whole.x1
    assert whole.y0 <= covered.y0 and covered.y1 <= whole.y1
    assert all(ax.get_window_extent().height > 0.5 * 3.6 * figure.dpi for ax in axes)
    curves.plt.close(figure)
