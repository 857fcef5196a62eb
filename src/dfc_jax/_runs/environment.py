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


_PACKAGES = ("dfc_jax", "jax", "jaxlib", "equinox", "diffrax", "optimistix", "lineax", "optax", "numpy")


def environment() -> dict[str, Any]:
    """Where and with what a result came about: versions, git revision, device, command, time."""
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
        "git_revision": _git_revision(),
        "device": device.device_kind,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "command": shlex.join(["python", _script(), *sys.argv[1:]]),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _git_revision() -> str | None:
    """The revision of the source this package was imported from, None outside a git checkout."""
    folder = pathlib.Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _script() -> str:
    """The script as it was named on the command line; by name alone where that was an absolute path."""
    script = pathlib.Path(sys.argv[0])
    return script.name if script.is_absolute() else str(script)


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
