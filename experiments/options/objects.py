"""The library's objects that the options of `run.py` stand for."""

import dataclasses
import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import optimistix as optx
from options.config import Config, Method, WITH_CONTROLLER
from options.groups import IMPLICIT, Optimiser, SLEEP_PHASES, Solver

import dfc_jax as dfc


def _controller(config: Config) -> dfc.AbstractController:
    options = config.controller
    leaks = {"control": dfc.PIController, "integrator": dfc.LeakyIntegratorController}
    return leaks[options.leak_on](options.k_p, options.alpha)


def make_method(config: Config, name: Method, loss: dfc.AbstractLoss) -> dfc.AbstractMethod:
    """The method object of one name."""
    controller = _controller(config)
    target, solver = dfc.Nudge(config.nudge), config.solver
    match name:
        case "bp":
            return dfc.Backprop(loss)
        case "dfa":
            return dfc.DFA(loss)
        case "mn":
            return dfc.MinimumNorm(loss, config.damping)
        case "gn":
            return dfc.GaussNewton(loss, config.damping)
        case "dfc-ssa":
            return dfc.DFCSSA(controller, target, loss)
        case "dfc-ss" | "strong-dfc-2phase":
            target = target if name == "dfc-ss" else dfc.Clamp(config.strong.class_value)
            # What the dynamics do not reach, no other scheme should.
            dynamics = solver.steady_state in ("simulated", "published")
            fallback = None if dynamics else dfc.PseudoTransient(solver.rtol)
            return dfc.DFCSS(controller, target, loss, _equilibrium(solver), fallback)
        case "dfc":
            return dfc.DFC(controller, target, loss, solver.tau_v, _average(solver))
        case "least-control":
            return dfc.LeastControl(_optimal_alpha(config, loss), loss, config.optimal.class_value)
        case "predictive-coding":
            return dfc.PredictiveCoding(_optimal_alpha(config, loss), loss)
        case "strong-dfc":
            return _single_phase(config, loss)


def _optimal_alpha(config: Config, loss: dfc.AbstractLoss) -> float:
    alpha = config.optimal.alpha
    assert alpha is not None  # the options of one method are resolved
    if alpha == 0 and isinstance(loss, dfc.CrossEntropy):
        raise ValueError("`optimal.alpha` is 0; for cross-entropy, the loss of classes, it must exceed 0.")
    return alpha


def _single_phase(config: Config, loss: dfc.AbstractLoss) -> dfc.AbstractSinglePhase:
    strong = config.strong
    parts = (
        _controller(config),
        dfc.Clamp(strong.class_value),
        loss,
        dfc.FilteredNoise(strong.sigma, strong.tau_noise, strong.sigma_output),
        strong.tau_v,
        strong.tau_filter,
        dfc.PublishedEuler(strong.dt, strong.steps),
    )
    if strong.update == "linearised":
        return dfc.LinearisedStrongDFC(*parts)
    return dfc.StrongDFC(*parts, dfc.Broyden() if strong.start == "steady-state" else None)


def _equilibrium(solver: Solver) -> dfc.AbstractEquilibrium:
    match solver.steady_state:
        case "broyden":
            return dfc.Broyden(solver.rtol)
        case "newton":
            return dfc.RootFind(optx.Newton(rtol=solver.rtol, atol=solver.rtol))
        case "simulated":
            return dfc.Simulated(getattr(diffrax, solver.diffrax_solver)(), solver.rtol)
        case "published":
            return dfc.StateAtTime(_published(solver), solver.tau_v)


def _average(solver: Solver) -> dfc.AbstractAverage:
    match solver.trajectory:
        case "implicit":
            return dfc.ImplicitAverage(solver.duration)
        case "closed-form":
            return dfc.ClosedFormAverage(solver.duration)
        case "published":
            return dfc.PublishedAverage(_published(solver))
        case "diffrax":
            name = solver.diffrax_solver
            finder = {"root_finder": dfc.ControlRootFinder()} if name in IMPLICIT else {}
            # Implicit solvers are then within hundredths of a degree; explicit ones are not.
            tolerance = 0.1 if name in IMPLICIT else 1e-4
            adaptive = diffrax.PIDController(rtol=tolerance, atol=tolerance)
            step = diffrax.ConstantStepSize() if name == "Euler" else adaptive
            return dfc.DiffraxAverage(getattr(diffrax, name)(**finder), step, solver.duration, solver.dt)


