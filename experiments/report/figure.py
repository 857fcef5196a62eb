"""What the figures of both papers share."""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from options.checks import check_seeds
from report.written import check_held

import dfc_jax as dfc
from dfc_jax._checks import check_count, check_number


Rows = list[dict[str, Any]]  # of a figure's table
COUNTS, PARTS = ("epochs", "samples", "seeds", "number"), ("pretraining_epochs", "sleep_epochs")


@dataclasses.dataclass(frozen=True)
class Common:
    """Options of every figure."""

    out: pathlib.Path = pathlib.Path("runs/figures")
    """Folder for the results; experiments/results/figures holds the published ones."""
    seed: int = 42
    """Seeds data, network, order of samples and noise; by default the published configurations' seed."""
    progress: bool = True
    """Show progress bars."""

    def check(self) -> None:
        """Raise `ValueError` in one sentence for a number that cannot be."""
        for name, value in dataclasses.asdict(self).items():
            if name in COUNTS and value is not None:
                check_count(name, value)
            if name in PARTS:
                check_number(name, value, minimum=0)
            if name in ("sigma", "sigmas"):
                for number in np.atleast_1d(value):
                    check_number(name, number, above=0)
        check_seeds("seed", self.seed, self.seed + getattr(self, "seeds", 1) - 1)

    def given(self) -> dict[str, Any]:
        """What makes the figure what it is."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in ("out", "progress")}


class Curves:
    """The curves of a figure, each kept from when it is there, so that the same command goes on after a stop.

    **Raises:** `ValueError` if the folder holds the figure with other options.
    """

    def __init__(self, path: pathlib.Path, options: Common) -> None:
        self.folder = path.with_name(f"{path.name}.curves")
        self.given = {"options": options.given(), "source": _source()}
        note = path.with_suffix(".json")
        if note.exists():
            held, now, defaults = _read(note).get("options", {}), options.given(), type(options)().given()
            check_held(note, held, _read_back(now), _read_back(defaults))

    def __call__(self, name: str, compute: Callable[[], Rows]) -> Rows:
        """The rows of one curve: those that are kept, if they are of the same options and source."""
        file = self.folder / f"{name}.json"
        if file.exists() and (kept := _read(file)).get("given") == _read_back(self.given):
            return kept["rows"]
        kept = {"given": self.given, "rows": compute()}
        self.folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(kept, default=plain), encoding="utf-8")
        part.replace(file)
        return _read_back(kept["rows"])

    def forget(self) -> None:
        """Delete them, once the figure is there."""
        if self.folder.exists():
            shutil.rmtree(self.folder)


def _source() -> str:
    """What tells this source from any other, an edit that is not committed included."""
    digest = hashlib.sha256()
    for folder in (pathlib.Path(dfc.__file__).parent, pathlib.Path(__file__).parents[1]):
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _read(file: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is damaged ({error}); delete it.") from error


def _read_back(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value, default=plain))


def plain(value: Any) -> Any:
    """What JSON does not know."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value.item()


def tidied(figure: Figure) -> Figure:
    """With a faint grid and without the frame's upper and right side."""
    for ax in figure.axes:
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    return figure
