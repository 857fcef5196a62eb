"""Mutation testing goes on after it was killed."""

import dataclasses
import json

from mutation import read_verdicts
from mutation_places import Mutant


def test_a_verdict_that_was_not_written_to_its_end_is_left_out(tmp_path):
    file = tmp_path / "verdicts.jsonl"
    assert read_verdicts(file) == []
    mutants = [Mutant(i, "dfc", 3, "core/NumberReplacer", 0, "killed") for i in range(2)]
    lines = [json.dumps(dataclasses.asdict(mutant)) + "\n" for mutant in mutants]
    file.write_text(lines[0] + lines[1] + lines[0][:20])
    assert read_verdicts(file) == mutants
    assert file.read_text() == lines[0] + lines[1]  # so that the next one begins a line
