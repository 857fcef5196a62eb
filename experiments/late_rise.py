"""Why the train loss rises late under learned feedback: `python experiments/late_rise.py --help`.

    python experiments/late_rise.py                      digits, to try it: minutes, and nothing rises
    python experiments/late_rise.py --dataset mnist      about two hours on two cores

Trains networks by DFC-SS with learned feedback and the hyperparameters of the NeurIPS paper's Table 1, MNIST
(sleep by the mean over the noise, a quarter of an epoch before each). From there it goes on in several ways:
with other feedback, or with another nudge, gain in sleep or optimiser. Where all training samples' update
points is measured in between and, where the feedback does not learn, how samples' errors act on each other
and what their losses would come to by that. Every branch has a folder of its own; then come
`late_rise.md`, `late_rise.json`, `late_rise.png` and `foretold.png`. After an interruption the same command
goes on from the newest epoch. The exit status is 1 where a seed diverged or is in doubt.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import options.needed  # noqa: F401
from jaxtyping import Float
from neurips2021.presets import paper
from options.checks import check_each_once, check_seeds
from options.config import Config
from options.groups import Feedback
from options.objects import make_feedback_learning, make_method, make_model, steps_of
from options.script import outermost, parse, resumable
from report.curves import drawn, read_curves
from report.doubts import judge, remark
from report.finished import read_json
from weight_transport.branches import (
    angles_of_all,
    between_inverse_and_transpose as between,
    Branch,
    BRANCHES,
    rate_of_descent,
    SAMPLES,
)
from weight_transport.branches_picture import plot_branches, plot_foretold
from weight_transport.branches_table import seen, table
from weight_transport.foretelling import choose, foretell, OutputError, SETTLED

import dfc_jax as dfc
from dfc_jax._checks import check_count
from dfc_jax._runs.files import write_whole
from dfc_jax._runs.folder import first_difference


START, ANGLES, FORETOLD = "start", "angles.json", "foretold.json"  # what all go on from; files of each branch
SLEPT = "slept.json"  # a file of the former
LOSS, LOGIT = dfc.CrossEntropy(), "largest_mean_logit"


@dataclasses.dataclass(frozen=True)
class Options:
    """What is trained, and how long."""

    dataset: Literal["digits", "mnist"] = "digits"
    """digits needs no download."""
    start: int = 20
    """Epochs with learned feedback that all branches have in common."""
    epochs: int = 40
    """Of every branch after those."""
    branches: tuple[str, ...] = tuple(BRANCHES)
    """How to go on."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seeds initialisation and order of samples."""
    out: pathlib.Path = pathlib.Path("runs/late-rise")
    """Folder for the runs, the table and the picture."""
    progress: bool = True
    """Show progress bars."""

    def check(self) -> None:
        """Raise `ValueError` in one sentence for what cannot be run."""
        for name in ("start", "epochs"):
            check_count(name, getattr(self, name))
        check_seeds("seeds", *self.seeds)
        for name in ("branches", "seeds"):
            check_each_once(name, getattr(self, name))
        for name in self.branches:
            if name not in BRANCHES:
                raise ValueError(f"`branches` holds {name!r}; they are {', '.join(BRANCHES)}.")

    def asked(self, name: str) -> dict[str, Any]:
        """What a folder says of its run."""
        given = {k: v for k, v in self.given().items() if k not in ("start", "epochs")}
        epochs = {"epochs": self.start} if name == START else {"start": self.start, "epochs": self.epochs}
        return {"branch": name} | given | epochs

    def given(self) -> dict[str, Any]:
        """What makes the runs what they are."""
        of_this_call = ("out", "progress", "branches")
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in of_this_call}

    def config(self) -> Config:
        """The options of `run.py` for the epochs in common."""
        sleep = Feedback(update="expected", pretraining_epochs=2.0, sleep_epochs=0.25)
        given = Config("mnist", method=("dfc-ss",), preset="paper", epochs=self.start)
        config = paper(dataclasses.replace(given, feedback_learning=sleep), "dfc-ss")
        return dataclasses.replace(config, dataset=self.dataset, preset=None).resolved()


