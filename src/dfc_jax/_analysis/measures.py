"""What the NeurIPS paper measures of a network under control, each for one batch.

Everything here is taken in the feedforward state, as in the published code, unless it says otherwise. J is
the Jacobian of the output by the voltages of all layers, Q all feedback weights below each other.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from dfc_jax._checks import check_number, require
from dfc_jax._dynamics.closed_loop import ClosedLoop
from dfc_jax._dynamics.losses import AbstractLoss
from dfc_jax._dynamics.states import Sample
from dfc_jax._fields import Part
from dfc_jax._methods.base import AbstractMethod
from dfc_jax._methods.references import parameter_gram
from dfc_jax._network.learned import learned_weights
from dfc_jax._network.network import as_batch, as_inputs, Network
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs, OutputVector, Scalar
from dfc_jax._numerics.small_matrices import solve_gram
from dfc_jax._steady_state.base import Equilibrium


def condition_one(model: Network, x: BatchInputs) -> Float[Array, " batch"]:
    """std / mean of |r_0|, ..., |r_{L-1}|: zero under Condition 1 of the NeurIPS paper (Fig. 3C)."""
    norms = _input_norms(model, x)
    return jnp.std(norms, axis=0) / jnp.mean(norms, axis=0)


def published_condition_one(model: Network, x: BatchInputs) -> Float[Array, " batch"]:
    """std / sqrt(mean) of the same norms, which is what the published code logs as `dev_r`."""
    norms = _input_norms(model, x)
    return jnp.std(norms, axis=0) / jnp.sqrt(jnp.mean(norms, axis=0))


def _input_norms(model: Network, x: BatchInputs) -> Float[Array, "layers batch"]:
    x = as_inputs(model, x)
    inputs = jax.vmap(model.feedforward)(x).inputs
    return jnp.stack([jnp.linalg.norm(rate.reshape(len(rate), -1), axis=1) for rate in inputs])


def condition_two(model: Network, x: BatchInputs) -> Float[Array, " batch"]:
    """|P Q|_F / |Q|_F of each sample, P the projection on the row space of its feedforward Jacobian J.

    One exactly if Col(Q) lies in Row(J), which is Condition 2 of the NeurIPS paper (Fig. 3A). About
    sqrt(n_L / sum of n_i) where all feedback weights are random, those of the output layer too; more for
    `RandomFeedback()`, whose Q_L is the identity (0.22, not 0.11, for 784-256-256-256-10).
    """

    x = as_inputs(model, x)

    def one(sample: Float[Array, "..."]) -> Scalar:
        J, Q = _jacobian_and_feedback(model, sample)
        JQ = J @ Q
        return jnp.sqrt(jnp.sum(JQ * solve_gram(J @ J.T, JQ))) / jnp.linalg.norm(Q)

    with jax.default_matmul_precision("float32"):
        return jax.vmap(one)(x)


def feedback_angles(
    model: Network, x: BatchInputs, damping: Scalar | float | None = None
) -> Float[Array, " batch"]:
    """Degrees between Q and J^T or, given a `damping`, J^T (J J^T + damping I)^-1, where learning drives Q.

    NaN where J is zero, as where every output is silent.

    **Raises:** `ValueError` for a negative `damping`.
    """
    x = as_inputs(model, x)
    if damping is not None:
        check_number("damping", damping, minimum=0)

    def one(sample: Float[Array, "..."]) -> Scalar:
        J, Q = _jacobian_and_feedback(model, sample)
        if damping is None:
            return _degrees(Q, J.T)
        gram = J @ J.T + damping * jnp.eye(len(J), dtype=J.dtype)
        return _degrees(Q, solve_gram(gram, J).T)

    with jax.default_matmul_precision("float32"):
        return jax.vmap(one)(x)


def _jacobian_and_feedback(
    model: Network, sample: Float[Array, "..."]
) -> tuple[Float[Array, "out neurons"], Float[Array, "neurons out"]]:
    voltages = model.feedforward(sample).voltages
    jacobian = model.jacobian(voltages)
    J = jnp.concatenate([rows.reshape(rows.shape[0], -1) for rows in jacobian], axis=1)
    feedback = model.feedback.every_matrix(model.layers, model.feedback.kept(model.layers, voltages))
    return J, jnp.concatenate([weights.reshape(-1, weights.shape[-1]) for weights in feedback])


class UpdateAngles(Part):
    """Degrees between two updates."""

    layers: tuple[Scalar, ...]  # weights and bias of each layer together
    network: Scalar  # all layers concatenated


def update_angles(update: Network, reference: Network) -> UpdateAngles:
    """The angles between two updates of the forward weights; NaN where one of them is zero.

    >>> from dfc_jax import mlp
    >>> model = mlp((4, 5, 3), key=jax.random.key(0))
    >>> round(float(update_angles(model, jax.tree.map(jnp.negative, model)).network))
    180

    **Raises:** `ValueError` if they are not of the same shapes.
    """
    update, reference = learned_weights(update), learned_weights(reference)
    shapes = [[leaf.shape for leaf in jax.tree.leaves(part.layers)] for part in (update, reference)]
    require(shapes[0] == shapes[1], f"`update` has the shapes {shapes[0]}, `reference` {shapes[1]}.")
    pairs = list(zip(update.layers, reference.layers, strict=True))
    return UpdateAngles(
        tuple(_degrees(_flat(a), _flat(b)) for a, b in pairs),
        _degrees(_flat(update.layers), _flat(reference.layers)),
    )


def null_space_fraction(
    method: AbstractMethod,
    model: Network,
    x: BatchInputs,
    y: BatchOutputs,
    *,
    key: PRNGKeyArray | None = None,
) -> Float[Array, " batch"]:
    """|N dtheta| / |dtheta| of each sample's own update, N the projection on the null space of dr_L/dtheta.

    The part of an update that does not move the output, to first order. Zero for Gauss-Newton without
    damping, but for rounding: some 1e-4 in float32. NaN where a sample's update is zero. `key` is for methods
    with noise, the same for every sample.
    """
    x, y = as_batch(model, x, y)
    return unseen_part(model, x, own_changes(model, x, method.own_updates(model, x, y, key=key)))


def target_alignment(
    method: AbstractMethod,
    model: Network,
    x: BatchInputs,
    y: BatchOutputs,
    *,
    key: PRNGKeyArray | None = None,
) -> Float[Array, " batch"]:
    """The cosine between what each sample's own update makes of its output, to first order, and -dl/dr_L.

    That is the way to the target: y - r_L with the squared error, y - softmax(r_L) with cross-entropy. One
    for Gauss-Newton without damping (Song et al., Nature Neuroscience 27, 2024, whose target alignment it
    is). NaN where the output does not move, or has nowhere to go. `key` is for methods with noise, the same
    for every sample.
    """
    x, y = as_batch(model, x, y)
    changes = own_changes(model, x, method.own_updates(model, x, y, key=key))
    return alignment(model, method.loss, x, y, changes)


class OwnChanges(Part):
    """What each sample's own update would do if it were taken, like a gradient, with a minus sign."""

    output: Float[Array, "*batch out"]  # the first-order change of the sample's output
    size: Float[Array, "*batch"]  # of the update


