"""What a sweep's command line means: its values, its settings, and the sentences for what cannot be."""

import itertools
import json
import pathlib

import numpy as np
import pytest
from options.config import Config
from options.script import parse
from sweeping.description import check_same, Sweep, sweep_in
from sweeping.space import Choices, grouped, Range, read_space, words_of


OPTUNA = {"search": "optuna", "trials": 3}


def sweep(text: str, **options: object) -> Sweep:
    return Sweep(tuple(text.split()), **options)


def test_options_with_one_value_are_fixed_and_others_searched() -> None:
    text = (
        "--method dfc-ss bp --nudge 0.05 0.1 --seeds 0 1 --batch-size=64 --hidden 8 8 or 8 or "
        "--optimiser.lr log 1e-4 1e-2 3 --layered True False --feedback-learning.no-freeze-output "
        "--strong.class_value linear 0.5 0.9"
    )
    fixed, space = read_space(text.split())
    assert fixed == {"seeds": "0 1", "batch_size": "64", "feedback_learning.freeze_output": "False"}
    assert space == {
        "method": Choices(("dfc-ss", "bp")),
        "nudge": Choices(("0.05", "0.1")),
        "hidden": Choices(("8 8", "8", "")),
        "optimiser.lr": Choices(("0.0001", "0.001", "0.01")),
        "layered": Choices(("True", "False")),
        "strong.class_value": Range(0.5, 0.9, log=False, whole=False),
    }


def test_a_setting_is_what_run_py_reads() -> None:
    setting = {"method": "bp", "hidden": "", "layered": "False", "feedback_learning.freeze_output": "False"}
    wanted = Config(method=("bp",), hidden=(), layered=False)
    found = parse(Config, words_of(setting | {"nudge": "0.25", "seeds": "3 4"}), "")
    assert (found.method, found.hidden, found.layered) == (wanted.method, wanted.hidden, wanted.layered)
    assert not found.feedback_learning.freeze_output and found.nudge == 0.25 and found.seeds == (3, 4)


def test_ranges_hold_what_they_say() -> None:
    log, whole = Range(1e-4, 1e-1, log=True, whole=False), Range(2, 9, log=False, whole=True)
    assert log.values(4) == ("0.0001", "0.001", "0.01", "0.1") and whole.values(100) == tuple("23456789")
    assert Range(1e-4, 1e-2, True, False).values(8)[1] == "0.0001931"
    drawn = np.log10([float(log.draw(np.random.default_rng(k))) for k in range(2000)])
    assert -4 <= drawn.min() < -3.98 and -1.02 < drawn.max() <= -1
    assert (
        np.abs(np.quantile(drawn, [0.25, 0.5, 0.75]) - [-3.25, -2.5, -1.75]).max() < 0.1
    )  # even in logarithms
    assert {whole.draw(np.random.default_rng(k)) for k in range(200)} == set("23456789")


def test_a_grid_has_every_combination_once_and_nothing_that_a_method_does_not_read() -> None:
    settings = sweep("--method dfc-ssa bp --nudge 0.05 0.1 --optimiser.lr 1e-3 1e-2 --feedback fixed").listed
    with_nudge = [
        {"method": "dfc-ssa", "nudge": nudge, "optimiser.lr": lr}
        for nudge, lr in itertools.product(("0.05", "0.1"), ("1e-3", "1e-2"))
    ]
    assert settings == [*with_nudge, *({"method": "bp", "optimiser.lr": lr} for lr in ("1e-3", "1e-2"))]


def test_feedback_learning_is_searched_where_feedback_learns() -> None:
    text = "--method dfc-ssa bp --feedback fixed learned --feedback-learning.lr 1e-3 1e-2"
    assert sweep(text).listed == [
        {"method": "dfc-ssa", "feedback": "fixed"},
        {"method": "dfc-ssa", "feedback": "learned", "feedback_learning.lr": "1e-3"},
        {"method": "dfc-ssa", "feedback": "learned", "feedback_learning.lr": "1e-2"},
        {"method": "bp"},
    ]


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        (
            "--method dfc-ss --feedback-learning.update simulated kolen-pollack",
            ["simulated {}", "simulated {}", "kolen-pollack"],
        ),
        ("--method dfc-ss --layered True False", ["True", "False {}", "False {}"]),
        ("--method dfc-ss --dataset cifar10 --model mlp conv", ["mlp {}", "mlp {}", "conv"]),
    ],
)
def test_what_the_rule_that_learns_feedback_does_not_read_is_not_searched(
    text: str, settings: list[str]
) -> None:
    """With --layered, as for convolutions of colour images, that is kolen-pollack by default."""
    found = sweep(f"{text} --feedback-learning.sigma 0.01 0.1").listed
    sigmas = iter(("0.01", "0.1"))
    wanted = [words.format(next(sigmas)) if "{}" in words else words for words in settings]
    assert [" ".join(v for k, v in setting.items() if k != "method") for setting in found] == wanted