def is_finished(options: Options, name: str) -> bool:
    """Whether a folder holds the end of a run of these options."""
    folder = options.out / name
    if not (folder / "summary.json").exists():
        return False
    return first_difference(read_json(folder / "config.json")["config"], options.asked(name)) is None


def fit(
    options: Options, name: str, branch: Branch, models: Sequence[dfc.Network], data: dfc.Dataset
) -> list[dfc.Network]:
    """The networks after the epochs of one folder, which go on where they were left.

    **Raises:** `ValueError` if the folder holds a run with other options.
    """
    config, path = branch.changed(options.config()), options.out / name
    epochs = options.start if name == START else options.epochs
    steps = steps_of(dataclasses.replace(config, epochs=epochs), data)
    learning = make_feedback_learning(config, "dfc-ss", LOSS, steps)
    if name != START:
        learning = dataclasses.replace(learning, pretraining_epochs=0)
    folder = dfc.RunFolder.reopen(path, options.asked(name), may_differ=())
    found = dfc.fit_many(
        models,
        make_method(config, "dfc-ss", LOSS),
        data,
        branch.optimiser(config.optimiser, steps),
        epochs=epochs,
        keys=[jax.random.fold_in(jax.random.key(seed), 1 if name == START else 2) for seed in options.seeds],
        batch_size=config.batch_size,
        feedback_learning=learning if branch.learns else None,
        metrics={LOGIT: lambda _, outputs: float(np.max(np.abs(np.mean(outputs, axis=0))))},
        on_epoch=lambda position, record, _: folder.append(options.seeds[position], record),
        progress=options.progress,
        resume=folder.checkpoints,
    )
    histories = {seed: history for seed, (_, history) in zip(options.seeds, found, strict=True)}
    folder.finish(histories, "test_accuracy")
    return [model for model, _ in found]


def go_on(options: Options, name: str, models: Sequence[dfc.Network], data: dfc.Dataset) -> None:
    """One branch, and in its folder the angles between all training samples' update and their gradient, and
    where the feedback does not learn, what the losses would come to from start and end."""
    branch, folder = BRANCHES[name], options.out / name
    files = (ANGLES,) if branch.learns else (ANGLES, FORETOLD)
    finished = is_finished(options, name)
    missing = [file for file in files if not (finished and (folder / file).exists())]
    if not missing:
        return
    x = jnp.asarray(data.train.x)
    models = [dfc.Network(model.layers, branch.feedback(model, x)) for model in models]
    if not finished:
        fit(options, name, branch, models, data)
    if ANGLES in missing:
        method = make_method(options.config(), "dfc-ss", LOSS)
        found = [angles_of_all(model, method, data.train) for model in models]
        _note(
            folder / ANGLES,
            {
                "network": [float(each.network) for each in found],
                "layers": [[float(layer) for layer in each.layers] for each in found],
            },
        )
    if FORETOLD in missing:
        ends = dfc.load_run(folder).models.values()
        _note(
            folder / FORETOLD,
            {
                "start": _foretold(options, models, data, 3, options.epochs),
                "end": _foretold(options, ends, data, 4, SETTLED),
            },
        )


def _foretold(
    options: Options, models: Iterable[dfc.Network], data: dfc.Dataset, stream: int, epochs: int
) -> list[dict[str, list[float]]]:
    """Of each network, by descent along its updates: what Adam comes to at small ones."""
    config = options.config()
    method = make_method(config, "dfc-ss", OutputError())
    steps = steps_of(dataclasses.replace(config, epochs=1), data)
    rate = steps * rate_of_descent(config.optimiser)
    found = []
    for seed, model in zip(options.seeds, models, strict=True):
        chosen = choose(model, data.train, jax.random.fold_in(jax.random.key(seed), stream))
        found.append(foretell(model, method, chosen, rate, epochs))
    return found


def _note(file: pathlib.Path, found: dict[str, Any]) -> None:
    write_whole(file, f"{json.dumps(found, indent=2)}\n".encode())


