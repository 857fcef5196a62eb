"""The options of `run.py`."""

import dataclasses
from typing import Any, Literal

from options.checks import check_each_once, check_feedback, check_numbers, check_used, STRONG
from options.defaults import (
    Activation,
    ACTIVATIONS,
    COLOUR,
    COLOUR_CONV,
    Dataset,
    DEFAULTS,
    Defaults,
    Model,
    REGRESSION,
)
from options.groups import (
    Controller,
    Feedback,
    IMPLICIT,
    Optimal,
    Optimiser,
    SLEEP_PHASES,
    Solver,
    Strong,
    Update,
)
from options.published import refuse_beside

import dfc_jax as dfc


Method = Literal[
    "bp",
    "dfa",
    "dfc",
    "dfc-ss",
    "dfc-ssa",
    "strong-dfc",
    "strong-dfc-2phase",
    "least-control",
    "predictive-coding",
    "mn",
    "gn",
]

Preset = Literal["paper", "paper-train-loss", "strong-paper", "holomorphic-ep-net"]
WITH_CONTROLLER = ("dfc", "dfc-ss", "dfc-ssa", "strong-dfc", "strong-dfc-2phase")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Train networks by Deep Feedback Control and compare them.

    Each method is one run with a folder of its own; with several methods they are compared at the end.
    """

    dataset: Dataset = dataclasses.field(default="digits", kw_only=False)
    """digits and student_teacher need no download; the others are fetched by --download, or read by
    TensorFlow Datasets."""
    download: bool = False
    """Fetch the images first, from the archives of their authors, unless they are there: into DFC_JAX_DATA,
    by default ~/.cache/dfc_jax. With --distributed the first process does, into a folder that all share."""
    method: tuple[Method, ...] = ("dfc-ss", "bp")
    """One or several. bp: backpropagation. dfa: direct feedback alignment. dfc: average over the controlled
    trajectory. dfc-ss: its steady state. dfc-ssa: the linearised steady state. strong-dfc: strong feedback,
    forward and feedback weights learnt in a single noisy phase. strong-dfc-2phase: dfc-ss with strong
    feedback. least-control, predictive-coding: the exact minimum of their energy, which is a steady state
    under optimal control. mn, gn: damped minimum-norm and Gauss-Newton updates, to compare with."""
    feedback: Literal["learned", "fixed", "exact", "signs"] = "learned"
    """learned: in sleep phases, from random. fixed: the product of the initial forward weights.
    exact: the transposed Jacobian of every sample. signs: from layer to layer, with the signs of the forward
    weights and sizes that are all alike. On cifar10, as conv is by default but for batches of 125, dfc-ss
    came to 77.7 % in 20 epochs and bp to 78.7 (three seeds); with logits that were not centred dfc-ss
    came with signs to 77.6 and with direct feedback that is fixed to 62.5 (one seed). bp, mn and gn have
    none, least-control and predictive-coding that of the controlled state; dfa's is fixed and random."""
    layered: bool | None = None
    """Feedback from layer to layer, by backward transforms like the forward ones, which hold their initial
    weights where `feedback` is fixed; without it weights from the output to every neuron. By default where a
    convolutional network learns its feedback on cifar10 or cifar100."""
    preset: Preset | None = None
    """paper: the hyperparameters of the NeurIPS paper's Table 1 for data set, method and feedback
    (neurips2021/presets.py). paper-train-loss: those of its last column, MNIST's train loss. strong-paper:
    those of Strong-DFC's published runs (icml2022/presets.py). holomorphic-ep-net: a large network for
    cifar10 and cifar100, for a GPU: four convolutions, of 128 to 512 feature maps, and 90 epochs
    (neurips2022/presets.py); it may stand beside other options."""
    epochs: int | None = None
    """Epochs of forward learning; by default what suits the data set, or the preset's."""
    seeds: tuple[int, ...] = (0,)
    """One or several; each seeds initialisation, order of samples and noise."""
    out: str | None = None
    """Folder for the results; by default a new one below runs/."""
    resume: bool = False
    """Go on with the run in --out, from its newest checkpoint, with its options: more epochs may be given,
    other options not. Beside a whole command, start it where there is no run yet."""
    model: Model | None = None
    """mlp: dense layers only. conv: convolutions with pooling before them. By default conv for cifar10
    and cifar100."""
    channels: tuple[int, ...] | None = None
    """conv: feature maps of each convolution; by default 16 and 32, cifar10's and cifar100's 32, 64 and
    128."""
    hidden: tuple[int, ...] | None = None
    """Sizes of the dense hidden layers; by default the papers', conv's one of 128, and none where conv is for
    cifar10 or cifar100."""
    activation: Activation | None = None
    """Of all hidden layers; by default tanh (the autoencoder's: tanh, linear, tanh), and leaky-relu where
    conv is for cifar10 or cifar100."""
    initial_weights: Literal["xavier", "standardised"] = "xavier"
    """xavier: as published. standardised: scaled such that the voltages of 512 training samples have mean 0
    and standard deviation 1 in every feature of every hidden layer."""
    centred: bool | None = None
    """Take their mean off the logits, to which cross-entropy is blind: under DFC it wanders, and takes the
    gain of the loop with it. By default where conv is for cifar10 or cifar100."""
    batch_size: int = 128
    """Of a step, whatever the number of devices."""
    best: Literal["validation_accuracy", "validation_loss"] | None = None
    """What the best epoch, whose scores count, is chosen by; by default the loss for regression, the accuracy
    otherwise, and the loss where accuracies are equal."""
    patience: int | None = None
    """Stop a seed after so many epochs without a better one; by default none is stopped."""
    augment: bool | None = None
    """Shift images by up to 4 pixels and mirror half of them, at random; by default cifar10's and
    cifar100's for conv."""
    label_smoothing: float = 0.0
    """Part of every training label that all classes share; validation and test have whole labels. For
    strong feedback and least-control, whose `class_value` softens labels, it is 0."""
    distributed: bool = False
    """Divide every batch among the devices of several processes, all started with this command; without it
    among those of this machine. JAX finds the processes under SLURM, MPI, Kubernetes and on TPUs; elsewhere
    give --coordinator, --processes and --process."""
    coordinator: str | None = None
    """Address of the first process, HOST:PORT."""
    processes: int | None = None
    """How many there are."""
    process: int | None = None
    """Which of them this is, from 0."""
    nudge: float = dfc.Nudge.nudge
    """Step of the output target along the loss gradient (lambda)."""
    damping: float = dfc.MinimumNorm.damping
    """mn, gn and the diagnostics: Tikhonov damping."""
    diagnostics: int | None = None
    """Measure alignment, stability and the papers' conditions every so many epochs; none by default."""
    controller: Controller = Controller()
    solver: Solver = Solver()
    strong: Strong = Strong()
    optimal: Optimal = Optimal()
    optimiser: Optimiser = Optimiser()
    feedback_learning: Feedback = Feedback()
    progress: bool = True
    """Show progress bars."""
    tensorboard: bool = False
    """Write event files for TensorBoard too, a folder for each seed: tensorboard --logdir FOLDER."""

    def resolved(self) -> "Config":
        """The same with the data set's defaults filled in.

        **Raises:** `ValueError` in one sentence for what cannot be run.
        """
        defaults = self._defaults()
        optimiser = _fill(
            self.optimiser, lr=defaults.lr, weight_decay=defaults.weight_decay, schedule=defaults.schedule
        )
        single_phase = self.method == ("strong-dfc",)
        given_rate = self.feedback_learning.lr
        update, layered = self.learned_by()
        awake = single_phase or update == "kolen-pollack"
        unlearned = update == "kolen-pollack" and not layered  # before the first wake epoch
        pretraining = max(1, defaults.pretraining_epochs) if layered else defaults.pretraining_epochs
        learning = _fill(
            self.feedback_learning,
            lr=defaults.feedback_lr * (0.01 if single_phase else 1),
            pretraining_lr=defaults.feedback_lr if given_rate is None else given_rate,
            pretraining_epochs=0 if unlearned else pretraining,
            sleep_epochs=0 if awake else defaults.sleep_epochs,
            weight_decay=1.0 if layered else 1e-2,
            update=update,
        )
        convolutional = defaults.model == "conv"
        config = _fill(
            self,
            hidden=defaults.hidden,
            epochs=defaults.epochs,
            model=defaults.model,
            channels=defaults.channels,
            layered=layered,
            centred=defaults == COLOUR_CONV,
            augment=convolutional and self.dataset in ("cifar10", "cifar100"),
        )
        optimal = _fill(self.optimal, alpha=OPTIMAL_ALPHA.get(self.method))
        strong, softened = self.strong, self.strong.class_value not in (1, Strong.class_value)
        if self.dataset in REGRESSION and set(self.method) & set(STRONG) and not softened:
            strong = dataclasses.replace(strong, class_value=1.0)
        config = dataclasses.replace(config, optimal=optimal, strong=strong)
        config = dataclasses.replace(config, optimiser=optimiser, feedback_learning=learning)
        check_numbers(config)
        check_feedback(config)
        for name in ("method", "seeds"):
            check_each_once(name, getattr(self, name))
        if self.out == "":
            raise ValueError("`out` is empty; name a folder, or leave the option out.")
        if self.resume and self.out is None:
            raise ValueError("`resume` is given without `out`; name the folder of the run.")
        if config.channels and not convolutional:
            raise ValueError(f"`channels` is {config.channels}; only --model conv has feature maps.")
        if config.augment and self.dataset in REGRESSION:
            raise ValueError(f"`augment` is given; {self.dataset} has no images to classify.")
        if config.label_smoothing > 0 and self.dataset in REGRESSION:
            raise ValueError(f"`label_smoothing` is given; {self.dataset} has no labels.")
        for group, softens in (("strong", softened), ("optimal", self.optimal.class_value != 1)):
            if softens and self.dataset in REGRESSION:
                problem = f"`{group}.class_value` is {getattr(self, group).class_value}"
                raise ValueError(f"{problem}; {self.dataset} has no classes, whose labels it softens.")
        if config.best == "validation_accuracy" and self.dataset in REGRESSION:
            raise ValueError(f"`best` is validation_accuracy; {self.dataset} has no classes.")
        if config.centred and self.dataset in REGRESSION:
            raise ValueError(f"`centred` is given; {self.dataset} has no classes, whose outputs have a mean.")
        if not self.distributed and (self.coordinator, self.processes, self.process) != (None, None, None):
            raise ValueError(
                "`coordinator`, `processes` and `process` are for --distributed, which is not given."
            )
        if self.distributed and self.out is None:
            raise ValueError("`distributed` is given without `out`; name a folder that all processes share.")
        name = self.solver.diffrax_solver
        if self.solver.steady_state == "simulated" and name in ("Euler", *IMPLICIT):
            raise ValueError(
                f"`solver.diffrax_solver` is {name}; a simulated steady state needs an explicit solver with "
                "adaptive steps."
            )
        return config

    def checked(self) -> "Config":
        """The same, which is what is asked for.

        **Raises:** `ValueError` in one sentence for what cannot be run, or is given where nothing reads it.
        """
        self.resolved()
        if self.preset not in (None, "holomorphic-ep-net"):  # others set most of what methods read
            refuse_beside(self)
        check_used(self)
        return self

    def learned_by(self) -> tuple[Update, bool]:
        """What feedback is learned by, and whether it goes from layer to layer: as given, or by default."""
        defaults = self._defaults()
        layered = self._layered(defaults) if self.layered is None else self.layered
        return self.feedback_learning.update or ("kolen-pollack" if layered else defaults.update), layered

    def activations(self) -> list[dfc.AbstractActivation]:
        """One for each hidden layer, feature maps included."""
        number = len(self.channels) + len(self.hidden)
        defaults = self._defaults()
        if self.activation is None and (self.channels, self.hidden) == (defaults.channels, defaults.hidden):
            return [ACTIVATIONS[name] for name in defaults.activations]
        return [ACTIVATIONS[self.activation or defaults.activations[0]]] * number

    def _layered(self, defaults: Defaults) -> bool:
        """Whether feedback is layered where that is not said."""
        if self.feedback == "signs":
            return True
        direct = "strong-dfc" in self.method or self.feedback_learning.update in SLEEP_PHASES
        return defaults == COLOUR_CONV and self.feedback == "learned" and not direct

    def _defaults(self) -> Defaults:
        """Of the data set and the kind of network."""
        defaults = DEFAULTS[self.dataset]
        if self.model in (None, defaults.model):
            return defaults
        if self.model == "mlp":
            return COLOUR
        return dataclasses.replace(
            defaults, hidden=(128,), activations=("tanh",) * 3, model="conv", channels=(16, 32)
        )


def _fill(options: Any, **defaults: Any) -> Any:
    """The same options, with a default wherever none was given."""
    missing = {name: value for name, value in defaults.items() if getattr(options, name) is None}
    return dataclasses.replace(options, **missing)


OPTIMAL_ALPHA: dict[tuple[Method, ...], float] = {
    ("least-control",): dfc.LeastControl.alpha,
    ("predictive-coding",): dfc.PredictiveCoding.alpha,
}
DISTRIBUTED = ("distributed", "coordinator", "processes", "process")
MAY_DIFFER = ("epochs", "progress", "tensorboard", "download", "resume", "out", *DISTRIBUTED)
