"""The network: layers of an affine transform and an activation, and the feedback from the control to each.

Everything here is written for one sample; a batch is a `jax.vmap`.
"""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from dfc_jax._checks import check_count, check_key, check_type, require
from dfc_jax._fields import check_parts, Part
from dfc_jax._network.activations import AbstractActivation, Linear, Tanh
from dfc_jax._network.feedback import AbstractFeedback, AbstractFeedbackInit, ProductOfWeights
from dfc_jax._network.layer import Centre, Chain, check_floats, Dense, jacobian_at, Layer, slopes_at
from dfc_jax._numerics.arrays import BatchInputs, BatchOutputs, OutputVector, Scalar


class Feedforward(Part):
    """The state of a network without control, one entry a layer."""

    inputs: tuple[Float[Array, "..."], ...]  # r_{i-1}
    voltages: tuple[Float[Array, "..."], ...]  # v_i
    output: OutputVector  # r_L


class Network(Part):
    """A feedforward network with feedback from the control signal to every layer.

    `layers` and `feedback` are the two sets of weights: the optimiser of the one never sees the other.
    """

    layers: tuple[Layer, ...]
    feedback: AbstractFeedback

    def __check_init__(self) -> None:
        check_type("layers", self.layers, tuple)
        require(len(self.layers) > 0, "`layers` is empty; a network needs at least one layer.")
        for layer in self.layers:
            check_type("layers", layer, Layer)
        check_parts(self)

    def __call__(self, x: Float[Array, "*inputs"]) -> OutputVector:
        """The network's output r_L (logits, for cross-entropy) without control."""
        return self.feedforward(x).output

    def feedforward(self, x: Float[Array, "*inputs"]) -> Feedforward:
        """Inputs, voltages and output of every layer without control (u = 0)."""
        inputs, voltages, rate = [], [], x
        try:
            for layer in self.layers:
                inputs.append(rate)
                voltages.append(layer.transform(rate))
                rate = layer.activation(voltages[-1])
        except (TypeError, ValueError) as error:
            problem = f"`x` has shape {jnp.shape(x)}, which this network does not take"
            raise ValueError(f"{problem}: {error}") from error
        return Feedforward(tuple(inputs), tuple(voltages), rate)

    def slopes(self, voltages: Sequence[Float[Array, "..."]]) -> tuple[Float[Array, "..."], ...]:
        """phi_i'(v_i) of every layer."""
        return slopes_at(self.layers, voltages)

    def jacobian(self, voltages: Sequence[Float[Array, "..."]]) -> tuple[Float[Array, "out ..."], ...]:
        """J_i = dr_L/dv_i of every layer at the given voltages, the output layer included."""
        return jacobian_at(self.layers, voltages)

    def pulled_back(
        self,
        voltages: Sequence[Float[Array, "..."]],
        basal: Sequence[Float[Array, "..."]],
        cotangent: OutputVector,
        ahead: Scalar | None = None,
    ) -> tuple[Float[Array, "..."], ...]:
        """J_i^T u of every layer at the given voltages for u = `cotangent`, by one backward sweep.

        With the slopes `slope_at_rest` of neurons whose voltages without apical input are `basal`, or with
        their `slope_ahead` for the part `ahead` of a step.
        """

        def slope(i: int, demand: Float[Array, "..."]) -> Float[Array, "..."]:
            activation = self.layers[i].activation
            if ahead is None:
                return activation.slope_at_rest(basal[i], voltages[i], demand)
            return activation.slope_ahead(basal[i], voltages[i], demand, ahead)

        last = len(self.layers) - 1
        pulled = [slope(last, cotangent) * cotangent]
        for i in range(last - 1, -1, -1):
            _, transpose = jax.vjp(self.layers[i + 1].linear, jnp.zeros_like(voltages[i]))
            (demand,) = transpose(pulled[-1])
            pulled.append(slope(i, demand) * demand)
        return tuple(reversed(pulled))


def as_batch(model: Network, x: BatchInputs, y: BatchOutputs) -> tuple[BatchInputs, BatchOutputs]:
    """`x` and `y` in the type of the model's arrays. Works under jit.

    **Raises:** `ValueError` unless they are a batch that `model` can learn from.
    """
    check_floats("y", y)
    fine = x.ndim >= 2 and y.ndim == 2 and len(x) == len(y) > 0
    wanted = "(batch, inputs) and (batch, outputs) of the same batch, of one sample or more"
    require(fine, f"`x` has shape {x.shape} and `y` {y.shape}; they must be {wanted}.")
    x = as_inputs(model, x)
    output = jax.eval_shape(model, jax.eval_shape(lambda inputs: inputs[0], x)).shape
    problem = f"`y` has {y.shape[1]} outputs a sample"
    require(output == y.shape[1:], f"{problem}; those of `model` have the shape {output}.")
    return x, jnp.asarray(y, x.dtype)


