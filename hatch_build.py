"""Puts the scripts of `experiments/` into the wheel, where `dfc_jax/_command.py` finds them.

An editable installation runs those of the repository, and gets no copy that would grow stale.
"""

import pathlib
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Scripts(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        experiments = pathlib.Path(self.root, "experiments")
        for pattern in ("*.py", "*/*.py"):
            for path in experiments.glob(pattern):
                target = f"dfc_jax/_experiments/{path.relative_to(experiments).as_posix()}"
                build_data["force_include"][str(path)] = target
