"""Every argument of the public constructors: its bounds, and what it is by default."""

import dataclasses
import inspect
import pathlib

import diffrax
import equinox as eqx
import jax.random as jr
import numpy as np
import optax
import optimistix as optx

import dfc_jax as dfc


MODEL = dfc.mlp((4, 5, 3), key=jr.key(0))
X = np.ones((2, 4))
REQUIRED = {
    "ClosedLoop": {"network": MODEL},
    "Convolution": {"weight": np.ones((3, 3, 1, 2)), "bias": np.ones(2)},
    "CropAndFlip": {"shape": (1, 8, 8)},
    "FeedbackLearning": {"optimiser": optax.sgd(0.1)},
    "RunFolder": {"path": pathlib.Path("run")},
    "clip_by_layer_norm": {},
    "clip_by_tensor_norm": {},
}
positive, at_least_0 = (lambda v: v > 0), (lambda v: v >= 0)
# Every number that a public constructor takes: what it must satisfy, and whether it may be an array.
NUMBERS = {
    "Broyden.rtol": positive,
    "Clamp.class_value": lambda v: 0 < v <= 1,
    "ClosedFormAverage.duration": positive,
    "ClosedLoop.tau_apical": positive,
    "ClosedLoop.tau_v": positive,
    "ControlledJacobian.rtol": positive,
    "ControlRootFinder.rtol": positive,
    "DFC.tau_v": positive,
    "Diagnostics.damping": at_least_0,
    "DiffraxAverage.dt0": positive,
    "DiffraxAverage.t1": positive,
    "ExpectedSleepPhase.tau_apical": positive,
    "ExpectedSleepPhase.tau_v": positive,
    "LinearisedSleepPhase.tau_apical": positive,
    "LinearisedSleepPhase.tau_v": positive,
    "FeedbackLearning.epochs_per_wake_epoch": at_least_0,
    "FeedbackLearning.pretraining_epochs": at_least_0,
    "FilteredNoise.sigma": at_least_0,
    "FilteredNoise.sigma_output": at_least_0,
    "FilteredNoise.tau": positive,
    "GaussNewton.damping": at_least_0,
    "ImplicitAverage.duration": positive,
    "LeakContinuation.rtol": positive,
    "LeakyIntegratorController.alpha": at_least_0,
    "LeakyIntegratorController.k_p": at_least_0,
    "LeakyReLU.slope": lambda v: 0 <= v <= 1,
    "LeastControl.alpha": positive,
    "LeastControl.class_value": lambda v: 0 < v <= 1,
    "MinimumNorm.damping": at_least_0,
    "Nudge.nudge": positive,
    "OptimalControl.rtol": positive,
    "PIController.alpha": at_least_0,
    "PIController.k_p": at_least_0,
    "PredictiveCoding.alpha": positive,
    "PseudoTransient.rtol": positive,
    "PublishedEuler.dt": positive,
    "RandomFeedback.std": at_least_0,
    "Simulated.dt0": positive,
    "Simulated.dtmax": positive,
    "Simulated.rtol": positive,
    "Simulated.t1": positive,
    "SleepPhase.tau_apical": positive,
    "SleepPhase.tau_v": positive,
    "StateAtTime.tau_v": positive,
    "LinearisedStrongDFC.tau_filter": positive,
    "LinearisedStrongDFC.tau_v": positive,
    "StrongDFC.tau_filter": positive,
    "StrongDFC.tau_v": positive,
    "WhiteNoise.sigma": at_least_0,
    "WhiteNoise.sigma_output": at_least_0,
    "clip_by_layer_norm.max_norm": positive,
    "clip_by_tensor_norm.max_norm": positive,
}
MAY_BE_NONE = ("tau_apical", "sigma_output", "std", "dt0")
NEEDED = ("Simulated.dt0", *(f"{kind}SleepPhase.tau_apical" for kind in ("", "Linearised", "Expected")))
COUNTS = {
    "AveragePool.size": 1,
    "Convolution.padding": 0,
    "Convolution.stride": 1,
    "CropAndFlip.padding": 0,
    "Broyden.max_iterations": 1,
    "ControlledJacobian.max_iterations": 1,
    "ControlRootFinder.max_iterations": 1,
    "Diagnostics.every": 1,
    "Diagnostics.samples": 1,
    "DiffraxAverage.max_steps": 1,
    "LeakContinuation.max_iterations": 1,
    "OptimalControl.max_iterations": 1,
    "PseudoTransient.max_iterations": 1,
    "PublishedEuler.states": 2,
    "RootFind.max_iterations": 1,
    "Simulated.max_steps": 1,
}
FLAGS = {
    "CropAndFlip.flip",
    "DFCSS.include_unconverged",
    "FeedbackLearning.freeze_output",
    "PublishedEuler.instant_transmission",
    "PublishedEuler.proactive",
    "SignSymmetry.random",
}
# Numbers that decide how many steps there are, or what is compiled at all.
STATIC = {
    *("ControlRootFinder.rtol", "DiffraxAverage.dt0", "DiffraxAverage.t1", "Simulated.dt0", "Simulated.t1"),
    *("FeedbackLearning.epochs_per_wake_epoch", "FeedbackLearning.pretraining_epochs"),
    *("LeakyReLU.slope", "RandomFeedback.std"),
}
PUBLIC = {name: value for name, value in vars(dfc).items() if not name.startswith("_")}
CLASSES = {name: c for name, c in PUBLIC.items() if inspect.isclass(c) and issubclass(c, eqx.Module)}
PARTS = {
    f"{name}.{field.name}"
    for name, c in CLASSES.items()
    for field in dataclasses.fields(c)
    if any(str(kind).startswith(("dfc_jax", "<class 'dfc_jax")) for kind in [field.type])
    and not inspect.isabstract(c)
    and name not in ("Layer", "Network", "Equilibrium", "Sample", "PublishedState", "History", "Dataset")
}


