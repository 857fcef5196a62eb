"""How many runs `fit_many` trains at once by itself, and what it does with those that do not fit."""

import pathlib
from collections.abc import Callable
from unittest import mock

import jax
import numpy as np
import pytest
from helpers import flat, relative_error
from small_runs import fit_many, in_single_precision, learning, regression, small_network, without_times

import dfc_jax as dfc
from dfc_jax._training import memory


pytestmark = pytest.mark.usefixtures("standard_promotion")  # Optax mixes whole numbers and floats.

DATA = regression()


def networks(number: int) -> list[dfc.Network]:
    return [small_network(k, (6, 8, 3)) for k in range(number)]


@pytest.fixture
def bytes_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The bytes that so many runs are said to need."""
    needed: list[int | None] = []
    measured = memory._needed
    noted = lambda *given: needed.append(measured(*given)) or needed[-1]

    def of(number: int, models: list[dfc.Network] | None = None, **options: object) -> int:
        with monkeypatch.context() as changed:
            changed.setattr(memory, "_needed", noted)
            fit_many(models or networks(number), DATA, epochs=1, **options)
        return needed[-1]

    return of


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Gives the device so many bytes."""
    return lambda number: monkeypatch.setattr(memory, "free_memory", lambda device: number)


def test_as_many_are_trained_at_once_as_fit(programs, bytes_of, has) -> None:
    whole = fit_many(networks(7), DATA)
    has(bytes_of(3))
    programs.clear()
    found = fit_many(networks(7), DATA)
    assert programs == [3, 3, 1]
    for (model, history), (other, expected) in zip(found, whole, strict=True):
        assert relative_error(model, other) < 2e-4
        assert len(history.records) == len(expected.records)


@pytest.mark.parametrize("number, trained", [(1, [1, 1, 1]), (None, [3])])
def test_one_is_trained_in_any_case_and_all_where_nobody_knows(programs, has, number, trained) -> None:
    has(number)
    fit_many(networks(3), DATA, epochs=1)
    assert programs == trained


def test_what_the_user_says_is_asked_of_nobody(programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: pytest.fail("was asked"))
    fit_many(networks(3), DATA, epochs=1, at_once=2)
    fit_many(networks(1), DATA, epochs=1)
    assert programs == [2, 1, 1]


def test_the_bytes_are_those_of_the_arrays_and_more(bytes_of) -> None:
    """Weights, and Adam's two moments of them, go in and come out; the data go in."""
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(networks(1)[0].layers))
    data = DATA.train.x.nbytes + DATA.train.y.nbytes
    for number in (2, 4, 8):
        assert 2 * 3 * number * weights + data < bytes_of(number) < 40 * number * weights + 2 * data
    # Hundreds of samples more than the batch are evaluated at once.
    assert bytes_of(8) > 1.5 * bytes_of(4) - data > 2 * bytes_of(2) - 3 * data


def test_what_a_batch_takes_while_it_is_computed_counts(bytes_of) -> None:
    """The arrays that go in and come out are the same whatever its size."""
    small, large = (bytes_of(4, batch_size=size) for size in (8, 96))
    rates = 4 * (96 - 8) * (8 + 3) * DATA.train.x.itemsize
    assert large - small > rates


def test_feedback_that_sleeps_counts(bytes_of) -> None:
    models = [small_network(k, (6, 8, 3), feedback=dfc.RandomFeedback()) for k in range(2)]
    asleep = {n: bytes_of(2, models, feedback_learning=learning(pretraining_epochs=n)) for n in (0, 1)}
    assert asleep[1] >= asleep[0] > bytes_of(2)


