"""Groups of `run.py`'s options: a method's parts, and the learning of its weights.

Defaults are the library's own: read from its classes, or, where a class makes them with every instance, held
to it by a test.
"""

import dataclasses
from typing import Literal

import dfc_jax as dfc


Sleep = Literal["simulated", "linearised", "expected"]  # phases of direct feedback
Update = Literal[Sleep, "weight-mirror", "kolen-pollack"]  # of feedback
SLEEP_PHASES = {  # of direct feedback, by the update that they are
    "simulated": dfc.SleepPhase,
    "linearised": dfc.LinearisedSleepPhase,
    "expected": dfc.ExpectedSleepPhase,
}
Schedule = Literal["constant", "cosine"]  # of the forward weights' learning rate
IMPLICIT = ("ImplicitEuler", "Kvaerno3", "Kvaerno5")


@dataclasses.dataclass(frozen=True)
class Controller:
    """The PI controller. Time is in units of its time constant."""

    k_p: float = dfc.PIController.k_p
    """Proportional gain."""
    alpha: float = dfc.PIController.alpha
    """Leak."""
    leak_on: Literal["control", "integrator"] = "control"
    """What leaks: the total control (both published codes) or the integrator (the NeurIPS paper)."""


@dataclasses.dataclass(frozen=True)
class Solver:
    """How steady states (dfc-ss, strong-dfc-2phase) and trajectories (dfc) are computed."""

    steady_state: Literal["broyden", "newton", "simulated", "published"] = "broyden"
    """Broyden's or Newton's method, the dynamics until they rest (Diffrax), or, which is not at rest yet, the
    state that the published Euler scheme reaches after --solver.duration."""
    rtol: float = dfc.Broyden.rtol
    """Residual of a steady state at which a sample has converged, relative to its target error."""
    trajectory: Literal["implicit", "closed-form", "published", "diffrax"] = "implicit"
    """dfc: implicit Euler in 24 growing steps, the closed form of the linearised trajectory, the
    published Euler scheme, or a Diffrax solver."""
    duration: float = dfc.ImplicitAverage.duration
    """dfc: length of the trajectory that is averaged. Also of a published steady state's."""
    dt: float = dfc.PublishedEuler.dt
    """Step of the published scheme; first step of Diffrax."""
    diffrax_solver: Literal[
        "Euler", "Heun", "Bosh3", "Tsit5", "Dopri5", "ImplicitEuler", "Kvaerno3", "Kvaerno5"
    ] = "Tsit5"
    """Solver of --solver.trajectory diffrax and, if explicit, of --solver.steady-state simulated."""
    tau_v: float = dfc.DFC.tau_v
    """Time constant of the voltages: of dfc and of a published steady state."""


@dataclasses.dataclass(frozen=True)
class Strong:
    """Strong feedback: the target of strong-dfc and strong-dfc-2phase, and strong-dfc's noisy trajectory."""

    class_value: float = 0.99
    """What the clamped output gives the right class; the other classes share the rest. To the targets of a
    regression, which has no classes, it is clamped as they are."""
    update: Literal["simulated", "linearised"] = "simulated"
    """strong-dfc: whether the noise is simulated, or taken to first order around the steady state, awake and
    in pre-training, which is several times faster with few outputs and leaves no noise in the forward
    weights' updates."""
    start: Literal["steady-state", "feedforward"] = "steady-state"
    """strong-dfc: where the trajectory starts; as published, in the feedforward state."""
    pretraining: Literal["rest", "label"] = "rest"
    """strong-dfc: what the output is held at while the feedback weights are pre-trained: its feedforward
    value or, as published, the label."""
    sigma: float = 0.005
    """strong-dfc: size of the noise."""
    sigma_output: float | None = 0.03
    """strong-dfc: its size in the output layer; None: the same."""
    pretraining_sigma: float | None = None
    """strong-dfc: size of the noise while the feedback weights are pre-trained; by default as above."""
    pretraining_sigma_output: float | None = None
    """strong-dfc: that in the output layer; by default as above, or `pretraining_sigma` where that is
    given."""
    tau_noise: float = 0.05
    """strong-dfc: time constant of the noise."""
    tau_filter: float = dfc.StrongDFC.tau_filter
    """strong-dfc: time constant of the low-pass that splits the control into slow and fast."""
    pretraining_tau_filter: float | None = None
    """strong-dfc: that in pre-training; by default the same."""
    tau_v: float = dfc.StrongDFC.tau_v
    """strong-dfc: time constant of the voltages."""
    dt: float = 0.004
    """strong-dfc: step of the trajectory."""
    steps: int = 128
    """strong-dfc: number of its states."""


