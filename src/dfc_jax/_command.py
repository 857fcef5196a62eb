"""The installed command `dfc-jax`: the scripts of `experiments/`, by their names.

An installed copy has them beside this file, in `_experiments`; an editable one in the repository.
"""

import importlib
import pathlib
import sys

from dfc_jax import __version__
from dfc_jax._runs.environment import COMMAND


SCRIPTS = {
    "run": "train networks by one or several methods and compare them",
    "sweep": "which values of run's options are best",
    "compare": "a table and a picture of finished runs",
    "pool": "runs that differ in their seeds alone, as one run",
    "table1": "Table 1 of the NeurIPS 2021 paper, all of it or any cells",
    "figures": "the papers' figures",
    "theories": "least control, predictive coding, Strong-DFC and backprop, side by side",
    "feedback": "which feedback keeps up with the forward weights",
    "late_rise": "why the train loss rises late under learned feedback",
}
HELP = "\n".join(
    [
        f"usage: {COMMAND} {{{','.join(SCRIPTS)}}} ...",
        "",
        *(f"    {COMMAND} {name:9} {what}" for name, what in SCRIPTS.items()),
        "",
        f"`{COMMAND} run --help` says what run takes, and so for each; `{COMMAND} --version` the version.",
    ]
)


def main() -> None:
    """Run the script that the command line names with the arguments behind that name; end the process."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in SCRIPTS:
        _run(name, arguments)
    elif name in ("-h", "--help"):
        print(HELP)
    elif name == "--version":
        print(f"dfc_jax {__version__}")
    else:
        print(f"error: {name!r} is no command of {COMMAND}; there are {', '.join(SCRIPTS)}.", file=sys.stderr)
        sys.exit(2)


def _run(name: str, arguments: list[str]) -> None:
    """As `python experiments/NAME.py ARGUMENTS` would, under a name that its help and records show."""
    sys.path.insert(0, str(_folder()))
    sys.argv = [f"{COMMAND} {name}", *arguments]
    code = importlib.import_module(name).command()
    importlib.import_module("options.together").leave(code)


def _folder() -> pathlib.Path:
    """Where the scripts are."""
    here = pathlib.Path(__file__).parent
    installed = here / "_experiments"
    return installed if installed.is_dir() else here.parents[1] / "experiments"
