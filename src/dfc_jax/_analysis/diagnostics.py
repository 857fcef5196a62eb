"""The diagnostics of a training run, epoch by epoch."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from dfc_jax._analysis.energies import control_energy, predictive_coding_energy
from dfc_jax._analysis.measures import (
    alignment,
    condition_one,
    condition_two,
    feedback_angles,
    feedback_ratio,
    own_changes,
    OwnChanges,
    unseen_part,
    update_angles,
)
from dfc_jax._analysis.surrogate import surrogate_gradient, surrogate_loss
from dfc_jax._checks import require
from dfc_jax._data.dataset import Split
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.stability import has_few_modes, loop_eigenvalues
from dfc_jax._dynamics.states import Sample
from dfc_jax._dynamics.targets import Clamp
from dfc_jax._fields import count, number, Part
from dfc_jax._methods.base import AbstractMethod
from dfc_jax._methods.baselines import Backprop
from dfc_jax._methods.dfc import DFCSS, DFCSSA, SteadyStateMethod
from dfc_jax._methods.optimal_control import OptimalControlMethod
from dfc_jax._methods.references import GaussNewton, MinimumNorm
from dfc_jax._network.network import Network
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs, Scalar
from dfc_jax._steady_state.base import Equilibrium
from dfc_jax._steady_state.linear import Analytic


Measure = Callable[[Network, AbstractMethod, BatchInputs, BatchOutputs], dict[str, Any]]


def _measures(also: Any) -> tuple[Measure, ...]:
    fine = isinstance(also, tuple) and all(callable(measure) for measure in also)
    require(fine, f"`also` is {also!r}; it must be a tuple of functions of (model, method, x, y).")
    return also


class Diagnostics(Part):
    """What `fit` adds to the record of every `every`-th epoch, measured on the first validation samples.

    Of every method: `angle_to_...` its reference updates in degrees, over the whole network and as a list
    with an entry for each layer, and `target_alignment`. Of methods with a controller also `condition_one`,
    `condition_two`, the angles of Q to J^T and to the damped pseudo-inverse, `largest_real_part` of the
    loop's eigenvalues (per tau_u; the largest over the samples), `null_space_fraction` and, a list,
    `feedback_ratio`.
    Everything but `largest_real_part` is a mean over the samples; angles of the feedback, `target_alignment`
    and `null_space_fraction` over those whose Jacobian and update are not zero. Under strong feedback
    (`Clamp`) also `surrogate_loss`, the H that learning lowers, at the steady states, and the angle to its
    exact gradient; of `LeastControl` and `PredictiveCoding` instead `control_energy` and `energy`, which they
    minimise.
    Methods with noise are measured under the same noise every time.

    **Arguments:**

    - `every`: epochs from one measurement to the next.
    - `samples`: how many samples; angles are those of their common update.
    - `damping`: of the minimum-norm and Gauss-Newton updates and of the pseudo-inverse.
    - `also`: measures of one's own, functions `(model, method, x, y) -> {name: value}` of the same samples
      (inputs "batch ...", targets "batch out"), whose values are numbers or arrays. They are called as they
      are: `jax.jit` is theirs. None of their names may be one of those above.
    """

    every: int = count("every", 1)
    samples: int = count("samples", 128)
    damping: Scalar = number("damping", 1e-3, minimum=0)
    also: tuple[Measure, ...] = eqx.field(converter=_measures, default=())

    def __call__(self, model: Network, method: AbstractMethod, validation: Split) -> dict[str, Any]:
        """The measurements, as plain numbers.

        **Raises:** `ValueError` if a measure of `also` has a name that is taken.
        """
        x, y = (jnp.asarray(array[: self.samples]) for array in (validation.x, validation.y))
        found = _measure(method, model, x, y, self.damping)
        numbers = {name: np.asarray(value).tolist() for name, value in found.items()}
        loop = method.loop(model)
        if loop is not None and has_few_modes(loop, y.shape[1]):
            eigenvalues = loop_eigenvalues(loop, loop.samples(x, y))
            numbers["largest_real_part"] = float(np.max(eigenvalues.real))
        for measure in self.also:
            own = measure(model, method, x, y)
            taken = sorted(numbers.keys() & own.keys())
            require(not taken, f"`also` holds a measure named {taken}; give it a name that is not taken.")
            numbers |= {name: np.asarray(value).tolist() for name, value in own.items()}
        return numbers


@eqx.filter_jit
def _measure(
    method: AbstractMethod,
    model: Network,
    x: BatchInputs,
    y: BatchOutputs,
    damping: Scalar,
) -> dict[str, Array]:
    key = jr.key(0)  # the same noise in every epoch: what changes between them is the model
    loop = method.loop(model)
    if isinstance(method, SteadyStateMethod):
        assert loop is not None  # such a method has one
        return _measure_steady(method, model, loop, x, y, damping)
    (update, _), own = method(model, x, y, key=key), method.own_updates(model, x, y, key=key)
    changes = own_changes(model, x, own)
    if loop is None:
        return _of_updates(method, model, model, x, y, update, changes, damping)
    samples = loop.samples(x, y)
    found = _of_updates(method, model, loop.network, x, y, update, changes, damping)
    found |= _of_feedback(model, loop, x, samples, changes, damping)
    if isinstance(loop.target, Clamp):
        rest, _ = DFCSS().equilibria(loop, samples)
        found |= _of_strong_feedback(loop, x, y, samples, rest, update)
    return found


def _measure_steady(
    method: SteadyStateMethod,
    model: Network,
    loop: ClosedLoop,
    x: BatchInputs,
    y: BatchOutputs,
    damping: Scalar,
) -> dict[str, Array]:
    """Of a method that learns in steady states, which are sought once."""
    samples = loop.samples(x, y)
    rest, _ = method.equilibria(loop, samples)
    own = method.own_updates_at(model, loop, samples, rest)
    update = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), own)
    changes = own_changes(model, x, own)
    # Under optimal control the model's own feedback plays no part.
    found = _of_updates(method, model, loop.network, x, y, update, changes, damping)
    found |= _of_feedback(model, loop, x, samples, changes, damping)
    if isinstance(method, OptimalControlMethod):
        found["control_energy"] = jnp.mean(control_energy(rest))
        found["energy"] = jnp.mean(predictive_coding_energy(loop, samples, rest))
    elif isinstance(loop.target, Clamp):
        nonlinear = method if isinstance(method, DFCSS) else DFCSS()
        if nonlinear is not method:
            rest, _ = nonlinear.equilibria(loop, samples)
        there = nonlinear.equilibrium.samples_at_rest(loop, samples, rest)
        found |= _of_strong_feedback(loop, x, y, there, rest, update)
    return found


def _of_updates(
    method: AbstractMethod,
    model: Network,
    network: Network,
    x: BatchInputs,
    y: BatchOutputs,
    update: Network,
    changes: OwnChanges,
    damping: Scalar,
) -> dict[str, Array]:
    """The angles to the references, which see the feedback of `network`, and the target alignment."""
    found = {"target_alignment": jnp.nanmean(alignment(model, method.loss, x, y, changes))}
    for name, reference in _references(method, model, damping).items():
        angles = update_angles(update, reference(network, x, y)[0])
        found[f"angle_to_{name}"] = angles.network
        found[f"angle_to_{name}_by_layer"] = jnp.stack(angles.layers)
    return found


def _of_feedback(
    model: Network,
    loop: ClosedLoop,
    x: BatchInputs,
    samples: Sample,
    changes: OwnChanges,
    damping: Scalar,
) -> dict[str, Array]:
    """What every method with a controller has."""
    ratios = feedback_ratio(loop, samples, Analytic()(loop, samples))
    return {
        "condition_one": jnp.mean(condition_one(model, x)),
        "condition_two": jnp.mean(condition_two(loop.network, x)),
        "angle_of_feedback_to_transposed_jacobian": jnp.nanmean(feedback_angles(loop.network, x)),
        "angle_of_feedback_to_pseudo_inverse": jnp.nanmean(feedback_angles(loop.network, x, damping)),
        "feedback_ratio": jnp.stack([jnp.mean(ratio) for ratio in ratios]),
        "null_space_fraction": jnp.mean(unseen_part(model, x, changes), where=changes.size != 0),
    }


def _of_strong_feedback(
    loop: ClosedLoop, x: BatchInputs, y: BatchOutputs, samples: Sample, rest: Equilibrium, update: Network
) -> dict[str, Array]:
    """What learning lowers, at the steady states `rest`, and how far the update is from its gradient."""
    gradient = surrogate_gradient(loop, x, y, samples, rest)
    return {
        "surrogate_loss": jnp.mean(surrogate_loss(loop, samples, rest)),
        "angle_to_surrogate_gradient": update_angles(update, gradient).network,
    }


def _references(method: AbstractMethod, model: Network, damping: Scalar) -> dict[str, AbstractMethod]:
    loss, loop = method.loss, method.loop(model)
    references = {
        "backprop": Backprop(loss),
        "minimum_norm": MinimumNorm(loss, damping),
        "gauss_newton": GaussNewton(loss, damping),
    }
    if loop is not None:
        references["dfc_ssa"] = DFCSSA(controller=loop.controller, target=loop.target, loss=loss)
    return references
