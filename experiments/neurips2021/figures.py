"""The figures by their names on the command line: their options, tables, pictures and facts."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from neurips2021 import plots, toy
from neurips2021.toy_presets import (
    AlignmentTask,
    FIGURE_1D,
    FIGURE_3,
    FIGURE_3_DFA,
    Kind,
    Pipeline,
    PIPELINES,
    Sweep,
    SWEEPS,
    Toy,
)
from options.config import Method
from options.groups import Sleep
from report.figure import Common, Curves, Rows
from report.spread import spread


@dataclasses.dataclass(frozen=True)
class Figure1D(Common):
    """Figure 1D: a controlled output and its control in time."""

    samples: int = 3
    pretraining_epochs: int = FIGURE_1D.epochs_fb
    """Sleep epochs before the simulation."""

    name = "figure-1d"

    def configuration(self) -> Toy:
        return dataclasses.replace(FIGURE_1D, epochs_fb=self.pretraining_epochs, random_seed=self.seed)

    def compute(self, curves: Curves) -> Rows:
        return curves("all", lambda: toy.control_of_samples(self.configuration(), self.samples))

    def draw(self, rows: Rows) -> Figure:
        return plots.draw_1d(rows)

    def facts(self, rows: Rows) -> dict[str, Any]:
        last = [[row for row in rows if row["sample"] == i][-1] for i in range(self.samples)]
        first = [next(row for row in rows if row["sample"] == i) for i in range(self.samples)]
        return {
            "alpha_u_over_error_at_the_end": [
                FIGURE_1D.alpha_di * row["control"] / row["error"] for row in last
            ],
            "error_left": [b["error"] / a["error"] for a, b in zip(first, last, strict=True)],
        }


@dataclasses.dataclass(frozen=True)
class Figure2(Common):
    """Figure 2: random stable feedback beside damped pseudo-inverses of the Jacobian."""

    number: int = 2000
    """How many random matrices."""

    name = "figure-2"

    def configuration(self) -> dict[str, Any]:
        return {
            "sizes": [5, 2, 2],
            "number": self.number,
            "dampings": "logspace(-5, 2, 100)",
            "seed": self.seed,
        }

    def compute(self, curves: Curves) -> Rows:
        return toy.feedback_in_two_components(self.seed, self.number, np.logspace(-5, 2, 100))

    def draw(self, rows: Rows) -> Figure:
        return plots.draw_2(rows)

    def facts(self, rows: Rows) -> dict[str, Any]:
        std = spread([(r["pc1"], r["pc2"]) for r in rows if r["kind"] == "random"], axis=0)
        points = {k: [(r["pc1"], r["pc2"]) for r in rows if r["kind"] == k] for k in ("damped", "transpose")}
        damped = np.array(points["damped"])
        return {
            "std_of_random_feedback": std.tolist(),
            "length_of_the_damped_path": float(np.sum(np.linalg.norm(np.diff(damped, axis=0), axis=1))),
            "first_damped": damped[0].tolist(),
            "transpose": list(points["transpose"][0]),
        }


COLUMNS_3 = {
    "condition_two": "condition_two",
    "condition_one": "condition_one",
    "A_PI_mean": "largest_real_part",
    "largest_real_part": "largest_real_part_of_all_samples",
    "angle_to_published_minimum_norm": "angle_mn",
    "angle_to_gauss_newton": "angle_gn",
    "angle_to_dfc_ssa": "angle_ssa",
    "train_loss": "train_loss",
    "test_loss": "test_loss",
}


@dataclasses.dataclass(frozen=True)
class Training(Common):
    """Options of the figures that train the toy network."""

    epochs: int = FIGURE_3.epochs
    pretraining_epochs: int = FIGURE_3.epochs_fb
    """Sleep epochs before the first wake epoch."""
    sleep_epochs: int = 1 + FIGURE_3.extra_fb_epochs
    """Sleep epochs for every wake epoch."""
    sleep: Sleep = "simulated"
    """One draw of the noise, as published, or its mean over all draws."""
    samples: int = 128
    """Validation samples of the measurements."""

    def configuration(self) -> Toy:
        return self._of(FIGURE_3)

    def _of(self, published: Toy) -> Toy:
        return dataclasses.replace(
            published,
            epochs=self.epochs,
            epochs_fb=self.pretraining_epochs,
            extra_fb_epochs=self.sleep_epochs - 1,
            random_seed=self.seed,
        )

    def _train(self, curves: Curves, published: Toy, method: Method, feedback: Kind) -> Rows:
        chosen = (self._of(published), method, feedback, self.sleep, self.samples, self.progress)
        return curves(f"{method}-{feedback}", lambda: toy.train(*chosen))


@dataclasses.dataclass(frozen=True)
class Figure3(Training):
    """Figure 3: conditions, stability and alignment over training."""

    name = "figure-3"

    def compute(self, curves: Curves) -> Rows:
        runs = [(method, kind) for kind in ("learned", "fixed") for method in toy.METHODS]
        rows = []
        for method, kind in (*runs, ("dfa", "fixed")):
            published = FIGURE_3_DFA if method == "dfa" else FIGURE_3
            for found in self._train(curves, published, method, kind):
                row = {name: found[name] for name in ("method", "feedback", "epoch")}
                rows.append(row | {new: found.get(old) for old, new in COLUMNS_3.items()})
        return rows

    def draw(self, rows: Rows) -> Figure:
        return plots.draw_3(rows)

    def facts(self, rows: Rows) -> dict[str, Any]:
        facts = {}
        for method, kind in dict.fromkeys((row["method"], row["feedback"]) for row in rows):
            chosen = [row for row in rows if (row["method"], row["feedback"]) == (method, kind)]
            facts[f"{method}, {kind}"] = {
                name: {"mean": np.mean(v), "min": np.min(v), "max": np.max(v), "last": v[-1]}
                for name in COLUMNS_3.values()
                if (v := [row[name] for row in chosen if row[name] is not None])
            }
        return facts


@dataclasses.dataclass(frozen=True)
class FigureS1(Training):
    """Figure S1: eigenvalues of the loop and norms of the rates over DFC's training."""

    name = "figure-s1"

    def compute(self, curves: Curves) -> Rows:
        measured = [*toy.MATRICES, "norm_mean", "norm_input", "norm_layer_1", "norm_layer_2"]
        names = [f"{name}_{statistic}" for name in measured for statistic in ("mean", "std")]
        return [
            {name: found[name] for name in ("method", "feedback", "epoch", *names)}
            for kind in ("learned", "fixed")
            for found in self._train(curves, FIGURE_3, "dfc", kind)
        ]

    def draw(self, rows: Rows) -> Figure:
        return plots.draw_s1(rows)

    def facts(self, rows: Rows) -> dict[str, Any]:
        return {
            f"{name}, {kind}": {
                "largest": max(row[f"{name}_mean"] for row in rows if row["feedback"] == kind),
                "smallest": min(row[f"{name}_mean"] for row in rows if row["feedback"] == kind),
            }
            for name in (*toy.MATRICES, "norm_input", "norm_layer_1", "norm_layer_2")
            for kind in ("learned", "fixed")
        }


