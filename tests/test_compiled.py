"""What is called again with other numbers is not compiled again, by whoever calls it without jit."""

import pathlib
from collections.abc import Callable

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import make_batch
from jaxtyping import Array

import dfc_jax as dfc


# A part of any kind is made from a number, which its hyperparameters depend on.
Make = Callable[[float], Callable]
controller = lambda number: dfc.PIController(2 + number, 1e-3 * number)
EULER = dfc.PublishedEuler(0.01, 5)
METHODS: dict[str, Make] = {
    "Backprop": lambda _: dfc.Backprop(),
    "DFA": lambda _: dfc.DFA(),
    "DFCSS": lambda number: dfc.DFCSS(controller(number), dfc.Nudge(number / 10)),
    "RootFind": lambda number: dfc.DFCSS(controller(number), equilibrium=dfc.RootFind()),
    "Simulated": lambda number: dfc.DFCSS(controller(number), equilibrium=dfc.Simulated(rtol=number / 1e4)),
    "StateAtTime": lambda number: dfc.DFCSS(controller(number), equilibrium=dfc.StateAtTime(EULER)),
    "DFCSSA": lambda number: dfc.DFCSSA(controller(number)),
    "LeastControl": lambda number: dfc.LeastControl(number, fallback=None),
    "DFC": lambda number: dfc.DFC(controller(number), tau_v=number / 10),
    "closed form": lambda number: dfc.DFC(controller(number), average=dfc.ClosedFormAverage()),
    "published": lambda number: dfc.DFC(controller(number), average=dfc.PublishedAverage(EULER)),
    "Diffrax": lambda number: dfc.DFC(controller(number), average=dfc.DiffraxAverage(t1=1.0)),
    "LinearisedStrongDFC": lambda number: dfc.LinearisedStrongDFC(controller(number), scheme=EULER),
    "StrongDFC": lambda number: dfc.StrongDFC(controller(number), scheme=EULER),
    "MinimumNorm": lambda number: dfc.MinimumNorm(damping=number),
    "GaussNewton": lambda number: dfc.GaussNewton(damping=number),
    "SleepPhase": lambda number: dfc.SleepPhase(controller(number), scheme=EULER),
    "LinearisedSleepPhase": lambda number: dfc.LinearisedSleepPhase(controller(number)),
    "ExpectedSleepPhase": lambda number: dfc.ExpectedSleepPhase(controller(number)),
    "HighPassPhase": lambda number: dfc.HighPassPhase(dfc.StrongDFC(controller(number), scheme=EULER)),
}
# Each takes some seconds to compile; .ci/run runs the slow ones beside the fast suite. The others have the
# numbers of these, or of what is fitted and measured below.
FAST = ["Backprop", "DFCSSA", "published"]
SLOW = ["DFCSS", "Simulated", "Diffrax", "SleepPhase"]


def problem(number: float) -> tuple[dfc.Network, Array, Array]:
    model = dfc.mlp((4, 3, 3), key=jr.key(0))
    return jax.tree.map(lambda leaf: number * leaf, model), *make_batch(jr.key(int(number)), 3)


def learn(name: str, number: float) -> object:
    return METHODS[name](number)(*problem(number), key=jr.key(int(number)))


def doubt(name: str, number: float) -> list[str]:
    method, handful = METHODS[name](number), problem(number)
    return method.doubts(*handful) + dfc.reasons_for_failure(method, *handful)


def measure(name: str, number: float) -> object:
    model, x, y = problem(number)
    numbers = dfc.Diagnostics(damping=number)(model, METHODS[name](number), dfc.Split(x, y))
    return numbers, dfc.null_space_fraction(METHODS[name](number), model, x, y, key=jr.key(0))


def fit(name: str, number: float) -> object:
    model, *_ = problem(number)
    splits = [dfc.Split(*map(np.asarray, problem(number + i)[1:])) for i in range(3)]
    data = dfc.Dataset("random", *splits, classification=True)
    learning = dfc.FeedbackLearning(optax.adam(number), dfc.ExpectedSleepPhase(), pretraining_epochs=1)
    options = {"epochs": 2, "key": jr.key(int(number)), "batch_size": 2, "progress": False}
    options |= {} if name == "StrongDFC" else {"feedback_learning": learning}
    trained, _ = dfc.fit(model, METHODS[name](number), data, optax.adam(number / 10), **options)
    return dfc.evaluate(trained, dfc.CrossEntropy(), splits[0], classification=True)