@dataclasses.dataclass(frozen=True)
class Optimal:
    """Optimal control: least-control and predictive-coding."""

    alpha: float | None = None
    """Leak of the controller, which is the variance of the target about the output; 0 clamps it, for squared
    errors only. By default 0.1 for least-control and 1 for predictive-coding."""
    class_value: float = dfc.LeastControl.class_value
    """least-control: what the target gives the right class; the other classes share the rest."""


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """Adam, for the forward weights."""

    lr: float | None = None
    """Learning rate; by default what suits the data set. Updates have the size of gradients, whatever the
    method and the nudge."""
    beta1: float = 0.9
    """Adam's decay of the mean of updates."""
    beta2: float = 0.999
    """Adam's decay of the mean of their squares."""
    eps: float = 1e-8
    """What Adam adds to the root of that mean."""
    clip: float | None = None
    """Largest L2 norm of an update before Adam; none by default."""
    clip_over: Literal["tensor", "layer"] = "tensor"
    """Whether that is the norm of each tensor, or of a layer's weights and biases together."""
    weight_decay: float | None = None
    """Decay beside Adam (AdamW): of the forward weights and, under kolen-pollack with --layered, of the
    backward ones, whose difference it makes vanish. By default none, and 0.1 where conv is for cifar10 or
    cifar100."""
    schedule: Schedule | None = None
    """constant: the learning rate stays as it is. cosine: it falls to zero over the epochs, whose number a
    run that goes on then keeps. By default constant, and cosine where conv is for cifar10 or cifar100."""


@dataclasses.dataclass(frozen=True)
class Feedback:
    """Feedback learning, in sleep phases but for kolen-pollack (only with --feedback learned)."""

    update: Update | None = None
    """simulated: one draw of the noise for each sample. linearised: the same to first order in the noise,
    which is several times faster with few outputs. expected: the mean over all draws, in closed form;
    these two around the feedforward output (a simulated phase of strong-dfc-2phase clamps the output to
    the label). Under Adam draws and their mean are two learning rules, for Adam divides an update by its
    own size, noise included: without the noise Condition 2 came to 0.763 instead of the published rule's
    0.633 in one run of 400 steps of pre-training, and feedback weights grew two to three times larger.
    weight-mirror: noise through each layer alone (--layered). kolen-pollack: from every batch of the wake
    phase, with --layered the forward weights' own update by an optimiser like theirs, after pre-training
    by the weight mirror, without it rates times the loss's gradient and no sleep at all. By default
    kolen-pollack with --layered; otherwise simulated, as published, and expected for cifar10 and
    cifar100."""
    lr: float | None = None
    """Learning rate of Adam for the feedback weights; by default what suits the data set, and for strong-dfc
    a hundredth of that: in the wake phase the target's control drowns the answer to the noise."""
    weight_decay: float | None = None
    """Decay of the feedback weights, added to their update before Adam (beta in eq. 12); by default 0.01, and
    1 with --layered, at which the weight mirror comes to rest at the forward weights."""
    beta1: float = 0.9
    """Adam's decay of the mean of updates."""
    beta2: float = 0.999
    """Adam's decay of the mean of their squares."""
    eps: float = 1e-8
    """What Adam adds to the root of that mean."""
    clip: float | None = None
    """Largest L2 norm of all feedback weights' update together, before its decay; none by default."""
    pretraining_lr: float | None = None
    """Learning rate before the first wake epoch; by default that for `lr`, or what suits the data set."""
    pretraining_epochs: float | None = None
    """Sleep epochs before the first wake epoch, or a part of one; by default what suits the data set."""
    sleep_epochs: float | None = None
    """Sleep epochs before every wake epoch, or a part of one: 0.2 sleeps on a fifth of the batches. By
    default 1, 0.1 for cifar10 and cifar100, and 0 for strong-dfc and kolen-pollack, which learn feedback in
    the wake phase; or a preset's own."""
    freeze_output: bool = dfc.FeedbackLearning.freeze_output
    """Keep Q_L = I."""
    sigma: float = 0.01
    """Size of the noise."""
    sigma_output: float | None = None
    """Its size in the output layer; by default the same."""
    sigma_floor: float = 0.0
    """A smaller noise counts as this where a layer's update is divided by its noise's variance: 0.01 in the
    published code."""
    k_p: float = 0.1
    """Proportional gain of the controller in the sleep phase."""
    alpha: float = 0.25
    """Leak of that controller."""
    tau_v: float = dfc.SleepPhase.tau_v
    """Time constant of the voltages in the sleep phase."""
    tau_apical: float = dfc.SleepPhase.tau_apical
    """Time constant of the apical compartments, where the noise enters."""
    dt: float = 0.002
    """Step of the sleep phase."""
    steps: int = 50
    """Number of states of one sleep simulation."""
