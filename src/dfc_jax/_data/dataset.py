"""Data sets as plain arrays, split once and for all."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dfc_jax._checks import check_count, check_image, check_number, check_pixels, check_type, require
from dfc_jax._fields import Part


_ELSEWHERE = "Dataset.from_arrays takes labels, tables and lists"


class Split(Part):
    """The inputs `x` of some samples and their targets `y` (for classification one-hot rows), as arrays of
    floats; `Dataset.from_arrays` takes labels, tables and lists."""

    x: Float[np.ndarray | Array, "samples ..."]
    y: Float[np.ndarray | Array, "samples outputs"]

    def __check_init__(self):
        for name, array in (("x", self.x), ("y", self.y)):
            problem = f"`{name}` is a {type(array).__name__}; it must be an array of floats"
            require(isinstance(array, np.ndarray | np.generic | jax.Array), f"{problem}. {_ELSEWHERE}.")
            shape, dtype = array.shape, array.dtype
            problem = f"`{name}` holds {dtype} values; make them floats, labels one-hot rows"
            require(jnp.issubdtype(dtype, jnp.floating), f"{problem}. {_ELSEWHERE}.")
            require(shape[:1] > (0,), f"`{name}` has shape {shape}; it needs at least one sample.")
            bad = int(np.sum(~np.isfinite(array)))
            require(bad == 0, f"`{name}` has {bad} NaN or infinite entries; all must be finite.")
        wanted = "(samples, outputs), with one-hot rows for classes"
        require(self.y.ndim == 2, f"`y` has shape {self.y.shape}; it must be {wanted}. {_ELSEWHERE}.")
        x, y = len(self.x), len(self.y)
        require(x == y, f"`x` has {x} samples and `y` has {y}; they must be equally many.")

    def __len__(self) -> int:
        return len(self.x)


def check_classes(name: str, y: Float[np.ndarray | Array, "samples outputs"]) -> None:
    """Raise `ValueError` unless each row is a distribution over the classes."""
    y = np.asarray(y)
    bad = int(np.sum((np.abs(y.sum(axis=1) - 1) > 1e-3) | (y < 0).any(axis=1)))
    problem = f"`{name}` has {bad} rows that are no distribution over the classes"
    require(bad == 0, f"{problem}, as of a label out of range; each must add up to 1.")


class Dataset(Part):
    """Three splits of one task. `classification` says whether `y` holds classes or regression targets.

    `image` is the shape (channels, height, width) of inputs that are images, flattened in this order
    or not. `classes`, `mean` and `std` are what `from_arrays` found: the label of each output, and what the
    inputs were standardised with.
    """

    name: str = eqx.field(static=True)
    train: Split
    validation: Split
    test: Split
    classification: bool = eqx.field(static=True)
    image: tuple[int, int, int] | None = eqx.field(static=True, default=None)
    classes: tuple[Any, ...] | None = eqx.field(static=True, default=None)
    mean: Float[np.ndarray, "..."] | None = None
    std: Float[np.ndarray, "..."] | None = None

    def __check_init__(self):
        check_type("classification", self.classification, bool)
        for name in ("train", "validation", "test"):
            split = getattr(self, name)
            problem = f"`{name}` is a {type(split).__name__}; it must be a Split"
            require(isinstance(split, Split), f"{problem}. {_ELSEWHERE}.")
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
                check_classes(f"{name}.y", getattr(self, name).y)

    @staticmethod
    def from_arrays(
        x: Any,
        y: Any,
        *,
        validation: float = 0.2,
        test: float = 0.2,
        standardise: bool = True,
        seed: int = 0,
        image: tuple[int, int, int] | None = None,
        name: str = "own",
    ) -> "Dataset":
        """A data set of one's own, split at random; every call gives the same samples in the same splits.

        **Arguments:**

        - `x`: the inputs, (samples, features) or (samples, ...): arrays, tables of pandas or lists.
        - `y`: integers, strings or booleans are labels, one a sample: the task is classification, each split
          has its share of every class, one sample at least, and `classes` holds the labels in the order of
          the outputs. Floats are the targets of a regression, one or a row of them a sample.
        - `validation`, `test`: fractions of the samples that are held out.
        - `standardise`: whether each feature, or channel of an `image`, gets mean 0 and standard deviation 1
          over the training samples; `inputs` does the same to new ones. Targets stay what they are.
        - `seed`: of the split.
        - `image`: the shape (channels, height, width) of inputs that are images.

        >>> data = Dataset.from_arrays([[i, i % 7] for i in range(30)], ["even", "odd"] * 15)
        >>> data.classes, data.train.x.shape, data.test.y.shape
        (('even', 'odd'), (18, 2), (6, 2))

        **Raises:** `ValueError` for what is no numbers, labels and floats mixed, one-hot rows, fewer than two
        classes, or too few samples for the splits.
        """
        check_type("standardise", standardise, bool)
        inputs = _numbers("x", x)
        problem = f"`x` has shape {inputs.shape}; it must be (samples, features) or (samples, ...)"
        require(inputs.ndim >= 2 and len(inputs) > 0, f"{problem}, with at least one sample.")
        targets, classes, labels = _targets(y)
        require(
            len(inputs) == len(targets),
            f"`x` has {len(inputs)} samples and `y` has {len(targets)}; they must be equally many.",
        )
        if image is not None:
            check_image("image", image)
            check_pixels("x", inputs.shape[1:], image)
        parts = _parts(len(inputs), labels, classes, validation, test, seed)
        mean, std = _moments(inputs[parts[0]], image) if standardise else (None, None)
        inputs = _standardised(inputs, mean, std)
        splits = [Split(inputs[part], targets[part]) for part in parts]
        return Dataset(name, *splits, classes is not None, image, classes, mean, std)

    def inputs(self, x: Any) -> Float[np.ndarray, "samples ..."]:
        """New inputs as the network takes them: in single precision, standardised as those of this data set.

        **Raises:** `ValueError` for inputs of another shape, or what is no numbers.
        """
        new, wanted = _numbers("x", x), self.train.x.shape[1:]
        problem = f"`x` has samples of shape {new.shape[1:]}"
        require(new.ndim > 0 and new.shape[1:] == wanted, f"{problem}; it must be {wanted} as in `train`.")
        return _standardised(new, self.mean, self.std)

    @property
    def input_size(self) -> int:
        """Numbers in one input, whatever its shape."""
        return math.prod(self.train.x.shape[1:])

    @property
    def output_size(self) -> int:
        return self.train.y.shape[1]


def _numbers(name: str, values: Any) -> Float[np.ndarray, "..."]:
    """Anything array-like as float64."""
    try:
        array = np.asarray(values)
        fine = array.dtype.kind in "biufO" or jnp.issubdtype(array.dtype, jnp.floating)
        found = array.astype(np.float64) if fine else None
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` is no array of numbers: {error}.") from error
    if found is None:
        raise ValueError(f"`{name}` holds {array.dtype} values; it must hold numbers.")
    return found


def _targets(
    y: Any,
) -> tuple[Float[np.ndarray, "samples outputs"], tuple[Any, ...] | None, Int[np.ndarray, " samples"] | None]:
    """Targets of single precision; for labels also the classes, and the number of each sample's."""
    array = np.asarray(y)
    require(array.ndim > 0, f"`y` is {y!r}; it must hold a label or a number for each sample.")
    kinds = {type(value) for value in array.ravel()} if array.dtype == object else set()
    if kinds and all(issubclass(kind, int | float | np.number) and kind is not bool for kind in kinds):
        array = array.astype(np.float64) if any(issubclass(k, float) for k in kinds) else array.astype(int)
    if jnp.issubdtype(array.dtype, jnp.floating):
        targets = array.astype(np.float32).reshape(len(array), -1) if array.ndim == 1 else array
        one_hot = targets.ndim == 2 and targets.shape[1] > 1 and bool(np.isin(targets, (0, 1)).all())
        one_hot = one_hot and bool((targets.sum(axis=1) == 1).all())
        require(not one_hot, "`y` holds one-hot rows; give the labels, as y.argmax(axis=1).")
        return targets.astype(np.float32), None, None
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    problem = f"`y` has shape {array.shape} and holds {array.dtype} values"
    require(array.ndim == 1, f"{problem}; give one label a sample, or floats for a regression.")
    alike = any(all(issubclass(kind, of) for kind in kinds) for of in (str, bytes, bool, np.bool_))
    fine = alike if array.dtype == object else array.dtype.kind in "biuUS"
    require(fine, f"{problem}; labels must be all integers, all strings or all booleans.")
    found, labels = np.unique(array, return_inverse=True)
    classes = tuple(found.tolist())
    require(len(classes) > 1, f"`y` has the labels {classes}; there must be at least two classes.")
    return np.eye(len(classes), dtype=np.float32)[labels], classes, labels


