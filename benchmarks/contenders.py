"""The methods, each with its solvers, that the benchmarks measure."""

import dataclasses
from collections.abc import Callable

import diffrax

import dfc_jax as dfc


def implicit_by_diffrax(solver: type[diffrax.AbstractImplicitSolver]) -> dfc.DiffraxAverage:
    """An implicit solver of Diffrax with adaptive steps; a coarse tolerance is enough for an average."""
    controller = diffrax.PIDController(rtol=0.1, atol=0.1)
    return dfc.DiffraxAverage(solver(root_finder=dfc.ControlRootFinder()), controller)


def averaging(average: dfc.AbstractAverage) -> Callable[[dfc.AbstractTarget], dfc.DFC]:
    """DFC with this average, for any target."""
    return lambda target: dfc.DFC(target=target, average=average)


AVERAGES = {
    "DFC, closed form": dfc.ClosedFormAverage(),
    "DFC, implicit, 10 steps": dfc.ImplicitAverage(segments=((4, 0.06), (6, 0.94))),
    "DFC, implicit, 24 steps": dfc.ImplicitAverage(),
    "DFC, published Euler": dfc.PublishedAverage(dfc.PublishedEuler(dt=0.02, states=500)),
    "DFC, Diffrax's implicit Euler": implicit_by_diffrax(diffrax.ImplicitEuler),
    "DFC, Diffrax's Kvaerno3": implicit_by_diffrax(diffrax.Kvaerno3),
    "DFC, Tsit5": dfc.DiffraxAverage(),
}
STRONG = dfc.Clamp(0.99)
PUBLISHED_SINGLE_PHASE = dfc.StrongDFC(
    dfc.PIController(k_p=2.0, alpha=1e-4),
    STRONG,
    noise=dfc.FilteredNoise(0.01, tau=0.05),
    tau_v=0.01,
    tau_filter=0.5,
    scheme=dfc.PublishedEuler(dt=0.001, states=500),
    start=None,
)
METHODS = {
    "Backprop": dfc.Backprop(),
    "DFA": dfc.DFA(),
    "DFC-SSA": dfc.DFCSSA(),
    "DFC-SS, Broyden": dfc.DFCSS(),
    "DFC-SS, Newton": dfc.DFCSS(equilibrium=dfc.RootFind()),
    "DFC-SS, Tsit5 to rest": dfc.DFCSS(equilibrium=dfc.Simulated(), fallback=None),
    **{name: dfc.DFC(average=average) for name, average in AVERAGES.items()},
    "Strong-DFC, two phases, Broyden": dfc.DFCSS(target=STRONG),
    "Strong-DFC, two phases, after T": dfc.DFCSS(
        target=STRONG,
        equilibrium=dfc.StateAtTime(dfc.PublishedEuler(dt=0.001, states=500), tau_v=0.01),
        fallback=None,
    ),
    "Strong-DFC, single phase": PUBLISHED_SINGLE_PHASE,
    "Strong-DFC, single phase, 128 steps": dataclasses.replace(
        PUBLISHED_SINGLE_PHASE,
        tau_v=0.02,
        tau_filter=0.25,
        scheme=dfc.PublishedEuler(dt=0.004, states=128),
        start=dfc.Broyden(),
    ),
    "Strong-DFC, single phase, linearised": dfc.LinearisedStrongDFC(
        PUBLISHED_SINGLE_PHASE.controller, STRONG, noise=PUBLISHED_SINGLE_PHASE.noise
    ),
    # Without the fallback, which no sample here needs and which takes half a minute to compile.
    "Least control, alpha 1": dfc.LeastControl(alpha=1.0, fallback=None),
    "Least control, alpha 0.1": dfc.LeastControl(alpha=0.1, fallback=None),
    "Predictive coding, alpha 0": dfc.PredictiveCoding(0.0, dfc.MeanSquaredError(), fallback=None),
    "Sleep phase": dfc.SleepPhase(),
    "Sleep phase, linearised": dfc.LinearisedSleepPhase(),
    "Sleep phase, expected": dfc.ExpectedSleepPhase(),
}

# The short list, of which whole epochs are measured.
EPOCHS = {
    "Backprop": METHODS["Backprop"],
    "DFA": METHODS["DFA"],
    "DFC-SSA": METHODS["DFC-SSA"],
    "DFC-SS": METHODS["DFC-SS, Broyden"],
    "DFC, closed form": METHODS["DFC, closed form"],
}

# What is followed over sizes; the last two multiply a matrix for every sample by itself or factorise it.
SCALING = {
    "Backprop": METHODS["Backprop"],
    "DFC-SSA": METHODS["DFC-SSA"],
    "DFC-SS": METHODS["DFC-SS, Broyden"],
    "DFC, closed form": METHODS["DFC, closed form"],
    "DFC, implicit, 10 steps": METHODS["DFC, implicit, 10 steps"],
    "Sleep": METHODS["Sleep phase"],
    "Sleep, linearised": METHODS["Sleep phase, linearised"],
    "Sleep, expected": METHODS["Sleep phase, expected"],
}
UP_TO_32_OUTPUTS = ("Sleep, linearised", "Sleep, expected")

DEVICES = (
    "Backprop",
    "DFC-SSA",
    "DFC-SS, Broyden",
    "Sleep phase, expected",
    "DFC-SS, Tsit5 to rest",
    "DFC, Tsit5",
)

# Solvers, whose method is made for a target.
STEADY = {
    "SSA": lambda target: dfc.DFCSSA(target=target),
    "SS, Broyden": lambda target: dfc.DFCSS(target=target),
    "SS, Newton": lambda target: dfc.DFCSS(target=target, equilibrium=dfc.RootFind(), fallback=None),
    "SS, pseudo-transient": lambda target: dfc.DFCSS(target=target, equilibrium=dfc.PseudoTransient()),
    "SS, Bosh3 to rest": lambda target: dfc.DFCSS(target=target, equilibrium=TO_REST, fallback=None),
}
TO_REST = dfc.Simulated(diffrax.Bosh3(), dtmax=0.15)
AVERAGE = {name: averaging(average) for name, average in AVERAGES.items()}
# The closed form is for nudges; a clamped softmax takes hundreds of time constants to rest.
NUDGED_ONLY = ("DFC, closed form", "SS, Bosh3 to rest")
SMALL = ("SSA", "SS, Broyden", "DFC, closed form", "DFC, implicit, 10 steps")
