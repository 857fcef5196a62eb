"""The configurations of the NeurIPS 2021 paper's figures, as data, and as the library's objects.

The fields of `Toy` are named as the published flags are and hold their values; every published feedback
learning rule is `normal_controller`, every optimiser plain SGD. What the functions below undo:

- The published target error is that of the batch-mean loss (for squared error the mean over the outputs,
  too, as in `MeanSquaredError`): their step `target_stepsize` is a nudge of target_stepsize / B here.
- A published forward update is 2 nudge times ours, and `normalize_lr` divides `lr` by `target_stepsize`.
  One of their SGD steps is ours at the rate lr / target_stepsize * 2 nudge = 2 lr / B. Their clip, of each
  tensor, comes before the rate: ours is divided by 2 nudge. DFA's updates are scaled as DFC's are.
- A published feedback update is s = sigma_fb^2 / max(sigma_fb, 0.01)^2 times ours (here s = 1), is clipped
  in its joint norm, and then decays: clip and decay are divided by s, the rate is multiplied by it.
- `time_constant_ratio` is raised to the step where it is shorter.
"""

import dataclasses
from typing import Literal

import jax
import optax
from options.config import Method
from options.defaults import Activation, ACTIVATIONS
from options.groups import Sleep, SLEEP_PHASES
from options.published import SIGMA_FLOOR

import dfc_jax as dfc


Kind = Literal["learned", "fixed"]


@dataclasses.dataclass(frozen=True)
class Toy:
    """One configuration of the student-teacher experiments; the defaults are what all of them share."""

    size_input: int
    size_hidden: tuple[int, ...]
    size_output: int
    epochs: int
    epochs_fb: int
    extra_fb_epochs: int
    lr: float
    target_stepsize: float
    feedback_wd: float
    alpha_di: float
    k_p: float
    time_constant_ratio: float
    dt_di: float
    tmax_di: int
    alpha_fb: float
    k_p_fb: float
    time_constant_ratio_fb: float
    dt_di_fb: float
    tmax_di_fb: int
    gn_damping: float
    lr_fb_init: float = 0.1
    lr_fb: float = 0.1
    sigma_fb: float = 0.01
    apical_time_constant_fb: float = 0.3
    hidden_activation: Activation = "tanh"
    clip_grad_norm: float = 1.0
    batch_size: int = 128
    num_train: int = 5000
    num_val: int = 1000
    num_test: int = 1000
    random_seed: int = 42

    @property
    def nudge(self) -> float:
        """The published target step for one sample."""
        return self.target_stepsize / self.batch_size


FIGURE_3 = Toy(
    size_input=15,
    size_hidden=(10, 10),
    size_output=5,
    epochs=300,
    epochs_fb=50,
    extra_fb_epochs=2,
    lr=0.05,
    target_stepsize=0.05,
    lr_fb=0.002,
    lr_fb_init=0.1,
    feedback_wd=0.025,
    sigma_fb=0.01,
    k_p=1.5,
    alpha_di=0.0015,
    time_constant_ratio=0.2,
    dt_di=0.005,
    tmax_di=1000,
    k_p_fb=0.1,
    alpha_fb=0.25,
    time_constant_ratio_fb=0.01,
    dt_di_fb=0.002,
    tmax_di_fb=50,
    apical_time_constant_fb=0.3,
    gn_damping=0.1,
)

FIGURE_3_DFA = dataclasses.replace(FIGURE_3, gn_damping=0.0)
FIGURE_1D = dataclasses.replace(FIGURE_3, size_output=1, k_p=1.0, tmax_di=2000, gn_damping=0.0)