def _published(solver: Solver) -> dfc.PublishedEuler:
    return dfc.PublishedEuler(solver.dt, round(solver.duration / solver.dt))


def steps_of(config: Config, data: dfc.Dataset) -> int:
    """How many batches the epochs of `config` have, a smaller last one included."""
    return config.epochs * math.ceil(len(data.train) / config.batch_size)


def make_optimiser(config: Optimiser, steps: int) -> optax.GradientTransformation:
    """Adam for so many steps, behind a clip where one is asked for."""
    rate = config.lr if config.schedule == "constant" else optax.cosine_decay_schedule(config.lr, steps)
    adam = optax.adam(rate, config.beta1, config.beta2, config.eps)
    if config.weight_decay > 0:
        decay = config.weight_decay
        adam = optax.adamw(rate, config.beta1, config.beta2, config.eps, weight_decay=decay)
    if config.clip is None:
        return adam
    clip = {"tensor": dfc.clip_by_tensor_norm, "layer": dfc.clip_by_layer_norm}[config.clip_over]
    return optax.chain(clip(config.clip), adam)


def make_feedback_learning(
    config: Config, method: Method, loss: dfc.AbstractLoss, steps: int
) -> dfc.FeedbackLearning:
    """The sleep phase, or the rule for the wake phase, and the optimiser of the feedback weights; the forward
    weights take so many steps.
    """
    learning = config.feedback_learning
    noise = pretraining_noise = dfc.WhiteNoise(learning.sigma, learning.sigma_output)
    if method == "strong-dfc":
        wake = _single_phase(config, loss)
        dynamics = _pretraining(config, wake)
        phase, noise, pretraining_noise = dfc.HighPassPhase(dynamics), wake.noise, dynamics.noise
    elif learning.update in ("weight-mirror", "kolen-pollack"):
        phase = dfc.WeightMirror() if config.layered else dfc.SleepPhase()
    else:
        phase_class = SLEEP_PHASES[learning.update]
        clamped = method == "strong-dfc-2phase" and learning.update == "simulated"
        scheme = dfc.PublishedEuler(learning.dt, learning.steps, proactive=False)
        phase = phase_class(
            dfc.PIController(learning.k_p, learning.alpha),
            noise,
            learning.tau_v,
            learning.tau_apical,
            scheme,
            dfc.Clamp(config.strong.class_value) if clamped else dfc.Rest(),
            loss,
        )

    def optimiser(lr: float, noise: dfc.WhiteNoise | dfc.FilteredNoise) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(learning.weight_decay)
        adam = optax.adam(lr, learning.beta1, learning.beta2, learning.eps)
        clip = [] if learning.clip is None else [optax.clip_by_global_norm(learning.clip)]
        floor = [] if learning.sigma_floor == 0 else [floored(noise, learning.sigma_floor)]
        return optax.chain(*floor, *clip, decay, adam)

    if learning.update == "kolen-pollack" and method != "strong-dfc":
        if not config.layered:
            return _direct_kolen_pollack(optimiser(learning.lr, noise), phase)
        return dfc.FeedbackLearning(
            make_optimiser(config.optimiser, steps),  # the forward weights' own
            phase,
            # None where it has nothing to do: as runs of before there was pre-training have it.
            optimiser(learning.pretraining_lr, noise) if learning.pretraining_epochs > 0 else None,
            pretraining_epochs=learning.pretraining_epochs,
            epochs_per_wake_epoch=0,
            wake=dfc.KolenPollack(),
        )
    # None where it is the same: so it stands in the checkpoints of earlier runs, which are compared.
    same = learning.pretraining_lr == learning.lr and bool(eqx.tree_equal(pretraining_noise, noise))
    return dfc.FeedbackLearning(
        optimiser(learning.lr, noise),
        phase,
        None if same else optimiser(learning.pretraining_lr, pretraining_noise),
        pretraining_epochs=learning.pretraining_epochs,
        epochs_per_wake_epoch=learning.sleep_epochs,
        freeze_output=learning.freeze_output,
    )


