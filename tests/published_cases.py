"""Files of the published PyTorch code's arrays, and the library's counterpart of each of them.

Each file holds one small network, its inputs, options and everything the code computed from them, in
float64 (sources: mariacer/strong_dfc); those in `single` are of single-phase Strong-DFC. Another folder of
such files is checked by setting DFC_GOLDEN_DIR.
"""

import functools
import os
import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from helpers import Replayed
from jaxtyping import Array

import dfc_jax as dfc


FOLDER = Path(os.environ.get("DFC_GOLDEN_DIR") or Path(__file__).parent / "golden")
FILES = sorted(FOLDER.glob("*.npz"))
SINGLE_PHASE = sorted((FOLDER / "single").glob("*.npz"))
assert FILES or SINGLE_PHASE, f"{FOLDER} holds no .npz files."

ACTIVATIONS = {
    "tanh": dfc.Tanh(),
    "linear": dfc.Linear(),
    "relu": dfc.ReLU(),
    "leakyrelu": dfc.LeakyReLU(0.2),
    "sigmoid": dfc.Sigmoid(),
}

# What the code was given, by group: the name of an array without its layer.
OPTIONS = {"sizes", "activation", "strong", "loss_name", "x", "y", "W", "b", "Q", "noise", "target_stepsize"}
OPTIONS |= {"dt_di", "tmax_di", "k_p", "alpha_di", "time_constant_ratio", "apical_time_constant"}
OPTIONS |= {"inst_transmission", "transmission_instant", "proactive_controller"}
OPTIONS |= {"dt_di_fb", "tmax_di_fb", "k_p_fb", "alpha_di_fb", "time_constant_ratio_fb"}
OPTIONS |= {"inst_transmission_fb", "apical_time_constant_fb", "sigma_fb", "sigma_output_fb"}


def group(name: str) -> str:
    """dW1_last_nonlinear_difference -> dW_last_nonlinear_difference, v_fb0 -> v_fb, u -> u."""
    return name if name == "condition2" else re.sub(r"\d+(?=$|_)", "", name)


def groups(path: Path) -> list[str]:
    with np.load(path) as file:
        return sorted({group(name) for name in file.files} - OPTIONS)


class Case:
    """One file: the library's objects for its options, and every array the library says it should hold."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.file = {name: file[name] for name in file.files}
        get = self.file.__getitem__
        self.depth = depth = sum(group(name) == "W" for name in self.file)
        self.strong = bool(get("strong"))
        self.x, self.y = jnp.asarray(get("x")), jnp.asarray(get("y"))
        hidden = ACTIVATIONS[str(get("activation"))]
        layers = tuple(
            dfc.Layer(
                dfc.Dense(jnp.asarray(get(f"W{i}")), jnp.asarray(get(f"b{i}"))),
                hidden if i < depth - 1 else dfc.Linear(),
            )
            for i in range(depth)
        )
        feedback = dfc.FeedbackWeights(tuple(jnp.asarray(get(f"Q{i}")) for i in range(depth)))
        self.model = dfc.Network(layers, feedback)
        self.controller = dfc.PIController(float(get("k_p")), float(get("alpha_di")))
        self.target = dfc.Clamp() if self.strong else dfc.Nudge(float(get("target_stepsize")))
        self.tau_v, tau = float(get("time_constant_ratio")), float(get("apical_time_constant"))
        self.tau_apical = None if tau < 0 else tau
        self.loss = dfc.MeanSquaredError() if str(self.file.get("loss_name")) == "mse" else dfc.CrossEntropy()
        self.loop = dfc.ClosedLoop(
            self.model, self.controller, self.target, self.loss, self.tau_v, self.tau_apical
        )
        self.scheme = dfc.PublishedEuler(
            float(get("dt_di")),
            int(get("tmax_di")),
            bool(get("inst_transmission")),
            bool(get("proactive_controller")),
        )

    def sleep(self) -> dfc.SleepPhase:
        get = self.file.__getitem__
        sigma, sigma_output = float(get("sigma_fb")), float(get("sigma_output_fb"))
        dt, tau_apical = float(get("dt_di_fb")), float(get("apical_time_constant_fb"))
        scheme = Replayed(
            dt,
            int(get("tmax_di_fb")),
            bool(get("inst_transmission_fb")),
            bool(get("proactive_controller")),  # the code has one option for both phases
            self.x,
            tuple(jnp.asarray(get(f"noise{i}")) for i in range(self.depth)),
        )
        return dfc.SleepPhase(
            dfc.PIController(float(get("k_p_fb")), float(get("alpha_di_fb"))),
            dfc.WhiteNoise(sigma, sigma_output=sigma_output if sigma_output >= 0 else None),
            float(get("time_constant_ratio_fb")),
            tau_apical if tau_apical >= 0 else dt,  # -1 means that the compartment follows in one step
            scheme,
            dfc.Clamp() if self.strong else dfc.Rest(),
            self.loss,
        )

    def reproduction(self) -> dict[str, np.ndarray]:
        """Every array by the file's name for it, computed by the library from the file's inputs."""
        found = jax.tree.map(np.asarray, eqx.filter_jit(_reproduce)(self))
        named = {}
        for name, value in found.items():
            if not isinstance(value, tuple):
                named[name] = value
                continue
            stem, _, rest = name.partition("@")
            named |= {f"{stem}{i}{rest}": array for i, array in enumerate(value)}
        return named

    def single_phase(self) -> dfc.StrongDFC:
        """The single-phase method on the file's noise."""
        get = self.file.__getitem__
        noise = dfc.FilteredNoise(
            float(get("sigma")), float(get("tau_noise")), sigma_output=float(get("sigma_output"))
        )
        draws = tuple(jnp.asarray(get(f"noise{i}")) for i in range(self.depth))
        scheme = Replayed(*vars(self.scheme).values(), self.x, draws)
        time_constants = self.tau_v, float(get("tau_f"))
        return dfc.StrongDFC(
            self.controller, self.target, self.loss, noise, *time_constants, scheme, start=None
        )


