"""Says in a sentence what to install, should a package that the scripts need be missing."""

import importlib.util
import sys


for name in ("matplotlib", "rich", "tyro"):
    if importlib.util.find_spec(name) is None:
        print(f"error: {name} is not installed: pip install 'dfc_jax[experiments]'", file=sys.stderr)
        sys.exit(2)
