"""The command line's networks: convolutions, their defaults for colour images, and what contradicts them."""

import dataclasses

import pytest
from helpers import records
from options.config import Config
from run import main

import dfc_jax as dfc


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_a_convolutional_network_trains_on_augmented_images(tmp_path):
    options = Config(
        method=("dfc-ssa",), feedback="fixed", epochs=2, progress=False, out=str(tmp_path / "run")
    )
    options = dataclasses.replace(options, model="conv", channels=(2, 3), hidden=(8,), augment=True)
    assert main(options) == 0
    held = dfc.load_run(tmp_path / "run")
    assert held.config["channels"] == [2, 3] and held.config["augment"] is True
    shapes = [Q.shape for Q in held.models[0].feedback.weights]
    assert shapes == [(8, 8, 2, 10), (4, 4, 3, 10), (8, 10), (10, 10)]
    first, last = records(tmp_path / "run")
    assert last["train_loss"] < first["train_loss"]


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_cifar_is_for_the_convolutional_network_by_default(dataset):
    conv, dense = Config(dataset=dataset).resolved(), Config(dataset=dataset, model="mlp").resolved()
    assert (conv.model, conv.channels, conv.hidden, conv.augment) == ("conv", (32, 64, 128), (), True)
    assert conv.activations() == [dfc.LeakyReLU()] * 3
    assert (conv.epochs, conv.optimiser.lr, conv.optimiser.weight_decay) == (20, 3e-3, 0.1)
    assert (conv.optimiser.schedule, dense.optimiser.schedule) == ("cosine", "constant")
    assert conv.centred and not dense.centred
    assert (dense.model, dense.channels, dense.hidden, dense.augment) == ("mlp", (), (256,) * 3, False)
    assert Config(dataset="mnist").resolved().model == "mlp"


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_feedback_of_cifar_is_layered_and_direct_feedback_sleeps_little(dataset):
    layered = Config(dataset=dataset).checked().resolved()
    direct = Config(dataset=dataset, layered=False).checked().resolved()
    dense, usual = (Config(dataset=name, model="mlp").resolved() for name in (dataset, "mnist"))
    assert layered.layered and not (direct.layered or dense.layered or usual.layered)
    for config, wanted in {
        layered: ("kolen-pollack", 0, 1, 1.0),
        direct: ("expected", 0.1, 0.5, 0.01),
        dense: ("expected", 0.1, 0.5, 0.01),
        usual: ("simulated", 1, 1, 0.01),
    }.items():
        learning = config.feedback_learning
        found = learning.update, learning.sleep_epochs, learning.pretraining_epochs, learning.weight_decay
        assert found == wanted


@pytest.mark.parametrize("given", [{"feedback": "fixed"}, {"feedback": "exact"}, {"method": ("strong-dfc",)}])
def test_what_does_not_learn_layered_feedback_is_direct_on_cifar(given):
    assert not Config(dataset="cifar10", **given).checked().resolved().layered
    assert not Config(dataset="cifar10", layered=False, **given).checked().resolved().layered
    learning = dataclasses.replace(Config().feedback_learning, update="expected")
    assert not Config(dataset="cifar10", feedback_learning=learning).checked().resolved().layered


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"channels": (4,)}, "`channels` is (4,); only --model conv has feature maps"),
        ({"dataset": "student_teacher", "model": "conv"}, "`model` is conv; student_teacher holds no images"),
        (
            {"dataset": "student_teacher", "centred": True},
            "`centred` is given; student_teacher has no classes",
        ),
        (
            {"dataset": "student_teacher", "augment": True},
            "`augment` is given; student_teacher has no images",
        ),
        ({"model": "conv", "channels": (2,) * 5}, "`image` is (1, 8, 8), too small for 5 convolutions"),
        ({"process": 1}, "`coordinator`, `processes` and `process` are for --distributed"),
    ],
)
def test_options_of_networks_and_processes_that_contradict(options, problem, tmp_path, capsys):
    assert main(Config(**{"out": str(tmp_path / "run")} | options)) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_several_processes_need_a_folder_they_share():
    with pytest.raises(ValueError, match="`distributed` is given without `out`"):
        Config(distributed=True).resolved()
