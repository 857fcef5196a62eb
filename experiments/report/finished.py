"""The files of a finished run."""

import json
import pathlib
from typing import Any


def read_json(path: pathlib.Path) -> Any:
    """What a file of a finished run holds.

    **Raises:** `ValueError`, which names the file, if there is none or it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = (
            f"there is no {path.name}" if isinstance(error, FileNotFoundError) else f"{path.name}: {error}"
        )
        raise ValueError(f"{str(path.parent)!r} does not hold a finished run: {reason}.") from error
