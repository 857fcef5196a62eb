"""Why samples fail to converge, found for the user, and what to change."""

import jax
import jax.numpy as jnp
import numpy as np

from dfc_jax._dynamics.states import Sample
from dfc_jax._methods.base import AbstractMethod
from dfc_jax._network.network import as_batch, Network
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs


_SATURATED, _MANY = 0.01, 0.5  # a slope of so little of the largest possible; so many of a layer's neurons


def reasons_for_failure(method: AbstractMethod, model: Network, x: BatchInputs, y: BatchOutputs) -> list[str]:
    """What keeps samples from converging, in a sentence each with what to change; empty if nothing is found.

    Looked for are inputs that are not finite, targets that are too far away, saturated neurons, and what
    `method.doubts` knows: an unstable loop (largest real part of its eigenvalues) and whether it is the gain
    or the feedback that makes it so, a step above its stability bound, a time too short. A handful of samples
    is enough. Not for use under jit.
    """
    x, y = as_batch(model, x, y)
    loop = method.loop(model)
    if loop is None:
        return []
    finite = np.isfinite(np.asarray(x).reshape(len(x), -1)).all(axis=1) & np.isfinite(np.asarray(y)).all(
        axis=1
    )
    found = []
    if not finite.all():
        found.append(f"{np.mean(~finite):.0%} of the samples tried are not finite: clean the data.")
    if not finite.any():
        return found
    x, y = x[finite], y[finite]
    samples = loop.samples(x, y)
    return [*found, *_overflow(samples), *method.doubts(model, x, y), *_saturation(model, samples)]


def _overflow(samples: Sample) -> list[str]:
    error = np.asarray(samples.error)
    with np.errstate(over="ignore"):
        fine = np.isfinite(np.sum(error**2, axis=1))
    if fine.all():
        return []
    return [
        f"The target of {np.mean(~fine):.0%} of the samples tried is {np.max(np.abs(error)):.3g} away from "
        f"the output, which is more than {error.dtype} can square: lower the nudge, or scale the targets."
    ]


def _saturation(model: Network, samples: Sample) -> list[str]:
    found = []
    for i, (layer, voltage) in enumerate(zip(model.layers, samples.feedforward.voltages, strict=True), 1):
        # Of whole layers, as an activation may have parameters of each neuron's own.
        slopes = jax.vmap(layer.activation.derivative)
        grid = jnp.linspace(-4.0, 4.0, 81, dtype=voltage.dtype)
        steepest = jnp.max(slopes(jax.vmap(lambda a, v=voltage[0]: jnp.full_like(v, a))(grid)), axis=0)
        flat = float(jnp.mean(slopes(voltage) < _SATURATED * steepest[None]))
        if flat > _MANY:
            found.append(
                f"{flat:.0%} of the neurons of layer {i} are saturated, so the control cannot move them: "
                "lower the learning rate, or the size of weights and inputs."
            )
    return found