def _reproduce(case: Case) -> dict[str, Array | tuple[Array, ...]]:
    """All groups of arrays; a tuple has one array a layer, whose number replaces the @ in its name."""
    loop, model, T = case.loop, case.model, case.scheme.states
    samples = jax.vmap(loop.sample)(case.x, case.y)
    base = samples.feedforward.voltages
    feedforward_rates = (*samples.feedforward.inputs[1:], samples.feedforward.output)
    sums = lambda a, b: tuple(i + j for i, j in zip(a, b, strict=True))
    over_time = lambda a, b: tuple(jnp.broadcast_to(i, j.shape) + j for i, j in zip(a, b, strict=True))

    path = jax.vmap(lambda sample: case.scheme.trajectory(loop, sample), out_axes=1)(samples)
    batch_and_time = lambda f: jax.vmap(jax.vmap(f), in_axes=(None, 0))(samples, path.deviation)
    last = jax.tree.map(lambda leaf: leaf[-1], path.deviation)
    jacobian = jax.vmap(lambda sample: model.jacobian(sample.feedforward.voltages))(samples)
    softmax = isinstance(loop.readout, dfc.SoftmaxReadout)
    error_free = jax.nn.softmax(samples.feedforward.output) if softmax else samples.feedforward.output
    lifted = lambda trees: tuple(leaf[None] for leaf in trees)

    found = {
        "prediction": samples.feedforward.output,
        "loss": jnp.mean(jax.vmap(case.loss)(samples.feedforward.output, case.y)),
        "target": error_free + samples.error,
        "v_feedforward@": base,
        "u": path.control,
        "v@": over_time(lifted(base), path.deviation.voltage),
        "v_fb@": path.apical,
        "v_ff@": over_time(lifted(base), path.deviation.basal),
        "r@": over_time(lifted(feedforward_rates), path.deviation.rate),
        "jacobian": jnp.concatenate(jacobian, axis=-1),
    }

    presynaptic = batch_and_time(dfc.presynaptic_rates)
    teaching = batch_and_time(lambda s, d: dfc.teaching_signal(loop, s, d))
    displacement = tuple(d - c for d, c in zip(path.deviation.voltage, path.deviation.basal, strict=True))
    merge = lambda arrays: tuple(a.reshape(-1, *a.shape[2:]) for a in arrays)
    average = functools.partial(_gradients, model, merge(presynaptic))
    found |= average("average_nonlinear_difference", merge(teaching), -2 / (len(case.x) * T))
    found |= average("average_voltage_difference", merge(displacement), -2 / (len(case.x) * T))
    found |= _state_gradients(case, samples, last, "last")

    if not case.strong:  # the code has no linearised steady state for strong feedback
        state = dfc.Analytic()(loop, samples)
        found |= {"u_ssa": state.control, "v_ssa@": sums(base, state.deviation.voltage)}
        difference = zip(state.deviation.voltage, state.deviation.basal, strict=True)
        found["delta_v_ssa@"] = tuple(d - c for d, c in difference)
        found |= _state_gradients(case, samples, state.deviation, "ssa")

    sleep = case.sleep()
    update = sleep(model, case.x, case.y, key=jax.random.key(0)).feedback.weights
    found["dQ@"] = floored(update, sleep.noise)
    return found


def floored(feedback: tuple[Array, ...], noise: dfc.AbstractNoise) -> tuple[Array, ...]:
    """The code divides by max(sigma, 0.01)^2, the library by sigma^2."""
    floors = ((s / jnp.maximum(s, 0.01)) ** 2 for s in noise.sigmas(len(feedback)))
    return tuple(floor * Q for floor, Q in zip(floors, feedback, strict=True))


def _state_gradients(case: Case, samples: dfc.Sample, state: dfc.Deviation, name: str) -> dict:
    """The code's gradients from a single state, whose own rates it sends through the layers once more."""
    basal = jax.vmap(case.loop.basal)(state.rate)
    displacement = tuple(d - c for d, c in zip(state.voltage, state.basal, strict=True))
    teaching = tuple(
        layer.activation.difference(v + c, d)
        for layer, v, c, d in zip(
            case.model.layers, samples.feedforward.voltages, basal, displacement, strict=True
        )
    )
    presynaptic = jax.vmap(dfc.presynaptic_rates)(samples, state)
    gradients = functools.partial(_gradients, case.model, presynaptic)
    found = gradients(f"{name}_nonlinear_difference", teaching, -2 / len(case.x))
    # In this one combination the code has +4 where -2 belongs: its sign error, repeated here on purpose.
    return found | gradients(f"{name}_voltage_difference", displacement, 4 / len(case.x))


def _gradients(model: dfc.Network, presynaptic: tuple, name: str, teaching: tuple, factor: float) -> dict:
    change = dfc.forward_rule(model.layers, presynaptic, teaching)
    weights, biases = zip(*((c.transform.weight, c.transform.bias) for c in change), strict=True)
    times = lambda arrays: tuple(factor * a for a in arrays)
    return {f"dW@_{name}": times(weights), f"db@_{name}": times(biases)}


@functools.cache
def load(path: Path) -> tuple[Case, dict[str, np.ndarray]]:
    case = Case(path)
    return case, case.reproduction()


def name_of(path: object) -> str | None:
    return path.stem if isinstance(path, Path) else None