def look_at_sleep(options: Options, models: Sequence[dfc.Network], data: dfc.Dataset) -> None:
    """To the folder that all branches go on from: where between pseudo-inverse and transposed Jacobian sleep
    has left the feedback."""
    file = options.out / START / SLEPT
    if not file.exists():
        x = jnp.asarray(data.train.x[:SAMPLES])
        found = [
            between(model, x) | {"own": float(jnp.mean(dfc.condition_two(model, x)))} for model in models
        ]
        _note(file, found)


def collect(options: Options) -> dict[str, dict[str, Any]]:
    """The figures of every branch that is finished, a number for each seed that did not stop early: train
    loss and largest mean logit; the angles at its start, and what is to be known of its run."""
    found = {}
    begun = remark(read_json(options.out / START / "summary.json"))
    for name in BRANCHES:
        folder = options.out / name
        if not (folder / ANGLES).exists():
            continue
        curves, summary = read_curves(folder), read_json(folder / "summary.json")
        losses, logits = (
            _of_whole(curves, measure, options.epochs) for measure in ("train_loss", f"validation_{LOGIT}")
        )
        found[name] = {
            "angles": read_json(folder / ANGLES),
            "first_train_loss": losses[:, 0].tolist(),
            "lowest_train_loss": np.min(losses, axis=1).tolist(),
            "last_train_loss": losses[:, -1].tolist(),
            LOGIT: logits[:, -1].tolist(),
        }
        if (folder / FORETOLD).exists():
            found[name]["foretold"] = read_json(folder / FORETOLD) | seen(
                curves, options.seeds, options.epochs
            )
        said = [f"before: {begun}"] if begun else []
        said += [now] if (now := remark(summary)) else []
        found[name] |= {"remark": "; ".join(said)} if said else {}
    return found


def _of_whole(curves: dict[str, np.ndarray], measure: str, epochs: int) -> Float[np.ndarray, "seeds epochs"]:
    """A curve of the seeds that reached the last epoch."""
    values = curves.get(measure, np.empty((0, 0)))
    return values[np.isfinite(values[:, -1])] if values.shape[1] == epochs else np.empty((0, epochs))


def write(options: Options, rows: dict[str, dict[str, Any]]) -> None:
    """`late_rise.json`, `late_rise.md`, `late_rise.png` and, of the branches whose feedback does not learn,
    `foretold.png`."""
    note = {"options": options.given(), "environment": dfc.environment(), "rows": rows}
    (options.out / "late_rise.json").write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    lines = table(options.given(), rows, read_json(options.out / START / SLEPT))
    (options.out / "late_rise.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    told = {name: row["foretold"]["start"] for name, row in rows.items() if "foretold" in row}
    drawn("foretold.png", plot_foretold, options.out, options.seeds, told, options.out / "foretold.png")
    drawn("late_rise.png", plot_branches, options.out, START, list(rows), options.out / "late_rise.png")


@outermost
def main(options: Options) -> int:
    """Run what is missing and write the results; returns the exit status."""
    options = dataclasses.replace(options, out=pathlib.Path(options.out))
    options.check()
    data = dfc.load(options.dataset)
    with resumable():
        if is_finished(options, START):
            models = list(dfc.load_run(options.out / START).models.values())
        else:
            new = [make_model(options.config(), "dfc-ss", data, seed) for seed in options.seeds]
            models = fit(options, START, BRANCHES["learned"], new, data)
        look_at_sleep(options, models, data)
        for name in options.branches:
            go_on(options, name, models, data)
        write(options, collect(options))
    print((options.out / "late_rise.md").read_text(encoding="utf-8"))
    names = (START, *options.branches)
    return judge({name: read_json(options.out / name / "summary.json") for name in names})


@outermost
def command(arguments: Sequence[str] | None = None) -> int:
    """The whole command; returns the exit status."""
    return main(parse(Options, arguments, __doc__))


if __name__ == "__main__":
    sys.exit(command())