_FIGURES_C = Toy(
    size_input=20,
    size_hidden=(10,),
    size_output=5,
    epochs=1,
    epochs_fb=25,
    extra_fb_epochs=0,
    lr=0.1,
    target_stepsize=0.001,
    lr_fb_init=0.1,
    feedback_wd=0.01,
    sigma_fb=0.01,
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
    gn_damping=5.0,
)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Figures S2 to S4: feedback pre-training for several values of one flag."""

    base: Toy
    flag: Literal["gn_damping", "alpha_fb", "k_p_fb"]
    values: tuple[float, ...]
    log_interval: int = 5
    hidden_activations: tuple[Activation, ...] = ("linear", "tanh")


SWEEPS = {
    "s2": Sweep(_FIGURES_C, "gn_damping", (0.0, 0.1, 1.0, 5.0, 10.0, 100.0, 1000.0)),
    "s3": Sweep(dataclasses.replace(_FIGURES_C, k_p_fb=0.3), "alpha_fb", (0.0, 0.001, 0.01, 0.1, 0.5, 1.0)),
    "s4": Sweep(dataclasses.replace(_FIGURES_C, alpha_fb=0.1), "k_p_fb", (0.0, 0.01, 0.1, 0.5, 1.0)),
}


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """What the alignment figures (S5 to S12) change of Table 1; the pair is of DFC and of DFC-SS."""

    dt_di: tuple[float, float]
    include_non_converged_samples: bool = True
    tmax_di: int = 1000
    gn_damping: float = 1.0


AlignmentTask = Literal["mnist", "fashion_mnist", "mnist_autoencoder"]

PIPELINES: dict[tuple[AlignmentTask, Kind], Pipeline] = {
    ("mnist", "learned"): Pipeline((0.005, 0.005)),
    ("mnist", "fixed"): Pipeline((0.005, 0.005)),
    ("fashion_mnist", "learned"): Pipeline((0.005, 0.005)),
    ("fashion_mnist", "fixed"): Pipeline((0.005, 0.005)),
    ("mnist_autoencoder", "learned"): Pipeline((0.001, 0.001)),
    ("mnist_autoencoder", "fixed"): Pipeline((0.005, 0.001), include_non_converged_samples=False),
}


def make_data(toy: Toy) -> dfc.Dataset:
    """The student-teacher task; the published code draws it from its random seed, so does this."""
    return dfc.student_teacher(
        input_size=toy.size_input,
        output_size=toy.size_output,
        train_samples=toy.num_train,
        validation_samples=toy.num_val,
        test_samples=toy.num_test,
        seed=toy.random_seed,
    )


def make_model(toy: Toy, feedback: dfc.RandomFeedback | dfc.ProductOfWeights) -> dfc.Network:
    """A new network (`xavier_normal`; feedback `xavier_normal` or `weight_product`)."""
    return dfc.mlp(
        (toy.size_input, *toy.size_hidden, toy.size_output),
        key=jax.random.fold_in(jax.random.key(toy.random_seed), 0),
        activation=ACTIVATIONS[toy.hidden_activation],
        feedback=feedback,
    )


def make_method(toy: Toy, name: Method) -> dfc.AbstractMethod:
    """The method; the trajectories of DFC are averaged in growing implicit steps, not in `dt_di`."""
    loss = dfc.MeanSquaredError()
    controller, target = dfc.PIController(toy.k_p, toy.alpha_di), dfc.Nudge(toy.nudge)
    match name:
        case "dfa":
            return dfc.DFA(loss)
        case "dfc-ssa":
            return dfc.DFCSSA(controller, target, loss)
        case "dfc-ss":
            return dfc.DFCSS(controller, target, loss, include_unconverged=True)
        case "dfc":
            average = dfc.ImplicitAverage(toy.dt_di * toy.tmax_di, ((6, 0.04), (8, 0.16), (10, 0.8)))
            return dfc.DFC(controller, target, loss, toy.time_constant_ratio, average)


def make_optimiser(toy: Toy) -> optax.GradientTransformation:
    """SGD of the forward weights."""
    scale = 2 * toy.nudge
    rate = toy.lr / toy.target_stepsize
    return optax.chain(dfc.clip_by_tensor_norm(toy.clip_grad_norm / scale), optax.sgd(rate * scale))


def make_feedback_learning(toy: Toy, sleep: Sleep = "simulated") -> dfc.FeedbackLearning:
    """SGD of the feedback weights and its sleep phase, with one draw of the noise or its mean over all."""
    scale = toy.sigma_fb**2 / max(toy.sigma_fb, SIGMA_FLOOR) ** 2

    def optimiser(rate: float) -> optax.GradientTransformation:
        clip = optax.clip_by_global_norm(toy.clip_grad_norm / scale)
        decay = optax.add_decayed_weights(toy.feedback_wd / scale)
        return optax.chain(clip, decay, optax.sgd(rate * scale))

    phase = SLEEP_PHASES[sleep](
        dfc.PIController(toy.k_p_fb, toy.alpha_fb),
        dfc.WhiteNoise(toy.sigma_fb),
        max(toy.time_constant_ratio_fb, toy.dt_di_fb),
        toy.apical_time_constant_fb,
        dfc.PublishedEuler(toy.dt_di_fb, toy.tmax_di_fb, proactive=False),
        loss=dfc.MeanSquaredError(),
    )
    return dfc.FeedbackLearning(
        optimiser(toy.lr_fb),
        phase,
        optimiser(toy.lr_fb_init),
        pretraining_epochs=toy.epochs_fb,
        epochs_per_wake_epoch=1 + toy.extra_fb_epochs,
    )
