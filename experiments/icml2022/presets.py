"""The hyperparameters of Strong-DFC's published runs (ICML 2022), as data, and as our options.

Names are those of the published flags, values theirs rounded. What `strong_paper` undoes:

- The published updates are 2 times ours, with weak feedback 2 lambda times: Adam's eps and the clip, of each
  layer's weights and biases together, are divided by that. Backprop's are plain gradients.
- The published sleep updates divide by max(sigma, 0.01)^2, ours by sigma^2, as in
  `neurips2021/presets.py`. So do those of the single phase, whose sigma is another one in the output layer:
  `sigma_floor` makes ours the published ones, layer by layer.
- Weak feedback keeps one-hot labels, where the published Fashion-MNIST run has 0.999 for the class.
"""

import dataclasses

from options.config import Config, Method
from options.groups import Controller, Feedback, Optimiser, Strong
from options.published import CLIP, refuse_beside, SIGMA_FLOOR


EPOCHS = 40
METHODS = ("bp", "dfc", "strong-dfc", "strong-dfc-2phase")


@dataclasses.dataclass(frozen=True)
class Backprop:
    """A backprop run."""

    lr: float
    adam_epsilon: float
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999


@dataclasses.dataclass(frozen=True)
class Published:
    """A run of DFC or Strong-DFC."""

    lr: float
    adam_epsilon: float
    adam_beta1: float
    adam_beta2: float
    target_class_value: float
    lr_fb: float
    lr_fb_init: float
    feedback_wd: float
    init_fb_epochs: int
    dt_di: float
    time_constant_ratio: float
    alpha_di: float
    sigma: float
    dt_di_fb: float
    tmax_di_fb: int
    time_constant_ratio_fb: float
    alpha_di_fb: float
    k_p_fb: float
    extra_fb_epochs: int = 0
    tmax_di: int = 500
    k_p: float = 2.0
    batch_size: int = 128
    target_stepsize: float | None = None  # of weak feedback
    sigma_output: float | None = None  # this and the next two of the single phase
    tau_f: float | None = None
    tau_noise: float | None = None
    apical_time_constant_fb: float | None = None  # of the sleep phases


RUNS: dict[str, dict[str, Backprop | Published]] = {
    "mnist": {
        "bp": Backprop(lr=2e-3, adam_epsilon=2e-3),
        "dfc": Published(
            lr=1.09e-3,
            adam_epsilon=5.8e-7,
            adam_beta1=0.9,
            adam_beta2=0.99,
            target_class_value=1,
            target_stepsize=0.0138,
            lr_fb=4.3e-5,
            lr_fb_init=1.5e-4,
            feedback_wd=0.1,
            init_fb_epochs=20,
            dt_di=0.02,
            time_constant_ratio=0.2,
            alpha_di=1.77e-3,
            sigma=0.0355,
            dt_di_fb=1.14e-3,
            tmax_di_fb=44,
            time_constant_ratio_fb=5.9e-3,
            alpha_di_fb=0.399,
            k_p_fb=0.0714,
            apical_time_constant_fb=0.140,
            batch_size=32,
        ),
        "strong-dfc": Published(
            lr=3.10e-4,
            adam_epsilon=1.63e-5,
            adam_beta1=0.9,
            adam_beta2=0.99,
            target_class_value=0.99,
            lr_fb=2.0e-8,
            lr_fb_init=4.5e-7,
            feedback_wd=0.5,
            init_fb_epochs=1,
            dt_di=1e-3,
            time_constant_ratio=9.27e-3,
            alpha_di=7.6e-6,
            sigma=4.28e-3,
            sigma_output=0.0297,
            tau_f=0.5,
            tau_noise=0.07,
            dt_di_fb=1.22e-3,
            tmax_di_fb=500,
            time_constant_ratio_fb=0.0144,
            alpha_di_fb=0.0163,
            k_p_fb=0.0028,
        ),
        "strong-dfc-2phase": Published(
            lr=6.56e-4,
            adam_epsilon=2.3e-4,
            adam_beta1=0.9,
            adam_beta2=0.99,
            target_class_value=0.9,
            lr_fb=9.8e-6,
            lr_fb_init=2.7e-4,
            feedback_wd=1e-5,
            init_fb_epochs=1,
            dt_di=1e-3,
            time_constant_ratio=0.0355,
            alpha_di=8.1e-3,
            sigma=0.15,
            dt_di_fb=3.19e-3,
            tmax_di_fb=500,
            time_constant_ratio_fb=7.2e-3,
            alpha_di_fb=0.994,
            k_p_fb=0.0692,
            apical_time_constant_fb=0.130,
        ),
    },
    "fashion_mnist": {
        "bp": Backprop(lr=4e-4, adam_epsilon=2e-4),
        "dfc": Published(
            lr=1.07e-3,
            adam_epsilon=3.2e-7,
            adam_beta1=0.99,
            adam_beta2=0.999,
            target_class_value=0.999,
            target_stepsize=0.0200,
            lr_fb=4.4e-5,
            lr_fb_init=3.4e-4,
            feedback_wd=1e-3,
            init_fb_epochs=20,
            dt_di=0.02,
            time_constant_ratio=0.2,
            alpha_di=4.5e-4,
            sigma=1e-3,
            dt_di_fb=4.29e-3,
            tmax_di_fb=54,
            time_constant_ratio_fb=9.3e-3,
            alpha_di_fb=0.612,
            k_p_fb=0.0104,
            apical_time_constant_fb=0.432,
        ),
        "strong-dfc": Published(
            lr=9.53e-4,
            adam_epsilon=9.7e-8,
            adam_beta1=0.99,
            adam_beta2=0.999,
            target_class_value=0.99,
            lr_fb=2.3e-8,
            lr_fb_init=3.4e-7,
            feedback_wd=0,
            init_fb_epochs=20,
            dt_di=1e-3,
            time_constant_ratio=0.0129,
            alpha_di=7.6e-5,
            sigma=3.36e-3,
            sigma_output=0.0409,
            tau_f=0.5,
            tau_noise=0.05,
            dt_di_fb=6.9e-4,
            tmax_di_fb=500,
            time_constant_ratio_fb=6.9e-4,
            alpha_di_fb=0.627,
            k_p_fb=0.0249,
        ),
        "strong-dfc-2phase": Published(
            lr=1.20e-3,
            adam_epsilon=3.0e-7,
            adam_beta1=0.9,
            adam_beta2=0.9,
            target_class_value=0.999,
            lr_fb=1.6e-5,
            lr_fb_init=4.3e-4,
            feedback_wd=0.1,
            init_fb_epochs=1,
            extra_fb_epochs=2,
            dt_di=1e-3,
            time_constant_ratio=7.4e-3,
            alpha_di=1.3e-3,
            sigma=0.15,
            dt_di_fb=1.98e-3,
            tmax_di_fb=500,
            time_constant_ratio_fb=9.0e-3,
            alpha_di_fb=0.419,
            k_p_fb=0.0991,
            apical_time_constant_fb=0.226,
        ),
    },
}


