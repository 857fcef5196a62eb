"""Deep Feedback Control in JAX: see README.md."""

from importlib.metadata import version

from dfc_jax.activations import (
    AbstractActivation as AbstractActivation,
    LeakyReLU as LeakyReLU,
    Linear as Linear,
    ReLU as ReLU,
    Sigmoid as Sigmoid,
    Tanh as Tanh,
)
from dfc_jax.augmentation import CropAndFlip as CropAndFlip
from dfc_jax.averaging import (
    AbstractAverage as AbstractAverage,
    PublishedAverage as PublishedAverage,
)
from dfc_jax.baselines import Backprop as Backprop, DFA as DFA
from dfc_jax.broyden import Analytic as Analytic, Broyden as Broyden
from dfc_jax.clipping import (
    clip_by_layer_norm as clip_by_layer_norm,
    clip_by_tensor_norm as clip_by_tensor_norm,
)
from dfc_jax.closed_form import ClosedFormAverage as ClosedFormAverage
from dfc_jax.closed_loop import (
    ClosedLoop as ClosedLoop,
    Deviation as Deviation,
    LoopState as LoopState,
    Sample as Sample,
)
from dfc_jax.controlled_feedback import ControlledJacobian as ControlledJacobian
from dfc_jax.controller import (
    AbstractController as AbstractController,
    LeakyIntegratorController as LeakyIntegratorController,
    PIController as PIController,
)
from dfc_jax.convolution import (
    AveragePool as AveragePool,
    Chain as Chain,
    convnet as convnet,
    Convolution as Convolution,
    Flatten as Flatten,
    Image as Image,
)
from dfc_jax.data import (
    Dataset as Dataset,
    DATASETS as DATASETS,
    load as load,
    Split as Split,
    student_teacher as student_teacher,
)
from dfc_jax.diagnostics import (
    condition_one as condition_one,
    condition_two as condition_two,
    feedback_angles as feedback_angles,
    feedback_ratio as feedback_ratio,
    null_space_fraction as null_space_fraction,
    published_condition_one as published_condition_one,
    update_angles as update_angles,
    UpdateAngles as UpdateAngles,
)
from dfc_jax.diffrax_average import (
    ControlRootFinder as ControlRootFinder,
    DiffraxAverage as DiffraxAverage,
)
from dfc_jax.equilibrium import (
    AbstractEquilibrium as AbstractEquilibrium,
    Equilibrium as Equilibrium,
    RootFind as RootFind,
)
from dfc_jax.evaluation import evaluate as evaluate
from dfc_jax.expected_sleep import ExpectedSleepPhase as ExpectedSleepPhase
from dfc_jax.failures import reasons_for_failure as reasons_for_failure
from dfc_jax.fallback import PseudoTransient as PseudoTransient
from dfc_jax.feedback import (
    ExactFeedback as ExactFeedback,
    FeedbackWeights as FeedbackWeights,
    ProductOfWeights as ProductOfWeights,
    RandomFeedback as RandomFeedback,
)
from dfc_jax.feedback_learning import FeedbackLearning as FeedbackLearning
from dfc_jax.history import History as History, Record as Record
from dfc_jax.implicit import ImplicitAverage as ImplicitAverage
from dfc_jax.linearised import (
    distance_from_rest as distance_from_rest,
    euler_step_bound as euler_step_bound,
    loop_eigenvalues as loop_eigenvalues,
    published_growth as published_growth,
)
from dfc_jax.losses import (
    AbstractLoss as AbstractLoss,
    CrossEntropy as CrossEntropy,
    MeanSquaredError as MeanSquaredError,
)
from dfc_jax.methods import (
    AbstractMethod as AbstractMethod,
    DFC as DFC,
    DFCSS as DFCSS,
    DFCSSA as DFCSSA,
    instant_report as instant_report,
    Report as Report,
    shaped_like as shaped_like,
)
from dfc_jax.monitoring import Diagnostics as Diagnostics
from dfc_jax.network import (
    Dense as Dense,
    Feedforward as Feedforward,
    Layer as Layer,
    mlp as mlp,
    Network as Network,
)
from dfc_jax.noise import FilteredNoise as FilteredNoise, WhiteNoise as WhiteNoise
from dfc_jax.plasticity import (
    feedback_rule as feedback_rule,
    forward_rule as forward_rule,
    presynaptic_rates as presynaptic_rates,
    teaching_signal as teaching_signal,
)
from dfc_jax.published import PublishedEuler as PublishedEuler, PublishedState as PublishedState
from dfc_jax.runs import (
    environment as environment,
    load_run as load_run,
    LoadedRun as LoadedRun,
    RunFolder as RunFolder,
)
from dfc_jax.second_order import GaussNewton as GaussNewton, MinimumNorm as MinimumNorm
from dfc_jax.simulated import Simulated as Simulated, StateAtTime as StateAtTime
from dfc_jax.sleep import AbstractSleepPhase as AbstractSleepPhase, SleepPhase as SleepPhase
from dfc_jax.strong_dfc import HighPassPhase as HighPassPhase, StrongDFC as StrongDFC
from dfc_jax.surrogate import (
    surrogate_gradient as surrogate_gradient,
    surrogate_loss as surrogate_loss,
)
from dfc_jax.targets import AbstractTarget as AbstractTarget, Clamp as Clamp, Nudge as Nudge, Rest as Rest
from dfc_jax.teaching import (
    AbstractTeachingSignal as AbstractTeachingSignal,
    RateDifference as RateDifference,
    VoltageDifference as VoltageDifference,
)
from dfc_jax.training import fit as fit, fit_many as fit_many
from dfc_jax.trajectory import simulate as simulate


__version__ = version("dfc_jax")
