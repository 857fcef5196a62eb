"""Where results are written, and whether a comparison may take the place of what is there."""

import datetime
import json
import pathlib
import secrets
from collections.abc import Sequence
from typing import Any


TABLE, PICTURES = "table.md", ("comparison.png", "alignment.png")
COMMANDS = "Commands, and what they ran on:"


def new_folder(name: str) -> pathlib.Path:
    """A folder below runs/ that no other job has, were it started in the same second."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return pathlib.Path(f"runs/{name}-{now}-{secrets.token_hex(3)}")


def check_held(file: pathlib.Path, held: dict[str, Any], now: Any, defaults: Any) -> None:
    """Raise `ValueError` if `file` is of other options, of which it names those `held`, than those of `now`.

    What it does not name was not an option yet: it is of what is now the default.
    """
    as_json = lambda options: json.loads(json.dumps(options))
    held = as_json(defaults) | held
    for name, value in as_json(now).items():
        if held[name] != value:
            problem = f"`out` holds {file} with `{name}` {held[name]!r}, not {value!r}"
            raise ValueError(f"{problem}; name another folder, or delete it.")


def comparison_in(out: pathlib.Path) -> str | None:
    """The name of a table or picture that lies in `out`, None if there is none.

    **Raises:** `ValueError` if `out` is what is left of a run, whose table that is.
    """
    if (out / "metrics.jsonl").exists() and not (out / "config.json").exists():
        problem = f"`out` is {str(out)!r}, which holds metrics.jsonl of a run without its config.json"
        raise ValueError(f"{problem}; name a new folder.")
    return next((name for name in (TABLE, *PICTURES) if (out / name).exists()), None)


def of_others(out: pathlib.Path, runs: Sequence[pathlib.Path]) -> bool:
    """Whether the table in `out` is of other runs than `runs`: has more rows, or not only their commands.

    Pictures without a table are of others only where there are no `runs` that can have drawn them.
    """
    if not runs or not (out / TABLE).exists():
        return not runs and comparison_in(out) is not None
    lines = (out / TABLE).read_text(encoding="utf-8", errors="replace").splitlines()
    rows = sum(line.startswith("| ") for line in lines) - 2  # a heading, a rule
    shown = {line.removeprefix("- ") for line in lines if line.startswith("- `")}
    own = {f"`{_command(folder)}`" for folder in runs}
    return rows > len(runs) or not shown or not shown <= own


def remove_comparison(out: pathlib.Path, runs: Sequence[pathlib.Path]) -> None:
    """Delete the table and the pictures in `out` of `runs`, one of which has gone on; not those of others."""
    if not of_others(out, runs):
        for name in (TABLE, *PICTURES):
            (out / name).unlink(missing_ok=True)


def _command(folder: pathlib.Path) -> str | None:
    held = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return held.get("environment", {}).get("command")
