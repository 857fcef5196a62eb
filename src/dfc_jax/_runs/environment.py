"""Where and with what a result came about."""

import datetime
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import jax


COMMAND = "dfc-jax"  # as it is installed
_PACKAGES = ("dfc_jax", "jax", "jaxlib", "equinox", "diffrax", "optimistix", "lineax", "optax", "numpy")


def environment() -> dict[str, Any]:
    """Where and with what a result came about: versions, device, precision, command, time, and the git
    revisions of this package's source and of the script's, each None where git does not follow the file, nor,
    for the package, the checkout that it was installed from."""
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
        "git_revision": _git_revision(pathlib.Path(__file__)) or _built_from(),
        "script_revision": _git_revision(pathlib.Path(sys.argv[0]).resolve()),
        "device": device.device_kind,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "x64": jax.config.jax_enable_x64,  # ty: ignore[missing-attribute]
        "matmul_precision": jax.config.jax_default_matmul_precision,  # ty: ignore[missing-attribute]
        "command": " ".join([_program(), *map(shlex.quote, sys.argv[1:])]),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _git_revision(source: pathlib.Path) -> str | None:
    """The revision that `source` is of, `-dirty` where its checkout was changed; None where git does not
    follow that very file: an installed copy may lie in the checkout of another revision, or of something
    else.
    """
    followed = ["git", "ls-files", "--error-unmatch", source.name]
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        for command in (followed, describe):
            done = subprocess.run(command, cwd=source.parent, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode(errors="replace").strip()


def _built_from() -> str | None:
    """The revision of the checkout that an installed copy was built from, if it was from one."""
    file = pathlib.Path(__file__).parents[1] / "_revision.txt"  # which hatch_build.py writes
    return file.read_text(encoding="utf-8").strip() if file.exists() else None


def _program() -> str:
    """What the command line began with; a script by its name alone where that was an absolute path."""
    if sys.argv[0].startswith(f"{COMMAND} "):
        return sys.argv[0]
    script = pathlib.Path(sys.argv[0])
    return shlex.join(["python", script.name if script.is_absolute() else str(script)])


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
