"""The presets of Strong-DFC's published runs, and its methods on the command line."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest
from icml2022.presets import strong_paper
from icml2022.published import RUNS
from options.config import Config
from options.groups import Feedback, Optimiser, Strong
from options.objects import floored, make_feedback_learning, make_method
from run import main

import dfc_jax as dfc


RUNS_WITH_CONTROL = [(task, m) for task in RUNS for m in ("dfc", "strong-dfc", "strong-dfc-2phase")]


def resolved(task: str, method: str) -> Config:
    config = strong_paper(Config(dataset=task, preset="strong-paper"), method)
    return dataclasses.replace(config, method=(method,)).resolved()


@pytest.mark.parametrize("task, method", RUNS_WITH_CONTROL)
def test_presets_undo_the_published_scales(task: str, method: str) -> None:
    """Ours times 2, or times 2 lambda, is the published update; eps and clip are compared with it."""
    chosen, run = resolved(task, method), RUNS[task][method]
    scale = 2 * chosen.nudge if method == "dfc" else 2
    assert chosen.optimiser.eps * scale == pytest.approx(run.adam_epsilon)
    assert chosen.optimiser.clip * scale == pytest.approx(1) and chosen.optimiser.clip_over == "layer"
    learning = chosen.feedback_learning
    assert (learning.beta1, learning.beta2) == (run.adam_beta1_fb, run.adam_beta2_fb)
    floored_once = 1 if method == "strong-dfc" else min(run.sigma_fb / 0.01, 1) ** 2
    assert learning.eps * floored_once == pytest.approx(run.adam_epsilon_fb)
    rule = make_method(chosen, method, dfc.CrossEntropy())
    phase = make_feedback_learning(chosen, method, dfc.CrossEntropy(), 1).phase
    assert float(rule.controller.alpha) == pytest.approx(run.alpha_di)
    if method == "strong-dfc":
        assert float(rule.target.class_value) == pytest.approx(run.target_class_value)
        assert rule.start is None and rule.scheme.states == 500
        assert float(rule.noise.sigma_output) == pytest.approx(run.sigma_output)
        assert isinstance(phase.dynamics.target, dfc.Clamp) and phase.dynamics.scheme.states == 500
        assert float(phase.dynamics.controller.alpha) == pytest.approx(run.alpha_di_fb)
        noise = phase.dynamics.noise
        assert float(noise.sigma) == pytest.approx(run.sigma_fb)
        assert float(noise.sigma_output) == pytest.approx(run.sigma_output_fb)
        share = phase.dynamics.scheme.dt / phase.dynamics.tau_filter
        assert float(share) == pytest.approx(run.dt_di / run.tau_f)
        return
    dynamics = rule.equilibrium if method == "strong-dfc-2phase" else rule
    assert float(dynamics.tau_v) == pytest.approx(run.time_constant_ratio)
    assert chosen.solver.duration == pytest.approx(run.dt_di * run.tmax_di)
    assert type(phase.target) is (dfc.Clamp if method == "strong-dfc-2phase" else dfc.Rest)
    floor = max(run.sigma_fb, 0.01) ** 2 / run.sigma_fb**2
    assert chosen.feedback_learning.weight_decay == pytest.approx(run.feedback_wd * floor)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("task, ratio", [("mnist", 0.1830954), ("fashion_mnist", 0.1130725)])
def test_the_single_phase_floors_sigma_layer_by_layer(task: str, ratio: float) -> None:
    """The published code divides by max(sigma, 0.01)^2, ours by sigma^2; sigma is 0.00428 and 0.00336 in the
    hidden layers, above the floor in the output layer. Decay and clip are those of the published update."""
    learning = resolved(task, "strong-dfc").feedback_learning
    assert (learning.clip, learning.weight_decay) == (1, RUNS[task]["strong-dfc"].feedback_wd)
    config = dataclasses.replace(resolved(task, "strong-dfc"), hidden=(3,))
    update = dfc.mlp((2, 3, 2), key=jr.key(0), feedback=dfc.RandomFeedback()).feedback
    noise = make_method(config, "strong-dfc", dfc.CrossEntropy()).noise
    scaled, _ = floored(noise, learning.sigma_floor).update(update, optax.EmptyState())
    for found, given, wanted in zip(scaled.weights, update.weights, (ratio, 1), strict=True):
        assert jnp.allclose(found, wanted * given, rtol=1e-5)
    small = jax.tree.map(lambda Q: -1e-3 * Q, update)  # not clipped; Adam keeps the sign of update plus decay
    for decay in (2e-3 * ratio, 0.5e-3 * ratio):
        weighed = dataclasses.replace(learning, weight_decay=decay, eps=1e-12)
        chosen = dataclasses.replace(config, feedback_learning=weighed)
        optimiser = make_feedback_learning(chosen, "strong-dfc", dfc.CrossEntropy(), 1).optimiser
        change, _ = optimiser.update(small, optimiser.init(update), update)
        sign = 1 if decay < 1e-3 * ratio else -1
        assert jnp.all(jnp.sign(change.weights[0]) == sign * jnp.sign(update.weights[0]))


@pytest.mark.parametrize("task", RUNS)
def test_the_published_time_scales_are_just_ordered(task: str) -> None:
    """Their filter is half as slow as the controller; in pre-training it is slower on MNIST, for it counts in
    steps, and on Fashion-MNIST dt = tau_v."""
    chosen = resolved(task, "strong-dfc")
    rule = make_method(chosen, "strong-dfc", dfc.CrossEntropy())
    assert rule.time_scale_doubts() == []
    phase = make_feedback_learning(chosen, "strong-dfc", dfc.CrossEntropy(), 1).phase
    (doubt,) = phase.doubts()
    assert ("`tau_filter` is 0.608" if task == "mnist" else "`dt` is 0.000692") in doubt


@pytest.mark.parametrize("method", ["dfc-ss", "strong-dfc"])
def test_pretraining_has_an_optimiser_of_its_own_only_where_it_differs(method: str) -> None:
    """What a checkpoint says of it is compared when a run goes on."""
    made = lambda config: make_feedback_learning(config.resolved(), method, dfc.CrossEntropy(), 1)
    config = Config(method=(method,), feedback_learning=Feedback(lr=0.1, pretraining_lr=0.1))
    assert made(config).pretraining_optimiser is None
    other = dataclasses.replace(config, feedback_learning=Feedback(lr=0.1, pretraining_lr=0.2))
    assert made(other).pretraining_optimiser is not None
    if method == "strong-dfc":
        strong = dataclasses.replace(config, strong=Strong(pretraining_sigma=0.1))
        assert made(strong).pretraining_optimiser is not None


def test_what_a_preset_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="not for dfc-ss on mnist"):
        strong_paper(Config(dataset="mnist"), "dfc-ss")
    with pytest.raises(ValueError, match="not for strong-dfc on digits"):
        strong_paper(Config(), "strong-dfc")
    with pytest.raises(ValueError, match="`strong` is"):
        strong_paper(Config(dataset="mnist", strong=Strong(sigma=1.0)), "strong-dfc")
    with pytest.raises(ValueError, match="`feedback` is fixed"):
        strong_paper(Config(dataset="mnist", feedback="fixed"), "strong-dfc")


def test_backprop_is_clipped_layer_by_layer() -> None:
    optimiser = resolved("mnist", "bp").optimiser
    assert optimiser == Optimiser(2e-3, 0.9, 0.999, 2e-3, 1.0, "layer", 0.0, "constant")
    layers = dfc.mlp((2, 3, 2), key=jr.key(0)).layers
    clipped, _ = dfc.clip_by_layer_norm(1e-3).update(layers, None)
    for layer, found in zip(layers, clipped, strict=True):
        norm = jnp.sqrt(jnp.sum(found.transform.weight**2) + jnp.sum(found.transform.bias**2))
        assert float(norm) == pytest.approx(1e-3)
        ratio = found.transform.weight / layer.transform.weight
        assert jnp.allclose(ratio, ratio[0, 0])
    unclipped, _ = dfc.clip_by_layer_norm(1e3).update(layers, None)
    assert jnp.array_equal(unclipped[0].transform.weight, layers[0].transform.weight)


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    "method, seeds, diagnostics",
    [("strong-dfc", (0, 1), None), pytest.param("strong-dfc-2phase", (0,), 3, marks=pytest.mark.script)],
)
def test_strong_methods_run(tmp_path, method: str, seeds: tuple[int, ...], diagnostics: int | None) -> None:
    config = Config(
        method=(method,),
        feedback="learned" if method == "strong-dfc" else "exact",
        hidden=(16,),
        epochs=3,
        diagnostics=diagnostics,
        seeds=seeds,
        out=str(tmp_path / "run"),
        strong=Strong(steps=40) if method == "strong-dfc" else Strong(),
        progress=False,
    )
    assert main(config) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows] == [*seeds] * 3
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    if diagnostics is not None:
        assert "surrogate_loss" not in rows[0]  # and the picture copes with that
        assert rows[-1]["surrogate_loss"] > 0 and 0 < rows[-1]["angle_to_surrogate_gradient"] < 90


def test_exact_feedback_is_refused_for_the_single_phase(tmp_path, capsys) -> None:
    assert main(Config(method=("strong-dfc",), feedback="exact", out=str(tmp_path / "run"))) == 2
    assert "strong-dfc needs feedback weights" in capsys.readouterr().err
