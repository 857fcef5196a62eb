"""The command line's networks: convolutions, their defaults for colour images, and what contradicts them."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import records
from options.config import Config
from options.groups import Optimal, Strong
from options.objects import make_method, make_model
from options.ready import check_objects, of_method, with_own_labels
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


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
@pytest.mark.parametrize("method", ["dfc-ss", "bp"])
def test_a_preset_has_the_network_of_holomorphic_equilibrium_propagation(dataset, method):
    given = Config(dataset=dataset, preset="holomorphic-ep-net").checked()
    config, usual = of_method(given, method), of_method(Config(dataset=dataset), method)
    assert (config.channels, config.hidden, config.epochs, config.optimiser.lr) == (
        (128, 256, 512, 512),
        (),
        90,
        1e-3,
    )
    assert config.activations() == [dfc.LeakyReLU()] * 4
    network = {name: getattr(usual, name) for name in ("channels", "hidden", "epochs", "preset")}
    assert dataclasses.replace(config, **network, optimiser=usual.optimiser) == usual
    assert of_method(config, method) == config  # as a run that goes on reads it
    shorter = dataclasses.replace(given, epochs=3, optimiser=dataclasses.replace(given.optimiser, lr=2e-3))
    assert (of_method(shorter, method).epochs, of_method(shorter, method).optimiser.lr) == (3, 2e-3)


def test_the_large_network_of_a_preset_is_what_its_paper_describes():
    config = of_method(Config(dataset="cifar10", preset="holomorphic-ep-net"), "bp")
    images = dfc.Dataset.from_arrays(np.zeros((100, 3 * 32 * 32), np.float32), np.arange(100) % 10)
    data = dataclasses.replace(images, image=(3, 32, 32))
    model = jax.eval_shape(lambda: make_model(config, "bp", data, 0))
    kernels = [(3, 3, 3, 128), (3, 3, 128, 256), (3, 3, 256, 512), (3, 3, 512, 512)]
    weights = [leaf.shape for leaf in jax.tree.leaves(model.layers) if len(leaf.shape) > 1]
    assert weights == [*kernels, (10, 2 * 2 * 512)]


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("feedback", ["learned", "fixed", "exact"])
def test_initial_weights_can_be_standardised(feedback):
    data = dfc.load("digits")
    options = of_method(Config(initial_weights="standardised", hidden=(8, 8), feedback=feedback), "dfc-ss")
    model = make_model(options, "dfc-ss", data, 0)
    hidden = jax.vmap(model.feedforward)(data.train.x[:512]).voltages[:-1]
    for voltage in hidden:
        np.testing.assert_allclose(np.mean(voltage, axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(np.std(voltage, axis=0), 1, rtol=1e-4)


def test_training_labels_alone_are_smoothed():
    plain = dfc.load("digits")
    smoothed = with_own_labels(plain, Config(label_smoothing=0.2), "bp")
    assert with_own_labels(plain, Config(label_smoothing=0.2), "strong-dfc") is plain
    np.testing.assert_allclose(smoothed.train.y, 0.8 * plain.train.y + 0.02, rtol=1e-6)
    for name in ("validation", "test"):
        assert np.array_equal(getattr(smoothed, name).y, getattr(plain, name).y)
    np.testing.assert_array_equal(smoothed.train.x, plain.train.x)


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
            {"dataset": "student_teacher", "label_smoothing": 0.1},
            "`label_smoothing` is given; student_teacher has no labels",
        ),
        ({"label_smoothing": 1.5}, "`label_smoothing` is 1.5; it must be"),
        ({"patience": 0}, "`patience` is 0; it must be"),
        (
            {"dataset": "student_teacher", "method": ("strong-dfc",), "strong": Strong(class_value=0.9)},
            "`strong.class_value` is 0.9; student_teacher has no classes",
        ),
        (
            {"dataset": "student_teacher", "method": ("least-control",), "optimal": Optimal(class_value=0.5)},
            "`optimal.class_value` is 0.5; student_teacher has no classes",
        ),
        (
            {"method": ("strong-dfc",), "label_smoothing": 0.1},
            "`label_smoothing` is given, which strong-dfc does not read",
        ),
        (
            {"dataset": "student_teacher", "augment": True},
            "`augment` is given; student_teacher has no images",
        ),
        ({"model": "conv", "channels": (2,) * 5}, "`image` is (1, 8, 8), too small for 5 convolutions"),
        ({"preset": "holomorphic-ep-net"}, "which exists for cifar10 and cifar100, not digits"),
        (
            {"preset": "holomorphic-ep-net", "dataset": "cifar10", "channels": (8, 8)},
            "`channels` is (8, 8); the preset holomorphic-ep-net sets it",
        ),
        (
            {"preset": "holomorphic-ep-net", "dataset": "cifar10", "model": "mlp"},
            "`model` is mlp; the preset holomorphic-ep-net sets it",
        ),
        (
            {"preset": "holomorphic-ep-net", "dataset": "cifar10", "method": ("bp",), "nudge": 0.2},
            "`nudge` is given, which bp does not read",
        ),
        ({"process": 1}, "`coordinator`, `processes` and `process` are for --distributed"),
    ],
)
def test_options_of_networks_and_processes_that_contradict(options, problem, tmp_path, capsys):
    assert main(Config(**{"out": str(tmp_path / "run")} | options)) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["strong-dfc-2phase", "strong-dfc", "least-control"])
@pytest.mark.parametrize("dataset, loss", [("student_teacher", dfc.MeanSquaredError()), ("digits", None)])
def test_the_targets_of_a_regression_are_clamped_as_they_are(method, dataset, loss):
    config = of_method(Config(dataset=dataset, method=(method,)), method)
    check_objects(config, method)
    made = make_method(config, method, loss or dfc.CrossEntropy())
    value = made.class_value if method == "least-control" else made.target.class_value
    assert value == (1 if loss is not None or method == "least-control" else 0.99)


@pytest.mark.parametrize("method", ["least-control", "predictive-coding"])
def test_an_output_may_be_clamped_for_squared_errors(method):
    config = Config(dataset="student_teacher", method=(method,), optimal=Optimal(alpha=0.0))
    check_objects(of_method(config, method), method)
    with pytest.raises(ValueError, match="for cross-entropy, the loss of classes, it must exceed 0"):
        check_objects(of_method(dataclasses.replace(config, dataset="digits"), method), method)


def test_several_processes_need_a_folder_they_share():
    with pytest.raises(ValueError, match="`distributed` is given without `out`"):
        Config(distributed=True).resolved()
