"""The hyperparameters of the NeurIPS 2021 paper's published configurations, as data, and as our options.

`TABLE_1` names its entries as the published flags are named and holds their values, digit for digit (of the
published code's `configs/`, where DFC, DFC-SS and DFC-SSA share what is said once here); `paper` translates
them. What the translation undoes:

- The published target error is that of the batch-mean loss, so a nudge there is lambda / B here.
- The published updates are 2 lambda / B times ours, so Adam's eps and the clip are divided by that. DFA's
  are scaled likewise, backprop's are plain gradients.
- The published sleep updates divide by max(sigma, 0.01)^2, ours by sigma^2: weight decay, eps and clip of
  the feedback weights are multiplied by the ratio of the two.
- `lr` is divided by lambda, `target_stepsize`, there (`normalize_lr`).
"""

import dataclasses
from typing import Literal

from options.checks import STRONG
from options.config import Config, Method
from options.groups import Controller, Feedback, Optimiser
from options.published import CLIP, refuse_beside, SIGMA_FLOOR


Task = Literal["mnist", "fashion_mnist", "mnist_autoencoder", "mnist_train_loss"]
BATCH_SIZE = 128
BETA = 0.99  # both of Adam's, forward and feedback
METHODS: tuple[Method, ...] = ("bp", "dfa", "dfc", "dfc-ss", "dfc-ssa")


@dataclasses.dataclass(frozen=True)
class Forward:
    """Learning of the forward weights."""

    lr: float
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
        bp=Forward(2.97764587844326e-07, 5.770311627459478e-08),
        dfa=Forward(2.6298517958226435e-07, 2.483437226361463e-08),
        trained=(
            Forward(9.265965477237583e-05, 9.446010081075931e-08, target_stepsize=0.07794471150634391),
            Dynamics(0.0013890445062125412, dt_di=(0.02, 0.02), tmax_di=(1000, 1000)),
            Learning(
                lr_fb=0.0005265408146208675,
                lr_fb_init=0.0003170276937521561,
                epsilon_fb=1.5611352228965008e-06,
                feedback_wd=0.001,
                sigma=0.001524181852173024,
                epochs_fb=10,
                freeze_fb_output=False,
                alpha_fb=0.6133635688698066,
                k_p_fb=0.1565387776131571,
                dt_di_fb=0.0020299480251123815,
                tmax_di_fb=48,
                time_constant_ratio_fb=0.00630250312119787,
                apical_time_constant_fb=0.32469417320648936,
            ),
        ),
        fixed=(
            Forward(6.043454783083358e-05, 1.3326841152257578e-08, target_stepsize=0.1),
            Dynamics(0.00024658638831547176, dt_di=(0.02, 0.02), tmax_di=(500, 500)),
        ),
    ),
    "fashion_mnist": Configuration(
        epochs=100,
        bp=Forward(5.442490245182536e-07, 2.7090253686612157e-08),
        dfa=Forward(7.67552163131779e-06, 3.251744567222374e-07),
        trained=(
            Forward(4.406433064602529e-05, 3.661367432183572e-08, target_stepsize=0.056066652694809475),
            Dynamics(0.00020607985040655872, dt_di=(0.02, 0.02), tmax_di=(300, 300)),
            Learning(
                lr_fb=0.00023725294281298016,
                lr_fb_init=0.00045372617633919964,
                epsilon_fb=3.561070445920531e-08,
                feedback_wd=0.1,
                sigma=0.002451309464861252,
                epochs_fb=10,
                freeze_fb_output=True,
                alpha_fb=0.23370420882566645,
                k_p_fb=0.006426940850583915,
                dt_di_fb=0.003097349374603956,
                tmax_di_fb=34,
                time_constant_ratio_fb=0.00547324603685296,
                apical_time_constant_fb=0.13465111151646356,
            ),
        ),
        fixed=(
            Forward(5.423883572845198e-05, 1.4648080760625163e-10, target_stepsize=0.1),
            Dynamics(0.7985041176538932, dt_di=(0.001, 0.0005), tmax_di=(1500, 3000)),
        ),
    ),
    "mnist_autoencoder": Configuration(
        epochs=25,
        bp=Forward(1.3674117423775684e-06, 9.190510113850847e-07),
        dfa=Forward(3.150803077207525e-07, 5.150023297495683e-08),
        trained=(
            Forward(0.0001867134052079835, 2.7788915666203028e-08, target_stepsize=0.02027700334158571),
            Dynamics(0.036883035536535616, dt_di=(0.02, 0.02), tmax_di=(1000, 1000)),
            Learning(
                lr_fb=1.2260433974696165e-05,
                lr_fb_init=0.00016397270803247601,
                epsilon_fb=5.849519739358543e-07,
                feedback_wd=0.1,
                sigma=0.0018360352597175634,
                epochs_fb=15,
                freeze_fb_output=True,
                alpha_fb=0.7332531549909285,
                k_p_fb=0.006322358048692642,
                dt_di_fb=0.0032644966090448454,
                tmax_di_fb=60,
                time_constant_ratio_fb=0.006487346213972566,
                apical_time_constant_fb=0.2725371146036905,
                sigma_output_fb=0.0,
            ),
        ),
        fixed=(
            Forward(5.519455735010572e-06, 1.0634245994198083e-07, target_stepsize=0.1),
            Dynamics(0.00018844333984677306, dt_di=(0.0005, 0.001), tmax_di=(2000, 1000)),
        ),
    ),
    "mnist_train_loss": Configuration(
        epochs=100,
        bp=Forward(1.0185913134203108e-07, 1.406584294335969e-07),
        dfa=Forward(2.6548173042920796e-05, 6.313719401969023e-08),
        trained=(
            Forward(9.88774546189883e-05, 3.89555509345032e-08, target_stepsize=0.011058354511931722),
            Dynamics(4.3429514175241264e-05, dt_di=(0.001, 0.001), tmax_di=(500, 1000)),
            Learning(
                lr_fb=4.445847462337203e-05,
                lr_fb_init=0.0006709473906496064,
                epsilon_fb=2.762631546435506e-07,
                feedback_wd=0.001,
                sigma=0.05570975783231214,
                epochs_fb=20,
                freeze_fb_output=False,
                alpha_fb=0.9203526803210136,
                k_p_fb=0.14321143403721703,
                dt_di_fb=0.0012744699972870549,
                tmax_di_fb=44,
                time_constant_ratio_fb=0.01321911426052852,
                apical_time_constant_fb=0.14811459525530168,
            ),
        ),
        fixed=(
            Forward(8.756385365027279e-05, 4.517147913426628e-08, target_stepsize=0.1),
            Dynamics(0.0003335356558452598, dt_di=(0.001, 0.0005), tmax_di=(1000, 2000)),
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
    if method not in METHODS:
        problem = f"`method` is {method}, which the preset {config.preset} does not have"
        elsewhere = f", and strong-paper has {method}" if method in STRONG else ""
        raise ValueError(f"{problem}; it has {', '.join(METHODS)}{elsewhere}.")
    if config.feedback not in ("learned", "fixed"):
        raise ValueError(
            f"`feedback` is {config.feedback}; the preset {config.preset} exists for learned and fixed."
        )
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
    lr = forward.lr / forward.target_stepsize
    return Optimiser(lr=lr, beta1=BETA, beta2=BETA, eps=forward.epsilon / scale, clip=limit)


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
