"""Figures of Strong-DFC: what the single phase learns, and what noise does to weak and strong feedback."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from report.figure import Common, Curves, Rows, tidied
from report.pictures import plt

import dfc_jax as dfc
from dfc_jax._bar import progress_bar


TAU_NOISE = 0.05
VARIANTS = {  # of the single phase: where it starts, whether feedback learns, colour
    "from the steady state": (dfc.Broyden(), True, "#882255"),
    "from the feedforward state": (None, True, "#56B4E9"),
    "from the steady state, random feedback kept": (dfc.Broyden(), False, "#666666"),
}

MEASURES = {
    "condition_two": "Condition 2",
    "angle_of_feedback_to_transposed_jacobian": r"angle of $Q$ to $J^T$ (degrees)",
    "surrogate_loss": r"surrogate loss $H$",
    "test_loss": "test loss",
}


@dataclasses.dataclass(frozen=True)
class SinglePhase(Common):
    """Single-phase Strong-DFC on the student-teacher task, from random feedback."""

    epochs: int = 30
    seeds: int = 3
    """How many seeds, from --seed on."""
    sigma: float = 0.1
    """Size of the noise."""
    samples: int = 128
    """Validation samples of the measurements."""

    name = "single-phase"

    def configuration(self) -> dict[str, Any]:
        return {
            "task": "student-teacher, standardised targets",
            "sizes": [15, 10, 10, 5],
            "method": repr(self._method(None)),
            "forward": "Adam, lr 3e-3",
            "feedback": "Adam, lr 2e-3, weight decay 0.1, no pre-training",
        }

    def compute(self, curves: Curves) -> Rows:
        rows = []
        for variant, (start, learns, _) in VARIANTS.items():
            found = curves(variant, functools.partial(self._train, start, learns))
            rows += [{"variant": variant} | row for row in found]
        return rows

    def _method(self, start: dfc.AbstractEquilibrium | None) -> dfc.StrongDFC:
        return dfc.StrongDFC(
            dfc.PIController(2.0, 1e-3),
            dfc.Clamp(),
            dfc.MeanSquaredError(),
            dfc.FilteredNoise(self.sigma, TAU_NOISE),
            tau_v=0.01,
            tau_filter=0.25,
            scheme=dfc.PublishedEuler(0.002, 250),
            start=start,
        )

    def _train(self, start: dfc.AbstractEquilibrium | None, learns: bool) -> Rows:
        seeds = range(self.seed, self.seed + self.seeds)
        optimiser = optax.chain(optax.add_decayed_weights(0.1), optax.adam(2e-3))
        learning = dfc.FeedbackLearning(optimiser, pretraining_epochs=0, epochs_per_wake_epoch=0)
        rows = []
        dfc.fit_many(
            [new_network((15, 10, 10, 5), seed) for seed in seeds],
            self._method(start),
            standardised(dfc.student_teacher(seed=self.seed)),
            optax.adam(3e-3),
            epochs=self.epochs,
            keys=[jax.random.fold_in(jax.random.key(seed), 1) for seed in seeds],
            feedback_learning=learning if learns else None,
            diagnostics=dfc.Diagnostics(1, self.samples),
            on_epoch=lambda i, record, _: rows.append({"seed": seeds[i]} | _measured(record)),
            progress=self.progress,
        )
        return rows

    def draw(self, rows: Rows) -> Figure:
        figure, axes = plt.subplots(2, 2, figsize=(8, 5.6), sharex=True, layout="constrained")
        for (measure, label), ax in zip(MEASURES.items(), axes.flat, strict=True):
            for variant, (_, _, colour) in VARIANTS.items():
                draw_curve(
                    ax, [row for row in rows if row["variant"] == variant], "epoch", measure, colour, variant
                )
            ax.set_ylabel(label)
        axes[0, 0].axhline(0.8, color="black", linewidth=0.8, linestyle=":")
        axes[1, 0].set_yscale("log")
        return finished(figure, axes[-1], "epoch")

    def facts(self, rows: Rows) -> dict[str, Any]:
        last = [row for row in rows if row["epoch"] == self.epochs]
        return {
            variant: {
                name: np.mean([row[name] for row in last if row["variant"] == variant])
                for name in (*MEASURES, "converged")
            }
            for variant in VARIANTS
        }


def _measured(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("epoch", *MEASURES, "converged")}


def standardised(data: dfc.Dataset) -> dfc.Dataset:
    """Targets of mean 0 and standard deviation 1 over the training samples: the teacher's reach +-20."""
    mean, std = data.train.y.mean(axis=0), data.train.y.std(axis=0)
    scaled = (dfc.Split(s.x, (s.y - mean) / std) for s in (data.train, data.validation, data.test))
    return dfc.Dataset(data.name, *scaled, classification=False)


Curve = Literal["weak, average", "strong, average", "weak, single phase", "strong, single phase"]

CURVES: dict[Curve, tuple[str, str]] = {
    "weak, average": ("#0072B2", "--"),
    "strong, average": ("#882255", "--"),
    "weak, single phase": ("#0072B2", "-"),
    "strong, single phase": ("#882255", "-"),
}

NAMES = {
    "weak, average": "DFC",
    "strong, average": "DFC with strong feedback",
    "weak, single phase": "single phase with weak feedback",
    "strong, single phase": "Strong-DFC",
}


