"""The arrays of the published PyTorch code, every one of them, reproduced from its inputs."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import flat, relative_error
from jaxtyping import Array
from published_cases import Case, FILES, floored, group, groups, load, name_of, SINGLE_PHASE

import dfc_jax as dfc


TOLERANCE = 1e-10

every_file = pytest.mark.parametrize("path", FILES, ids=name_of)


@pytest.mark.parametrize("path, wanted", [(p, g) for p in FILES for g in groups(p)], ids=name_of)
def test_array_is_reproduced(path: Path, wanted: str) -> None:
    case, found = load(path)
    names = [name for name in case.file if group(name) == wanted]
    if wanted == "condition2":
        assert (
            relative_error(jnp.mean(eqx.filter_jit(dfc.condition_two)(case.model, case.x)), case.file[wanted])
            < TOLERANCE
        )
        return
    assert len(names) in (1, case.depth)
    for name in names:
        assert name in found, f"The library has nothing for {name}."
        assert relative_error(found[name], case.file[name]) < TOLERANCE, name


@every_file
def test_nothing_is_missing_from_the_file(path: Path) -> None:
    case, found = load(path)
    assert found.keys() <= case.file.keys()


def _undo(update: dfc.Network, case: Case) -> dict[str, Array]:
    """The code's gradients from an update: times its factor 2 and the nudge the library divides by."""
    factor = 2 * float(case.target.unit())
    weights = {f"dW{i}": factor * layer.transform.weight for i, layer in enumerate(update.layers)}
    return weights | {f"db{i}": factor * layer.transform.bias for i, layer in enumerate(update.layers)}


@every_file
def test_published_average_accumulates_the_average_gradient(path: Path) -> None:
    case, _ = load(path)

    @eqx.filter_jit
    def accumulate() -> tuple[tuple[dfc.Layer, ...], dfc.Equilibrium]:
        return dfc.PublishedAverage(case.scheme)(case.loop, jax.vmap(case.loop.sample)(case.x, case.y))

    change, last = accumulate()
    assert relative_error(last.control, case.file["u"][-1]) < TOLERANCE
    for i, layer in enumerate(change):
        for name, array in (("W", layer.transform.weight), ("b", layer.transform.bias)):
            wanted = case.file[f"d{name}{i}_average_nonlinear_difference"]
            assert relative_error(-2 / len(case.x) * array, wanted) < TOLERANCE


@pytest.mark.parametrize("path", [p for p in FILES if Case(p).tau_apical is None], ids=name_of)
def test_dfc_update_is_the_average_gradient(path: Path) -> None:
    case, _ = load(path)
    method = dfc.DFC(
        case.controller, case.target, case.loss, case.tau_v, average=dfc.PublishedAverage(case.scheme)
    )
    update, report = eqx.filter_jit(method)(case.model, case.x, case.y)
    for name, array in _undo(update, case).items():
        assert relative_error(array, case.file[f"{name}_average_nonlinear_difference"]) < TOLERANCE, name
    assert relative_error(jnp.mean(report.loss), case.file["loss"]) < TOLERANCE
    assert relative_error(report.output, case.file["prediction"]) < TOLERANCE


@pytest.mark.parametrize("path", [p for p in FILES if "u_ssa" in groups(p)], ids=name_of)
def test_dfcssa_update_is_the_linearised_gradient(path: Path) -> None:
    case, _ = load(path)
    method = dfc.DFCSSA(case.controller, case.target, case.loss)
    update, report = eqx.filter_jit(method)(case.model, case.x, case.y)
    assert np.all(report.converged)
    for name, array in _undo(update, case).items():
        assert relative_error(array, case.file[f"{name}_ssa_nonlinear_difference"]) < TOLERANCE, name


@pytest.mark.parametrize("path", [p for p in FILES if Case(p).tau_apical is None], ids=name_of)
def test_voltage_rule_is_the_published_voltage_difference(path: Path) -> None:
    case, _ = load(path)
    method = dfc.DFC(
        case.controller,
        case.target,
        case.loss,
        case.tau_v,
        dfc.PublishedAverage(case.scheme),
        teaching=dfc.VoltageDifference(),
    )
    update, _ = eqx.filter_jit(method)(case.model, case.x, case.y)
    for name, array in _undo(update, case).items():
        assert relative_error(array, case.file[f"{name}_average_voltage_difference"]) < TOLERANCE, name


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if Case(p).tau_apical is None and Case(p).scheme.instant_transmission],
    ids=name_of,
)
def test_dfcss_of_the_last_state_is_the_published_gradient(path: Path) -> None:
    """Two-phase Strong-DFC, and DFC-SS, as the code computes them: not at rest, but after T."""
    case, _ = load(path)

    equilibrium = dfc.StateAtTime(case.scheme, case.tau_v)
    method = dfc.DFCSS(case.controller, case.target, case.loss, equilibrium, None)
    update, report = eqx.filter_jit(method)(case.model, case.x, case.y)
    assert relative_error(report.control, case.file["u"][-1]) < TOLERANCE
    for name, array in _undo(update, case).items():
        assert relative_error(array, case.file[f"{name}_last_nonlinear_difference"]) < TOLERANCE, name


@pytest.mark.parametrize("path", SINGLE_PHASE, ids=name_of)
def test_single_phase_is_the_published_one_on_the_same_noise(path: Path) -> None:
    case = Case(path)
    method = case.single_phase()
    key = jax.random.key(0)  # not used: the noise is the file's
    update, report = eqx.filter_jit(method)(case.model, case.x, case.y, key=key)
    feedback = floored(update.feedback.weights, method.noise)
    found = _undo(update, case) | {f"dQ{i}": Q for i, Q in enumerate(feedback)} | {"u_last": report.control}
    for name, array in found.items():
        assert relative_error(array, case.file[name]) < TOLERANCE, name
    alone = dfc.HighPassPhase(method)(case.model, case.x, case.y, key=key)
    assert relative_error(alone.feedback.weights, update.feedback.weights) < TOLERANCE
    assert not np.any(flat(alone.layers))
