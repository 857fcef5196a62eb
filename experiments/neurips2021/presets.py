"""The hyperparameters of the NeurIPS 2021 paper's published configurations, as data, and as our options.

`TABLE_1` names its entries as the published flags are named and holds their values, rounded to four digits;
`paper` translates them. What the translation undoes:

- The published target error is that of the batch-mean loss, so a nudge there is lambda / B here.
- The published updates are 2 lambda / B times ours, so Adam's eps and the clip are divided by that. DFA's
  are scaled likewise, backprop's are plain gradients.
- The published sleep updates divide by max(sigma, 0.01)^2, ours by sigma^2: weight decay, eps and clip of
  the feedback weights are multiplied by the ratio of the two.
- `lr` is divided by lambda there (`normalize_lr`); the tables hold the quotient.
"""

import dataclasses
from typing import Literal

from options.config import Config, Method, WITH_CONTROLLER
from options.groups import Controller, Feedback, Optimiser
from options.published import CLIP, refuse_beside, SIGMA_FLOOR


Task = Literal["mnist", "fashion_mnist", "mnist_autoencoder", "mnist_train_loss"]
BATCH_SIZE = 128
BETA = 0.99  # both of Adam's, forward and feedback


@dataclasses.dataclass(frozen=True)
class Forward:
    """Learning of the forward weights."""

    lr: float  # after division by `target_stepsize`
    epsilon: float
    target_stepsize: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """The controlled dynamics. Of DFC and DFC-SS, where they differ; DFC-SSA has none but `alpha_di`."""

    alpha_di: float
    dt_di: tuple[float, float]
    tmax_di: tuple[int, int]
    k_p: float = 2.0
    time_constant_ratio: float = 0.2


@dataclasses.dataclass(frozen=True)
class Learning:
    """Learning of the feedback weights."""

    lr_fb: float
    lr_fb_init: float
    epsilon_fb: float
    feedback_wd: float
    sigma: float
    epochs_fb: int
    freeze_fb_output: bool
    alpha_fb: float
    k_p_fb: float
    dt_di_fb: float
    tmax_di_fb: int
    time_constant_ratio_fb: float
    apical_time_constant_fb: float
    extra_fb_epochs: int = 2
    sigma_output_fb: float | None = None


@dataclasses.dataclass(frozen=True)
class Configuration:
    """The four groups of one task in Table 1. "trained" and "fixed" are of the feedback weights."""

    epochs: int
    bp: Forward
    dfa: Forward
    trained: tuple[Forward, Dynamics, Learning]
    fixed: tuple[Forward, Dynamics]


TABLE_1: dict[Task, Configuration] = {
    "mnist": Configuration(
        epochs=100,
        bp=Forward(2.98e-4, 5.77e-8),
        dfa=Forward(2.63e-4, 2.48e-8),
        trained=(
            Forward(1.189e-3, 9.446e-8, target_stepsize=0.07794),
            Dynamics(1.389e-3, dt_di=(0.02, 0.02), tmax_di=(1000, 1000)),
            Learning(
                lr_fb=5.265e-4,
                lr_fb_init=3.170e-4,
                epsilon_fb=1.561e-6,
                feedback_wd=1e-3,
                sigma=1.524e-3,
                epochs_fb=10,
                freeze_fb_output=False,
                alpha_fb=0.6134,
                k_p_fb=0.1565,
                dt_di_fb=2.030e-3,
                tmax_di_fb=48,
                time_constant_ratio_fb=6.303e-3,
                apical_time_constant_fb=0.3247,
            ),
        ),
        fixed=(
            Forward(6.043e-4, 1.333e-8, target_stepsize=0.1),
            Dynamics(2.466e-4, dt_di=(0.02, 0.02), tmax_di=(500, 500)),
        ),
    ),
    "fashion_mnist": Configuration(
        epochs=100,
        bp=Forward(5.44e-4, 2.71e-8),
        dfa=Forward(7.68e-3, 3.25e-7),
        trained=(
            Forward(7.86e-4, 3.661e-8, target_stepsize=0.05607),
            Dynamics(2.061e-4, dt_di=(0.02, 0.02), tmax_di=(300, 300)),
            Learning(
                lr_fb=2.373e-4,
                lr_fb_init=4.537e-4,
                epsilon_fb=3.561e-8,
                feedback_wd=0.1,
                sigma=2.451e-3,
                epochs_fb=10,
                freeze_fb_output=True,
                alpha_fb=0.2337,
                k_p_fb=6.427e-3,
                dt_di_fb=3.097e-3,
                tmax_di_fb=34,
                time_constant_ratio_fb=5.473e-3,
                apical_time_constant_fb=0.1347,
            ),
        ),
        fixed=(
            Forward(5.424e-4, 1.465e-10, target_stepsize=0.1),
            Dynamics(0.7985, dt_di=(0.001, 5e-4), tmax_di=(1500, 3000)),
        ),
    ),
    "mnist_autoencoder": Configuration(
        epochs=25,
        bp=Forward(1.367e-3, 9.19e-7),
        dfa=Forward(3.15e-4, 5.15e-8),
        trained=(
            Forward(9.21e-3, 2.779e-8, target_stepsize=0.02028),
            Dynamics(0.03688, dt_di=(0.02, 0.02), tmax_di=(1000, 1000)),
            Learning(
                lr_fb=1.226e-5,
                lr_fb_init=1.640e-4,
                epsilon_fb=5.850e-7,
                feedback_wd=0.1,
                sigma=1.836e-3,
                epochs_fb=15,
                freeze_fb_output=True,
                alpha_fb=0.7333,
                k_p_fb=6.322e-3,
                dt_di_fb=3.264e-3,
                tmax_di_fb=60,
                time_constant_ratio_fb=6.487e-3,
                apical_time_constant_fb=0.2725,
                sigma_output_fb=0.0,
            ),
        ),
        fixed=(
            Forward(5.52e-5, 1.063e-7, target_stepsize=0.1),
            Dynamics(1.884e-4, dt_di=(5e-4, 0.001), tmax_di=(2000, 1000)),
        ),
    ),
    "mnist_train_loss": Configuration(
        epochs=100,
        bp=Forward(1.02e-4, 1.407e-7),
        dfa=Forward(2.65e-2, 6.31e-8),
        trained=(
            Forward(8.94e-3, 3.896e-8, target_stepsize=0.01106),
            Dynamics(4.343e-5, dt_di=(0.001, 0.001), tmax_di=(500, 1000)),
            Learning(
                lr_fb=4.446e-5,
                lr_fb_init=6.709e-4,
                epsilon_fb=2.763e-7,
                feedback_wd=1e-3,
                sigma=0.05571,
                epochs_fb=20,
                freeze_fb_output=False,
                alpha_fb=0.9204,
                k_p_fb=0.1432,
                dt_di_fb=1.274e-3,
                tmax_di_fb=44,
                time_constant_ratio_fb=0.01322,
                apical_time_constant_fb=0.1481,
            ),
        ),
        fixed=(
            Forward(8.756e-4, 4.517e-8, target_stepsize=0.1),
            Dynamics(3.335e-4, dt_di=(0.001, 5e-4), tmax_di=(1000, 2000)),
        ),
    ),
}