def _parts(
    samples: int,
    labels: Int[np.ndarray, " samples"] | None,
    classes: tuple[Any, ...] | None,
    validation: float,
    test: float,
    seed: int,
) -> list[Int[np.ndarray, " part"]]:
    """Which samples train, validate and test, every class in its share."""
    from sklearn.model_selection import train_test_split

    for name, share in (("validation", validation), ("test", test)):
        check_number(name, share, above=0, maximum=1)
        require(np.ndim(share) == 0, f"`{name}` is {share}; it must be one number.")
    require(
        validation + test < 1, f"`validation` and `test` are {validation} and {test}; none is left to train."
    )
    check_count("seed", seed, 0)
    least = 1 if classes is None else len(classes)
    held = {"validation": round(validation * samples), "test": round(test * samples)}
    held["training"] = samples - sum(held.values())
    for name, number in held.items():
        problem = f"{samples} samples leave {number} for the {name} split, which needs at least {least}"
        require(number >= least, f"{problem}{'' if classes is None else ', one a class'}.")
    if classes is not None and labels is not None:
        times = np.bincount(labels)
        problem = f"`y` has the label {classes[times.argmin()]!r} {times.min()} times"
        require(int(times.min()) >= 3, f"{problem}; every split needs one at least.")
    rest, held_out = np.arange(samples), []
    for name, left in (("test", 2), ("validation", 1)):
        strata = None if labels is None else labels[rest]
        rest, chosen = train_test_split(rest, test_size=held[name], stratify=strata, random_state=seed)
        if labels is not None:  # the share of a rare class may round to none
            _exchange(chosen, rest, labels, 1)
            _exchange(rest, chosen, labels, left)
        held_out.append(chosen)
    return [rest, *reversed(held_out)]


