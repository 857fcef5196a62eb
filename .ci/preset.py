"""`dfc-jax` from the installed wheel, on a stand-in for MNIST of random images: `.ci/preset.py run ...`.

The presets are for data sets that have to be fetched, which CI does not do.
"""

import dataclasses

import numpy as np

from dfc_jax import _command
from dfc_jax._data import archives, loading


TRAIN, TEST = 6_000, 100


def random_images(*_: object) -> tuple:
    draw = np.random.default_rng(0)
    split = lambda n: (draw.integers(0, 256, (n, 28, 28, 1), np.uint8), draw.integers(0, 10, n, np.uint8))
    return split(TRAIN), split(TEST)


archives.SOURCES["mnist"] = archives.Source(random_images, ())
smaller = {"train_samples": TRAIN, "test_samples": TEST}
loading._IMAGE_SETS["mnist"] = dataclasses.replace(loading._IMAGE_SETS["mnist"], **smaller)
_command.main()
