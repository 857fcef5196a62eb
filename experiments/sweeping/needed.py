"""What a sweep needs beside what all scripts do."""

import importlib.util
import sys


for name in ("optuna", "submitit"):
    if importlib.util.find_spec(name) is None:
        print(f"error: {name} is not installed: pip install 'dfc_jax[sweep]'", file=sys.stderr)
        sys.exit(2)