def test_a_program_that_the_compiler_refuses_is_halved(
    programs, has, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowered, sizes = memory._lowered, []

    class Refused:
        def compile(self) -> None:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")

    def too_large(program: Callable, many: bool, run: tuple, *rest: object) -> object:
        sizes.append(len(jax.tree.leaves(run[0])[0]))
        return Refused() if sizes[-1] > 3 else lowered(program, many, run, *rest)

    monkeypatch.setattr(memory, "_lowered", too_large)
    has(10**12)
    fit_many(networks(6), DATA, epochs=1)
    assert programs == [3, 3] and sizes == [6, 3, 3, 3]


def test_an_error_of_another_kind_is_no_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def compile(self) -> None:
            raise jax.errors.JaxRuntimeError("INTERNAL: the compiler is broken")

    monkeypatch.setattr(memory, "_lowered", lambda *_: Broken())
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        fit_many(networks(2), DATA, epochs=1)


def test_what_is_compiled_to_know_serves_training(caplog: pytest.LogCaptureFixture) -> None:
    method = in_single_precision(dfc.DFCSSA(loss=dfc.MeanSquaredError()))
    models = [small_network(k, (6, 7, 5, 3), feedback=dfc.RandomFeedback()) for k in range(3)]
    with jax.log_compiles(), caplog.at_level("WARNING"):
        fit_many(models, DATA, method=method, feedback_learning=learning(), epochs=2)
    said = [record.getMessage() for record in caplog.records]
    compiled = [line.split("(")[1].split(")")[0] for line in said if line.startswith("Compiling jit(")]
    # One of each; where other tests have cleared JAX's caches, it knows them by their wrapper's name.
    assert sum(compiled.count(name) for name in ("wake_epoch", "sleep_epoch", "evaluation", "of_runs")) == 3


def test_a_cpu_has_what_the_machine_has_and_an_accelerator_what_it_says() -> None:
    accelerator = mock.Mock(spec=jax.Device, platform="gpu")
    accelerator.memory_stats.return_value = {"bytes_limit": 1000, "bytes_in_use": 300}
    assert memory.free_memory(accelerator) == 600
    accelerator.memory_stats.return_value = None
    assert memory.free_memory(accelerator) is None
    total = pathlib.Path("/proc/meminfo")
    if total.exists():
        kilobytes = int(total.read_text().split()[1])
        assert memory.free_memory(jax.devices("cpu")[0]) == pytest.approx(0.9 * 1024 * kilobytes, rel=0.01)


# Folders of several programs


def test_runs_go_on_as_they_were_divided_whatever_fits_now(
    tmp_path: pathlib.Path, programs, bytes_of, has
) -> None:
    two = bytes_of(2)
    has(two)
    fit_many(networks(5), DATA, epochs=1, resume=tmp_path)
    programs.clear()
    has(10**12)
    found = fit_many(networks(5), DATA, epochs=3, resume=tmp_path)
    assert programs == [2, 2, 1]
    with pytest.raises(ValueError, match="divided into other programs"):
        fit_many(networks(5), DATA, epochs=3, resume=tmp_path, at_once=5)
    has(two)
    whole = fit_many(networks(5), DATA, epochs=3)
    assert [without_times(h) for _, h in found] == [without_times(h) for _, h in whole]


def seeds_in(folder: dfc.RunFolder, epochs: int, stop_after: tuple[int, int] | None = None) -> None:
    """Five seeds trained in `folder`, until one's epoch is over."""

    def on_epoch(position: int, record: dict, _: dfc.Network) -> None:
        if (position, record["epoch"]) == stop_after:
            raise RuntimeError("killed")
        folder.append(10 + position, record)

    found = fit_many(networks(5), DATA, epochs=epochs, resume=folder.checkpoints, on_epoch=on_epoch)
    folder.finish({10 + i: history for i, (_, history) in enumerate(found)}, "test_loss")


def test_a_run_folder_of_several_programs_is_read_and_goes_on(tmp_path: pathlib.Path, bytes_of, has) -> None:
    has(bytes_of(2))
    config = {"seeds": [10, 11, 12, 13, 14], "epochs": 3}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    seeds_in(dfc.RunFolder.create(whole, config), 3)
    folder = dfc.RunFolder.create(killed, config)
    with pytest.raises(RuntimeError, match="killed"):
        seeds_in(folder, 3, stop_after=(3, 2))
    folder._lock.release()  # as the end of a process does
    begun = dfc.load_run(killed)
    assert {seed: len(records) for seed, records in begun.records.items()} == {10: 3, 11: 3, 12: 1, 13: 1}
    seeds_in(dfc.RunFolder.reopen(killed, config), 3)
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    runs = [dfc.load_run(path) for path in (whole, killed)]
    assert all(list(run.models) == list(run.best_models) == config["seeds"] for run in runs)
    for seed in config["seeds"]:
        assert np.array_equal(flat(runs[0].models[seed]), flat(runs[1].models[seed]))
    with pytest.raises(ValueError, match=r"`epochs` is 2, but .* holds 3 already"):
        dfc.RunFolder.reopen(killed, config | {"epochs": 2})


def test_a_folder_of_fit_many_with_several_programs_is_read(tmp_path: pathlib.Path) -> None:
    found = fit_many(networks(3), DATA, epochs=1, resume=tmp_path, at_once=2)
    run = dfc.load_run(tmp_path)
    assert run.config == {} and list(run.models) == [0, 1, 2]
    for seed, (model, _) in enumerate(found):
        assert np.array_equal(flat(run.models[seed]), flat(model))


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "[[0, 1]]", "[[0, 1], [1]]", "[[0, 1], [3]]", "[[0], [1, 2]]", "[0]"]
)
def test_what_says_which_runs_a_program_trains_is_checked(tmp_path: pathlib.Path, text: str) -> None:
    fit_many(networks(3), DATA, epochs=1, resume=tmp_path, at_once=2)
    (tmp_path / "programs.json").write_text(text)
    with pytest.raises(ValueError, match=r"^[^\n]*(programs\.json|checkpoint)[^\n]*$"):
        dfc.load_run(tmp_path)
    with pytest.raises(ValueError, match=r"^[^\n]*(programs\.json|divided|`key` is not that)[^\n]*$"):
        fit_many(networks(3), DATA, epochs=1, resume=tmp_path)


def test_checkpoints_of_several_programs_without_their_list_are_refused(tmp_path: pathlib.Path) -> None:
    fit_many(networks(3), DATA, epochs=1, resume=tmp_path, at_once=2)
    (tmp_path / "programs.json").unlink()
    for again in (lambda: dfc.load_run(tmp_path), lambda: fit_many(networks(3), DATA, resume=tmp_path)):
        with pytest.raises(ValueError, match=r"holds checkpoints of several programs, but no programs\.json"):
            again()
