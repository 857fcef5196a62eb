"""Puts the scripts of `experiments/` into the wheel, where `dfc_jax/_command.py` finds them, and the revision
that it is built from.

An editable installation runs those of the repository, and gets no copy that would grow stale.
"""

import pathlib
import subprocess
import tempfile
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
        if revision := self._revision():
            self._folder = tempfile.TemporaryDirectory()  # there until the wheel is written
            file = pathlib.Path(self._folder.name, "revision.txt")
            file.write_text(f"{revision}\n", encoding="utf-8")
            build_data["force_include"][str(file)] = "dfc_jax/_revision.txt"

    def _revision(self) -> str | None:
        """None where git does not follow this very folder, as in a source distribution."""
        followed = ["git", "ls-files", "--error-unmatch", "hatch_build.py"]
        describe = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        try:
            for command in (followed, describe):
                done = subprocess.run(command, cwd=self.root, capture_output=True, check=True, text=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()