def test_a_method_with_a_rule_of_its_own_reads_its_options_beside_any_update() -> None:
    text = "--method dfc-ss strong-dfc --feedback-learning.update simulated kolen-pollack"
    found = sweep(f"{text} --feedback-learning.dt 0.001 0.002").listed
    simulated = [("dfc-ss", "simulated", "0.001"), ("dfc-ss", "simulated", "0.002")]
    single = [("strong-dfc", "0.001"), ("strong-dfc", "0.002")]
    assert [tuple(setting.values()) for setting in found] == [
        *simulated,
        ("dfc-ss", "kolen-pollack"),
        *single,
    ]


def test_a_random_search_that_is_longer_begins_the_same() -> None:
    text = "--method dfc-ssa --nudge linear 0.05 0.2 --optimiser.lr log 1e-4 1e-1"
    short, long = (sweep(text, search="random", trials=number, sampling_seed=3).listed for number in (5, 9))
    assert long[:5] == short and len(long) == len({json.dumps(setting) for setting in long}) == 9
    assert sweep(text, search="random", trials=5, sampling_seed=4).listed != short


def test_a_random_search_gives_every_method_and_feedback_the_same_settings() -> None:
    text = "--method dfc-ssa bp --feedback fixed exact --nudge linear 0.05 0.2 --optimiser.lr log 1e-4 1e-1"
    found = sweep(text, search="random", trials=4).listed
    of = lambda *kind: [s for s in found if (s["method"], *filter(None, [s.get("feedback")])) == kind]
    fixed, exact, backprop = of("dfc-ssa", "fixed"), of("dfc-ssa", "exact"), of("bp")
    assert len(fixed) == len(exact) == len(backprop) == 4 and len(found) == 12
    for one, other, third in zip(fixed, exact, backprop, strict=True):
        assert one == other | {"feedback": "fixed"}
        assert third == {"method": "bp", "optimiser.lr": one["optimiser.lr"]}
    assert len({one["nudge"] for one in fixed}) == 4


def test_options_of_a_run_are_those_of_the_command_line() -> None:
    found = sweep("--method bp --optimiser.lr 1e-3 1e-2 --seeds 5 6").config({"optimiser.lr": "1e-2"})
    words = ["--method", "bp", "--optimiser.lr", "1e-2", "--seeds", "5", "6"]
    assert found == parse(Config, words, "").resolved()


def test_the_score_is_what_the_best_epoch_goes_by() -> None:
    assert sweep("--nudge 0.1 0.2 --best None").chosen_by == "validation_accuracy"
    assert sweep("--nudge 0.1 0.2 --best validation_loss").chosen_by == "validation_loss"
    assert sweep("--nudge 0.1 0.2 --dataset mnist_autoencoder").chosen_by == "validation_loss"


def test_settings_that_come_to_the_same_are_one() -> None:
    found = sweep("--method bp --epochs 20 --hidden 128 128 or 64 --activation tanh None").listed
    assert len(found) == 4  # for tanh is said, or left open
    assert len(sweep("--method dfc-ss --layered False None --nudge 0.1 0.2").listed) == 2