# What is documented, and what figures in the README were made with: a change here is one of behaviour.
DEFAULTS = {
    "AveragePool": {"size": 2},
    "Broyden": {"rtol": 3e-05, "max_iterations": 30},
    "Clamp": {"class_value": 1.0},
    "ClosedFormAverage": {"duration": 10.0},
    "ClosedLoop": {"tau_v": 0.2},
    "ControlRootFinder": {"rtol": 1e-05, "max_iterations": 20},
    "ControlledJacobian": {"rtol": 0.0001, "max_iterations": 100},
    "Convolution": {"stride": 1, "padding": 0},
    "CropAndFlip": {"padding": 4, "flip": True},
    "DFC": {"tau_v": 0.2},
    "DFCSS": {"include_unconverged": False},
    "Diagnostics": {"every": 1, "samples": 128, "damping": 0.001},
    "DiffraxAverage": {"t1": 10.0, "dt0": 0.02, "max_steps": 4096},
    "ExpectedSleepPhase": {"tau_v": 0.01, "tau_apical": 0.3},
    "LinearisedSleepPhase": {"tau_v": 0.01, "tau_apical": 0.3},
    "FeedbackLearning": {"pretraining_epochs": 10, "epochs_per_wake_epoch": 1, "freeze_output": False},
    "FilteredNoise": {"sigma": 0.01, "tau": 0.05},
    "GaussNewton": {"damping": 0.001},
    "ImplicitAverage": {"duration": 10.0},
    "LeakContinuation": {"rtol": 1e-05, "max_iterations": 60},
    "LeakyIntegratorController": {"k_p": 2.0, "alpha": 0.001},
    "LeakyReLU": {"slope": 0.2},
    "LeastControl": {"alpha": 0.1, "class_value": 1.0},
    "MinimumNorm": {"damping": 0.001},
    "Nudge": {"nudge": 0.1},
    "OptimalControl": {"rtol": 1e-05, "max_iterations": 40},
    "PIController": {"k_p": 2.0, "alpha": 0.001},
    "PredictiveCoding": {"alpha": 1.0},
    "PseudoTransient": {"rtol": 3e-05, "max_iterations": 60},
    "PublishedEuler": {"dt": 0.02, "states": 500, "instant_transmission": True, "proactive": True},
    "RootFind": {"max_iterations": 50},
    "Simulated": {"rtol": 0.0001, "t1": 200.0, "dt0": 0.02, "dtmax": 0.2, "max_steps": 20000},
    "SignSymmetry": {"random": False},
    "SleepPhase": {"tau_v": 0.01, "tau_apical": 0.3},
    "StateAtTime": {"tau_v": 0.2},
    "StrongDFC": {"tau_v": 0.02, "tau_filter": 0.25},
    "LinearisedStrongDFC": {"tau_v": 0.02, "tau_filter": 0.25},
    "WhiteNoise": {"sigma": 0.01},
}

STRONG_PARTS = {
    "controller": dfc.PIController(k_p=2.0, alpha=1e-3),
    "target": dfc.Clamp(0.99),
    "noise": dfc.FilteredNoise(0.005, tau=0.05, sigma_output=0.03),
    "scheme": dfc.PublishedEuler(dt=0.004, states=128),
    "teaching": dfc.RateDifference(),
}
SLEEP_PARTS = {
    "controller": dfc.PIController(k_p=0.1, alpha=0.25),
    "noise": dfc.WhiteNoise(0.01),
    "scheme": dfc.PublishedEuler(dt=0.002, states=50, proactive=False),
    "target": dfc.Rest(),
    "loss": dfc.CrossEntropy(),
}
NUDGED = {
    "controller": dfc.PIController(k_p=2.0, alpha=1e-3),
    "target": dfc.Nudge(0.1),
    "loss": dfc.CrossEntropy(),
    "teaching": dfc.RateDifference(),
}
PART_DEFAULTS = {
    "ClosedLoop": NUDGED,
    "DFC": NUDGED | {"average": dfc.ImplicitAverage(10.0)},
    "DFCSS": NUDGED | {"equilibrium": dfc.Broyden(3e-5), "fallback": dfc.PseudoTransient(3e-5)},
    "DFCSSA": NUDGED,
    "DiffraxAverage": {
        "solver": diffrax.Tsit5(),
        "stepsize_controller": diffrax.PIDController(rtol=1e-4, atol=1e-4),
    },
    "ExpectedSleepPhase": SLEEP_PARTS,
    "LinearisedSleepPhase": SLEEP_PARTS,
    "ImplicitAverage": {"segments": ((6, 0.04), (8, 0.16), (10, 0.8))},
    "PublishedAverage": {"scheme": dfc.PublishedEuler(dt=0.02, states=500)},
    "LinearisedStrongDFC": STRONG_PARTS
    | {"equilibrium": dfc.Broyden(3e-5), "fallback": dfc.PseudoTransient()},
    "RootFind": {"root_finder": optx.Newton(rtol=3e-5, atol=3e-5)},
    "Simulated": {"solver": diffrax.Tsit5()},
    "SleepPhase": SLEEP_PARTS,
    "StateAtTime": {"scheme": dfc.PublishedEuler(dt=0.02, states=500)},
    "StrongDFC": STRONG_PARTS | {"start": dfc.Broyden(3e-5)},
}
