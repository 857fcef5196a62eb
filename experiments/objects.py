"""The library's objects that the options of `run.py` stand for."""

import diffrax
import jax
import optax
import optimistix as optx
from config import Config, Feedback, IMPLICIT, Method, Optimiser, Solver, WITH_CONTROLLER

import dfc_jax as dfc


def make_method(config: Config, name: Method, loss: dfc.AbstractLoss) -> dfc.AbstractMethod:
    """The method object of one name."""
    controller_class = {"control": dfc.PIController, "integrator": dfc.LeakyIntegratorController}
    controller = controller_class[config.controller.leak_on](config.controller.k_p, config.controller.alpha)
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
        case "dfc-ss":
            # What the dynamics do not reach, no other scheme should.
            fallback = None if solver.steady_state == "simulated" else dfc.PseudoTransient(solver.rtol)
            return dfc.DFCSS(controller, target, loss, _equilibrium(solver), fallback)
        case "dfc":
            return dfc.DFC(controller, target, loss, solver.tau_v, _average(solver))


def _equilibrium(solver: Solver) -> dfc.AbstractEquilibrium:
    match solver.steady_state:
        case "broyden":
            return dfc.Broyden(solver.rtol)
        case "newton":
            return dfc.RootFind(optx.Newton(rtol=solver.rtol, atol=solver.rtol))
        case "simulated":
            return dfc.Simulated(getattr(diffrax, solver.diffrax_solver)(), solver.rtol)


def _average(solver: Solver) -> dfc.AbstractAverage:
    match solver.trajectory:
        case "implicit":
            # Half the default's steps: within 0.05 degrees of the exact average on MNIST.
            return dfc.ImplicitAverage(solver.duration, ((4, 0.04), (4, 0.16), (4, 0.8)))
        case "closed-form":
            return dfc.ClosedFormAverage(solver.duration)
        case "published":
            return dfc.PublishedAverage(dfc.PublishedEuler(solver.dt, round(solver.duration / solver.dt)))
        case "diffrax":
            name = solver.diffrax_solver
            finder = {"root_finder": dfc.ControlRootFinder()} if name in IMPLICIT else {}
            # Implicit solvers are then within hundredths of a degree; explicit ones are not.
            tolerance = 0.1 if name in IMPLICIT else 1e-4
            adaptive = diffrax.PIDController(rtol=tolerance, atol=tolerance)
            step = diffrax.ConstantStepSize() if name == "Euler" else adaptive
            return dfc.DiffraxAverage(getattr(diffrax, name)(**finder), step, solver.duration, solver.dt)


def make_optimiser(config: Optimiser) -> optax.GradientTransformation:
    """Adam, behind a clip of each tensor where one is asked for."""
    adam = optax.adam(config.lr, config.beta1, config.beta2, config.eps)
    return adam if config.clip is None else optax.chain(dfc.clip_by_tensor_norm(config.clip), adam)


def make_feedback_learning(config: Feedback, loss: dfc.AbstractLoss) -> dfc.FeedbackLearning:
    """The sleep phase and its optimiser."""
    phase_class = {"simulated": dfc.SleepPhase, "expected": dfc.ExpectedSleepPhase}
    phase = phase_class[config.update](
        dfc.PIController(config.k_p, config.alpha),
        dfc.WhiteNoise(config.sigma, config.sigma_output),
        config.tau_v,
        config.tau_apical,
        dfc.PublishedEuler(config.dt, config.steps, proactive=False),
        loss=loss,
    )

    def optimiser(lr: float) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(config.weight_decay)
        adam = optax.adam(lr, config.beta1, config.beta2, config.eps)
        clip = [] if config.clip is None else [optax.clip_by_global_norm(config.clip)]
        return optax.chain(*clip, decay, adam)

    return dfc.FeedbackLearning(
        optimiser(config.lr),
        phase,
        optimiser(config.pretraining_lr) if config.pretraining_lr != config.lr else None,
        pretraining_epochs=config.pretraining_epochs,
        epochs_per_wake_epoch=config.sleep_epochs,
        freeze_output=config.freeze_output,
    )


def make_model(config: Config, method: Method, sizes: tuple[int, int], seed: int) -> dfc.Network:
    """A new network between the data set's input and output `sizes`."""
    feedback = dfc.ProductOfWeights()
    if method == "dfa" or (method in WITH_CONTROLLER and config.feedback == "learned"):
        feedback = dfc.RandomFeedback()
    elif config.feedback == "exact" and method in WITH_CONTROLLER:
        feedback = dfc.ExactFeedback()
    return dfc.mlp(
        (sizes[0], *config.hidden, sizes[1]),
        key=jax.random.fold_in(jax.random.key(seed), 0),
        activation=config.activations(),
        feedback=feedback,
    )