def test_a_preset_is_filled_in_for_every_method() -> None:
    found = sweep("--dataset mnist --preset paper --method dfc-ssa bp --epochs 1 --feedback fixed").listed
    assert found == [{"method": "dfc-ssa"}, {"method": "bp"}]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("--nudgee 1 2", "did you mean --nudge"),
        ("--out x", "is for run.py alone"),
        ("--nudge", "`nudge` has no value"),
        ("0.1 --nudge 1", "'0.1' belongs to no option"),
        ("--nudge 1 --nudge 2", "`nudge` is given twice"),
        ("--nudge 1 2 1", "none of its values may stand there twice"),
        ("--nudge log 1", "it must be log LOW HIGH"),
        ("--nudge log 0 1", "LOW must exceed 0"),
        ("--nudge linear 2 1", "LOW below HIGH"),
        ("--nudge linear 1 2 1", "at least 2 values"),
        ("--nudge linear 1 inf", "LOW below HIGH"),
        ("--epochs linear 1.5 3.5 3", "it takes whole numbers, LOW and HIGH among them"),
        ("--dataset digits mnist", "the same for all runs"),
        ("--seeds 0 or 1", "the same for all runs"),
        ("--feedback-learning.freeze-output maybe", "True, False, or both"),
        ("--layered", "has no value; give True, False"),
        ("--optimiser.lr 1e-2 0.01", "none of its values may stand there twice"),
        ("--hidden log 8 64 3", "give `or` between values"),
        ("--seeds log 1 3", "only an option of one number has a range"),
    ],
)
def test_what_is_no_space_is_said(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_space(text.split())


@pytest.mark.parametrize(
    "text",
    [
        "--method dfc-ss dfc --solver.steady-state broyden published --solver.duration 5 10 --nudge 0.1 0.2",
        "--method bp dfa dfc-ss --feedback fixed learned --feedback-learning.lr log 1e-4 1e-1 3",
        "--method bp dfc-ss --feedback fixed learned --feedback-learning.lr 1e-3 --nudge 0.1 0.2",
        "--method bp dfc-ss --feedback learned --nudge 0.3 --optimiser.lr 1e-3 1e-2",
        "--method dfc-ss --feedback fixed exact signs",
        "--layered True --feedback-learning.update weight-mirror kolen-pollack --feedback-learning.lr 1e-3",
        "--method dfc-ss --feedback fixed --solver.steady-state broyden published --solver.duration 5",
        "--dataset mnist --preset paper --method dfc bp --solver.trajectory closed-form",
    ],
)
def test_what_one_method_or_feedback_reads_is_right(text: str) -> None:
    configs = sweep(text).check()
    assert {config.feedback for config in configs} <= {"fixed", "learned", "exact", "signs"}
    assert len(configs) >= len(sweep(text).listed) / 4


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        ("--nudge log 0.1 1", {}, "a grid needs a number of values"),
        ("--method bp --nudge 0.1 1", {}, "bp does not read"),
        ("--nudge 0.1 -1", {}, "`nudge` is -1"),
        ("--method dfa bp --strong.class-value 0.9 0.99", {}, "does not read"),
        ("--batch-size 0 16", {}, "`batch_size` is 0"),
        ("--method dfc-ss --feedback fixed exact --feedback-learning.lr 1e-3", {}, "which does not learn"),
        ("--method dfc-ss --feedback learned signs --layered False", {}, "`feedback` is signs"),
        (
            "--method dfc-ss --solver.steady-state broyden published --solver.duration 5 0.01",
            {},
            "the published scheme needs 2 to",
        ),
        ("--dataset student_teacher --method bp --best validation_accuracy", {}, "has no classes"),
        ("--method dfc-ss --feedback-learning.update simulated weight-mirror", OPTUNA, "of --layered"),
        ("--method dfc-ss strong-dfc --feedback fixed exact", OPTUNA, "strong-dfc needs feedback weights"),
        ("--method bp --optimiser.lr 1e-2 -1e-2", OPTUNA, "`optimiser.lr` is -0.01"),
        (
            "--dataset mnist --preset strong-paper --method strong-dfc --label-smoothing 0.1",
            {},
            "`label_smoothing` is given, which strong-dfc does not read",
        ),
    ],
)
def test_every_value_is_checked_before_any_work(text: str, options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        sweep(text, **options).check()


def test_optuna_may_try_values_that_can_be_though_not_all_of_them_together() -> None:
    text = "--method dfc-ss --layered False True --feedback-learning.update kolen-pollack simulated"
    configs = sweep(f"{text} --feedback-learning.sigma 0.01 0.1", **OPTUNA).check()
    found = {(c.layered, c.feedback_learning.update, c.feedback_learning.sigma) for c in configs}
    direct = {(False, "kolen-pollack", 0.01), (False, "simulated", 0.01), (False, "simulated", 0.1)}
    assert found == direct | {(True, "kolen-pollack", 0.01)}  # simulated phases learn no layered feedback


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"trials": 3}, "`trials` is 3; a grid"),
        ({"search": "random"}, "random needs their number"),
        ({"search": "optuna", "trials": 0}, "optuna needs their number"),
        ({"search": "random", "trials": 2, "prune": True}, "`prune` is given"),
    ],
)
def test_searches_say_what_they_need(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        sweep("--nudge 0.1 0.2", **options)


def test_a_sweep_comes_back_from_its_folder_and_may_only_get_longer(tmp_path: pathlib.Path) -> None:
    first = sweep("--nudge linear 0.1 0.2 --method bp dfc-ss", search="random", trials=4)
    assert sweep_in(tmp_path) is None
    first.write(tmp_path)
    held = sweep_in(tmp_path)
    assert held == first
    check_same(held, sweep("--method bp dfc-ss --nudge linear 0.1 0.2", search="random", trials=5), tmp_path)
    for other, sentence in (
        (sweep("--nudge linear 0.1 0.3 --method bp dfc-ss", search="random", trials=4), "`nudge` is"),
        (sweep("--nudge linear 0.1 0.2 --method bp dfc-ss", search="optuna", trials=4), "`search` is"),
        (sweep("--nudge linear 0.1 0.2 --method bp dfc-ss", search="random", trials=3), "a sweep of 4"),
    ):
        with pytest.raises(ValueError, match=sentence):
            check_same(held, other, tmp_path)
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(ValueError, match="describes no sweep"):
        sweep_in(tmp_path)


def test_words_are_grouped_under_names() -> None:
    assert grouped(["--a-b", "1", "2", "--c", "--d=3"]) == {"a_b": ["1", "2"], "c": [], "d": ["3"]}
