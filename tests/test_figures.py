"""The figures: every command in small, and their configurations against the published scheme."""

import csv
import dataclasses
import json
import pathlib
from typing import get_args

import figures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from figures import main
from neurips2021 import figures as figure_options, toy, toy_presets as figure_presets
from neurips2021.presets import TABLE_1
from report.pictures import plt

import dfc_jax as dfc


ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("as_users_run")
SMALL = dataclasses.replace(figure_presets.FIGURE_3, num_train=128, num_val=16, num_test=16)


def table(options: figure_options.Options) -> list[dict[str, str]]:
    """Run a command; the rows of the table it wrote, beside its pictures and its note."""
    assert main(options) == 0
    path = options.out / options.name
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    note = json.loads(path.with_suffix(".json").read_text())
    assert {"versions", "git_revision", "command"} <= set(note["environment"]) and note["facts"]
    assert note["options"]["seed"] == options.seed and note["configuration"]
    with open(path.with_suffix(".csv"), newline="") as file:
        return list(csv.DictReader(file))


def numbers(rows: list[dict[str, str]], name: str) -> np.ndarray:
    values = np.array([float(row[name]) for row in rows if row[name] != ""])
    assert len(values) and np.all(np.isfinite(values)), name
    return values


def test_damped_pseudo_inverses_lead_from_the_pseudo_inverse_to_the_transpose(tmp_path):
    rows = table(figure_options.Figure2(out=tmp_path, number=40))
    points = np.stack([numbers(rows, "pc1"), numbers(rows, "pc2")], axis=1)
    kinds = [row["kind"] for row in rows]
    assert kinds == ["random"] * 40 + ["damped"] * 100 + ["pseudo_inverse", "transpose"]
    damped, inverse, transpose = points[40:140], points[140], points[141]
    span = np.linalg.norm(inverse - transpose)
    assert np.linalg.norm(damped[0] - inverse) < 1e-3 * span
    assert np.linalg.norm(damped[-1] - transpose) < 0.05 * span
    gamma = numbers(rows[40:140], "gamma")
    assert gamma[0] == pytest.approx(1e-5) and gamma[-1] == pytest.approx(100)


