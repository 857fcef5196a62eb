"""What options cannot be, said under their own names: numbers, and what nothing would read."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dfc_jax._checks import check_count, check_number


POSITIVE, NOT_NEGATIVE = {"above": 0}, {"minimum": 0}
NUMBERS = {
    "nudge": POSITIVE,
    "label_smoothing": {"minimum": 0, "maximum": 1},
    "damping": NOT_NEGATIVE,
    "controller.k_p": NOT_NEGATIVE,
    "controller.alpha": NOT_NEGATIVE,
    "solver.rtol": POSITIVE,
    "solver.duration": POSITIVE,
    "solver.dt": POSITIVE,
    "solver.tau_v": POSITIVE,
    "strong.class_value": {"above": 0, "maximum": 1},
    "optimal.alpha": NOT_NEGATIVE,
    "optimal.class_value": {"above": 0, "maximum": 1},
    "strong.sigma": POSITIVE,
    "strong.sigma_output": NOT_NEGATIVE,
    "strong.pretraining_sigma": POSITIVE,
    "strong.pretraining_sigma_output": NOT_NEGATIVE,
    "strong.tau_noise": POSITIVE,
    "strong.tau_filter": POSITIVE,
    "strong.pretraining_tau_filter": POSITIVE,
    "strong.tau_v": POSITIVE,
    "strong.dt": POSITIVE,
    "optimiser.lr": POSITIVE,
    "optimiser.eps": POSITIVE,
    "optimiser.weight_decay": NOT_NEGATIVE,
    "optimiser.clip": POSITIVE,
    "feedback_learning.lr": POSITIVE,
    "feedback_learning.weight_decay": NOT_NEGATIVE,
    "feedback_learning.eps": POSITIVE,
    "feedback_learning.clip": POSITIVE,
    "feedback_learning.pretraining_lr": POSITIVE,
    "feedback_learning.pretraining_epochs": NOT_NEGATIVE,
    "feedback_learning.sleep_epochs": NOT_NEGATIVE,
    "feedback_learning.sigma": POSITIVE,
    "feedback_learning.sigma_output": NOT_NEGATIVE,
    "feedback_learning.sigma_floor": NOT_NEGATIVE,
    "feedback_learning.k_p": NOT_NEGATIVE,
    "feedback_learning.alpha": NOT_NEGATIVE,
    "feedback_learning.tau_v": POSITIVE,
    "feedback_learning.tau_apical": POSITIVE,
    "feedback_learning.dt": POSITIVE,
}
COUNTS = {"epochs": 1, "batch_size": 1, "patience": 1, "diagnostics": 1}
COUNTS |= {"strong.steps": 2, "feedback_learning.steps": 2}
MOMENTS = [f"{group}.{name}" for group in ("optimiser", "feedback_learning") for name in ("beta1", "beta2")]
MOST_STATES = 10**7
LARGEST_SEED, LARGEST_COUNT = 2**32 - 1, 2**31 - 1

WEAK, STRONG = ("dfc", "dfc-ss", "dfc-ssa"), ("strong-dfc", "strong-dfc-2phase")
READERS = {  # which methods read an option that no other does
    "nudge": WEAK,
    "label_smoothing": ("bp", "dfa", "mn", "gn", "predictive-coding", *WEAK),
    "controller": (*WEAK, *STRONG),
    "solver.steady_state": ("dfc-ss", "strong-dfc-2phase"),
    "solver.rtol": ("dfc-ss", "strong-dfc-2phase"),
    "solver.trajectory": ("dfc",),
    "solver.duration": ("dfc", "dfc-ss", "strong-dfc-2phase"),
    "solver.dt": ("dfc", "dfc-ss", "strong-dfc-2phase"),
    "solver.tau_v": ("dfc", "dfc-ss", "strong-dfc-2phase"),
    "solver.diffrax_solver": ("dfc", "dfc-ss", "strong-dfc-2phase"),
    "strong.class_value": STRONG,
    "strong": ("strong-dfc",),
    "optimal.class_value": ("least-control",),
    "optimal": ("least-control", "predictive-coding"),
    "feedback_learning.update": (*WEAK, "strong-dfc-2phase"),
    "feedback_learning.sigma": (*WEAK, "strong-dfc-2phase"),
    "feedback_learning.sigma_output": (*WEAK, "strong-dfc-2phase"),
    "feedback_learning.tau_apical": (*WEAK, "strong-dfc-2phase"),
    "feedback_learning": (*WEAK, *STRONG),
    "layered": (*WEAK, "strong-dfc-2phase"),
}
# Which options of `solver` each way to the steady state or along the trajectory reads, besides its own name.
STEADY_STATES = {
    "broyden": ("rtol",),
    "newton": ("rtol",),
    "simulated": ("rtol", "diffrax_solver"),
    "published": ("duration", "dt", "tau_v"),
}
TRAJECTORIES = {
    "implicit": ("duration", "tau_v"),
    "closed-form": ("duration", "tau_v"),
    "published": ("duration", "dt", "tau_v"),
    "diffrax": ("duration", "dt", "tau_v", "diffrax_solver"),
}
_DYNAMICS = ("sigma", "sigma_output", "sigma_floor", "k_p", "alpha", "tau_v", "tau_apical", "dt", "steps")
_ASLEEP = ("pretraining_lr", "pretraining_epochs", "sleep_epochs", "freeze_output")
UNREAD = {  # which options of feedback learning an update does not read, without and with `layered`
    ("weight-mirror", True): (*_DYNAMICS, "freeze_output"),
    ("kolen-pollack", False): (*_DYNAMICS, *_ASLEEP),
    ("kolen-pollack", True): (*_DYNAMICS, "lr", "sleep_epochs", "freeze_output"),
}


def check_seeds(name: str, *seeds: int) -> None:
    """Raise `ValueError` unless every seed is a whole number that JAX's random keys tell apart."""
    for seed in seeds:
        check_count(name, seed, 0, LARGEST_SEED)


