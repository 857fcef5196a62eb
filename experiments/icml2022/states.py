"""Why the true steady state of strong feedback teaches worse than a state on the way to it.

In a network that learns at rest, the updates of the same samples by every one of `RULES` are measured.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from icml2022.updates import measure, Measured
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from options.config import Config, Method
from options.groups import Feedback, Optimiser, Schedule, Solver
from options.objects import make_feedback_learning, make_method, make_model, make_optimiser, steps_of
from report.figure import Common, Curves, Rows, tidied
from report.pictures import plt

import dfc_jax as dfc


REST, EXACT, LEAKY, AFTER, WEAK, BACKPROP = RULES = (
    "at rest",
    "at rest, exact feedback",
    "at rest, leak 0.4",
    "after half a tau_u",
    "DFC-SS",
    "backprop",
)
REGRESSION = "backprop of log-probabilities"
COLOURS = {
    REST: "#882255",
    EXACT: "#CC79A7",
    LEAKY: "#56B4E9",
    AFTER: "#E69F00",
    WEAK: "#0072B2",
    BACKPROP: "#333333",
    REGRESSION: "#009E73",
}
TRAINERS = REST, LEAKY, REGRESSION
STRONG: Method = "strong-dfc-2phase"
PUBLISHED = Solver("published", duration=0.5, dt=0.005, tau_v=0.0355)  # after half a tau_u
# 1 / (k_p + T): until T the control is about (k_p + T) e, as that of a controller with this leak is.
LEAK = 0.4
BATCH = 128
MEASURES = {
    "signal": "part of a batch's squared\nupdate that all share",
    "confident": "part of the updates from\nsamples with p > 0.99",
    "largest": "part of the updates from\nthe 5 % largest",
    "angle_to_after": "to the update after\nhalf a tau_u (degrees)",
}


class LogProbabilities(dfc.CrossEntropy):
    """Half the squared distance of the logits, up to a common shift, from those of the clamped target."""

    class_value: float = 0.99

    def __call__(self, output: Float[Array, " out"], y: Float[Array, " out"]) -> Float[Array, ""]:
        return jnp.sum(self.gradient(output, y) ** 2) / 2

    def gradient(self, output: Float[Array, " out"], y: Float[Array, " out"]) -> Float[Array, " out"]:
        target = self.class_value * y + (1 - self.class_value) * (1 - y) / (y.size - 1)
        gap = output - jnp.log(target)
        return gap - jnp.mean(gap)


@dataclasses.dataclass(frozen=True)
class States(Common):
    """Updates at rest, with a small and a large leak, and on the way there, over a training at rest."""

    dataset: Literal["digits", "mnist", "fashion_mnist"] = "digits"
    epochs: int = 5
    schedule: Schedule = "cosine"
    """Of the learning rate. With cosine it falls to zero, so that what an update still says at the end is
    none of its swings about a minimum."""
    seed: int = 0
    """That of network and order of samples; by default the first of the runs in results/strong."""
    samples: int = 1024
    """Training samples of the measurements, whole batches of 128."""

    name = "strong-states"

    def check(self) -> None:
        super().check()
        if self.samples < 2 * BATCH:
            raise ValueError(f"`samples` is {self.samples}; two batches have {2 * BATCH}.")

    def config(self) -> Config:
        """That of the runs in results/strong: feedback learned from the expected sleep update."""
        config = Config(self.dataset, method=(STRONG,), epochs=self.epochs, seeds=(self.seed,))
        learning = Feedback(update="expected", sleep_epochs=0.2, pretraining_epochs=0.5)
        optimiser = Optimiser(schedule=self.schedule)
        return dataclasses.replace(config, feedback_learning=learning, optimiser=optimiser).resolved()

    def rules(self) -> dict[str, dfc.AbstractMethod]:
        """The methods, those of `run.py` as it makes them."""
        config, loss = self.config(), dfc.CrossEntropy()
        rest = make_method(config, STRONG, loss)
        return {
            REST: rest,
            EXACT: rest,
            LEAKY: dataclasses.replace(rest, controller=dfc.PIController(config.controller.k_p, LEAK)),
            AFTER: make_method(dataclasses.replace(config, solver=PUBLISHED), STRONG, loss),
            WEAK: make_method(config, "dfc-ss", loss),
            BACKPROP: make_method(config, "bp", loss),
            REGRESSION: make_method(config, "bp", LogProbabilities()),
        }

    def configuration(self) -> dict[str, Any]:
        config = self.config()
        return {
            "hidden": config.hidden,
            "optimiser": dataclasses.asdict(config.optimiser),
            "feedback_learning": dataclasses.asdict(config.feedback_learning),
            **{name: " ".join(repr(rule).split()) for name, rule in self.rules().items()},
        }

    def compute(self, curves: Curves) -> Rows:
        data = dfc.load(self.dataset)
        found = (curves(name, functools.partial(self._rows, data, name)) for name in TRAINERS)
        return [row for rows in found for row in rows]

    def _rows(self, data: dfc.Dataset, trainer: str) -> Rows:
        """Of the network that one rule trains: every rule's where it learns at rest, else its own."""
        rules, rows = self.rules(), []
        x, y = _batches(data.train, self.samples, self.seed)
        measured = RULES if trainer == REST else (trainer,)

        def after(epoch: int, accuracy: float | None, model: dfc.Network) -> None:
            if epoch not in self._measured():
                return
            updates = {rule: measure(rules[rule], fed_back(model, rule), x, y) for rule in measured}
            for rule in measured:
                row = {"trained": trainer, "rule": rule, "epoch": epoch, "test_accuracy": accuracy}
                rows.append(row | updates[rule].numbers | _angles(updates, rule))

        self._learn(data, trainer, rules[trainer], after)
        return rows

    def _measured(self) -> set[int]:
        """The epochs after which the network is measured: none, one, those in the middle, and all."""
        return {0, 1, (self.epochs + 1) // 2, self.epochs}

    def _learn(self, data: dfc.Dataset, trainer: str, rule: dfc.AbstractMethod, after: Any) -> None:
        """Train; `after` hears of the network before the first epoch and after each."""
        config, steps = self.config(), steps_of(self.config(), data)
        model = fed_back(make_model(config, STRONG, data, self.seed), trainer)
        key, learning = jax.random.fold_in(jax.random.key(self.seed), 1), None
        if trainer != REGRESSION:
            learning = make_feedback_learning(config, STRONG, dfc.CrossEntropy(), steps)
            model = dfc.pretrain_feedback(model, learning, data, key=key, progress=self.progress)
            learning = dataclasses.replace(learning, pretraining_epochs=0)
        after(0, None, model)
        dfc.fit(
            model,
            rule,
            data,
            make_optimiser(config.optimiser, steps),
            epochs=self.epochs,
            key=key,
            feedback_learning=learning,
            on_epoch=lambda record, model: after(record["epoch"], record["test_accuracy"], model),
            progress=self.progress,
        )

    def draw(self, rows: Rows) -> Figure:
        figure, axes = plt.subplots(2, 3, figsize=(11, 6.2), layout="constrained")
        _draw_accuracy(axes[0, 0], rows)
        for name, ax in zip(MEASURES, axes.flat[1:], strict=False):
            for rule in RULES:
                _line(ax, rows, REST, rule, name)
            ax.set(ylabel=MEASURES[name], ylim=(min(0, ax.get_ylim()[0]), None))
        _draw_saturated(axes[1, 2], rows)
        for ax in axes.flat:
            ax.set_xlabel("epoch")
            ax.xaxis.get_major_locator().set_params(integer=True)
        labelled = {line.get_label(): line for ax in axes.flat[:2] for line in ax.lines}
        figure.legend(handles=list(labelled.values()), loc="outside lower center", ncols=3, frameon=False)
        return tidied(figure)

    def facts(self, rows: Rows) -> dict[str, Any]:
        return {
            f"trained {row['trained']}, epoch {row['epoch']}, {row['rule']}": {
                name: round(value, 4) for name, value in row.items() if isinstance(value, float)
            }
            for row in rows
        }


def fed_back(model: dfc.Network, rule: str) -> dfc.Network:
    """The network with the feedback under which `rule` teaches it: the transposed Jacobian, or its own."""
    return dataclasses.replace(model, feedback=dfc.ExactFeedback()) if rule == EXACT else model


def _batches(split: dfc.Split, samples: int, seed: int) -> tuple[Array, Array]:
    """Samples drawn at random, in whole batches."""
    batches = min(samples, len(split)) // BATCH
    order = np.random.default_rng(seed).permutation(len(split))[: batches * BATCH]
    shaped = lambda array: jnp.asarray(array[order]).reshape(batches, BATCH, *array.shape[1:])
    return shaped(split.x), shaped(split.y)


def _angles(updates: dict[str, Measured], rule: str) -> dict[str, float | None]:
    """Degrees from the update of `rule` to those of others, where they are measured."""
    found = {}
    for name, reference in (("backprop", BACKPROP), ("rest", REST), ("after", AFTER)):
        others = len(updates) > 1
        angles = dfc.update_angles(updates[rule].update, updates[reference].update) if others else None
        found[f"angle_to_{name}"] = float(angles.network) if angles else None
        for i in range(len(updates[rule].update.layers)):
            found[f"angle_to_{name}_layer_{i + 1}"] = float(angles.layers[i]) if angles else None
    return found


def _line(
    ax: Axes, rows: Rows, trainer: str, rule: str, name: str, style: str = "-", factor: float = 1
) -> None:
    chosen = [row for row in rows if (row["trained"], row["rule"]) == (trainer, rule)]
    points = [(row["epoch"], factor * row[name]) for row in chosen if row[name] is not None]
    ax.plot(*zip(*points, strict=True), style, color=COLOURS[rule], marker=".", label=rule)


def _draw_accuracy(ax: Axes, rows: Rows) -> None:
    for trainer in TRAINERS:
        _line(ax, rows, trainer, trainer, "test_accuracy", factor=100)
    ax.set_ylabel("test accuracy of the network\nthat learns so (%)")


def _draw_saturated(ax: Axes, rows: Rows) -> None:
    for trainer in TRAINERS:
        _line(ax, rows, trainer, trainer, "saturated_layer_1")
    for rule in (REST, AFTER):
        _line(ax, rows, REST, rule, "saturated_controlled_layer_1", ":")
    ax.set(ylabel="saturated part of layer 1\n(dotted: under control)", ylim=(0, None))