@pytest.mark.slow
def test_one_forward_step_is_the_published_one():
    """W - lr / target_stepsize times -2 mean over the batch of (phi(v) - phi(v_ff)) r^T (first order)."""
    preset = dataclasses.replace(SMALL, size_hidden=(), alpha_di=0.5)
    data, model = figure_presets.make_data(preset), figure_presets.make_model(preset, dfc.ProductOfWeights())
    x, y = (np.asarray(array, np.float64) for array in (data.train.x, data.train.y))
    update, _ = figure_presets.make_method(preset, "dfc-ssa")(model, jnp.asarray(x), jnp.asarray(y))
    optimiser = figure_presets.make_optimiser(preset)
    change, _ = optimiser.update(update.layers, optimiser.init(model.layers))

    W = np.asarray(model.layers[0].transform.weight, np.float64)
    batch, outputs = y.shape
    gradient = 2 * (x @ W.T - y) / (batch * outputs)  # of the batch-mean loss, by the outputs
    teaching = -preset.target_stepsize * gradient / (1 + preset.alpha_di)  # Q = J = I
    published = -2 / batch * teaching.T @ x
    wanted = -preset.lr / preset.target_stepsize * published
    assert np.linalg.norm(published) < preset.clip_grad_norm
    assert np.allclose(change[0].transform.weight, wanted, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("size", [1e-6, 1e3])
def test_the_forward_clip_is_the_published_one(size):
    update = {"W": jnp.full((3, 2), size, jnp.float32)}
    optimiser = figure_presets.make_optimiser(SMALL)
    change, _ = optimiser.update(update, optimiser.init(update))
    published = 2 * SMALL.target_stepsize / SMALL.batch_size * np.full((3, 2), size)
    published *= min(1, SMALL.clip_grad_norm / np.linalg.norm(published))
    assert np.allclose(change["W"], -SMALL.lr / SMALL.target_stepsize * published, rtol=1e-5)


@pytest.mark.parametrize("sigma", [0.05, 0.004])
@pytest.mark.parametrize("size", [1e-3, 1e6])
def test_one_feedback_step_is_the_published_one(sigma, size):
    """Q - lr (clipped + decay Q), of an update divided by max(sigma, 0.01)^2 where ours is by sigma^2."""
    preset = dataclasses.replace(SMALL, sigma_fb=sigma)
    optimiser = figure_presets.make_feedback_learning(preset).optimiser
    Q = {"a": jnp.array([1.0, -2.0], jnp.float32), "b": jnp.array([3.0], jnp.float32)}
    update = jax.tree.map(lambda leaf: size * jnp.ones_like(leaf), Q)
    change, _ = optimiser.update(update, optimiser.init(Q), Q)
    published = size * np.ones(3) * sigma**2 / max(sigma, 0.01) ** 2
    published *= min(1, preset.clip_grad_norm / np.linalg.norm(published))
    wanted = -preset.lr_fb * (published + preset.feedback_wd * np.array([1, -2, 3]))
    assert np.allclose(np.concatenate([change["a"], change["b"]]), wanted, rtol=1e-5)


def test_how_much_and_how_the_network_sleeps_can_be_chosen():
    options = figure_options.Figure3(sleep_epochs=30, sleep="expected")
    learning = figure_presets.make_feedback_learning(options.configuration(), options.sleep)
    assert learning.epochs_per_wake_epoch == 30 and isinstance(learning.phase, dfc.ExpectedSleepPhase)
    published = figure_presets.make_feedback_learning(figure_options.Figure3().configuration())
    assert published.epochs_per_wake_epoch == 3 and isinstance(published.phase, dfc.SleepPhase)


def test_the_sweeps_change_what_they_name():
    for name, sweep in figure_presets.SWEEPS.items():
        learning = figure_presets.make_feedback_learning(sweep.base)
        controller = learning.phase.controller
        wanted = {"s2": (0, 0.5), "s3": (0.3, 0.5), "s4": (0, 0.1)}[name]
        assert (float(controller.k_p), float(controller.alpha)) == pytest.approx(wanted)


@pytest.mark.script
def test_measurements_against_plain_formulas():
    data = figure_presets.make_data(SMALL)
    model = figure_presets.make_model(SMALL, dfc.RandomFeedback())
    method = figure_presets.make_method(SMALL, "dfc-ssa")
    found = toy.measurements(8, 0.1)(model, method, data.validation)
    update, _ = method(model, jnp.asarray(data.validation.x[:8]), jnp.asarray(data.validation.y[:8]))
    reference, largest = [0.0] * 3, []
    for x, y in zip(data.validation.x[:8], data.validation.y[:8], strict=True):
        state = model.feedforward(jnp.asarray(x))
        blocks = [np.asarray(J, np.float64) for J in model.jacobian(state.voltages)]
        J = np.concatenate(blocks, axis=1)
        Q = np.concatenate([np.asarray(q, np.float64) for q in model.feedback.weights])
        largest.append(np.linalg.eigvals(-J @ Q - SMALL.alpha_di * np.eye(5)).real.max())
        displacement = J.T @ np.linalg.solve(J @ J.T + 0.1 * np.eye(5), np.asarray(state.output) - y)
        parts = np.split(displacement, [10, 20])
        for i, (part, slope) in enumerate(zip(parts, model.slopes(state.voltages), strict=True)):
            reference[i] += np.outer(part * slope, np.append(state.inputs[i], 1))
    ours = [np.c_[layer.transform.weight, layer.transform.bias] for layer in update.layers]
    flat = [np.concatenate([part.ravel() for part in parts]) for parts in (ours, reference)]
    cosine = flat[0] @ flat[1] / np.prod([np.linalg.norm(a) for a in flat])
    assert found["angle_to_published_minimum_norm"] == pytest.approx(np.degrees(np.arccos(cosine)), rel=1e-3)
    assert found["A_inst_mean"] == pytest.approx(np.mean(largest), rel=1e-4)
    assert found["A_PI_mean"] <= found["largest_real_part"]
    norms = [found[f"norm_{name}_mean"] for name in ("input", "layer_1", "layer_2")]
    assert sum(norms) == pytest.approx(0, abs=1e-5)


@pytest.mark.script
def test_figure_1d_ends_where_the_error_is_alpha_u(tmp_path):
    rows = table(figure_options.Figure1D(out=tmp_path, samples=1, pretraining_epochs=1))
    assert len(rows) == figure_presets.FIGURE_1D.tmax_di
    error, control = numbers(rows, "error"), numbers(rows, "control")
    assert control[0] == 0 and numbers(rows, "time")[-1] == pytest.approx(9.995)
    gap = numbers(rows, "target") - numbers(rows, "output")
    assert np.allclose(gap, error, atol=2e-6)  # as far as six digits of the output tell
    assert abs(error[-1]) < 2e-2 * abs(error[0])
    rest = dataclasses.replace(figure_presets.FIGURE_1D, tmax_di=20_000, epochs_fb=1)
    last = toy.control_of_samples(rest, 1)[-1]
    assert last["error"] == pytest.approx(rest.alpha_di * last["control"], rel=0.02)


@pytest.mark.script
def test_figure_3_has_every_method_and_measure(tmp_path):
    options = figure_options.Figure3(out=tmp_path, epochs=2, pretraining_epochs=1, samples=16, progress=False)
    rows = table(options)
    assert len(rows) == 2 * 7
    for name in figure_options.COLUMNS_3.values():
        numbers(rows, name)
    assert np.all(numbers([r for r in rows if r["method"] == "dfc-ssa"], "angle_ssa") < 1e-3)
    assert np.all(numbers(rows, "largest_real_part") < 0)
    assert all(row["condition_two"] == "" for row in rows if row["method"] == "dfa")


@pytest.mark.script
def test_figure_s1_has_every_matrix(tmp_path):
    options = figure_options.FigureS1(out=tmp_path, epochs=1, pretraining_epochs=0, samples=8, progress=False)
    rows = table(options)
    assert [row["feedback"] for row in rows] == ["learned", "fixed"]
    for name in ("A_I", "A_inst", "A_PI", "norm_mean", "norm_input", "norm_layer_1", "norm_layer_2"):
        assert numbers(rows, f"{name}_mean").size == numbers(rows, f"{name}_std").size == 2


@pytest.mark.script
@pytest.mark.parametrize("name", ["s2", "s3", "s4"])
def test_sweeps_have_a_curve_for_every_value(name, tmp_path):
    options = figure_options.FIGURES[name](out=tmp_path, pretraining_epochs=1, samples=8, progress=False)
    rows, sweep = table(options), figure_presets.SWEEPS[name]
    assert len(rows) == 2 * len(sweep.values) * 9  # 40 batches an epoch, a row every 5
    for measure in ("angle_to_pseudo_inverse", "angle_to_transpose", "condition_two"):
        numbers(rows, measure)
    start = [r for r in rows if r["iteration"] == "0" and r["activation"] == "tanh"]
    assert len({row["condition_two"] for row in start}) == 1  # all start from the same weights
    if name == "s2":  # a strong damping makes the pseudo-inverse the transpose
        strongest = [r for r in rows if float(r["value"]) == 1000]
        ends = numbers(strongest, "angle_to_pseudo_inverse"), numbers(strongest, "angle_to_transpose")
        assert np.allclose(*ends, atol=0.5)


@pytest.mark.parametrize("feedback", ["learned", "fixed"])
@pytest.mark.parametrize("task", get_args(figure_presets.AlignmentTask))
def test_alignment_is_measured_in_runs_of_table_1(task, feedback):
    published = TABLE_1[task]
    (weak, *_) = published.trained if feedback == "learned" else published.fixed
    runs = toy.alignment_runs(task, feedback, None, 3)
    assert [config.method for config in runs] == [("dfc",), ("dfc-ss",), ("dfc-ssa",), ("dfa",)]
    for config, forward in zip(runs, (weak, weak, weak, published.dfa), strict=True):
        assert (config.dataset, config.feedback, config.seeds) == (task, feedback, (3,))
        assert config.epochs == published.epochs
        assert config.optimiser.lr == forward.lr / forward.target_stepsize
    assert toy.alignment_runs(task, feedback, 2, 3)[0].epochs == 2


@pytest.mark.script
@pytest.mark.parametrize("feedback", ["learned", "fixed"])
def test_alignment_has_every_layer(feedback, tmp_path, monkeypatch):
    """On random images; MNIST takes long."""
    rng = np.random.default_rng(0)
    split = dfc.Split(
        rng.normal(size=(128, 784)).astype(np.float32), np.eye(10, dtype=np.float32)[np.arange(128) % 10]
    )
    small = dfc.Dataset("mnist", split, split, split, classification=True)
    monkeypatch.setattr(dfc, "load", lambda name: small)
    paper = toy.paper

    def shorter(config, method):
        config = paper(config, method)
        learning = dataclasses.replace(config.feedback_learning, pretraining_epochs=1, sleep_epochs=1)
        return dataclasses.replace(config, feedback_learning=learning)

    monkeypatch.setattr(toy, "paper", shorter)
    options = figure_options.Alignment(out=tmp_path, feedback=feedback, epochs=1, samples=8, progress=False)
    rows = table(options)
    assert [row["method"] for row in rows] == ["dfc", "dfc-ss", "dfc-ssa", "dfa"]
    for measure in ("mn", "bp", "ssa"):
        for layer in range(1, 5):
            numbers(rows, f"angle_{measure}_layer_{layer}")
    numbers(rows, "condition_two")


def test_what_is_finished_of_a_figure_is_kept(tmp_path, monkeypatch, capsys):
    """A stop leaves the curves that are there; the same command goes on, another one begins anew."""
    asked = []

    def train(toy_network, method, feedback, *_):
        if len(asked) == 1:
            asked.append("stopped")
            raise KeyboardInterrupt
        asked.append(feedback)
        return [{"method": method, "feedback": feedback, "epoch": 1, "x": np.float32(0.1)}]

    monkeypatch.setattr(toy, "train", train)
    monkeypatch.setattr(
        figure_options.FigureS1,
        "compute",
        lambda self, curves: [
            row for kind in ("learned", "fixed") for row in self._train(curves, SMALL, "dfc", kind)
        ],
    )
    monkeypatch.setattr(figure_options.FigureS1, "draw", lambda self, rows: plt.figure())
    monkeypatch.setattr(figure_options.FigureS1, "facts", lambda self, rows: {"rows": len(rows)})
    options = figure_options.FigureS1(out=tmp_path, epochs=3)
    assert main(options) == 130 and "the same command goes on" in capsys.readouterr().err
    assert main(options) == 0 and asked == ["learned", "stopped", "fixed"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"figure-s1.{k}" for k in ("csv", "json", "pdf", "png")
    ]
    rows = (tmp_path / "figure-s1.csv").read_bytes()
    assert main(dataclasses.replace(options, epochs=4)) == 2  # a trial does not replace what is there
    assert "with `epochs` 3, not 4" in capsys.readouterr().err
    note = json.loads((tmp_path / "figure-s1.json").read_text())
    del note["options"]["sleep_epochs"]  # as of before there was the option
    (tmp_path / "figure-s1.json").write_text(json.dumps(note))
    assert main(dataclasses.replace(options, sleep_epochs=7)) == 2
    assert f"with `sleep_epochs` {options.sleep_epochs}, not 7" in capsys.readouterr().err

    def broken(self, rows):
        raise ValueError("cannot draw")

    monkeypatch.setattr(figure_options.FigureS1, "draw", broken)
    assert main(options) == 2
    assert (tmp_path / "figure-s1.csv").read_bytes() == rows


def test_trials_do_not_write_where_the_published_figures_lie():
    for kind in (figures.FIGURES | figures.STRONG_FIGURES).values():
        assert kind().out.absolute() != ROOT / "experiments" / "results" / "figures"


@pytest.mark.parametrize(
    "options, said",
    [
        (figure_options.Figure1D(samples=0), "`samples` is 0"),
        (figure_options.Figure2(number=-1), "`number` is -1"),
        (figure_options.Alignment(epochs=0), "`epochs` is 0"),
        (figure_options.Figure3(sleep_epochs=-1), "`sleep_epochs` is -1"),
        (figure_options.Figure3(seed=2**32), "`seed` is 4294967296"),
        (figures.SinglePhase(seed=2**32 - 1, seeds=2), "`seed` is 4294967296"),
        (figures.Noise(sigmas=(0.1, 0.0)), "`sigmas` is 0.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_number_that_cannot_be_is_refused_by_name(options, said, tmp_path, capsys):
    assert main(dataclasses.replace(options, out=tmp_path)) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_wrong_value_is_one_sentence(tmp_path, capsys):
    assert main(figure_options.Figure3(out=tmp_path, epochs=0)) == 2
    assert "`epochs` is 0; it must be" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    occupied = pathlib.Path(tmp_path / "file")
    occupied.write_text("")
    assert main(figure_options.Figure2(out=occupied, number=3)) == 2
    assert capsys.readouterr().err.startswith("error: ")
