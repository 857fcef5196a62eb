"""The hyperparameters of Strong-DFC's published runs (ICML 2022) as our options. What `strong_paper` undoes:

- The published updates are 2 times ours, with weak feedback 2 lambda times: Adam's eps and the clip, of each
  layer's weights and biases together, are divided by that. Backprop's are plain gradients.
- The published sleep updates divide by max(sigma, 0.01)^2, ours by sigma^2, as in
  `neurips2021/presets.py`. So do those of the single phase, whose sigma is another one in the output layer,
  and thousands of times smaller in pre-training: `sigma_floor` makes ours the published ones, layer by layer.
- The published low-pass of pre-training takes a share of dt / tau_f of every step, that of the wake phase,
  though its steps are dt_fb long: `pretraining_tau_filter` makes it so.

What it does not:

- In pre-training the published factors of the single phase, (1 + tau_v / tau_noise)^(L-i), are made of the
  wake phase's tau_v, ours of the one simulated: up to 1.21 times those on MNIST. Adam undoes that
  but for the decay and the clip.
- The published sleep of two phases has a proactive controller, ours the NeurIPS paper's.
- Weak feedback keeps one-hot labels, where the published Fashion-MNIST run has 0.999 for the class.
"""

import dataclasses

from icml2022.published import Backprop, Published, RUNS
from options.config import Config, Method
from options.groups import Controller, Feedback, Optimiser, Strong
from options.published import CLIP, refuse_beside, SIGMA_FLOOR


EPOCHS = 40
METHODS = ("bp", "dfc", "strong-dfc", "strong-dfc-2phase")


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
        pretraining_sigma=run.sigma_fb,
        pretraining_sigma_output=run.sigma_output_fb,
        tau_noise=run.tau_noise,
        tau_filter=run.tau_f,
        pretraining_tau_filter=run.tau_f * run.dt_di_fb / run.dt_di,
        tau_v=run.time_constant_ratio,
        dt=run.dt_di,
        steps=run.tmax_di,
    )


def _feedback(run: Published, method: Method, chosen: Feedback) -> Feedback:
    """Feedback learning; how it is computed, and how often, stays as `chosen`."""
    single = method == "strong-dfc"
    scale = 1.0 if single else run.sigma_fb**2 / max(run.sigma_fb, SIGMA_FLOOR) ** 2
    floor = SIGMA_FLOOR if single else chosen.sigma_floor
    pretraining, often = chosen.pretraining_epochs, chosen.sleep_epochs
    return dataclasses.replace(
        chosen,
        lr=run.lr_fb,
        pretraining_lr=run.lr_fb_init,
        beta1=run.adam_beta1_fb,
        beta2=run.adam_beta2_fb,
        clip=CLIP / scale,
        eps=run.adam_epsilon_fb / scale,
        weight_decay=run.feedback_wd / scale,
        pretraining_epochs=run.init_fb_epochs if pretraining is None else pretraining,
        sleep_epochs=run.extra_fb_epochs + (0 if single else 1) if often is None else often,
        sigma=run.sigma_fb,
        sigma_floor=floor,
        k_p=run.k_p_fb,
        alpha=run.alpha_di_fb,
        tau_v=max(run.time_constant_ratio_fb, run.dt_di_fb),
        tau_apical=run.apical_time_constant_fb or chosen.tau_apical,
        dt=run.dt_di_fb,
        steps=run.tmax_di_fb,
    )
