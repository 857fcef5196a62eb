"""What the presets of several papers share."""

import dataclasses
from typing import Any

from options.groups import Controller, Feedback, Optimiser, SLEEP_PHASES, Solver


CLIP = 1.0
SIGMA_FLOOR = 0.01


def refuse_beside(config: Any) -> None:
    """Raise `ValueError` for what the preset of `config`, a `Config`, sets and was given beside it."""
    untouched, chosen = type(config)(), config.feedback_learning
    update = chosen.update if chosen.update in SLEEP_PHASES else None
    ours = dataclasses.replace(Feedback(), update=update, sleep_epochs=chosen.sleep_epochs)
    ours = dataclasses.replace(ours, pretraining_epochs=chosen.pretraining_epochs)
    solver = dataclasses.replace(Solver(), trajectory=config.solver.trajectory)
    for name, given, free in (
        ("optimiser", config.optimiser, Optimiser()),
        ("controller", config.controller, Controller()),
        ("solver", config.solver, solver),
        ("strong", config.strong, untouched.strong),
        ("nudge", config.nudge, untouched.nudge),
        ("batch_size", config.batch_size, untouched.batch_size),
        ("layered", bool(config.layered), False),
        ("feedback_learning", chosen, ours),
    ):
        if given != free:
            raise set_by_preset(config, name, given)


def set_by_preset(config: Any, name: str, given: Any) -> ValueError:
    """What is said of an option that was given beside a preset that sets it."""
    return ValueError(f"`{name}` is {given}; the preset {config.preset} sets it: give one or the other.")
