"""Strict numerics for every test: 64 bits, and no promotion of dtypes or ranks behind our back."""

import contextlib
import functools
import gc
import itertools
import os
import pathlib
import signal
import time
from collections.abc import Callable, Iterator

import jax
import jax.random as jr
import jaxtyping
import pytest
from jax._src.interpreters import mlir
from jax._src.lib.mlir import ir
from jaxtyping import PRNGKeyArray


# The suite compiles more than it computes: each program quickly, and on one thread of each worker, in the
# processes that tests start too.
QUICK = "--xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):  # later ones end the process at a flag that they do not know
    QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
jax.config.update("jax_disable_most_optimizations", True)

# JAX makes an MLIR context for every program, which takes longer than all else of a small one, and a megabyte
# or two for as long as the program lives: one serves them all. What is made amid another program needs its
# own, or it would become a part of that one.
make_context = mlir.make_ir_context
shared_context = functools.cache(make_context)
mlir.make_ir_context = lambda: shared_context() if ir.Context.current is None else make_context()

# Tracing makes objects by the million that live as long as their programs: looking for garbage among them
# more seldom saves a twentieth of the suite's time.
gc.set_threshold(20_000)

# Later runs take the programs of earlier ones; `pytest --cache-clear` forgets them.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    programs = str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "d" / "programs")
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": programs, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    jax.config.update("jax_compilation_cache_dir", programs)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


CHANGES = jax.make_user_context(())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip slow tests that would begin after `.ci/run`'s time: machines differ by two and more times."""
    until = os.environ.get("DFC_JAX_TESTS_UNTIL")  # in seconds since 1970
    slow = item.get_closest_marker("slow") is not None  # not the others, which a slow test may run
    if slow and until is not None and time.time() > float(until):
        pytest.skip("no time is left on this machine")


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Every program holds memory maps, of which Linux grants a process 65530: the suite would use them up."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and len(maps.read_text().splitlines()) > 20_000:
        jax.clear_caches()


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`monkeypatch.setattr` for what programs are made of: none serves with other changes than its own."""
    changes: list[tuple] = []
    with contextlib.ExitStack() as stack:

        def change(*target_and_value: object) -> None:
            monkeypatch.setattr(*target_and_value)
            changes.append(target_and_value)
            stack.enter_context(CHANGES(tuple(changes)))

        yield change


@pytest.fixture
def getkey() -> Callable[[], PRNGKeyArray]:
    """A fresh random key at every call, the same ones in every run."""
    seeds = itertools.count(2021)
    return lambda: jr.key(next(seeds))


@pytest.fixture
def standard_promotion():
    """JAX's own promotion of dtypes, for what is made to mix them."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As users call: without the suite's type checks, which would be the first to complain."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT as at a terminal: a process in the background is born with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def as_users_run():
    """JAX's own defaults, which the suite tightens."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """With all of small MNIST in two folders, of which the library knows in this order: first, second."""
    from small_archives import expect, MNIST, Server  # with the whole package

    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    server.files = {f"/{mirror}/{name}": c for mirror in ("first", "second") for name, c in MNIST.items()}
    expect(monkeypatch, "mnist", MNIST, (server.address("first/"), server.address("second/")))
    yield server
    server.stop()


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many runs each program that is trained has."""
    from dfc_jax._training import programs as all_programs  # not before JAX is set up

    found, train = [], all_programs.train

    def noted(given: list, *rest: object) -> tuple:
        found.append(len(given))
        return train(given, *rest)

    monkeypatch.setattr(all_programs, "train", noted)
    return found
