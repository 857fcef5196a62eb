"""A sample and the states of its dynamics, as deviations from its feedforward state, and sweeps to them."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from dfc_jax._fields import Part
from dfc_jax._network.layer import Layer
from dfc_jax._network.network import Feedforward
from dfc_jax._numerics.arrays import OutputVector


PerLayer = tuple[Float[Array, "..."], ...]


class Sample(Part):
    """What one sample fixes before its dynamics start. Computed once, never at every step.

    Of a batch, every array has it along the first axis; `scale` and `finite` are then of every sample.
    """

    feedforward: Feedforward
    feedback: PyTree  # what the feedback keeps of the sample; None if it is the same for all
    error: OutputVector  # e^-, the error without control; NaN if input or target is not finite

    @property
    def scale(self) -> Float[Array, "*batch"]:
        """The size of the sample's target error, the unit of its deviations (1 if there is no error)."""
        norm = jnp.linalg.norm(self.error, axis=-1)
        return jnp.where(norm > 0, norm, 1)

    @property
    def finite(self) -> Bool[Array, "*batch"]:
        """Whether input and target are: of a sample that is not, no control is."""
        return jnp.isfinite(jnp.sum(self.error, axis=-1))


class Deviation(Part):
    """A controlled state of the network relative to its feedforward state, one entry a layer."""

    voltage: PerLayer  # d_i = v_i - v_i^-
    basal: PerLayer  # c_i = v_ff_i - v_ff_i^-
    rate: PerLayer  # rho_i = r_i - r_i^-

    @staticmethod
    def none(voltages: PerLayer) -> "Deviation":
        """That of the feedforward state itself, shaped like its `voltages`."""
        rest = jax.tree.map(jnp.zeros_like, voltages)
        return Deviation(rest, rest, rest)


def sweep(
    layers: Sequence[Layer],
    voltages: PerLayer,
    settle: Callable[[int, Float[Array, "..."]], Float[Array, "..."]],
    below: PerLayer | None = None,
) -> Deviation:
    """One sweep through the layers from below: `settle(i, c_i)` is the deviation d_i of the voltages.

    `voltages` are those without control, as many as there are layers to sweep. Each layer sees the rates of
    the one before it, or those in `below`.
    """
    voltage, basal, rate = [], [], []
    for i, base in enumerate(voltages):
        arriving = (rate if below is None else below)[i - 1] if i else None
        basal.append(jnp.zeros_like(base) if arriving is None else layers[i].linear(arriving))
        voltage.append(settle(i, basal[i]))
        rate.append(layers[i].activation.difference(base, voltage[i]))
    return Deviation(tuple(voltage), tuple(basal), tuple(rate))


def at_rest(layers: Sequence[Layer], voltages: PerLayer, apical: PerLayer) -> Deviation:
    """Layers at rest under apical input a_i: d_i = c_i + a_i. `voltages` are those without it."""
    return sweep(layers, voltages, lambda i, basal: basal + apical[i])


class LoopState(Part):
    """The state of the dynamics."""

    voltage: PerLayer  # d_i
    integral: OutputVector  # u_int
    apical: PerLayer | None  # a_i, where the loop has an apical compartment
    noise: PerLayer | None  # eps_i, where the noise is filtered