def as_inputs(model: Network, x: BatchInputs) -> BatchInputs:
    """`x` in the type of the model's arrays. **Raises:** `ValueError` unless it is a batch of its inputs."""
    check_type("model", model, Network)
    check_floats("x", x)
    require(x.ndim >= 2 and len(x) > 0, f"`x` has shape {x.shape}; it must be (batch, inputs), not empty.")
    x = jnp.asarray(x, float_type(model))
    one = jax.eval_shape(lambda inputs: inputs[0], x)
    state, feedback = jax.eval_shape(lambda sample: _state_and_feedback(model, sample), one)
    shapes = tuple(Q.shape for Q in feedback)
    wanted = tuple((*voltage.shape, *state.output.shape) for voltage in state.voltages)
    require(shapes == wanted, f"`model.feedback` has the shapes {shapes}; its layers need {wanted}.")
    return x


def float_type(model: Network) -> DTypeLike:
    """The type of the model's arrays of floats; numbers that JAX holds as Python's own take any type.

    **Raises:** `ValueError` if they are of several types, or of one that the dynamics cannot be solved in.
    """
    arrays = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    for array in arrays:
        check_floats("model", array, "weights")
    found = {jnp.result_type(array) for array in arrays if not getattr(array, "weak_type", False)}
    names = " and ".join(sorted(str(dtype) for dtype in found))
    require(len(found) <= 1, f"`model` holds arrays of {names}; make them all of one type.")
    return found.pop() if found else jnp.result_type(float)


def _state_and_feedback(
    model: Network, x: Float[Array, "*inputs"]
) -> tuple[Feedforward, tuple[Float[Array, "... out"], ...]]:
    state = model.feedforward(x)
    try:
        kept = model.feedback.kept(model.layers, state.voltages)
        return state, model.feedback.every_matrix(model.layers, kept)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`model.feedback` does not suit the layers: {error}") from error


def mlp(
    sizes: Sequence[int],
    *,
    key: PRNGKeyArray,
    activation: AbstractActivation | Sequence[AbstractActivation] = Tanh(),
    output_activation: AbstractActivation = Linear(),
    centred: bool = False,
    feedback: AbstractFeedbackInit = ProductOfWeights(),
) -> Network:
    """A multilayer perceptron with Xavier-normal weights and zero biases, as the papers initialise theirs.

    **Arguments:**

    - `sizes`: layer sizes, the input first: `(784, 256, 256, 256, 10)`.
    - `key`: the random key of the initial weights and feedback weights.
    - `activation`: of the hidden layers: one for all, or one for each.
    - `output_activation`: of the output layer. Softmax belongs to the loss, not to the network.
    - `centred`: whether the voltages of the output are those of its weights less their mean. Softmax, and
      cross-entropy with it, sees no difference, so that nothing holds the mean of the logits where it is:
      under DFC, unlike backprop, it wanders, and takes the gain of the loop with it.
    - `feedback`: how the feedback weights start: `ProductOfWeights()`, `RandomFeedback()`, `ExactFeedback()`.

    >>> model = mlp((4, 5, 3), key=jr.key(0))
    >>> [layer.transform.weight.shape for layer in model.layers], [Q.shape for Q in model.feedback.weights]
    ([(5, 4), (3, 5)], [(5, 3), (3, 3)])
    >>> model(jnp.ones(4)).shape  # of one sample; a batch is jax.vmap(model)(x)
    (3,)

    **Raises:** `ValueError` for fewer than two sizes, sizes below one, or a wrong number of activations.
    """
    check_type("sizes", sizes, Sequence)
    check_type("feedback", feedback, AbstractFeedbackInit)
    check_type("output_activation", output_activation, AbstractActivation)
    check_type("centred", centred, bool)
    require(
        len(sizes) >= 2, f"`sizes` is {tuple(sizes)}; it must name at least the input and the output size."
    )
    for size in sizes:
        check_count("sizes", size)
    hidden = len(sizes) - 2
    several = isinstance(activation, Sequence) and not isinstance(activation, str)
    for each in activation if several else [activation]:
        check_type("activation", each, AbstractActivation)
    activations = [activation] * hidden if isinstance(activation, AbstractActivation) else list(activation)
    require(
        len(activations) == hidden,
        f"`activation` has {len(activations)} entries; the network has {hidden} hidden layers.",
    )
    check_key("key", key)
    weights_key, feedback_key = jr.split(key)
    keys = jr.split(weights_key, len(sizes) - 1)
    *below, last = [_xavier_dense(m, n, k) for m, n, k in zip(sizes[:-1], sizes[1:], keys, strict=True)]
    output = Layer(Chain((last, Centre())) if centred else last, output_activation)
    layers = (*map(Layer, below, activations), output)
    return Network(layers, feedback.init(layers, [(n,) for n in sizes[1:]], feedback_key))


def _xavier_dense(inputs: int, outputs: int, key: PRNGKeyArray) -> Dense:
    """Glorot & Bengio's normal initialisation: variance 2 / (inputs + outputs)."""
    std = math.sqrt(2 / (inputs + outputs))
    return Dense(std * jr.normal(key, (outputs, inputs)), jnp.zeros(outputs))
