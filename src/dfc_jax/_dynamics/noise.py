"""Noise in the apical compartments, from which feedback weights learn."""

import abc

import equinox as eqx

from dfc_jax._checks import require
from dfc_jax._fields import number, Part
from dfc_jax._numerics.arrays import Scalar


LEAST_SIGMA = 1e-18  # whose square float32 still holds


class AbstractNoise(Part):
    """Independent noise for every neuron. `sigma_output` is that of the output layer (None: as `sigma`)."""

    sigma: eqx.AbstractVar[Scalar]
    sigma_output: eqx.AbstractVar[Scalar | None]

    def sigmas(self, layers: int) -> tuple[Scalar, ...]:
        """sigma of each layer."""
        return (*[self.sigma] * (layers - 1), self.sigma if self.sigma_output is None else self.sigma_output)

    @property
    @abc.abstractmethod
    def filtered(self) -> bool:
        """Whether the noise has a state of its own."""


class WhiteNoise(AbstractNoise):
    """White noise into the apical compartment: tau_a da_i = (-a_i + Q_i u) dt + sigma dW.

    As in the code of the NeurIPS paper; the apical voltage then has the variance sigma^2 / (2 tau_a).
    The closed loop needs `tau_apical`.
    """

    sigma: Scalar = number("sigma", 0.01, minimum=0)
    sigma_output: Scalar | None = number("sigma_output", None, minimum=0)

    @property
    def filtered(self) -> bool:
        return False


class FilteredNoise(AbstractNoise):
    """Ornstein-Uhlenbeck noise: a_i = Q_i u + sigma eps_i, tau_noise deps = -eps dt + dW.

    As in Strong-DFC (ICML 2022); sigma eps has the variance sigma^2 / (2 tau_noise).
    """

    sigma: Scalar = number("sigma", 0.01, minimum=0)
    tau: Scalar = number("tau", 0.05, above=0)
    sigma_output: Scalar | None = number("sigma_output", None, minimum=0)

    @property
    def filtered(self) -> bool:
        return True


def check_compartment(noise: AbstractNoise | None, tau_apical: Scalar | None) -> None:
    """Raise `ValueError` for white noise without an apical compartment, which would be infinite."""
    require(
        noise is None or noise.filtered or tau_apical is not None,
        "`tau_apical` is None; white noise needs an apical compartment, so give its time constant.",
    )