def state(_: str, number: float) -> object:
    model, x, y = problem(number)
    loop = dfc.ClosedLoop(model, controller(number), tau_v=number / 10)
    samples = loop.samples(x, y)
    found = dfc.Broyden()(loop, samples)
    measures = dfc.condition_one, dfc.condition_two, dfc.published_condition_one, dfc.feedback_angles
    rest = dfc.loop_eigenvalues(loop, samples), dfc.euler_step_bound(loop, samples), found
    average = dfc.ImplicitAverage()(loop, samples, None)
    return [of(model, x) for of in measures], rest, average, dfc.feedback_ratio(loop, samples, found)


def simulate(_: str, number: float) -> object:
    model, x, y = problem(number)
    loop = dfc.ClosedLoop(model, controller(number))
    return dfc.simulate(loop, loop.sample(x[0], y[0]), t1=number, dt0=0.1)


CASES = [pytest.param(learn, name) for name in FAST]
CASES += [pytest.param(learn, name, marks=pytest.mark.slow) for name in SLOW]
CASES += [pytest.param(fit, name, marks=pytest.mark.slow) for name in ("DFC", "StrongDFC")]
CASES += [pytest.param(measure, name, marks=pytest.mark.slow) for name in ("DFC", "DFCSS", "LeastControl")]
CASES += [pytest.param(doubt, name) for name in METHODS if "Phase" not in name and name != "DFA"]
CASES += [pytest.param(state, "", marks=pytest.mark.slow), pytest.param(simulate, "")]


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.filterwarnings("ignore::UserWarning")  # of loops that are not fit to learn
@pytest.mark.parametrize(("call", "name"), CASES)
def test_other_numbers_compile_nothing(call: Callable[[str, float], object], name: str) -> None:
    call(name, 1.0)
    compiled: list[str] = []
    hear = lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    jax.monitoring.register_event_duration_secs_listener(hear)
    try:
        call(name, 2.0)
        assert compiled == []
        jax.jit(lambda: np.ones(3) + len(name))()  # it does hear
        assert compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(hear)


LAYERED: dict[str, Make] = {
    "FeedbackAlignment": lambda _: dfc.FeedbackAlignment(),
    "WeightMirror": lambda _: dfc.WeightMirror(),
}


@pytest.mark.parametrize("name", METHODS | LAYERED)
def test_without_jit_it_is_one_program(name: str) -> None:
    """Not one for each of its operations, which takes a hundred times as long."""
    (model, x, y), key = problem(1.0), jr.key(0)
    if name in LAYERED:
        model = dfc.mlp((4, 3, 3), key=key, feedback=dfc.RandomLayeredFeedback())
    call = lambda model, x, y, key: (METHODS | LAYERED)[name](1.0)(model, x, y, key=key)
    program, *_ = eqx.filter_make_jaxpr(call)(model, x, y, key)
    assert [equation.primitive.name for equation in program.jaxpr.eqns] in (["jit"], ["pjit"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DFCSS", "simulate"])
def test_a_long_loop_keeps_its_memory_maps(name: str) -> None:
    """Of which a process has some 65 000; every program holds some, for ever."""
    maps = pathlib.Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("Only Linux shows the maps of a process.")

    model, x, y = problem(1.0)
    sample = dfc.ClosedLoop(model).sample(x[0], y[0])

    def call(number: float) -> object:
        if name == "DFCSS":
            return dfc.DFCSS(controller(number))(model, x, y)
        loop = dfc.ClosedLoop(model, controller(number))
        return dfc.simulate(loop, sample, t1=number, dt0=0.1, max_steps=100)

    call(1.0), call(2.0)
    held = len(maps.read_text().splitlines())
    for number in np.linspace(1, 3, 400):
        jax.block_until_ready(call(float(number)))
    assert len(maps.read_text().splitlines()) < held + 50
