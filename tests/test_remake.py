"""One command makes every committed table of the benchmarks again."""

import json
import pathlib
import shlex
import subprocess
import sys
from typing import Any, get_args

import pytest
import remake


RESULTS = pathlib.Path(remake.__file__).with_name("results")
APART = {"mutation"}  # hours, by a command of its own


def test_every_committed_table_is_made_by_its_own_command():
    assert {path.stem for path in RESULTS.glob("*.json")} == {*remake.COMMANDS} | APART
    assert (*remake.COMMANDS,) == get_args(remake.Table)
    for name, command in remake.COMMANDS.items():
        held = json.loads((RESULTS / f"{name}.json").read_text())["environment"]["command"]
        words, said = shlex.split(held), shlex.split(command)
        assert words[:2] == ["python", f"benchmarks/{said[0]}"]
        without = words[2 : words.index("--out")] if "--out" in words else words[2:]
        assert without == said[1:], name


def table_of(arguments: str, name: str = "sleep", revision: str = "abc") -> str:
    found = {"revision": revision, "command": f"python benchmarks/{name}.py {arguments}"}
    return json.dumps({"environment": found})


@pytest.fixture
def started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> list[tuple[list[str], dict[str, str]]]:
    """The commands that are started; each writes its table, but for gains, which fails."""
    calls = []

    def run(command: list[str], env: dict[str, str], check: bool) -> subprocess.CompletedProcess[Any]:
        calls.append((command, env))
        name = pathlib.Path(command[1]).stem
        if name != "gains":
            (tmp_path / f"{name}.json").write_text(table_of(shlex.join(command[2:]), name))
        return subprocess.CompletedProcess(command, 1 if name == "gains" else 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(remake, "environment", lambda _: {"revision": "abc"})
    return calls


def test_it_goes_on_where_it_ended_and_a_script_that_fails_stops_no_other(started, tmp_path, capsys):
    options = remake.Options(tables=("sleep", "gains", "devices"), out=tmp_path)
    (tmp_path / "sleep.json").write_text(table_of("", revision="of before"))
    assert remake.main(options) == 1
    said = capsys.readouterr()
    assert "gains failed" in said.err and "sleep" not in said.err
    made = [command for command, _ in started]
    assert [pathlib.Path(command[1]).name for command in made] == ["sleep.py", "gains.py", "devices.py"]
    assert all(command[0] == sys.executable and command[-2:] == ["--out", str(tmp_path)] for command in made)
    assert "device_count=8" in started[2][1]["XLA_FLAGS"]
    assert "device_count=8" not in started[0][1].get("XLA_FLAGS", "")

    assert remake.main(options) == 1
    assert [pathlib.Path(command[1]).name for command, _ in started[3:]] == ["gains.py"]
    assert "sleep: skipped" in capsys.readouterr().out


@pytest.mark.parametrize("held", [table_of("--small"), "", "{}", '{"environment": {"revision": "ab'])
def test_what_is_of_another_command_or_cut_off_is_made_again(held, started, tmp_path):
    (tmp_path / "sleep.json").write_text(held)
    assert remake.main(remake.Options(tables=("sleep",), out=tmp_path)) == 0
    assert len(started) == 1 and json.loads((tmp_path / "sleep.json").read_text())


def test_the_published_tables_are_not_written_over_one_by_one(started, capsys):
    assert remake.main(remake.Options(out=RESULTS)) == 2
    assert "which git follows" in capsys.readouterr().err and not started


@pytest.mark.parametrize(("revision", "problem"), [("abc-dirty", "is not clean"), (None, "is no checkout")])
def test_a_table_has_a_revision_that_somebody_can_check_out(revision, problem, started, monkeypatch, capsys):
    monkeypatch.setattr(remake, "environment", lambda _: {"revision": revision})
    assert remake.main(remake.Options()) == 2
    assert problem in capsys.readouterr().err and not started
