"""The update of a method, of whatever kind, as what it learns and as a vector with a direction."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PyTree

import dfc_jax as dfc


def learned(method: eqx.Module, network: dfc.Network) -> PyTree:
    """The part of a network, or of its update, that a method learns."""
    if isinstance(method, dfc.AbstractSleepPhase):
        part = network.feedback
    else:
        part = network if method.learns_feedback else network.layers
    return eqx.filter(part, eqx.is_inexact_array)


def update_of(
    method: eqx.Module, model: dfc.Network, x: Array, y: Array, key: Array
) -> tuple[PyTree, PyTree]:
    """The method alone: its update and its report, where there is one."""
    result = method(model, x, y, key=key)
    update, report = (result, None) if isinstance(method, dfc.AbstractSleepPhase) else result
    return learned(method, update), report


compiled_update = eqx.filter_jit(update_of)


@contextlib.contextmanager
def default_products() -> Iterator[None]:
    """What is compiled here has products of the device's default, where the library asks for full ones."""
    # JAX keeps programs by its default, too: those of the library as it is neither serve nor are replaced.
    with (
        jax.default_matmul_precision("default"),
        mock.patch.object(jax, "default_matmul_precision", lambda _: contextlib.nullcontext()),
    ):
        yield


def quality(report: dfc.Report | None) -> dict[str, float]:
    """How well the steady states were found, and in how many iterations; nothing where none was sought."""
    if report is None or not np.any(report.iterations > 0):
        return {}
    return {
        "converged": float(np.mean(report.converged)),
        "largest_residual": float(np.max(report.residual)),
        "iterations": float(np.mean(report.iterations)),
    }


def as_vector(update: PyTree) -> np.ndarray:
    """All numbers of an update."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(update)], dtype=float)


def angle_degrees(update: np.ndarray | None, reference: np.ndarray) -> float | None:
    """In degrees, by the half-angle: exact for small angles too. None for an update that has no direction."""
    if update is None or not 0 < np.linalg.norm(update) < np.inf:
        return None
    a, b = update / np.linalg.norm(update), reference / np.linalg.norm(reference)
    return float(np.degrees(2 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b))))
