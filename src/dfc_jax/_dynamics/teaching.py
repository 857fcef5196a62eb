"""What controlled states teach: the signals of the two local rules. What is not finite teaches nothing."""

import jax
from jaxtyping import Array, Float

from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.states import Deviation, PerLayer, Sample
from dfc_jax._network.layer import Layer
from dfc_jax._network.plasticity import feedback_rule, forward_rule
from dfc_jax._numerics.arrays import BatchOutputs, Scalar
from dfc_jax._numerics.finite import zero_unless_finite


def teaching_signal(loop: ClosedLoop, sample: Sample, deviation: Deviation) -> PerLayer:
    """What the apical input did: phi_i(v_i) - phi_i(v_ff_i), or what else `loop.teaching` says."""
    state = zip(
        loop.network.layers, sample.feedforward.voltages, deviation.voltage, deviation.basal, strict=True
    )
    return tuple(loop.teaching(layer.activation, v + c, d - c) for layer, v, d, c in state)


def presynaptic_rates(sample: Sample, deviation: Deviation) -> PerLayer:
    """r_{i-1} of every layer in the controlled state; the first is the input itself."""
    later = zip(sample.feedforward.inputs[1:], deviation.rate[:-1], strict=True)
    return (sample.feedforward.inputs[0], *(r + rho for r, rho in later))


def forward_signals(
    loop: ClosedLoop, samples: Sample, deviations: Deviation, weights: Float[Array, " batch"]
) -> tuple[PerLayer, PerLayer]:
    """Presynaptic rates and weighted teaching signals of a batch: all zero for a sample not all finite."""

    def one(sample: Sample, deviation: Deviation, weight: Scalar) -> tuple[PerLayer, PerLayer]:
        teaching = tuple(weight * signal for signal in teaching_signal(loop, sample, deviation))
        return zero_unless_finite((presynaptic_rates(sample, deviation), teaching))

    return jax.vmap(one)(samples, deviations, weights)


def forward_change(
    loop: ClosedLoop, samples: Sample, deviations: Deviation, weights: Float[Array, " batch"]
) -> tuple[Layer, ...]:
    """The weighted sum over a batch of the forward rule; a weight of zero counts as nothing, even of NaN."""
    return forward_rule(loop.network.layers, *forward_signals(loop, samples, deviations, weights))


def feedback_change(apical: PerLayer, control: BatchOutputs) -> PerLayer:
    """The sum over a batch of the feedback rule, v_fb_i u^T of every layer."""
    return feedback_rule(*jax.vmap(zero_unless_finite)((apical, control)))
