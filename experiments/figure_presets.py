"""The published configurations of the toy and alignment figures of the NeurIPS 2021 paper, and our objects.

Names are those of the published flags; `presets.py` says how Table 1's are translated. The toy experiments
train by SGD, so that the sizes of updates matter:

- The published target error is that of the batch-mean loss: its nudge is target_stepsize / batch size here.
- A published forward update is 2 * nudge times ours, so the forward learning rate is multiplied by that, and
  the limit of the clip divided by it. `lr` is already divided by `target_stepsize` (`normalize_lr`).
- A published feedback update is sigma^2 / max(sigma, 0.01)^2 times ours, and sigma is 0.01: the same.
"""

import dataclasses
from typing import Literal

import optax
from presets import BATCH_SIZE, CLIP

import dfc_jax as dfc


ToyMethod = Literal["dfc", "dfc-ss", "dfc-ssa", "dfa"]
Hidden = Literal["tanh", "linear"]


@dataclasses.dataclass(frozen=True)
class Toy:
    """A student-teacher experiment."""

    sizes: tuple[int, ...]
    epochs: int
    epochs_fb: int
    extra_fb_epochs: int
    lr: float  # after division by `target_stepsize`
    target_stepsize: float
    lr_fb: float
    lr_fb_init: float
    feedback_wd: float
    k_p: float
    alpha_di: float
    time_constant_ratio: float
    dt_di: float
    tmax_di: int
    k_p_fb: float
    alpha_fb: float
    time_constant_ratio_fb: float
    dt_di_fb: float
    tmax_di_fb: int
    apical_time_constant_fb: float
    sigma_fb: float = 0.01
    gn_damping: float = 0.1

    @property
    def nudge(self) -> float:
        return self.target_stepsize / BATCH_SIZE

    def controller(self) -> dfc.PIController:
        """Of the wake phase; both published codes leak on the control."""
        return dfc.PIController(self.k_p, self.alpha_di)

    def scheme(self) -> dfc.PublishedEuler:
        """The discretisation of the wake phase."""
        return dfc.PublishedEuler(self.dt_di, self.tmax_di)

    def method(self, name: ToyMethod) -> dfc.AbstractMethod:
        """DFC averages over the published duration by implicit Euler instead of the published many steps."""
        loss, target = dfc.MeanSquaredError(), dfc.Nudge(self.nudge)
        average = dfc.ImplicitAverage(self.dt_di * self.tmax_di)
        match name:
            case "dfc":
                return dfc.DFC(self.controller(), target, loss, self.time_constant_ratio, average)
            case "dfc-ss":
                return dfc.DFCSS(self.controller(), target, loss)
            case "dfc-ssa":
                return dfc.DFCSSA(self.controller(), target, loss)
            case "dfa":
                return dfc.DFA(loss)

    def optimiser(self) -> optax.GradientTransformation:
        """SGD on the forward weights, behind the clip of each tensor."""
        scale = 2 * self.nudge
        return optax.chain(dfc.clip_by_tensor_norm(CLIP / scale), optax.sgd(scale * self.lr))

    def feedback_optimiser(self, lr: float) -> optax.GradientTransformation:
        """SGD on the feedback weights, behind their common clip and with their decay."""
        clip, decay = optax.clip_by_global_norm(CLIP), optax.add_decayed_weights(self.feedback_wd)
        return optax.chain(clip, decay, optax.sgd(lr))

    def phase(self) -> dfc.SleepPhase:
        """The sleep phase, one draw of the noise for each sample as in the paper."""
        return dfc.SleepPhase(
            dfc.PIController(self.k_p_fb, self.alpha_fb),
            dfc.WhiteNoise(self.sigma_fb),
            self.time_constant_ratio_fb,
            self.apical_time_constant_fb,
            dfc.PublishedEuler(self.dt_di_fb, self.tmax_di_fb, proactive=False),
            loss=dfc.MeanSquaredError(),
        )

    def feedback_learning(self) -> dfc.FeedbackLearning:
        """Pre-training, then sleep before every wake epoch."""
        return dfc.FeedbackLearning(
            self.feedback_optimiser(self.lr_fb),
            self.phase(),
            self.feedback_optimiser(self.lr_fb_init),
            pretraining_epochs=self.epochs_fb,
            epochs_per_wake_epoch=1 + self.extra_fb_epochs,
        )


