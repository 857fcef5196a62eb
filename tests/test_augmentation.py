"""Images are shifted and mirrored, and nothing else happens to them."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import sgd

import dfc_jax as dfc


SHAPE = (2, 5, 6)


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """Moved by whole pixels, zeros coming in; pixel by pixel."""
    found = np.zeros_like(image)
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            i, j = row - down, column - right
            if 0 <= i < image.shape[1] and 0 <= j < image.shape[2]:
                found[:, row, column] = image[:, i, j]
    return found


def test_all_shifts_and_both_mirror_images_come_equally_often(getkey):
    image = np.arange(1.0, 61).reshape(SHAPE)
    drawn = jax.vmap(lambda key: dfc.CropAndFlip(SHAPE, 1)(jnp.asarray(image), key=key))(
        jr.split(getkey(), 3600)
    )
    possible = [
        found
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
        for found in (shifted(image, down, right), shifted(image, down, right)[:, :, ::-1])
    ]
    counts = [int(np.sum(np.all(np.asarray(drawn) == each, axis=(1, 2, 3)))) for each in possible]
    assert sum(counts) == 3600  # there are no others
    assert min(counts) > 130 and max(counts) < 270  # 200 +- 14


def test_without_padding_or_mirror_nothing_changes(getkey):
    image = jr.normal(getkey(), SHAPE)
    np.testing.assert_array_equal(dfc.CropAndFlip(SHAPE, 0, flip=False)(image, key=getkey()), image)


def test_flattened_images_stay_flat(getkey):
    image, key = jr.normal(getkey(), SHAPE), getkey()
    change = dfc.CropAndFlip(SHAPE)
    np.testing.assert_array_equal(change(image.ravel(), key=key), change(image, key=key).ravel())


def test_training_sees_the_changed_images(getkey):
    """With a change that replaces every input by one of its own, training is that on those inputs.

    What is said of the validation samples is said of them as they are.
    """
    rng, key = np.random.default_rng(0), getkey()
    x, y, other = rng.normal(size=(32, 4)), np.eye(3)[rng.integers(0, 3, 32)], rng.normal(size=4)
    model = dfc.mlp((4, 5, 3), key=getkey())

    def train(x, augment):
        data = dfc.Dataset("noise", *[dfc.Split(x, y)] * 3, classification=True)
        options = {"epochs": 1, "key": key, "batch_size": 8, "progress": False}
        found, history = dfc.fit(model, dfc.Backprop(), data, sgd(0.1), augment=augment, **options)
        scores = dfc.evaluate(found, dfc.CrossEntropy(), data.validation, classification=True)
        assert history.records[-1]["validation_loss"] == pytest.approx(scores["loss"], rel=1e-12)
        return found

    # Both augment, so that keys are drawn alike.
    found = train(x, lambda sample, key: jnp.asarray(other))
    wanted = train(np.tile(other, (32, 1)), lambda sample, key: sample)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_data_set_whose_images_are_of_another_size_is_refused():
    split = dfc.Split(np.ones((2, 12)), np.eye(2))
    with pytest.raises(ValueError, match=r"`train.x` has images of shape \(12,\); they must be \(1, 3, 5\)"):
        dfc.Dataset("noise", split, split, split, classification=True, image=(1, 3, 5))


def placed_last(x: np.ndarray) -> dfc.Dataset:
    split = dfc.Split(x, np.eye(2)[[0, 1]])
    return dfc.Dataset("images", split, split, split, classification=True, image=(3, 4, 5))


TAKERS = {
    "Image": lambda x: dfc.Image((3, 4, 5))(jnp.asarray(x[0])),
    "convnet": lambda x: dfc.convnet((3, 4, 5), (2,), (2,), key=jr.key(0), pool=1)(jnp.asarray(x[0])),
    "CropAndFlip": lambda x: dfc.CropAndFlip((3, 4, 5))(jnp.asarray(x[0]), key=jr.key(0)),
    "Dataset": placed_last,
}


@pytest.mark.parametrize("name", TAKERS)
def test_images_are_flat_or_channels_first_and_nothing_else(name):
    image = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    TAKERS[name](image)
    TAKERS[name](image.reshape(2, -1))
    for other in (np.moveaxis(image, 1, -1), image.reshape(2, 3, 5, 4), image.reshape(2, 1, 3, 4, 5)):
        wanted = r"must be \(3, 4, 5\), that is \(channels, height, width\), or flattened in this order"
        with pytest.raises(ValueError, match=wanted):
            TAKERS[name](other)