def strong_paper(config: Config, method: Method) -> Config:
    """`config` with the published hyperparameters of its data set and `method`; its epochs win.

    **Raises:** `ValueError` where there is no such configuration, or an option given beside it contradicts.
    """
    if config.dataset not in RUNS or method not in METHODS:
        raise ValueError(
            f"`preset` is strong-paper, which exists for {' and '.join(RUNS)} and {', '.join(METHODS)}; "
            f"not for {method} on {config.dataset}."
        )
    if config.feedback != "learned":
        raise ValueError(f"`feedback` is {config.feedback}; the preset strong-paper exists for learned.")
    refuse_beside(config)
    run = RUNS[config.dataset][method]
    config = dataclasses.replace(config, epochs=EPOCHS if config.epochs is None else config.epochs)
    if isinstance(run, Backprop):
        return dataclasses.replace(config, optimiser=_adam(run, 1.0))
    nudge = run.target_stepsize or config.nudge
    return dataclasses.replace(
        config,
        nudge=nudge,
        batch_size=run.batch_size,
        controller=Controller(run.k_p, run.alpha_di, leak_on="control"),
        optimiser=_adam(run, 2 * run.target_stepsize if run.target_stepsize else 2.0),
        solver=dataclasses.replace(
            config.solver,
            steady_state="published",
            duration=run.dt_di * run.tmax_di,
            dt=run.dt_di,
            tau_v=run.time_constant_ratio,
        ),
        strong=_strong(run),
        feedback_learning=_feedback(run, method, config.feedback_learning),
    )


def _adam(run: Backprop | Published, scale: float) -> Optimiser:
    """Adam for updates that are the published ones divided by `scale`."""
    betas = run.adam_beta1, run.adam_beta2
    return Optimiser(run.lr, *betas, run.adam_epsilon / scale, CLIP / scale, clip_over="layer")


def _strong(run: Published) -> Strong:
    if run.tau_f is None:  # no single phase
        return Strong(class_value=run.target_class_value)
    return Strong(
        class_value=run.target_class_value,
        start="feedforward",
        pretraining="label",
        sigma=run.sigma,
        sigma_output=run.sigma_output,
        tau_noise=run.tau_noise,
        tau_filter=run.tau_f,
        tau_v=run.time_constant_ratio,
        dt=run.dt_di,
        steps=run.tmax_di,
    )


def _feedback(run: Published, method: Method, chosen: Feedback) -> Feedback:
    """Feedback learning; how it is computed, and how often, stays as `chosen`."""
    single = method == "strong-dfc"
    scale = 1.0 if single else run.sigma**2 / max(run.sigma, SIGMA_FLOOR) ** 2
    floor = SIGMA_FLOOR if single else chosen.sigma_floor
    pretraining, often = chosen.pretraining_epochs, chosen.sleep_epochs
    return dataclasses.replace(
        chosen,
        lr=run.lr_fb,
        pretraining_lr=run.lr_fb_init,
        beta1=run.adam_beta1,
        beta2=run.adam_beta2,
        clip=CLIP / scale,
        eps=1e-8 / scale,
        weight_decay=run.feedback_wd / scale,
        pretraining_epochs=run.init_fb_epochs if pretraining is None else pretraining,
        sleep_epochs=run.extra_fb_epochs + (0 if single else 1) if often is None else often,
        sigma=run.sigma,
        sigma_floor=floor,
        k_p=run.k_p_fb,
        alpha=run.alpha_di_fb,
        tau_v=max(run.time_constant_ratio_fb, run.dt_di_fb),
        tau_apical=run.apical_time_constant_fb or chosen.tau_apical,
        dt=run.dt_di_fb,
        steps=run.tmax_di_fb,
    )
