"""Early checks of what a user passes in."""

import importlib
import inspect
import math
import pathlib
import warnings
from collections.abc import Sequence
from types import ModuleType

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, PRNGKeyArray


_PACKAGE = str(pathlib.Path(__file__).parent)
_SHOWN = 100  # characters of a value in a sentence


def warn(message: str) -> None:
    """Warn, and point at the user's line: the last one outside this package."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def require(condition: bool, message: str) -> None:
    """Raise `ValueError(message)` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def import_extra(module: str, what: str, extra: str) -> ModuleType:
    """A module that only `what` needs, and that `dfc_jax[extra]` installs.

    **Raises:** `ModuleNotFoundError`, which says so, if it or one that it imports is missing.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        message = f'{what} need the module `{error.name}`; run `pip install "dfc_jax[{extra}]"`.'
        raise ModuleNotFoundError(message, name=error.name) from error


def check_number(
    name: str,
    value: ArrayLike,
    *,
    minimum: float | int = -np.inf,
    above: float | int | None = None,
    maximum: float | int = np.inf,
) -> None:
    """Raise unless `value` is a finite number, or an array of them, at least `minimum`, at most `maximum`
    and, if `above` is given, greater than it. In JAX's precision: in float32, 1e-300 is 0.

    Traced values have no number yet and pass: sweeps and vmapped hyperparameters stay possible.
    """
    if isinstance(value, jax.core.Tracer):
        return
    low = "" if minimum == -np.inf else f" at least {minimum}"
    low = low if above is None else f" greater than {above}"
    high = "" if maximum == np.inf else f"{' and' if low else ''} at most {maximum}"
    array = np.asarray(value)
    numeric = jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)
    numeric = numeric and array.size > 0

    def fits(array: np.ndarray) -> bool:
        within = np.isfinite(array) & (array >= minimum) & (array <= maximum)
        return bool(np.all(within)) and (above is None or bool(np.all(array > above)))

    kind = jnp.result_type(float)
    with np.errstate(over="ignore"):
        rounded = array.astype(kind) if numeric else array
    fine = numeric and fits(rounded)
    seen = f", which {kind} rounds to {rounded}" if numeric and not fine and fits(array) else ""
    require(fine, f"`{name}` is {value}{seen}; it must be a finite number{low}{high}.")


def check_count(name: str, value: int, minimum: int = 1, maximum: int | None = None) -> None:
    """Raise unless `value` is a whole number of at least `minimum` and, if it is given, at most `maximum`."""
    allowed = f"of at least {minimum}" if maximum is None else f"between {minimum} and {maximum}"
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    fine = whole and value >= minimum and (maximum is None or value <= maximum)
    require(bool(fine), f"`{name}` is {value!r}; it must be a whole number {allowed}.")


def check_image(name: str, shape: Sequence[int]) -> None:
    """Raise unless `shape` is that of an image: channels, height and width."""
    check_type(name, shape, Sequence)
    for number in shape:
        check_count(name, number)
    require(len(shape) == 3, f"`{name}` is {tuple(shape)}; it must be (channels, height, width).")


def check_pixels(name: str, shape: Sequence[int], image: Sequence[int]) -> None:
    """Raise unless an array of `shape` is an image of the shape `image`, flattened in that order or not."""
    fine = tuple(shape) in (tuple(image), (math.prod(image),))
    wanted = f"{tuple(image)}, that is (channels, height, width), or flattened in this order"
    require(fine, f"`{name}` has images of shape {tuple(shape)}; they must be {wanted}.")


def check_key(name: str, key: PRNGKeyArray) -> None:
    """Raise unless `key` is one random key, of the new kind or the old."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    raw = isinstance(key, np.ndarray | jax.Array) and key.dtype == np.uint32 and key.shape in ((2,), (4,))
    wanted = "one random key, such as jax.random.key(0)"
    require(raw or (typed and key.shape == ()), f"`{name}` is {key!r}; it must be {wanted}.")


def check_type(name: str, value: object, *kinds: type) -> None:
    """Raise unless `value` is of one of the `kinds`."""
    if isinstance(value, kinds):
        return
    if isinstance(value, type) and issubclass(value, kinds):
        raise ValueError(
            f"`{name}` is the class {value.__name__}; it must be made first: {value.__name__}()."
        )
    wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
    raise ValueError(f"`{name}` is {shown(value)}; it must be of the type {wanted}.")


def shown(value: object) -> str:
    """A value within a sentence: large ones, as arrays, by their type alone."""
    text = repr(value)
    large = len(text) > _SHOWN or "\n" in text
    return f"an object of the type {type(value).__name__}" if large else text