def paper(config: Config, method: Method) -> Config:
    """`config` with the published hyperparameters of its data set, `method` and feedback; its epochs win.

    **Raises:** `ValueError` where there is no such configuration, or an option given beside it contradicts.
    """
    task = "mnist_train_loss" if config.preset == "paper-train-loss" else config.dataset
    if task not in TABLE_1 or (config.preset == "paper-train-loss" and config.dataset != "mnist"):
        available = (
            "mnist" if config.preset == "paper-train-loss" else "mnist, fashion_mnist, mnist_autoencoder"
        )
        raise ValueError(f"`preset` is {config.preset}, which exists for {available}, not {config.dataset}.")
    if method not in ("bp", "dfa", *WITH_CONTROLLER):
        raise ValueError(f"`method` is {method}, which the preset {config.preset} does not have.")
    if config.feedback == "exact":
        raise ValueError(f"`feedback` is exact; the preset {config.preset} exists for learned and fixed.")
    refuse_beside(config)
    published = TABLE_1[task]
    config = dataclasses.replace(config, epochs=published.epochs if config.epochs is None else config.epochs)
    match method, config.feedback:
        case "bp", _:
            return dataclasses.replace(config, optimiser=_adam(published.bp, scale=1.0, clip=False))
        case "dfa", _:
            return _with_forward(config, published.dfa)
        case _, "fixed":
            forward, dynamics = published.fixed
            return _with_dynamics(_with_forward(config, forward), dynamics, method)
        case _:
            forward, dynamics, learning = published.trained
            config = _with_dynamics(_with_forward(config, forward), dynamics, method)
            return dataclasses.replace(config, feedback_learning=_sleep(learning, config.feedback_learning))


def _adam(forward: Forward, scale: float, clip: bool) -> Optimiser:
    """Adam for updates that are the published ones divided by `scale`."""
    limit = CLIP / scale if clip else None
    return Optimiser(lr=forward.lr, beta1=BETA, beta2=BETA, eps=forward.epsilon / scale, clip=limit)


def _with_forward(config: Config, forward: Forward) -> Config:
    nudge = forward.target_stepsize / BATCH_SIZE
    return dataclasses.replace(config, nudge=nudge, optimiser=_adam(forward, 2 * nudge, clip=True))


def _with_dynamics(config: Config, dynamics: Dynamics, method: Method) -> Config:
    position = {"dfc": 0}.get(method, 1)
    dt, states = dynamics.dt_di[position], dynamics.tmax_di[position]
    solver = dataclasses.replace(
        config.solver, duration=dt * states, dt=dt, tau_v=max(dynamics.time_constant_ratio, dt)
    )
    controller = Controller(dynamics.k_p, dynamics.alpha_di, leak_on="control")
    return dataclasses.replace(config, solver=solver, controller=controller)


def _sleep(learning: Learning, chosen: Feedback) -> Feedback:
    """The sleep phase; how it is computed, and how often, stays as `chosen`."""
    scale = learning.sigma**2 / max(learning.sigma, SIGMA_FLOOR) ** 2
    epochs = learning.epochs_fb if chosen.pretraining_epochs is None else chosen.pretraining_epochs
    often = 1 + learning.extra_fb_epochs if chosen.sleep_epochs is None else chosen.sleep_epochs
    return Feedback(
        update=chosen.update,
        lr=learning.lr_fb,
        pretraining_lr=learning.lr_fb_init,
        beta1=BETA,
        beta2=BETA,
        eps=learning.epsilon_fb / scale,
        clip=CLIP / scale,
        weight_decay=learning.feedback_wd / scale,
        pretraining_epochs=epochs,
        sleep_epochs=often,
        freeze_output=learning.freeze_fb_output,
        sigma=learning.sigma,
        sigma_output=learning.sigma_output_fb,
        k_p=learning.k_p_fb,
        alpha=learning.alpha_fb,
        tau_v=max(learning.time_constant_ratio_fb, learning.dt_di_fb),
        tau_apical=learning.apical_time_constant_fb,
        dt=learning.dt_di_fb,
        steps=learning.tmax_di_fb,
    )
