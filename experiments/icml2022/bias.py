"""What noise adds to the mean update of the single phase, and what a network learns from that."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from icml2022.figures import Curve, draw_curve, feedback_learning, new_network, Noise, TAU_NOISE
from icml2022.mean_updates import angle, at_rest, bias_of, cosine, forward_alone, LessBias, signal
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from report.figure import Common, Curves, Rows, tidied
from report.pictures import plt

import dfc_jax as dfc
from dfc_jax._bar import progress_bar
from dfc_jax._checks import check_count


WEAK: Curve = "weak, single phase"
STRONG: Curve = "strong, single phase"
COLOURS = {WEAK: "#0072B2", STRONG: "#882255"}
OUTPUT_ALONE = "weak, noise in the output layer alone"
AS_IT_IS, NO_BIAS, OTHER_NOISE = "weak feedback", "less the bias", "less the bias, of other noise"
BIAS_ALONE, QUIET_OUTPUT = "the bias alone", "no noise in the output layer"
ASLEEP = "feedback learned asleep"
RUNS = {  # trainings under weak feedback: colour
    AS_IT_IS: "#0072B2",
    NO_BIAS: "#009E73",
    OTHER_NOISE: "#E69F00",
    BIAS_ALONE: "#666666",
    QUIET_OUTPUT: "#CC79A7",
    ASLEEP: "#56B4E9",
}
SIZES, STYLES = (64, 64, 64, 10), ("-", "--", ":")  # a style for each layer


@dataclasses.dataclass(frozen=True)
class NoiseBias(Common):
    """The bias of the single phase's mean update, and trainings with and without it, on digits."""

    epochs: int = 20
    seeds: int = 2
    """How many seeds are trained, from --seed on; the mean update is measured on the first."""
    sigma: float = 0.1
    """Size of the noise during training."""
    sigmas: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    """Sizes of the noise under which the mean update is measured."""
    samples: int = 128
    """Training samples of the measurements."""
    number: int = 16
    """Pairs of opposite noise of every sample; the standard error needs two."""

    name = "noise-bias"

    def check(self) -> None:
        super().check()
        check_count("number", self.number, 2)

    def configuration(self) -> dict[str, Any]:
        return {
            "task": f"digits, {'-'.join(map(str, SIZES))}",
            "forward": "Adam, lr 3e-3",
            "feedback": "learned, Adam, lr 5e-5 (5e-3 in sleep phases), after pre-training with 5e-3",
            "weak": repr(_single(WEAK, self.sigma)),
            "strong": repr(_single(STRONG, self.sigma)),
        }

    def compute(self, curves: Curves) -> Rows:
        data = dfc.load("digits")
        rows = curves("mean update", functools.partial(self._measure, data))
        for run in progress_bar(list(RUNS), progress=self.progress):
            rows = rows + curves(run, functools.partial(self._train, data, run))
        return rows

    def _measure(self, data: dfc.Dataset) -> Rows:
        """The mean updates of a network whose feedback is pre-trained."""
        pretraining, noise = (jax.random.fold_in(jax.random.key(self.seed), i) for i in (1, 2))
        learning = feedback_learning(False)
        model = new_network(SIZES, self.seed)
        model = dfc.pretrain_feedback(model, learning, data, key=pretraining, progress=False)
        methods = [(curve, sigma, _single(curve, sigma)) for curve in (WEAK, STRONG) for sigma in self.sigmas]
        quiet = dfc.FilteredNoise(1e-6, TAU_NOISE, sigma_output=self.sigma)
        methods.append((OUTPUT_ALONE, self.sigma, dataclasses.replace(_single(WEAK, 1.0), noise=quiet)))
        rows, keys = [], jax.random.split(noise, self.number)
        for curve, sigma, method in progress_bar(methods, progress=self.progress):
            found = bias_of(method, model, *self._samples(data), keys)
            rows += [_row(curve, self.seed, sigma, None, *measure) for measure in found.items()]
        return rows

    def _samples(self, data: dfc.Dataset) -> tuple[Float[Array, "batch in"], Float[Array, "batch out"]]:
        return jnp.asarray(data.train.x[: self.samples]), jnp.asarray(data.train.y[: self.samples])

    def _method(self, run: str) -> dfc.AbstractMethod:
        weak = _single(WEAK, self.sigma)
        quiet = dfc.FilteredNoise(self.sigma, TAU_NOISE, sigma_output=0.0)
        return {
            AS_IT_IS: weak,
            NO_BIAS: LessBias(weak),
            OTHER_NOISE: LessBias(weak, same_noise=False),
            BIAS_ALONE: at_rest(weak),
            QUIET_OUTPUT: dataclasses.replace(weak, noise=quiet),
            ASLEEP: forward_alone(weak),
        }[run]

    def _train(self, data: dfc.Dataset, run: str) -> Rows:
        seeds, rows = range(self.seed, self.seed + self.seeds), []
        weak, samples = _single(WEAK, self.sigma), self._samples(data)

        def note(i: int, record: dict[str, Any], model: dfc.Network) -> None:
            found = {"test_accuracy": record["test_accuracy"]} | _learned(weak, model, *samples)
            rows.extend(
                _row(run, seeds[i], self.sigma, record["epoch"], *measure) for measure in found.items()
            )

        dfc.fit_many(
            [new_network(SIZES, seed) for seed in seeds],
            self._method(run),
            data,
            optax.adam(3e-3),
            epochs=self.epochs,
            keys=[jax.random.fold_in(jax.random.key(seed), 1) for seed in seeds],
            feedback_learning=feedback_learning(run == ASLEEP),
            on_epoch=note,
            progress=False,
        )
        return rows

    def draw(self, rows: Rows) -> Figure:
        figure, axes = plt.subplots(2, 2, figsize=(8.4, 6.6), layout="constrained")
        self._draw_bias(axes[0, 0], rows)
        self._draw_angles(axes[0, 1], rows)
        for ax, measure in zip(axes[1], ("test_accuracy", "cosine_of_weights"), strict=True):
            for run, colour in RUNS.items():
                draw_curve(ax, _chosen(rows, run, measure), "epoch", "value", colour, run)
            ax.set_xlabel("epoch")
        axes[1, 0].set_ylabel("test accuracy")
        axes[1, 0].axhline(0.1, color="black", linewidth=0.8, linestyle=":")
        axes[1, 1].set_ylabel(r"cosine of $W_3$ to $Q_2^T$")
        axes[1, 1].axhline(0, color="black", linewidth=0.8, linestyle=":")
        handles, labels = axes[1, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
        return tidied(figure)

    def _draw_bias(self, ax: Axes, rows: Rows) -> None:
        for curve, colour in COLOURS.items():
            for i, style in enumerate(STYLES, start=1):
                label = f"weak, layer {i}" if curve == WEAK else "strong" if i == 1 else ""
                draw_curve(ax, _chosen(rows, curve, f"bias_{i}"), "sigma", "value", colour, label, style)
        ax.axhline(1, color="black", linewidth=0.8, linestyle=":")
        ax.set(xscale="log", yscale="log", xlabel=r"$\sigma$", ylabel="|bias| / |signal|")
        ax.legend(loc="lower right", frameon=False, fontsize=8)

    def _draw_angles(self, ax: Axes, rows: Rows) -> None:
        for curve, colour in COLOURS.items():
            draw_curve(ax, _chosen(rows, curve, "angle"), "sigma", "value", colour, curve.split(",")[0])
        freed = _chosen(rows, WEAK, "angle_less_bias")
        draw_curve(ax, freed, "sigma", "value", RUNS[NO_BIAS], "weak, less the bias", "--")
        ax.axhline(90, color="black", linewidth=0.8, linestyle=":")
        ax.set(xscale="log", xlabel=r"$\sigma$", ylabel="angle of the mean update\nto the gradient (degrees)")
        ax.set_ylim(0, 105)
        ax.legend(loc="lower right", frameon=False, fontsize=8)

    def facts(self, rows: Rows) -> dict[str, Any]:
        measured = {
            f"{row['curve']}, sigma {row['sigma']:g}, {row['measure']}": row["value"]
            for row in rows
            if row["epoch"] is None
        }
        last = [row for row in rows if row["epoch"] == self.epochs]
        trained = {
            f"{run}, {measure}": float(np.mean([row["value"] for row in _chosen(last, run, measure)]))
            for run in RUNS
            for measure in ("test_accuracy", "cosine_of_weights", "angle_of_hidden_signal")
        }
        return measured | self._slopes(rows) | trained

    def _slopes(self, rows: Rows) -> dict[str, float]:
        """The slope of the logarithm of the bias over that of sigma, for less noise than in training."""
        found = {}
        for curve in COLOURS:
            for i in range(1, len(STYLES) + 1):
                chosen = [row for row in _chosen(rows, curve, f"bias_{i}") if row["sigma"] < self.sigma]
                logs = [[np.log(row[name]) for row in chosen] for name in ("sigma", "value")]
                if len(chosen) > 1:
                    found[f"{curve}, slope of bias_{i}"] = float(np.polyfit(*logs, 1)[0])
        return found


def _single(curve: Curve, sigma: float) -> dfc.StrongDFC:
    """The single phase of the figure of noise."""
    method = Noise().method(curve, sigma)
    assert isinstance(method, dfc.StrongDFC)
    return method


def _learned(weak: dfc.StrongDFC, model: dfc.Network, x: Any, y: Any) -> dict[str, float]:
    """Whether output weights and feedback agree, and what hidden layers would learn without noise."""
    hidden, gradient = signal(weak, model, x, y)[:-1], dfc.Backprop(weak.loss)(model, x, y)[0].layers[:-1]
    feedback = model.feedback.every_matrix(model.layers, None)[-2]
    return {
        "cosine_of_weights": cosine(model.layers[-1].transform.weight, feedback.T),
        "angle_of_hidden_signal": angle(hidden, gradient),
    }


def _row(
    curve: str, seed: int, sigma: float, epoch: int | None, measure: str, value: float
) -> dict[str, Any]:
    return {"curve": curve, "seed": seed, "sigma": sigma, "epoch": epoch, "measure": measure, "value": value}


def _chosen(rows: Rows, curve: str, measure: str) -> Rows:
    return [row for row in rows if (row["curve"], row["measure"]) == (curve, measure)]
