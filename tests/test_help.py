"""`--help`: what an open default becomes, and texts that break where the terminal does."""

import itertools
import re

import pytest
from options.config import Config
from options.script import parse


@pytest.fixture
def lines_of(monkeypatch, capsys):
    """What `--help` says on a screen of 80 columns, without the frames."""

    def shown(options) -> list[str]:
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as stopped:
            parse(options, ["--help"], "")
        assert stopped.value.code == 0
        return [line.strip("│| ").rstrip() for line in capsys.readouterr().out.splitlines()]

    return shown


def test_help_shows_what_open_defaults_become(lines_of):
    text = " ".join(lines_of(Config))
    shown = {}
    for option in text.split(" --")[1:]:
        if found := re.search(r"^([a-z.-]+) .*\(default for digits: (.*?)\)", option):
            shown[found[1]] = found[2]
    config = Config().resolved()
    assert shown["epochs"] == str(config.epochs) and shown["hidden"] == "128 128"
    assert shown["optimiser.lr"] == str(config.optimiser.lr)
    assert shown["feedback-learning.lr"] == str(config.feedback_learning.lr)
    assert "None)" not in text and "(default: 0.1)" in text  # the nudge


def test_texts_do_not_break_where_the_source_does(lines_of):
    """Each line of a sentence that goes on has no room for the first word of the next."""
    lines = lines_of(Config)
    goes_on = [(a, b) for a, b in itertools.pairwise(lines) if re.match("[a-z(][a-z]* ", b)]
    goes_on = [(a, b) for a, b in goes_on if a and not a.startswith("-") and not a.endswith("}")]
    early = [(a, b) for a, b in goes_on if len(a) + 1 + len(b.split()[0]) <= 66]
    assert len(goes_on) > 3 and not early


def test_options_are_parsed_as_they_are_described():
    found = parse(Config, ["--hidden", "8", "9", "--optimiser.lr", "0.5", "--epochs", "3"], "")
    assert (found.hidden, found.optimiser.lr, found.epochs) == ((8, 9), 0.5, 3)
    assert parse(Config, [], "") == Config()