def check_each_once(name: str, values: Sequence[Any]) -> None:
    """Raise `ValueError` unless there is something to do, and nothing of it twice."""
    if not values or len(set(values)) != len(values):
        raise ValueError(f"`{name}` is {values}; it must name one or several, none of them twice.")


def check_batch(batch_size: int, data: Any) -> None:
    """Raise `ValueError` if a batch is of more samples than a data set has."""
    if batch_size > len(data.train):
        raise ValueError(f"`batch_size` is {batch_size}; {data.name} has {len(data.train)} samples.")


def _check_size(name: str, *sizes: int) -> None:
    for size in sizes:
        if size > LARGEST_COUNT:
            raise ValueError(f"`{name}` is {size}; it must be at most {LARGEST_COUNT}.")


def check_numbers(config: Any) -> None:
    """Raise `ValueError` for a number of `config`, a `Config` without open defaults, that cannot be."""
    for name, bounds in NUMBERS.items():
        if (value := _value(config, name)) is not None:
            check_number(name, value, **bounds)
    for name, least in COUNTS.items():
        if (value := _value(config, name)) is not None:
            check_count(name, value, least)
            _check_size(name, value)
    for name in MOMENTS:
        value = _value(config, name)
        if not (value >= 0 and np.float32(value) < 1):
            raise ValueError(f"`{name}` is {value}; it must be at least 0 and less than 1.")
    for name, sizes in (("hidden", config.hidden), ("channels", config.channels)):
        if any(size < 1 for size in sizes):
            raise ValueError(f"`{name}` is {sizes}; every size must be an integer of at least 1.")
        _check_size(name, *sizes)
    check_seeds("seeds", *config.seeds)
    if "published" in (config.solver.steady_state, config.solver.trajectory):
        duration, dt = config.solver.duration, config.solver.dt
        states = duration / dt
        if not (math.isfinite(states) and 2 <= round(states) <= MOST_STATES):
            problem = f"`solver.duration` is {duration} and `solver.dt` {dt}, which make {states:.3g} states"
            raise ValueError(f"{problem}; the published scheme needs 2 to {MOST_STATES}.")


def reads_of_solver(config: Any, method: str, option: str) -> bool:
    """Whether `method` reads an option of `solver`, given how its steady state or trajectory is found."""
    if method in READERS["solver.steady_state"]:
        return option == "steady_state" or option in STEADY_STATES[config.solver.steady_state]
    known = method in READERS["solver.trajectory"]
    return known and (option == "trajectory" or option in TRAJECTORIES[config.solver.trajectory])


def reads_of_learning(config: Any, method: str, option: str) -> bool:
    """Whether `method` reads an option of `feedback_learning`, given what learns its feedback."""
    readers = READERS.get(f"feedback_learning.{option}", READERS["feedback_learning"])
    chosen = method in READERS["feedback_learning.update"]  # others have a rule of their own
    unread = UNREAD.get(config.learned_by(), ()) if chosen else ()
    return config.feedback == "learned" and method in readers and option not in unread


