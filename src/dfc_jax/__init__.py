"""Deep Feedback Control in JAX: see README.md."""

from importlib.metadata import version as _version

from dfc_jax._analysis.diagnostics import Diagnostics as Diagnostics
from dfc_jax._analysis.energies import (
    control_energy as control_energy,
    predictive_coding_energy as predictive_coding_energy,
)
from dfc_jax._analysis.failures import reasons_for_failure as reasons_for_failure
from dfc_jax._analysis.measures import (
    condition_one as condition_one,
    condition_two as condition_two,
    feedback_angles as feedback_angles,
    feedback_ratio as feedback_ratio,
    null_space_fraction as null_space_fraction,
    published_condition_one as published_condition_one,
    target_alignment as target_alignment,
    update_angles as update_angles,
    UpdateAngles as UpdateAngles,
)
from dfc_jax._analysis.plots import plot_trajectory as plot_trajectory
from dfc_jax._analysis.surrogate import (
    surrogate_gradient as surrogate_gradient,
    surrogate_loss as surrogate_loss,
)
from dfc_jax._average.base import (
    AbstractAverage as AbstractAverage,
    Accumulator as Accumulator,
    instant_change as instant_change,
)
from dfc_jax._average.closed_form import ClosedFormAverage as ClosedFormAverage
from dfc_jax._average.control_root_finder import ControlRootFinder as ControlRootFinder
from dfc_jax._average.diffrax_average import DiffraxAverage as DiffraxAverage
from dfc_jax._average.implicit import ImplicitAverage as ImplicitAverage
from dfc_jax._average.published import PublishedAverage as PublishedAverage
from dfc_jax._data.augmentation import CropAndFlip as CropAndFlip
from dfc_jax._data.dataset import Dataset as Dataset, Split as Split
from dfc_jax._data.loading import (
    DATASETS as DATASETS,
    download as download,
    load as load,
    student_teacher as student_teacher,
)
from dfc_jax._dynamics.closed_loop import ClosedLoop as ClosedLoop
from dfc_jax._dynamics.controller import (
    AbstractController as AbstractController,
    LeakyIntegratorController as LeakyIntegratorController,
    PIController as PIController,
)
from dfc_jax._dynamics.implicit_euler import loop_is_stable as loop_is_stable
from dfc_jax._dynamics.losses import (
    AbstractLoss as AbstractLoss,
    CrossEntropy as CrossEntropy,
    MeanSquaredError as MeanSquaredError,
)
from dfc_jax._dynamics.noise import (
    AbstractNoise as AbstractNoise,
    FilteredNoise as FilteredNoise,
    WhiteNoise as WhiteNoise,
)
from dfc_jax._dynamics.published import PublishedEuler as PublishedEuler, PublishedState as PublishedState
from dfc_jax._dynamics.readout import (
    AbstractReadout as AbstractReadout,
    IdentityReadout as IdentityReadout,
    SoftmaxReadout as SoftmaxReadout,
)
from dfc_jax._dynamics.simulate import simulate as simulate
from dfc_jax._dynamics.stability import (
    distance_from_rest as distance_from_rest,
    euler_step_bound as euler_step_bound,
    loop_eigenvalues as loop_eigenvalues,
    LoopStability as LoopStability,
    published_growth as published_growth,
)
from dfc_jax._dynamics.states import Deviation as Deviation, LoopState as LoopState, Sample as Sample
from dfc_jax._dynamics.targets import (
    AbstractTarget as AbstractTarget,
    Clamp as Clamp,
    Nudge as Nudge,
    Rest as Rest,
)
from dfc_jax._dynamics.teaching import (
    presynaptic_rates as presynaptic_rates,
    teaching_signal as teaching_signal,
)
from dfc_jax._dynamics.trajectory import Trajectory as Trajectory, trajectory as trajectory
from dfc_jax._methods.base import (
    AbstractMethod as AbstractMethod,
    instant_report as instant_report,
    Report as Report,
    shaped_like as shaped_like,
)
from dfc_jax._methods.baselines import (
    Backprop as Backprop,
    DFA as DFA,
    FeedbackAlignment as FeedbackAlignment,
)
from dfc_jax._methods.dfc import DFC as DFC, DFCSS as DFCSS, DFCSSA as DFCSSA
from dfc_jax._methods.expected_sleep import ExpectedSleepPhase as ExpectedSleepPhase
from dfc_jax._methods.high_pass import HighPassPhase as HighPassPhase
from dfc_jax._methods.linearised_sleep import LinearisedSleepPhase as LinearisedSleepPhase
from dfc_jax._methods.linearised_strong import LinearisedStrongDFC as LinearisedStrongDFC
from dfc_jax._methods.optimal_control import (
    LeastControl as LeastControl,
    PredictiveCoding as PredictiveCoding,
)
from dfc_jax._methods.references import GaussNewton as GaussNewton, MinimumNorm as MinimumNorm
from dfc_jax._methods.single_phase import AbstractSinglePhase as AbstractSinglePhase
from dfc_jax._methods.sleep import AbstractSleepPhase as AbstractSleepPhase, SleepPhase as SleepPhase
from dfc_jax._methods.strong_dfc import StrongDFC as StrongDFC
from dfc_jax._methods.wake_rules import (
    AbstractWakeRule as AbstractWakeRule,
    DirectKolenPollack as DirectKolenPollack,
    KolenPollack as KolenPollack,
    RedrawnMagnitudes as RedrawnMagnitudes,
)
from dfc_jax._methods.weight_mirror import WeightMirror as WeightMirror
from dfc_jax._network.activations import (
    AbstractActivation as AbstractActivation,
    LeakyReLU as LeakyReLU,
    Linear as Linear,
    ReLU as ReLU,
    Sigmoid as Sigmoid,
    Tanh as Tanh,
)
from dfc_jax._network.convolution import (
    AveragePool as AveragePool,
    convnet as convnet,
    Convolution as Convolution,
    Flatten as Flatten,
    Image as Image,
)
from dfc_jax._network.feedback import (
    AbstractFeedback as AbstractFeedback,
    AbstractFeedbackInit as AbstractFeedbackInit,
    FeedbackWeights as FeedbackWeights,
    ProductOfWeights as ProductOfWeights,
    RandomFeedback as RandomFeedback,
)
from dfc_jax._network.layer import (
    Centre as Centre,
    Chain as Chain,
    Dense as Dense,
    Layer as Layer,
)
from dfc_jax._network.layered_feedback import (
    AbstractLayeredFeedback as AbstractLayeredFeedback,
    CopyOfWeights as CopyOfWeights,
    ExactFeedback as ExactFeedback,
    LayeredFeedback as LayeredFeedback,
    RandomLayeredFeedback as RandomLayeredFeedback,
    SignSymmetricFeedback as SignSymmetricFeedback,
    SignSymmetry as SignSymmetry,
)
from dfc_jax._network.learned import learned_weights as learned_weights
from dfc_jax._network.network import Feedforward as Feedforward, mlp as mlp, Network as Network
from dfc_jax._network.plasticity import (
    AbstractTeachingSignal as AbstractTeachingSignal,
    feedback_rule as feedback_rule,
    forward_rule as forward_rule,
    RateDifference as RateDifference,
    VoltageDifference as VoltageDifference,
)
from dfc_jax._network.standardised import standardised as standardised
from dfc_jax._runs.environment import environment as environment
from dfc_jax._runs.folder import RunFolder as RunFolder
from dfc_jax._runs.history import History as History, Record as Record
from dfc_jax._runs.loading import load_run as load_run, LoadedRun as LoadedRun
from dfc_jax._runs.model_file import load_model as load_model, save_model as save_model
from dfc_jax._steady_state.base import (
    AbstractEquilibrium as AbstractEquilibrium,
    Equilibrium as Equilibrium,
    last_state as last_state,
)
from dfc_jax._steady_state.broyden import Broyden as Broyden
from dfc_jax._steady_state.controlled_jacobian import ControlledJacobian as ControlledJacobian
from dfc_jax._steady_state.leak_continuation import LeakContinuation as LeakContinuation
from dfc_jax._steady_state.linear import Analytic as Analytic
from dfc_jax._steady_state.optimal_control import (
    AbstractOptimalControl as AbstractOptimalControl,
    OptimalControl as OptimalControl,
)
from dfc_jax._steady_state.pseudo_transient import PseudoTransient as PseudoTransient
from dfc_jax._steady_state.root_find import RootFind as RootFind
from dfc_jax._steady_state.simulated import Simulated as Simulated, StateAtTime as StateAtTime
from dfc_jax._training.clipping import (
    clip_by_layer_norm as clip_by_layer_norm,
    clip_by_tensor_norm as clip_by_tensor_norm,
)
from dfc_jax._training.evaluation import evaluate as evaluate, predict as predict
from dfc_jax._training.fit import fit as fit, fit_many as fit_many, pretrain_feedback as pretrain_feedback
from dfc_jax._training.sleep_epochs import FeedbackLearning as FeedbackLearning


__version__ = _version("dfc_jax")