@dataclasses.dataclass(frozen=True)
class Pretraining(Common):
    """Figures S2 to S4: where feedback pre-training drives the feedback weights."""

    pretraining_epochs: int = SWEEPS["s2"].base.epochs_fb
    samples: int = 128
    """Validation samples of the measurements."""

    name: ClassVar[str]

    def configuration(self) -> Sweep:
        sweep = SWEEPS[self.name.removeprefix("figure-")]
        base = dataclasses.replace(sweep.base, epochs_fb=self.pretraining_epochs, random_seed=self.seed)
        return dataclasses.replace(sweep, base=base)

    def compute(self, curves: Curves) -> Rows:
        return toy.sweep_pretraining(self.configuration(), self.samples, self.progress, curves)

    def draw(self, rows: Rows) -> Figure:
        return plots.draw_sweep(rows, self.configuration().flag)

    def facts(self, rows: Rows) -> dict[str, Any]:
        last = max(row["iteration"] for row in rows)
        return {f"{r['activation']}, {r['value']:g}": r for r in rows if r["iteration"] == last}


class FigureS2(Pretraining):
    """Figure S2: feedback pre-training against references of several dampings."""

    name = "figure-s2"


class FigureS3(Pretraining):
    """Figure S3: feedback pre-training with several leaks of its controller."""

    name = "figure-s3"


class FigureS4(Pretraining):
    """Figure S4: feedback pre-training with several proportional gains of its controller."""

    name = "figure-s4"


@dataclasses.dataclass(frozen=True)
class Alignment(Common):
    """Figures S5 to S12: layer-wise alignment with Table 1's hyperparameters (image data: see README.md)."""

    task: AlignmentTask = "mnist"
    feedback: Kind = "learned"
    epochs: int | None = None
    """By default the paper's: 100, the autoencoder's 25."""
    samples: int = 128
    """Validation samples of the measurements."""

    @property
    def name(self) -> str:
        return f"alignment-{self.task}-{self.feedback}"

    def configuration(self) -> Pipeline:
        return PIPELINES[self.task, self.feedback]

    def compute(self, curves: Curves) -> Rows:
        chosen = (self.task, self.feedback, self.epochs, self.seed, self.samples, self.progress)
        found = toy.alignment(*chosen, curves)
        return [self._row(record) for record in found]

    def _row(self, record: dict[str, Any]) -> dict[str, Any]:
        row = {name: record[name] for name in ("method", "feedback", "epoch", "train_loss", "test_loss")}
        for short, name in (("mn", "published_minimum_norm"), ("bp", "backprop"), ("ssa", "dfc_ssa")):
            layers = record.get(f"angle_to_{name}_by_layer") or [None] * len(
                record["angle_to_backprop_by_layer"]
            )
            row |= {f"angle_{short}_layer_{i}": angle for i, angle in enumerate(layers, 1)}
        row |= {
            name: record.get(old)
            for name, old in (
                ("condition_two", "condition_two"),
                ("angle_of_feedback_to_transpose", "angle_of_feedback_to_transposed_jacobian"),
                ("angle_of_feedback_to_pseudo_inverse", "angle_of_feedback_to_pseudo_inverse"),
                ("converged", "converged"),
            )
        }
        return row

    def draw(self, rows: Rows) -> Figure:
        return plots.draw_alignment(rows)

    def facts(self, rows: Rows) -> dict[str, Any]:
        return {row["method"]: row for row in rows}  # the last epoch's


FIGURES = {
    "1d": Figure1D,
    "2": Figure2,
    "3": Figure3,
    "s1": FigureS1,
    "s2": FigureS2,
    "s3": FigureS3,
    "s4": FigureS4,
    "alignment": Alignment,
}

Options = Figure1D | Figure2 | Figure3 | FigureS1 | FigureS2 | FigureS3 | FigureS4 | Alignment