def own_changes(model: Network, x: BatchInputs, updates: Network) -> OwnChanges:
    """Those of the samples `x` by `updates`, one for each along a first axis."""

    def one(sample: Float[Array, "..."], update: Network) -> OwnChanges:
        outputs = lambda layers: Network(layers, model.feedback)(sample)
        _, moved = eqx.filter_jvp(outputs, (model.layers,), (update.layers,))
        return OwnChanges(-moved, _length(_flat(update.layers)))

    return jax.vmap(one)(x, updates)


def unseen_part(model: Network, x: BatchInputs, changes: OwnChanges) -> Float[Array, " batch"]:
    """`null_space_fraction` of these changes."""

    def one(sample: Float[Array, "..."], changes: OwnChanges) -> Scalar:
        state = model.feedforward(sample)
        gram = parameter_gram(model, state, model.jacobian(state.voltages))
        output = changes.output / changes.size
        return jnp.sqrt(jnp.maximum(1 - output @ solve_gram(gram, output), 0))

    return jax.vmap(one)(x, changes)


def alignment(
    model: Network, loss: AbstractLoss, x: BatchInputs, y: BatchOutputs, changes: OwnChanges
) -> Float[Array, " batch"]:
    """`target_alignment` of these changes."""
    way = -jax.vmap(loss.gradient)(jax.vmap(model)(x), y)
    return jax.vmap(lambda a, b: jnp.sum(_unit(a) * _unit(b)))(way, changes.output)


def feedback_ratio(
    loop: ClosedLoop, samples: Sample, found: Equilibrium
) -> tuple[Float[Array, " batch"], ...]:
    """|Q_i u| / |v_ff_i| of every layer at the controlled steady states `found`, biases included in v_ff_i.

    How strong the feedback is beside what arrives from below. (The published Strong-DFC code pairs W_i with
    r_i instead of r_{i-1} beyond the first layer.)
    """

    def one(sample: Sample, control: OutputVector) -> tuple[Scalar, ...]:
        basal = loop.controlled(sample, control).basal
        arriving = zip(loop.apical_input(sample, control), sample.feedforward.voltages, basal, strict=True)
        return tuple(jnp.linalg.norm(a) / jnp.linalg.norm(v + c) for a, v, c in arriving)

    return jax.vmap(one)(samples, found.control)


def _flat(layers: PyTree) -> Float[Array, " n"]:
    leaves = jax.tree.leaves(learned_weights(layers))
    return jnp.concatenate([leaf.ravel() for leaf in leaves])


def _length(array: Float[Array, "..."]) -> Scalar:
    """The norm, of numbers below 1e-19 too, whose squares are zero in float32."""
    largest = jnp.max(jnp.abs(array))
    return largest * jnp.linalg.norm(array / jnp.where(largest == 0, 1, largest))


def _unit(array: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The same of length one, NaN for zero."""
    return array / _length(array)


def _degrees(a: Float[Array, "..."], b: Float[Array, "..."]) -> Scalar:
    """The angle between two arrays, accurate for small ones too (Kahan's formula)."""
    a, b = _unit(a), _unit(b)
    return jnp.degrees(2 * jnp.arctan2(jnp.linalg.norm(a - b), jnp.linalg.norm(a + b)))
