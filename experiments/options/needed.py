"""What scripts do before they import anything else: say what to install, and draw to files."""

import importlib.util
import os
import sys


# Whatever a notebook has told the programs it starts: matplotlib refuses names that it does not know.
os.environ["MPLBACKEND"] = "Agg"


def need(extra: str, *names: str) -> None:
    """End the process with a sentence if one of the packages of an extra is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            print(f"error: {name} is not installed: pip install 'dfc_jax[{extra}]'", file=sys.stderr)
            sys.exit(2)


need("experiments", "matplotlib", "rich", "tyro")
