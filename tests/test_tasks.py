"""The programs of docs/tasks.md run as they stand, and say what they should.

Each has a namespace of its own, and those that need no process of their own share one, which imports and
compiles once.
"""

import pathlib
import re
import subprocess
import sys

import pytest


PAGE = pathlib.Path(__file__).parent.parent / "docs" / "tasks.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


RUN = """
import sys
for program in sys.argv[1:]:
    exec(compile(program, "program", "exec"), {"__name__": "__main__"})
    print("end of the program")
"""


def run(folder: pathlib.Path, *programs: str) -> list[list[str]]:
    """The lines of each of the programs, run in `folder` in one new process."""
    command = [sys.executable, "-W", "error", "-c", RUN, *programs]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    *said, after = done.stdout.split("end of the program\n")
    assert len(said) == len(programs) and after == ""
    return [lines.splitlines() for lines in said]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Where the programs run."""
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture(scope="module")
def said(folder: pathlib.Path) -> list[list[str]]:
    """The lines of all programs but the last, which reads what the one before it has written."""
    return run(folder, *PROGRAMS[:-1])


@pytest.mark.slow
def test_a_logger_is_one_line(folder: pathlib.Path) -> None:
    (lines,) = re.findall(r"    writer = .*\n    dfc\.fit.*\n", PAGE.read_text())
    program = """
import dfc_jax as dfc, jax, optax, tensorboardX
data = dfc.load("digits")
given = dfc.mlp((64, 4, 10), key=jax.random.key(0)), dfc.Backprop(), data, optax.adam(1e-2)
options = {"epochs": 2, "key": jax.random.key(1), "batch_size": 419, "progress": False}
"""
    program += lines.replace("    ", "").replace("dfc.fit(...", "dfc.fit(*given, **options")
    run(folder, program)
    (events,) = (folder / "logs").iterdir()
    assert b"validation_accuracy" in events.read_bytes()


@pytest.mark.slow
def test_a_regression_stops_early_and_predicts(said: list[list[str]]) -> None:
    *_, stopped, best, predicted = said[0]
    assert re.fullmatch(r"epoch \d+: no better validation_loss in 10 epochs\.", stopped)
    epoch, error = best.split()
    assert int(stopped.split()[1][:-1]) == int(epoch) + 10
    assert 30 < float(error) < 50  # the mean predicts to 66
    assert all(50 < float(value) < 350 for value in predicted.strip("[]").split())


@pytest.mark.slow
def test_a_higher_gain_leaves_less_of_the_error(said: list[list[str]], folder: pathlib.Path) -> None:
    left = [float(re.findall(r"([\d.]+)%", line)[0]) for line in said[1]]
    assert len(left) == 3 and left == sorted(left, reverse=True)
    assert (folder / "trajectory.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_rule_of_ones_own_learns(said: list[list[str]]) -> None:
    (accuracy,) = said[2]
    assert float(accuracy) > 0.9


@pytest.mark.slow
def test_a_grid_has_a_row_for_every_setting(said: list[list[str]]) -> None:
    rows = [line.split() for line in said[3] if re.search(r"\d\.\d+$", line)]
    means = [float(row[-2]) for row in rows]
    assert len(rows) == 12
    # Of the rates the largest learns most in three epochs, whatever the nudge.
    assert min(means[3::4]) > 0.9 and max(means[0::4]) < min(means[3::4])


@pytest.mark.slow
def test_a_model_is_loaded_in_a_new_process(said: list[list[str]], folder: pathlib.Path) -> None:
    assert len(PROGRAMS) == 6 and said[4] == []
    (lines,) = run(folder, PROGRAMS[5])
    matrix = [[int(n) for n in re.findall(r"\d+", line)] for line in lines]
    right = sum(matrix[i][i] for i in range(3))
    assert sum(map(sum, matrix)) == 36 and right >= 33
