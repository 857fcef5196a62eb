"""The hyperparameters of Strong-DFC's published runs (ICML 2022), as data.

Names are those of the published flags, values theirs, digit for digit, of the commands in the published
code's EXPERIMENTS.rst; what a command leaves out is the flag's default. Feedback weights have an Adam of
their own.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Backprop:
    """A backprop run."""

    lr: float
    adam_epsilon: float
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999


@dataclasses.dataclass(frozen=True)
class Published:
    """A run of DFC or Strong-DFC; the defaults are the published ones."""

    lr: float
    adam_epsilon: float
    target_class_value: float
    lr_fb: float
    lr_fb_init: float
    adam_epsilon_fb: float
    feedback_wd: float
    init_fb_epochs: int
    dt_di: float
    time_constant_ratio: float
    alpha_di: float
    sigma_fb: float
    dt_di_fb: float
    tmax_di_fb: int
    time_constant_ratio_fb: float
    alpha_di_fb: float
    k_p_fb: float
    adam_beta1: float = 0.99
    adam_beta2: float = 0.99
    adam_beta1_fb: float = 0.99
    adam_beta2_fb: float = 0.99
    extra_fb_epochs: int = 0
    tmax_di: int = 500
    k_p: float = 2.0
    batch_size: int = 128
    target_stepsize: float | None = None  # of weak feedback
    sigma: float | None = None  # this and the next four of the single phase
    sigma_output: float | None = None
    sigma_output_fb: float | None = None
    tau_f: float | None = None
    tau_noise: float | None = None
    apical_time_constant_fb: float | None = None  # of the sleep phases


RUNS: dict[str, dict[str, Backprop | Published]] = {
    "mnist": {
        "bp": Backprop(lr=0.002, adam_epsilon=0.002),
        "dfc": Published(
            lr=0.0010924329072635147,
            adam_epsilon=5.83238643406511e-07,
            adam_beta1=0.9,
            target_class_value=1,
            target_stepsize=0.013812748252649061,
            lr_fb=4.348352883654314e-05,
            lr_fb_init=0.0001524121535306385,
            feedback_wd=0.1,
            adam_epsilon_fb=3.355535527361205e-05,
            init_fb_epochs=20,
            dt_di=0.02,
            time_constant_ratio=0.2,
            alpha_di=0.0017723664900917734,
            sigma_fb=0.035483751742735006,
            dt_di_fb=0.0011421804343878519,
            tmax_di_fb=44,
            time_constant_ratio_fb=0.005870467170683501,
            alpha_di_fb=0.39857902933813705,
            k_p_fb=0.0713515876863314,
            apical_time_constant_fb=0.1404664564483908,
            batch_size=32,
        ),
        "strong-dfc": Published(
            lr=0.0003095880739373081,
            adam_epsilon=1.6288767089312233e-05,
            adam_beta1=0.9,
            target_class_value=0.99,
            lr_fb=2.0091405897656825e-08,
            lr_fb_init=4.5160347135162454e-07,
            feedback_wd=0.5,
            adam_beta2_fb=0.999,
            adam_epsilon_fb=1.1023320392297719e-11,
            init_fb_epochs=1,
            dt_di=0.001,
            time_constant_ratio=0.009268288409004458,
            alpha_di=7.608673370995652e-06,
            sigma=0.004278964325349612,
            sigma_output=0.029713880264874388,
            sigma_fb=2.760795719756352e-05,
            sigma_output_fb=1.5149030252289032e-05,
            tau_f=0.5,
            tau_noise=0.07,
            dt_di_fb=0.0012167769308505587,
            tmax_di_fb=500,
            time_constant_ratio_fb=0.014441072404716454,
            alpha_di_fb=0.016257243484558315,
            k_p_fb=0.0028004742554235116,
        ),
        "strong-dfc-2phase": Published(
            lr=0.0006560184719951886,
            adam_epsilon=0.00023225688276019436,
            adam_beta1=0.9,
            target_class_value=0.9,
            lr_fb=9.776610079269425e-06,
            lr_fb_init=0.0002730319014715041,
            feedback_wd=1e-05,
            adam_beta1_fb=0.999,
            adam_beta2_fb=0.9,
            adam_epsilon_fb=0.0019707791920650247,
            init_fb_epochs=1,
            dt_di=0.001,
            time_constant_ratio=0.03553062335953924,
            alpha_di=0.008082122141749502,
            sigma_fb=0.15,
            dt_di_fb=0.0031943783402810927,
            tmax_di_fb=500,
            time_constant_ratio_fb=0.0072383695016716215,
            alpha_di_fb=0.9944618528446518,
            k_p_fb=0.0691564739128701,
            apical_time_constant_fb=0.12961120842685991,
        ),
    },
    "fashion_mnist": {
        "bp": Backprop(lr=0.0004, adam_epsilon=0.0002),
        "dfc": Published(
            lr=0.0010672718162774038,
            adam_epsilon=3.210886729268312e-07,
            adam_beta2=0.999,
            target_class_value=0.999,
            target_stepsize=0.019957011262493028,
            lr_fb=4.3780877225194805e-05,
            lr_fb_init=0.00034156927968192547,
            feedback_wd=0.001,
            adam_epsilon_fb=1.0433715362737473e-08,
            init_fb_epochs=20,
            dt_di=0.02,
            time_constant_ratio=0.2,
            alpha_di=0.000451125353657906,
            sigma_fb=0.001281308789330547,
            dt_di_fb=0.004294669581123954,
            tmax_di_fb=54,
            time_constant_ratio_fb=0.009266592158186437,
            alpha_di_fb=0.611510021981854,
            k_p_fb=0.010409666247193437,
            apical_time_constant_fb=0.4318893018524684,
        ),
        "strong-dfc": Published(
            lr=0.0009531990715839369,
            adam_epsilon=9.710433697812103e-08,
            adam_beta2=0.999,
            target_class_value=0.99,
            lr_fb=2.286529865070366e-08,
            lr_fb_init=3.431924248095537e-07,
            feedback_wd=0,
            adam_beta2_fb=0.999,
            adam_epsilon_fb=1.8382415746971348e-11,
            init_fb_epochs=20,
            dt_di=0.001,
            time_constant_ratio=0.012867645074062533,
            alpha_di=7.6370562381715e-05,
            sigma=0.0033626248925544607,
            sigma_output=0.040920898808660004,
            sigma_fb=3.885866343508479e-06,
            sigma_output_fb=1.9337256383926155e-05,
            tau_f=0.5,
            tau_noise=0.05,
            dt_di_fb=0.0006919071551575181,
            tmax_di_fb=500,
            time_constant_ratio_fb=0.0006919071551575181,
            alpha_di_fb=0.6266762258519998,
            k_p_fb=0.02488635344325425,
        ),
        "strong-dfc-2phase": Published(
            lr=0.0011969828175078612,
            adam_epsilon=2.9646405819945323e-07,
            adam_beta1=0.9,
            adam_beta2=0.9,
            target_class_value=0.999,
            lr_fb=1.587623302238223e-05,
            lr_fb_init=0.00042756758315276166,
            feedback_wd=0.1,
            adam_beta2_fb=0.999,
            adam_epsilon_fb=8.46521372179368e-08,
            init_fb_epochs=1,
            extra_fb_epochs=2,
            dt_di=0.001,
            time_constant_ratio=0.007427384207234133,
            alpha_di=0.0013123372965380246,
            sigma_fb=0.15,
            dt_di_fb=0.0019841648377832226,
            tmax_di_fb=500,
            time_constant_ratio_fb=0.009034403214049455,
            alpha_di_fb=0.41918471180494776,
            k_p_fb=0.09906907227394046,
            apical_time_constant_fb=0.22603240790914256,
        ),
    },
}
