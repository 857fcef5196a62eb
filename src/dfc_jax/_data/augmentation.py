"""Changing images at random as they come, on the device, so that no epoch sees quite the same ones."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from dfc_jax._checks import check_image, check_pixels
from dfc_jax._fields import count, flag, Part


class CropAndFlip(Part):
    """Standard augmentation of small images: a shift by up to `padding` pixels each way, and a mirror image.

    What a shift brings in is zero, the mean of standardised pixels. He et al. (2016, sec. 4.2) train on
    CIFAR-10 so, with a padding of 4.

    **Arguments:**

    - `shape`: (channels, height, width) of an image, which may be flattened in this order: `data.image`.
    - `padding`: the largest shift.
    - `flip`: whether half of the images, drawn at random, are mirrored left to right.

    >>> CropAndFlip((3, 32, 32))(jnp.ones(3072), key=jr.key(0)).shape
    (3072,)
    """

    shape: tuple[int, int, int] = eqx.field(static=True)
    padding: int = count("padding", 4, minimum=0)
    flip: bool = flag("flip", True)

    def __check_init__(self) -> None:
        check_image("shape", self.shape)

    def __call__(self, x: Float[Array, "*shape"], *, key: PRNGKeyArray) -> Float[Array, "*shape"]:
        """One image, changed. **Raises:** `ValueError` unless it is of `shape`, or flat."""
        check_pixels("x", x.shape, self.shape)
        shift_key, flip_key = jr.split(key)
        image = x.reshape(self.shape)
        edge = (self.padding, self.padding)
        rows, columns = jr.randint(shift_key, (2,), 0, 2 * self.padding + 1)
        image = jax.lax.dynamic_slice(jnp.pad(image, ((0, 0), edge, edge)), (0, rows, columns), self.shape)
        if self.flip:
            image = jnp.where(jr.bernoulli(flip_key), image[:, :, ::-1], image)
        return image.reshape(x.shape)