def _direct_kolen_pollack(
    optimiser: optax.GradientTransformation, phase: dfc.AbstractSleepPhase
) -> dfc.FeedbackLearning:
    """Without sleep, so that `phase` stands for nothing."""
    return dfc.FeedbackLearning(
        optimiser,
        phase,
        pretraining_epochs=0,
        epochs_per_wake_epoch=0,
        freeze_output=True,
        wake=dfc.DirectKolenPollack(),
    )


def _pretraining(config: Config, wake: dfc.AbstractSinglePhase) -> dfc.AbstractSinglePhase:
    """The dynamics in which strong-dfc's feedback weights are pre-trained."""
    strong, learning = config.strong, config.feedback_learning
    sigma, sigma_output = strong.pretraining_sigma, strong.pretraining_sigma_output
    if sigma is None:
        sigma, sigma_output = strong.sigma, strong.sigma_output if sigma_output is None else sigma_output
    tau_filter = strong.tau_filter if strong.pretraining_tau_filter is None else strong.pretraining_tau_filter
    start = {"start": None} if isinstance(wake, dfc.StrongDFC) else {}
    return dataclasses.replace(
        wake,
        controller=dfc.PIController(learning.k_p, learning.alpha),
        target=dfc.Clamp(strong.class_value) if strong.pretraining == "label" else dfc.Rest(),
        noise=dfc.FilteredNoise(sigma, strong.tau_noise, sigma_output),
        tau_v=learning.tau_v,
        tau_filter=tau_filter,
        scheme=dfc.PublishedEuler(learning.dt, learning.steps),
        **start,
    )


def floored(noise: dfc.WhiteNoise | dfc.FilteredNoise, floor: float) -> optax.GradientTransformation:
    """Feedback updates, which are divided by sigma^2, as if by max(sigma, floor)^2, layer by layer."""

    def scale(update: dfc.FeedbackWeights, _: dfc.FeedbackWeights | None) -> dfc.FeedbackWeights:
        sigmas = noise.sigmas(len(update.weights))
        factors = [jnp.minimum(1.0, sigma / floor) ** 2 for sigma in sigmas]
        pairs = zip(factors, update.weights, strict=True)
        return eqx.tree_at(lambda u: u.weights, update, tuple(f.astype(w.dtype) * w for f, w in pairs))

    return optax.stateless(scale)


def make_model(config: Config, method: Method, data: dfc.Dataset, seed: int) -> dfc.Network:
    """A new network between the data set's inputs and outputs.

    **Raises:** `ValueError` for a convolutional network where there are no images, or too small ones.
    """
    feedback = dfc.CopyOfWeights() if config.layered else dfc.ProductOfWeights()
    if method == "dfa":
        feedback = dfc.RandomFeedback()
    elif method in WITH_CONTROLLER and config.feedback == "learned":
        feedback = dfc.RandomLayeredFeedback() if config.layered else dfc.RandomFeedback()
    elif method in WITH_CONTROLLER and config.feedback != "fixed":
        feedback = {"exact": dfc.ExactFeedback(), "signs": dfc.SignSymmetry()}[config.feedback]
    key = jax.random.fold_in(jax.random.key(seed), 0)
    sizes = (*config.hidden, data.output_size)
    given = {"key": key, "feedback": feedback, "centred": config.centred}
    if config.model == "mlp":
        model = dfc.mlp((data.input_size, *sizes), activation=config.activations(), **given)
    elif data.image is None:
        raise ValueError(f"`model` is conv; {data.name} holds no images.")
    else:
        activation = config.activations()[0]
        model = dfc.convnet(data.image, config.channels, sizes, activation=activation, **given)
    if config.initial_weights == "xavier":
        return model
    few = jnp.asarray(data.train.x[:512])
    return dfc.standardised(model, few, feedback, key=jax.random.fold_in(jax.random.key(seed), 2))


def make_augmentation(config: Config, data: dfc.Dataset) -> dfc.CropAndFlip | None:
    """What changes the images of a batch, if anything does."""
    return dfc.CropAndFlip(data.image) if config.augment else None
