"""The programs of docs/tasks.md run as they stand, each in a process of its own, and say what they should."""

import pathlib
import re
import subprocess
import sys

import pytest


PAGE = pathlib.Path(__file__).parent.parent / "docs" / "tasks.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def lines_of(program: str, folder: pathlib.Path) -> list[str]:
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_regression_stops_early_and_predicts(tmp_path: pathlib.Path) -> None:
    *_, stopped, best, predicted = lines_of(PROGRAMS[0], tmp_path)
    assert re.fullmatch(r"epoch \d+: no better validation_loss in 10 epochs\.", stopped)
    epoch, error = best.split()
    assert int(stopped.split()[1][:-1]) == int(epoch) + 10
    assert 30 < float(error) < 50  # the mean predicts to 66
    assert all(50 < float(value) < 350 for value in predicted.strip("[]").split())


@pytest.mark.slow
def test_a_higher_gain_leaves_less_of_the_error(tmp_path: pathlib.Path) -> None:
    lines = lines_of(PROGRAMS[1], tmp_path)
    left = [float(re.findall(r"([\d.]+)%", line)[0]) for line in lines]
    assert len(left) == 3 and left == sorted(left, reverse=True)
    assert (tmp_path / "trajectory.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_rule_of_ones_own_learns(tmp_path: pathlib.Path) -> None:
    (accuracy,) = lines_of(PROGRAMS[2], tmp_path)
    assert float(accuracy) > 0.9


@pytest.mark.slow
def test_a_sweep_compiles_in_its_first_setting_alone(tmp_path: pathlib.Path) -> None:
    lines = lines_of(PROGRAMS[3], tmp_path)
    rows = [line.split() for line in lines if re.search(r"\d\.\d+$", line)]
    accuracies, seconds = rows[:12], [float(row[-1]) for row in rows[12:]]
    assert len(seconds) == 12 and max(float(row[-2]) for row in accuracies) > 0.9
    assert max(seconds[1:]) < seconds[0] / 2


@pytest.mark.slow
def test_a_model_is_loaded_in_a_new_process(tmp_path: pathlib.Path) -> None:
    assert lines_of(PROGRAMS[4], tmp_path) == []
    matrix = [[int(n) for n in re.findall(r"\d+", line)] for line in lines_of(PROGRAMS[5], tmp_path)]
    right = sum(matrix[i][i] for i in range(3))
    assert sum(map(sum, matrix)) == 36 and right >= 33