def _exchange(
    part: Int[np.ndarray, " part"],
    other: Int[np.ndarray, " other"],
    labels: Int[np.ndarray, " samples"],
    least: int,
) -> None:
    """Let `part` have so many samples of every class, each in exchange for one of its most frequent class."""
    classes = int(labels.max()) + 1
    while (times := np.bincount(labels[part], minlength=classes)).min() < least:
        given = np.flatnonzero(labels[part] == times.argmax())[0]
        taken = np.flatnonzero(labels[other] == times.argmin())[0]
        part[given], other[taken] = other[taken], part[given]


def _moments(
    x: Float[np.ndarray, "samples ..."], image: tuple[int, int, int] | None
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Mean and standard deviation of each feature, or of each channel; what never varies stays as it is."""
    if image is None:
        mean, std = x.mean(axis=0), x.std(axis=0)
    else:
        channels = x.reshape(len(x), image[0], -1)
        each = np.ones((image[0], math.prod(image[1:])))
        mean, std = (
            (moment(axis=(0, 2))[:, None] * each).reshape(x.shape[1:])
            for moment in (channels.mean, channels.std)
        )
    return mean, np.where(std > 1e-12 * np.abs(mean), std, 1.0)


def _standardised(
    x: Float[np.ndarray, "samples ..."],
    mean: Float[np.ndarray, "..."] | None,
    std: Float[np.ndarray, "..."] | None,
) -> Float[np.ndarray, "samples ..."]:
    return (x if mean is None or std is None else (x - mean) / std).astype(np.float32)
