"""What may be asked for beside what a paper sets: in `run.py`'s presets, in Table 1 and in the figures."""

import dataclasses
from typing import get_args

import figures
import pytest
import run
import table1
from neurips2021 import toy_presets
from neurips2021.printed_table import ROWS, TASKS
from options.config import Config
from options.groups import Feedback, Optimal, Sleep, SLEEP_PHASES, Solver
from options.ready import of_method


CLOSED_FORM = Solver(trajectory="closed-form")


@pytest.mark.parametrize(
    "options, said",
    [
        (
            {"preset": "strong-paper", "method": ("strong-dfc",), "label_smoothing": 0.1},
            "`label_smoothing` is given, which strong-dfc does not read",
        ),
        (
            {"preset": "paper", "method": ("dfc",), "optimal": Optimal(alpha=3.0)},
            "`optimal.alpha` is given, which dfc does not read",
        ),
        (
            {"preset": "paper-train-loss", "method": ("bp",), "solver": CLOSED_FORM},
            "`solver.trajectory` is given, which bp does not read",
        ),
        (
            {"preset": "paper", "feedback": "fixed", "feedback_learning": Feedback(update="expected")},
            "`feedback` is fixed, which does not learn",
        ),
        (
            {"preset": "strong-paper", "method": ("strong-dfc-2phase",), "solver": Solver(dt=0.01)},
            "; the preset strong-paper sets it",
        ),
        (
            {"preset": "paper", "method": ("dfc", "strong-dfc")},
            "`method` is strong-dfc, which the preset paper does not have; "
            "it has bp, dfa, dfc, dfc-ss, dfc-ssa, and strong-paper has strong-dfc.",
        ),
        (
            {"preset": "paper", "method": ("gn",)},
            "which the preset paper does not have; it has bp, dfa, dfc, dfc-ss, dfc-ssa.",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_method_reads_is_refused_beside_a_preset_too(options, said, tmp_path, capsys):
    assert run.main(Config("mnist", **options, out=str(tmp_path / "run"))) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_a_method_reads_and_a_preset_leaves_open_may_stand_beside_it():
    learning = Feedback(update="expected", sleep_epochs=0.5)
    config = Config("mnist", method=("dfc", "bp"), preset="paper", solver=CLOSED_FORM, label_smoothing=0.1)
    config = dataclasses.replace(config, feedback_learning=learning).checked()
    found = of_method(config, "dfc")  # in which the preset's values are not given ones
    chosen = found.feedback_learning
    assert (found.solver.trajectory, found.label_smoothing) == ("closed-form", 0.1)
    assert (chosen.update, chosen.sleep_epochs) == ("expected", 0.5) and found.nudge != config.nudge
    assert of_method(config, "bp").optimiser.beta2 == 0.99


@pytest.mark.parametrize("sleep", get_args(Sleep))
def test_every_cell_of_table_1_asks_for_nothing_that_it_does_not_read(sleep):
    options = table1.Options(sleep=sleep, sleep_epochs=1, pretraining_epochs=0.5)
    for task in TASKS:
        for row in ROWS:
            config = table1.cell(options, task, row).checked()
            assert of_method(config, config.method[0]).epochs == config.epochs


@pytest.mark.parametrize("update", ["weight-mirror", "kolen-pollack", "nonsense"])
@pytest.mark.parametrize("command", [[figures, "3"], [figures, "s1"], [table1]], ids=["3", "s1", "table"])
def test_the_papers_networks_sleep_in_phases_that_there_are(command, update, capsys):
    script, *words = command
    with pytest.raises(SystemExit) as stopped:
        script.command([*words, "--sleep", update])
    assert stopped.value.code == 2 and "--sleep" in capsys.readouterr().err


@pytest.mark.usefixtures("as_users_run")
def test_all_phases_that_figures_and_table_take_can_be_made():
    assert set(get_args(Sleep)) == SLEEP_PHASES.keys()
    for sleep in get_args(Sleep):
        made = toy_presets.make_feedback_learning(toy_presets.FIGURE_3, sleep)
        assert type(made.phase) is SLEEP_PHASES[sleep]
