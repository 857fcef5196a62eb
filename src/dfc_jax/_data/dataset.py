"""Data sets as plain arrays, split once and for all."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dfc_jax._checks import check_image, check_pixels, require
from dfc_jax._fields import Part


class Split(Part):
    """The inputs `x` of some samples and their targets `y` (for classification one-hot rows)."""

    x: Float[np.ndarray | Array, "samples ..."]
    y: Float[np.ndarray | Array, "samples outputs"]

    def __check_init__(self):
        for name, array in (("x", self.x), ("y", self.y)):
            shape, dtype = array.shape, array.dtype
            require(jnp.issubdtype(dtype, jnp.floating), f"`{name}` holds {dtype} values; make them floats.")
            require(shape[:1] > (0,), f"`{name}` has shape {shape}; it needs at least one sample.")
            bad = int(np.sum(~np.isfinite(array)))
            require(bad == 0, f"`{name}` has {bad} NaN or infinite entries; all must be finite.")
        wanted = "(samples, outputs), with one-hot rows for classes"
        require(self.y.ndim == 2, f"`y` has shape {self.y.shape}; it must be {wanted}.")
        x, y = len(self.x), len(self.y)
        require(x == y, f"`x` has {x} samples and `y` has {y}; they must be equally many.")

    def __len__(self) -> int:
        return len(self.x)


class Dataset(Part):
    """Three splits of one task. `classification` says whether `y` holds classes or regression targets.

    `image` is the shape (channels, height, width) of inputs that are images, flattened in this order
    or not.
    """

    name: str = eqx.field(static=True)
    train: Split
    validation: Split
    test: Split
    classification: bool = eqx.field(static=True)
    image: tuple[int, int, int] | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        for name, split in (("validation", self.validation), ("test", self.test)):
            for array in ("x", "y"):
                shape, wanted = getattr(split, array).shape[1:], getattr(self.train, array).shape[1:]
                problem = f"`{name}.{array}` has samples of shape {shape}"
                require(shape == wanted, f"{problem}; it must be {wanted} as in `train`.")
        if self.image is not None:
            check_image("image", self.image)
            check_pixels("train.x", self.train.x.shape[1:], self.image)
        if self.classification:
            for name in ("train", "validation", "test"):
                y = np.asarray(getattr(self, name).y)
                bad = int(np.sum((np.abs(y.sum(axis=1) - 1) > 1e-3) | (y < 0).any(axis=1)))
                problem = f"`{name}.y` has {bad} rows that are no distribution over the classes"
                require(bad == 0, f"{problem}, as of a label out of range; each must add up to 1.")

    @property
    def input_size(self) -> int:
        """Numbers in one input, whatever its shape."""
        return math.prod(self.train.x.shape[1:])

    @property
    def output_size(self) -> int:
        return self.train.y.shape[1]
