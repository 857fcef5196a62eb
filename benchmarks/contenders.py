"""The methods, each with its solvers, whose training step is measured."""

import diffrax

import dfc_jax as dfc


def implicit_by_diffrax(solver: type[diffrax.AbstractImplicitSolver]) -> dfc.DiffraxAverage:
    """An implicit solver of Diffrax with adaptive steps; a coarse tolerance is enough for an average."""
    controller = diffrax.PIDController(rtol=0.1, atol=0.1)
    return dfc.DiffraxAverage(solver(root_finder=dfc.ControlRootFinder()), controller)


STRONG = dfc.Clamp(0.99)
METHODS = {
    "Backprop": dfc.Backprop(),
    "DFA": dfc.DFA(),
    "DFC-SSA": dfc.DFCSSA(),
    "DFC-SS, Broyden": dfc.DFCSS(),
    "DFC-SS, Newton": dfc.DFCSS(equilibrium=dfc.RootFind()),
    "DFC-SS, Tsit5 to rest": dfc.DFCSS(equilibrium=dfc.Simulated(), fallback=None),
    "DFC, closed form": dfc.DFC(average=dfc.ClosedFormAverage()),
    "DFC, implicit, 10 steps": dfc.DFC(average=dfc.ImplicitAverage(segments=((4, 0.06), (6, 0.94)))),
    "DFC, implicit, 24 steps": dfc.DFC(average=dfc.ImplicitAverage()),
    "DFC, published Euler": dfc.DFC(average=dfc.PublishedAverage(dfc.PublishedEuler(dt=0.02, states=500))),
    "DFC, Diffrax's implicit Euler": dfc.DFC(average=implicit_by_diffrax(diffrax.ImplicitEuler)),
    "DFC, Diffrax's Kvaerno3": dfc.DFC(average=implicit_by_diffrax(diffrax.Kvaerno3)),
    "DFC, Tsit5": dfc.DFC(average=dfc.DiffraxAverage()),
    "Strong-DFC, two phases, Broyden": dfc.DFCSS(target=STRONG),
    "Strong-DFC, two phases, after T": dfc.DFCSS(
        target=STRONG,
        equilibrium=dfc.StateAtTime(dfc.PublishedEuler(dt=0.001, states=500), tau_v=0.01),
        fallback=None,
    ),
    "Strong-DFC, single phase": dfc.StrongDFC(target=STRONG),
    "Strong-DFC, single phase, 128 steps": dfc.StrongDFC(
        target=STRONG,
        tau_v=0.02,
        tau_filter=0.25,
        scheme=dfc.PublishedEuler(dt=0.004, states=128),
        start=dfc.Broyden(),
    ),
    "Sleep phase": dfc.SleepPhase(),
    "Sleep phase, expected": dfc.ExpectedSleepPhase(),
}
