"""Matplotlib that draws to files, whatever a notebook has told the programs it starts."""

import os


os.environ["MPLBACKEND"] = "Agg"  # before the import, which refuses a name that it does not know

from matplotlib import pyplot as plt  # noqa: F401
