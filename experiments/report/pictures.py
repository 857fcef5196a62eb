"""Matplotlib that draws to files."""

import options.needed  # noqa: F401
from matplotlib import pyplot as plt  # noqa: F401