@dataclasses.dataclass(frozen=True)
class Noise(Common):
    """Test accuracy against the noise during learning, for weak and strong feedback."""

    dataset: Literal["digits", "mnist", "fashion_mnist"] = "digits"
    hidden: tuple[int, ...] = (64, 64)
    epochs: int = 20
    seeds: int = 3
    """How many seeds, from --seed on."""
    sigmas: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    """Sizes of the noise; its standard deviation is sigma / sqrt(2 tau_noise), 3.2 sigma."""

    name = "noise"

    def configuration(self) -> dict[str, Any]:
        methods = {NAMES[curve]: repr(self.method(curve, self.sigmas[0])) for curve in CURVES}
        return {
            "forward": "Adam, lr 3e-3",
            "feedback": "learned, Adam, lr 5e-3 and, in one phase, 5e-5",
            **methods,
        }

    def compute(self, curves: Curves) -> Rows:
        data = dfc.load(self.dataset)
        runs = [(curve, sigma) for curve in CURVES for sigma in self.sigmas]
        rows = []
        for curve, sigma in progress_bar(runs, progress=self.progress):
            std = sigma / np.sqrt(2 * TAU_NOISE)
            found = curves(f"{curve}, {sigma:g}", functools.partial(self._train, data, curve, sigma))
            rows += [{"curve": curve, "sigma": sigma, "noise_std": std} | row for row in found]
        return rows

    def method(self, curve: Curve, sigma: float) -> dfc.AbstractMethod:
        """The method of a curve under noise of this size."""
        controller, noise = dfc.PIController(2.0, 1e-3), dfc.FilteredNoise(sigma, TAU_NOISE)
        target = dfc.Clamp(0.99) if curve.startswith("strong") else dfc.Nudge(0.1)
        if curve.endswith("average"):
            average = dfc.PublishedAverage(dfc.PublishedEuler(0.01, 500))
            return dfc.DFC(controller, target, tau_v=0.1, average=average, noise=noise)
        scheme = dfc.PublishedEuler(0.004, 128)
        options = {"tau_v": 0.02, "tau_filter": 0.25, "scheme": scheme, "start": dfc.Broyden()}
        return dfc.StrongDFC(controller, target, noise=noise, **options)

    def _train(self, data: dfc.Dataset, curve: Curve, sigma: float) -> Rows:
        seeds = range(self.seed, self.seed + self.seeds)
        sizes = (data.input_size, *self.hidden, data.output_size)
        found = dfc.fit_many(
            [new_network(sizes, seed) for seed in seeds],
            self.method(curve, sigma),
            data,
            optax.adam(3e-3),
            epochs=self.epochs,
            keys=[jax.random.fold_in(jax.random.key(seed), 1) for seed in seeds],
            feedback_learning=feedback_learning(curve.endswith("average")),
            progress=False,
        )
        last = [history.records[-1] for _, history in found]
        return [
            {"seed": seed, "test_accuracy": record["test_accuracy"], "converged": record["converged"]}
            for seed, record in zip(seeds, last, strict=True)
        ]

    def draw(self, rows: Rows) -> Figure:
        figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        for curve, (colour, style) in CURVES.items():
            chosen = [row | {"percent": 100 * row["test_accuracy"]} for row in rows if row["curve"] == curve]
            draw_curve(ax, chosen, "noise_std", "percent", colour, NAMES[curve], style)
        ax.set(xscale="log", ylabel="test accuracy (%)")
        return finished(figure, [ax], "standard deviation of the noise in the voltages")

    def facts(self, rows: Rows) -> dict[str, Any]:
        mean = lambda chosen: float(np.mean([row["test_accuracy"] for row in chosen]))
        return {
            f"{NAMES[curve]}, sigma {sigma:g}": mean(
                [row for row in rows if (row["curve"], row["sigma"]) == (curve, sigma)]
            )
            for curve in CURVES
            for sigma in self.sigmas
        }


def new_network(sizes: tuple[int, ...], seed: int) -> dfc.Network:
    """A new network with random feedback; training has the seed's next key."""
    key = jax.random.fold_in(jax.random.key(seed), 0)
    return dfc.mlp(sizes, key=key, feedback=dfc.RandomFeedback())


@functools.cache
def feedback_learning(two_phases: bool) -> dfc.FeedbackLearning:
    """Pre-trained feedback, learned on in sleep phases or in the single phase."""
    optimiser = lambda lr: optax.chain(optax.add_decayed_weights(0.01), optax.adam(lr))
    if two_phases:
        phase = dfc.ExpectedSleepPhase()
        return dfc.FeedbackLearning(optimiser(5e-3), phase, pretraining_epochs=10)
    rest = dfc.StrongDFC(
        dfc.PIController(0.1, 0.25),
        dfc.Rest(),
        noise=dfc.FilteredNoise(0.01, TAU_NOISE),
        tau_v=0.01,
        tau_filter=0.5,
        scheme=dfc.PublishedEuler(0.002, 50),
        start=None,
    )
    options = {"pretraining_epochs": 10, "epochs_per_wake_epoch": 0}
    return dfc.FeedbackLearning(optimiser(5e-5), dfc.HighPassPhase(rest), optimiser(5e-3), **options)


def draw_curve(ax: Axes, rows: Rows, x: str, y: str, colour: str, label: str, style: str = "-") -> None:
    """Mean over the seeds, and their range."""
    places = sorted({row[x] for row in rows})
    values = [[row[y] for row in rows if row[x] == place] for place in places]
    ax.plot(places, [np.mean(v) for v in values], color=colour, linestyle=style, label=label)
    ax.fill_between(
        places, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.2, linewidth=0
    )


def finished(figure: Figure, bottom: list[Axes], xlabel: str) -> Figure:
    for ax in bottom:
        ax.set_xlabel(xlabel)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return tidied(figure)