FIGURE_1D = Toy(
    sizes=(15, 10, 10, 1),
    epochs=0,
    epochs_fb=50,
    extra_fb_epochs=0,
    lr=0.05 / 0.05,
    target_stepsize=0.05,
    lr_fb=0.002,
    lr_fb_init=0.1,
    feedback_wd=0.025,
    k_p=1.0,
    alpha_di=0.0015,
    time_constant_ratio=0.2,
    dt_di=0.005,
    tmax_di=2000,
    k_p_fb=0.1,
    alpha_fb=0.25,
    time_constant_ratio_fb=0.01,
    dt_di_fb=0.002,
    tmax_di_fb=50,
    apical_time_constant_fb=0.3,
)
# Also of Figure S1, which is drawn from the runs of DFC.
FIGURE_3 = dataclasses.replace(
    FIGURE_1D, sizes=(15, 10, 10, 5), epochs=300, extra_fb_epochs=2, k_p=1.5, tmax_di=1000
)
FIGURE_3_METHODS: tuple[ToyMethod, ...] = ("dfc", "dfc-ss", "dfc-ssa", "dfa")

# Figures S2 to S4: only the pre-training of the feedback weights is looked at.
_FIGURE_S = Toy(
    sizes=(20, 10, 5),
    epochs=1,
    epochs_fb=25,
    extra_fb_epochs=0,
    lr=0.1 / 0.001,
    target_stepsize=0.001,
    lr_fb=0.1,
    lr_fb_init=0.1,
    feedback_wd=0.01,
    k_p=0.0,
    alpha_di=0.001,
    time_constant_ratio=0.005,
    dt_di=0.001,
    tmax_di=3,
    k_p_fb=0.0,
    alpha_fb=0.5,
    time_constant_ratio_fb=0.005,
    dt_di_fb=0.001,
    tmax_di_fb=300,
    apical_time_constant_fb=0.3,
)
LOG_INTERVAL = 5  # minibatches
HIDDEN: tuple[Hidden, ...] = ("linear", "tanh")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A figure with a curve for each value of one quantity."""

    toy: Toy
    swept: Literal["gn_damping", "alpha_fb", "k_p_fb"]
    values: tuple[float, ...]


SWEEPS = {
    "s2": Sweep(_FIGURE_S, "gn_damping", (0, 0.1, 1, 5, 10, 100, 1000)),
    "s3": Sweep(
        dataclasses.replace(_FIGURE_S, k_p_fb=0.3, gn_damping=5), "alpha_fb", (0, 0.001, 0.01, 0.1, 0.5, 1)
    ),
    "s4": Sweep(dataclasses.replace(_FIGURE_S, alpha_fb=0.1, gn_damping=5), "k_p_fb", (0, 0.01, 0.1, 0.5, 1)),
}


@dataclasses.dataclass(frozen=True)
class Alignment:
    """What an alignment figure (S5 to S12) changes of the task's hyperparameters in Table 1."""

    dt_di: float
    tmax_di: int = 1000
    log_interval: int = 50  # minibatches; ours measures once an epoch
    gn_damping: float = 1.0

    @property
    def duration(self) -> float:
        return self.dt_di * self.tmax_di


AlignmentTask = Literal["mnist", "fashion_mnist", "mnist_autoencoder"]
ALIGNMENT: dict[tuple[AlignmentTask, Literal["learned", "fixed"]], Alignment] = {
    ("mnist", "learned"): Alignment(0.005),
    ("mnist", "fixed"): Alignment(0.005),
    ("fashion_mnist", "learned"): Alignment(0.005),
    ("fashion_mnist", "fixed"): Alignment(0.005),
    ("mnist_autoencoder", "learned"): Alignment(0.001),
    ("mnist_autoencoder", "fixed"): Alignment(0.005),  # that of DFC; DFC-SS, which is at rest here, had 0.001
}
ALIGNMENT_METHODS: tuple[ToyMethod, ...] = ("dfa", "dfc-ssa", "dfc-ss", "dfc")
