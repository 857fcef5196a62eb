"""What every public constructor refuses, and that the sentence names the argument."""

import inspect
import math

import equinox as eqx
import jax
import jaxtyping
import numpy as np
import pytest
from argument_tables import (
    CLASSES,
    COUNTS,
    DEFAULTS,
    FLAGS,
    MAY_BE_NONE,
    NEEDED,
    NUMBERS,
    PART_DEFAULTS,
    PARTS,
    PUBLIC,
    REQUIRED,
    STATIC,
    X,
)
from hypothesis import given, settings, strategies as st

import dfc_jax as dfc


@pytest.fixture(scope="module", autouse=True)
def as_users_call(record_testsuite_property):
    """Without the suite's type checks, which would be the first to complain."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield
    record_testsuite_property("wrong or extreme arguments of constructors tried", len(TRIED))


TRIED: list[str] = []  # one entry an input, for the report


@pytest.mark.parametrize("name", PART_DEFAULTS)
def test_parts_are_by_default_what_is_documented(name: str) -> None:
    made = PUBLIC[name](**REQUIRED.get(name, {}))
    for argument, wanted in PART_DEFAULTS[name].items():
        assert eqx.tree_equal(getattr(made, argument), wanted), argument


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_shapes_the_program_is_known_when_it_is_compiled(name: str) -> None:
    """All else is an array: it may be swept without compiling anew."""
    made = PUBLIC[name](**REQUIRED.get(name, {}))
    arrays = {jax.tree_util.keystr(path).lstrip(".") for path, _ in jax.tree_util.tree_leaves_with_path(made)}
    for argument in DEFAULTS[name]:
        static = f"{name}.{argument}" in STATIC | set(COUNTS) | FLAGS
        assert (argument not in arrays) == static, argument


def make(name: str, value: object) -> object:
    owner, _, argument = name.partition(".")
    given = dict(REQUIRED.get(owner, {}))
    if owner == "DiffraxAverage" and argument == "max_steps":
        given |= {"dt0": None}
    return PUBLIC[owner](**given | {argument: value})


def refused(name: str, value: object) -> bool:
    """Whether it is, and then in a sentence that names the argument."""
    TRIED.append(name)
    try:
        make(name, value)
    except ValueError as error:
        assert f"`{name.partition('.')[2]}` is " in str(error), error
        return True
    return False


numbers = st.one_of(
    st.floats(),
    st.integers(-3, 10**400),
    st.sampled_from([0, 1, -0.0, 1e-300, 1e300, 1e-30, 1e30, math.nan, math.inf, -math.inf]),
)
no_numbers = st.one_of(
    st.text(), st.booleans(), st.complex_numbers(), st.just([]), st.dates(), st.just("0.1"), st.none()
)


def test_the_tables_name_every_argument() -> None:
    """A new option must be added here: none goes untried."""
    known = set(NUMBERS) | set(COUNTS) | FLAGS
    for name, kind in CLASSES.items():
        if inspect.isabstract(kind):
            continue
        for argument, parameter in inspect.signature(kind).parameters.items():
            if isinstance(parameter.default, bool | int | float):
                assert f"{name}.{argument}" in known
                assert parameter.default == DEFAULTS[name][argument], name


@settings(max_examples=600, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(NUMBERS)), value=numbers)
def test_numbers_are_refused_outside_their_bounds(name: str, value: float) -> None:
    try:
        fine = math.isfinite(float(value)) and NUMBERS[name](value)
    except OverflowError:
        fine = False
    assert refused(name, value) == (not fine)


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_numbers_are_refused_just_outside_their_bounds(name: str) -> None:
    for value in (-1e-6, 0.0, 1e-6, 1 - 1e-6, 1.0, 1 + 1e-6):
        assert refused(name, value) == (not NUMBERS[name](value)), value


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_counts_are_refused_just_below_their_bounds(name: str) -> None:
    assert refused(name, COUNTS[name] - 1) and not refused(name, COUNTS[name])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(NUMBERS)), value=no_numbers)
def test_what_is_no_number_is_refused(name: str, value: object) -> None:
    may_be_none = name.partition(".")[2] in MAY_BE_NONE and name not in NEEDED
    assert refused(name, value) == (not (value is None and may_be_none))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(COUNTS)), value=st.one_of(numbers, no_numbers))
def test_counts_are_whole_numbers(name: str, value: object) -> None:
    fine = isinstance(value, int) and not isinstance(value, bool) and value >= COUNTS[name]
    assert refused(name, value) == (not fine)


@pytest.mark.parametrize("value", [0, 1, "yes", None, np.True_])
@pytest.mark.parametrize("name", sorted(FLAGS))
def test_flags_are_true_or_false(name: str, value: object) -> None:
    assert refused(name, value) and not refused(name, True)


@pytest.mark.parametrize("value", [3, "tanh", dfc.Tanh, X])
@pytest.mark.parametrize("name", sorted(PARTS))
def test_parts_are_of_their_type(name: str, value: object) -> None:
    assert refused(name, value)
