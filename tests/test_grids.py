"""Models with a method, an optimiser and feedback learning each: those trained alone, as few programs."""

import itertools
import json
import pathlib
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import adam, relative_error
from small_runs import (
    ADAM,
    BACKPROP,
    fit,
    fit_many,
    in_single_precision,
    learning,
    regression,
    small_network,
    without_times,
)

import dfc_jax as dfc
from dfc_jax._runs import checkpoints
from dfc_jax._training import epochs as all_epochs
from dfc_jax._training.recipes import own_and_shared


pytestmark = pytest.mark.usefixtures("standard_promotion")  # Optax mixes whole numbers and floats.

SQUARED = dfc.MeanSquaredError()
DATA = regression()


def steady(nudge: float, k_p: float = 2.0) -> dfc.DFCSSA:
    return in_single_precision(dfc.DFCSSA(dfc.PIController(k_p), dfc.Nudge(nudge), SQUARED))


def adamw(rate: float, decay: float) -> optax.GradientTransformation:
    return optax.adamw(rate, weight_decay=decay)


def same(found: list, wanted: list) -> None:
    for (model, history), (alone, expected) in zip(found, wanted, strict=True):
        assert relative_error(model, alone) < 2e-4
        for record, other in zip(history.records, expected.records, strict=True):
            assert record["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)


def test_numbers_of_method_and_optimiser_make_one_program(programs: list[int]) -> None:
    methods = [steady(0.1), steady(0.3), steady(0.1, 1.0), steady(0.1)]
    optimisers = [adamw(3e-3, 0.1), adamw(3e-3, 0.1), adamw(3e-3, 0.1), adamw(1e-2, 0.5)]
    models = [small_network(k, (6, 8, 3)) for k in range(4)]
    found = fit_many(models, DATA, method=methods, optimiser=optimisers)
    assert programs == [4]
    each = zip(models, methods, optimisers, strict=True)
    wanted = [fit(m, DATA, method=me, optimiser=o, key=k) for k, (m, me, o) in enumerate(each)]
    same(found, wanted)
    # They are different runs: another nudge and another rate end elsewhere.
    starts = fit_many([models[0]] * 4, DATA, method=methods, optimiser=optimisers)
    for (one, _), (other, _) in itertools.combinations(starts, 2):
        assert relative_error(one, other) > 1e-3


@pytest.mark.slow
def test_numbers_of_feedback_learning_make_one_program_and_its_epochs_another(programs: list[int]) -> None:
    models = [small_network(k, (6, 8, 3), feedback=dfc.RandomFeedback()) for k in range(3)]
    phases = [learning(3e-3), learning(1e-2), learning(3e-3, pretraining_epochs=2)]
    method = steady(0.1)
    found = fit_many(models, DATA, method=method, feedback_learning=phases)
    assert programs == [2, 1]
    same(
        found,
        [
            fit(model, DATA, method=method, feedback_learning=phase, key=k)
            for k, (model, phase) in enumerate(zip(models, phases, strict=True))
        ],
    )


def test_what_is_no_number_makes_groups_that_keep_their_places(programs: list[int]) -> None:
    methods = [BACKPROP, steady(0.1), BACKPROP, steady(0.2)]
    sizes = [(6, 8, 3), (6, 8, 3), (6, 5, 3), (6, 8, 3)]
    models, seen = [small_network(k, size) for k, size in enumerate(sizes)], []
    heard = lambda i, record, model: seen.append(
        (i, record["epoch"], model.layers[0].transform.weight.shape[0])
    )
    found = fit_many(models, DATA, method=methods, on_epoch=heard, epochs=2)
    assert programs == [1, 2, 1]
    assert seen == [
        (0, 1, 8), (0, 2, 8), (1, 1, 8), (3, 1, 8), (1, 2, 8), (3, 2, 8), (2, 1, 5), (2, 2, 5)
    ]  # fmt: skip
    runs = enumerate(zip(models, methods, strict=True))
    same(found, [fit(model, DATA, method=method, epochs=2, key=k) for k, (model, method) in runs])


def test_so_many_at_once_are_the_same_runs(programs: list[int]) -> None:
    models, rates = [small_network(k, (6, 8, 3)) for k in range(5)], [1e-3, 2e-3, 3e-3, 4e-3, 5e-3]
    optimisers = [adam(rate) for rate in rates]
    whole = fit_many(models, DATA, optimiser=optimisers, epochs=2)
    same(fit_many(models, DATA, optimiser=optimisers, epochs=2, at_once=2), whole)
    assert programs == [5, 2, 2, 1]


def test_several_programs_go_on_from_folders_of_their_own(tmp_path: pathlib.Path) -> None:
    models, methods = [small_network(k, (6, 8, 3)) for k in (1, 2)], [BACKPROP, steady(0.1)]
    options = {"method": methods, "resume": tmp_path}
    fit_many(models, DATA, epochs=1, **options)
    assert sorted(path.name for path in tmp_path.glob("program-*")) == ["program-0", "program-1"]
    found = fit_many(models, DATA, epochs=3, **options)
    whole = fit_many(models, DATA, epochs=3, method=methods)
    assert [without_times(h) for _, h in found] == [without_times(h) for _, h in whole]
    with pytest.raises(ValueError, match=r"program-1', which holds another run: .*nudge"):
        fit_many(models, DATA, epochs=3, method=[BACKPROP, steady(0.2)], resume=tmp_path)


def test_other_programs_than_the_folder_holds_are_refused(tmp_path: pathlib.Path) -> None:
    models, methods = [small_network(k, (6, 8, 3)) for k in (1, 2)], [BACKPROP, steady(0.1)]
    one, several = tmp_path / "one", tmp_path / "several"
    fit_many(models, DATA, epochs=1, resume=one)
    fit_many(models, DATA, epochs=1, method=methods, resume=several)
    held = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    divided, other = "which holds these runs divided into other programs", "which holds another run: `method`"
    for folder, number, changed, problem in (
        (one, 2, {"at_once": 1}, divided),
        (one, 2, {"method": methods}, divided),
        (several, 2, {"at_once": 2}, divided),
        (several, 2, {"method": steady(0.3)}, other),
        (several, 3, {"method": [*methods, BACKPROP]}, divided),
    ):
        models = [small_network(k, (6, 8, 3)) for k in range(1, number + 1)]
        with pytest.raises(ValueError, match=problem):
            fit_many(models, DATA, epochs=2, resume=folder, **changed)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == held


def test_a_grid_that_goes_on_knows_the_numbers_of_every_run(tmp_path: pathlib.Path) -> None:
    models, optimisers = [small_network(k, (6, 8, 3)) for k in (1, 2)], [adam(1e-3), adam(2e-3)]
    fit_many(models, DATA, epochs=1, optimiser=optimisers, resume=tmp_path)
    fit_many(models, DATA, epochs=1, optimiser=[adam(1e-3), adam(2e-3)], resume=tmp_path)
    with pytest.raises(ValueError, match="which holds another run"):
        fit_many(models, DATA, epochs=2, optimiser=[adam(1e-3), adam(3e-3)], resume=tmp_path)
    with pytest.raises(ValueError, match="which holds another run"):
        fit_many(models, DATA, epochs=2, optimiser=adam(1e-3), resume=tmp_path)


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_leaves_later_programs_as_they_were() -> None:
    models = [small_network(k, (6, 8, 3)) for k in (1, 2)]

    def interrupt(position: int, record: dict, model: dfc.Network) -> None:
        raise KeyboardInterrupt

    (_, first), (model, second) = fit_many(models, DATA, method=[BACKPROP, steady(0.1)], on_epoch=interrupt)
    assert first.stopped_by == second.stopped_by == "interrupt" and second.records == []
    assert second.stopped.startswith("interrupted before the turn of its program") and model is models[1]


def test_what_a_call_is_given_one_of_for_each() -> None:
    models = [small_network(k, (6, 8, 3)) for k in (1, 2)]
    for name in ("method", "optimiser", "feedback_learning"):
        part = {"method": BACKPROP, "optimiser": ADAM, "feedback_learning": None}[name]
        with pytest.raises(ValueError, match=f"`{name}` are 3 and `models` 2; give one for all, or as many"):
            fit_many(models, DATA, **{name: [part] * 3})
    with pytest.raises(ValueError, match="`at_once` is 0"):
        fit_many(models, DATA, at_once=0)


def test_only_numbers_that_differ_are_a_runs_own() -> None:
    trees = [steady(0.1), steady(0.2), steady(0.1)]
    own, shared = own_and_shared(trees)
    (leaf,) = jax.tree.leaves(own)
    assert leaf.shape == (3,) and np.allclose(leaf, [0.1, 0.2, 0.1])
    assert shared.target.nudge is None and shared.controller.k_p == 2
    for i, tree in enumerate(trees):
        mine = jax.tree.map(lambda leaf, i=i: leaf[i], own)
        assert eqx.tree_equal(eqx.combine(mine, shared), tree)
    own, shared = own_and_shared([trees[0], trees[0]])
    assert jax.tree.leaves(own) == [] and eqx.tree_equal(shared, trees[0])
    nan = [{"a": jnp.asarray(np.nan)}, {"a": jnp.asarray(1.0)}]
    assert own_and_shared(nan)[0]["a"].shape == (2,)


def test_a_loss_of_ones_own_may_have_numbers() -> None:
    class Scaled(dfc.AbstractLoss):
        scale: jax.Array
        readout: ClassVar[dfc.AbstractReadout] = dfc.IdentityReadout()

        def __call__(self, output: jax.Array, target: jax.Array) -> jax.Array:
            return self.scale * SQUARED(output, target)

        def gradient(self, output: jax.Array, target: jax.Array) -> jax.Array:
            return self.scale * SQUARED.gradient(output, target)

    methods = [dfc.Backprop(Scaled(jnp.float32(scale))) for scale in (1.0, 10.0)]
    model = small_network(1, (6, 8, 3))
    found = fit_many([model] * 2, DATA, method=methods, epochs=1)
    alone = [fit(model, DATA, method=method, epochs=1, key=k) for k, method in enumerate(methods)]
    for (_, history), (_, expected) in zip(found, alone, strict=True):
        assert history.records[0]["test_loss"] == pytest.approx(expected.records[0]["test_loss"], rel=1e-4)
    losses = [history.records[0]["test_loss"] for _, history in found]
    assert losses[1] > 5 * losses[0]
    assert json.dumps(losses)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many runs each epoch was computed."""
    found, wake_epoch = [], all_epochs.wake_epoch

    def noted(many: bool, run: tuple, *rest: object) -> tuple:
        found.append(run[2].size)
        return wake_epoch(many, run, *rest)

    monkeypatch.setattr(all_epochs, "wake_epoch", noted)
    monkeypatch.setattr(all_epochs, "_WORTH_COMPILING", 1)
    return found


def staggered(stops: list[int], out: pathlib.Path | None = None, epochs: int = 5) -> list:
    """Four runs with a method each, which `on_epoch` stops at the end of these epochs."""
    models = [small_network(k, (6, 8, 3)) for k in range(4)]
    ends = lambda i, record, _: record["epoch"] == stops[i]
    methods = [steady(nudge) for nudge in (0.1, 0.2, 0.3, 0.4)]
    return fit_many(models, DATA, method=methods, on_epoch=ends, epochs=epochs, resume=out)


def test_runs_that_have_stopped_cost_nothing_once_they_are_half(rows: list[int]) -> None:
    found = staggered([1, 2, 4, 9])
    assert rows == [4, 4, 2, 2, 1]
    assert [len(history.records) for _, history in found] == [1, 2, 4, 5]
    wanted = [
        fit(small_network(k, (6, 8, 3)), DATA, method=steady(nudge), epochs=epochs, key=k)
        for k, (nudge, epochs) in enumerate([(0.1, 1), (0.2, 2), (0.3, 4), (0.4, 5)])
    ]
    same(found, wanted)


def test_what_compiles_longer_than_it_trains_goes_on_together(rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_epochs, "_WORTH_COMPILING", 3 * len(DATA.train) * (7 * 8 + 9 * 3) + 1)
    staggered([1, 1, 1, 9])
    assert rows == [4] * 5


@pytest.mark.slow
@pytest.mark.parametrize("done", [2, 3, 4])
def test_a_grid_goes_on_with_those_that_were_left(done: int, tmp_path: pathlib.Path, rows: list[int]) -> None:
    whole = staggered([1, 2, 4, 9])
    staggered([1, 2, 4, 9], tmp_path, done)
    rows.clear()
    found = staggered([1, 2, 4, 9], tmp_path)
    assert rows == [4, 4, 2, 2, 1][done:]
    for (model, history), (other, expected) in zip(found, whole, strict=True):
        assert relative_error(model, other) == 0
        assert without_times(history) == without_times(expected)


def test_a_checkpoint_that_does_not_say_whose_rows_it_has_is_of_all(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, stops = checkpoints.save, [9] * 4
    earlier = lambda *tree, facts: save(*tree, {name: facts[name] for name in facts if name != "rows"})
    monkeypatch.setattr(checkpoints, "save", lambda *given: earlier(*given[:-1], facts=given[-1]))
    staggered(stops, tmp_path, 2)
    monkeypatch.undo()
    same(staggered(stops, tmp_path, 3), staggered(stops, epochs=3))