def _check_solver(config: Any, untouched: Any) -> None:
    for field in dataclasses.fields(config.solver):
        given = getattr(config.solver, field.name) != getattr(untouched.solver, field.name)
        if given and not any(reads_of_solver(config, method, field.name) for method in config.method):
            chosen = [
                f"`solver.{name}` {getattr(config.solver, name)}"
                for name in ("steady_state", "trajectory")
                if set(READERS[f"solver.{name}"]) & set(config.method)
            ]
            problem = f"`solver.{field.name}` is given, which {' and '.join(config.method)} does not read"
            raise ValueError(f"{problem} with {' and '.join(chosen)}.")


def check_used(config: Any) -> None:
    """Raise `ValueError` for an option that is given, but that nothing would read."""
    untouched = type(config)()
    methods = " and ".join(config.method)
    for name, readers in READERS.items():
        given = _value(config, name)
        asked = given != _value(untouched, name) and given is not False  # which asks for nothing
        if asked and not set(readers) & set(config.method):
            if dataclasses.is_dataclass(given):
                name = _changed(name, given, _value(untouched, name), READERS)
            if name is not None:
                raise ValueError(
                    f"`{name}` is given, which {methods} does not read; it is for {', '.join(readers)}."
                )
    _check_solver(config, untouched)
    if config.feedback_learning != untouched.feedback_learning and config.feedback != "learned":
        name = _changed("feedback_learning", config.feedback_learning, untouched.feedback_learning, ())
        raise ValueError(f"`{name}` is given, but `feedback` is {config.feedback}, which does not learn.")
    if config.feedback in ("exact", "signs") and not set(READERS["controller"]) & set(config.method):
        raise ValueError(f"`feedback` is {config.feedback}; {methods} has none, or its own.")
    update, layered = config.learned_by()
    for name in UNREAD.get((update, layered), ()):
        if getattr(config.feedback_learning, name) != getattr(untouched.feedback_learning, name):
            raise ValueError(f"`feedback_learning.{name}` is given, which {update} does not read.")
    if config.optimiser.clip_over != "tensor" and config.optimiser.clip is None:
        raise ValueError("`optimiser.clip_over` is given without `optimiser.clip`, which it is about.")
    if config.strong.update == "linearised" and config.strong.start != "steady-state":
        problem = f"`strong.update` is linearised, but `strong.start` {config.strong.start}"
        raise ValueError(f"{problem}: noise is taken to first order around the steady state.")
    measured = config.diagnostics is not None or {"mn", "gn"} & set(config.method)
    if config.damping != untouched.damping and not measured:
        raise ValueError("`damping` is given, but neither mn, gn nor `diagnostics`, which read it.")


def check_feedback(config: Any) -> None:
    """Raise `ValueError` for feedback that a method cannot have, or that a rule for another kind is to
    learn."""
    if config.feedback in ("exact", "signs"):
        given = f"`feedback` is {config.feedback}"
        if set(config.method) == {"dfa"}:
            raise ValueError(f"{given}; direct feedback alignment uses fixed random feedback.")
        if "strong-dfc" in config.method:
            raise ValueError(f"{given}; strong-dfc needs feedback weights: learned or fixed.")
    if config.layered and config.feedback == "exact":
        raise ValueError("`layered` is given, but `feedback` is exact, which has no weights of its own.")
    if not config.layered and config.feedback == "signs":
        raise ValueError("`layered` is False, but `feedback` is signs, which go from layer to layer.")
    if config.layered and "strong-dfc" in config.method:
        raise ValueError("`layered` is given; strong-dfc learns feedback weights to every neuron.")
    update = config.feedback_learning.update
    if update == "kolen-pollack":
        if "strong-dfc" in config.method:
            raise ValueError("`feedback_learning.update` is kolen-pollack; strong-dfc has a rule of its own.")
        return
    if config.feedback == "learned" and config.layered != (update == "weight-mirror"):
        needed = "the weights of --layered" if update == "weight-mirror" else "weights to every neuron"
        raise ValueError(f"`feedback_learning.update` is {update}, which learns {needed}.")


def check_measured(config: Any) -> None:
    """Raise `ValueError` where diagnostics are asked for that no epoch would reach."""
    if config.diagnostics is not None and config.diagnostics > config.epochs:
        problem = f"`diagnostics` is {config.diagnostics}, but `epochs` {config.epochs}"
        raise ValueError(f"{problem}: nothing would be measured.")


def _changed(group: str, given: Any, untouched: Any, elsewhere: Any) -> str | None:
    """The first option of a group that is given, but for those that have readers of their own."""
    names = [
        f.name for f in dataclasses.fields(given) if getattr(given, f.name) != getattr(untouched, f.name)
    ]
    return next((f"{group}.{name}" for name in names if f"{group}.{name}" not in elsewhere), None)


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config
