"""`dfc-jax`, the installed command: the scripts by their names, and what it says of itself."""

import json
import pathlib
import sys

import pytest

import dfc_jax
from dfc_jax import _command


EXPERIMENTS = pathlib.Path(__file__).parents[1] / "experiments"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch):
    """Calls the command as its process would, and returns the exit code."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def ended(*arguments: str) -> int | None:
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/dfc-jax", *arguments])
        try:
            _command.main()
        except SystemExit as end:
            return end.code
        return None

    return ended


def test_every_script_is_a_command_and_nothing_else():
    assert {path.stem for path in EXPERIMENTS.glob("*.py")} == set(_command.SCRIPTS)


@pytest.mark.parametrize("given", [(), ("--help",), ("-h",)])
def test_without_a_script_it_says_which_there_are(given, call, capsys):
    assert call(*given) is None
    said = capsys.readouterr().out
    assert all(f"dfc-jax {name} " in said for name in _command.SCRIPTS)


def test_the_version_is_the_packages(call, capsys):
    assert call("--version") is None
    assert capsys.readouterr().out == f"dfc_jax {dfc_jax.__version__}\n"


def test_a_wrong_name_is_one_sentence(call, capsys):
    assert call("rum", "--epochs", "1") == 2
    there = "run, sweep, compare, pool, table1, figures, theories, feedback, late_rise"
    assert capsys.readouterr().err == f"error: 'rum' is no command of dfc-jax; there are {there}.\n"


@pytest.mark.parametrize("name", _command.SCRIPTS)
def test_a_scripts_help_has_the_commands_name(name, call, capsys):
    assert call(name, "--help") == 0
    assert f"usage: dfc-jax {name} " in capsys.readouterr().out


def test_a_scripts_exit_code_passes_through(call, tmp_path, capsys):
    assert call("compare", str(tmp_path / "nothing")) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.usefixtures("as_users_run")
def test_a_run_records_the_command_as_it_was_given(call, tmp_path, capsys):
    out = tmp_path / "a run"
    options = ["--method", "bp", "--hidden", "4", "--epochs", "1", "--no-progress", "--out", str(out)]
    assert call("run", *options) == 0
    held = json.loads((out / "config.json").read_text())["environment"]
    assert held["command"] == f"dfc-jax run {' '.join(options[:-1])} '{out}'"
    assert (out / "comparison.png").stat().st_size > 0
    capsys.readouterr()
