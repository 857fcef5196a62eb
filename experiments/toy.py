"""What the toy figures show, computed: every function returns the rows of a table."""

import dataclasses
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from figure_presets import FIGURE_1D, FIGURE_3, HIDDEN, LOG_INTERVAL, Sweep, SWEEPS, Toy, ToyMethod
from jaxtyping import Array, Float, PyTree
from presets import BATCH_SIZE
from sklearn.decomposition import PCA

import dfc_jax as dfc


Row = dict[str, Any]


def toy_data(toy: Toy, seed: int) -> dfc.Dataset:
    """The student-teacher task of the experiment's sizes."""
    return dfc.student_teacher(input_size=toy.sizes[0], output_size=toy.sizes[-1], seed=seed)


def toy_model(
    toy: Toy,
    seed: int,
    feedback: dfc.AbstractFeedbackInit = dfc.RandomFeedback(),
    activation: dfc.AbstractActivation = dfc.Tanh(),
) -> dfc.Network:
    """A new student."""
    return dfc.mlp(toy.sizes, key=jr.fold_in(jr.key(seed), 0), activation=activation, feedback=feedback)


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """A feedback pre-training of some iterations, looked at every so many of them."""

    toy: Toy
    iterations: int
    every: int = LOG_INTERVAL


def pretrained(
    plan: Pretraining,
    model: dfc.Network,
    phase: dfc.SleepPhase,
    data: dfc.Dataset,
    dampings: tuple[float, ...],
    key: Array,
) -> tuple[dfc.Network, dict[str, Float[Array, "measurements ..."]]]:
    """The model after feedback pre-training, and what its feedback weights looked like on the way.

    Measured before the first iteration and after every `plan.every`: means over the first validation
    samples of condition 2, the angle of Q to J^T and to the pseudo-inverse with each of the `dampings`.
    """
    optimiser = plan.toy.feedback_optimiser(plan.toy.lr_fb_init)
    x, y = jnp.asarray(data.train.x), jnp.asarray(data.train.y)
    seen = jnp.asarray(data.validation.x[:BATCH_SIZE])

    def measure(model: dfc.Network) -> dict[str, Array]:
        angles = [jnp.mean(dfc.feedback_angles(model, seen, damping)) for damping in dampings]
        return {
            "condition_two": jnp.mean(dfc.condition_two(model, seen)),
            "angle_to_transpose": jnp.mean(dfc.feedback_angles(model, seen)),
            "angle_to_pseudo_inverse": jnp.stack(angles),
        }

    def iterate(carry: PyTree, key: Array) -> tuple[PyTree, None]:
        model, state = carry
        draw_key, noise_key = jr.split(key)
        batch = jr.choice(draw_key, len(x), (BATCH_SIZE,), replace=False)
        update = phase(model, x[batch], y[batch], key=noise_key)
        change, state = optimiser.update(update.feedback, state, model.feedback)
        return (
            eqx.tree_at(lambda m: m.feedback, model, eqx.apply_updates(model.feedback, change)),
            state,
        ), None

    def section(carry: PyTree, keys: Array) -> tuple[PyTree, dict[str, Array]]:
        carry, _ = jax.lax.scan(iterate, carry, keys)
        return carry, measure(carry[0])

    keys, start = jr.split(key, (plan.iterations // plan.every, plan.every)), measure(model)
    (model, _), later = jax.lax.scan(section, (model, optimiser.init(model.feedback)), keys)
    return model, jax.tree.map(lambda first, more: jnp.concatenate([first[None], more]), start, later)


def figure_1d(seed: int, epochs: int = FIGURE_1D.epochs_fb) -> list[Row]:
    """Output, target and control of one sample in time, with pre-trained feedback weights."""
    toy = FIGURE_1D
    data, steps = toy_data(toy, seed), epochs * (5000 // BATCH_SIZE)
    plan = Pretraining(toy, steps, steps)
    model = toy_model(toy, seed)
    train = eqx.filter_jit(pretrained)
    model, _ = train(plan, model, toy.phase(), data, (toy.gn_damping,), jr.fold_in(jr.key(seed), 1))
    method = toy.method("dfc")
    loop = method.loop(model)
    sample = loop.sample(jnp.asarray(data.test.x[0]), jnp.asarray(data.test.y[0]))
    states = eqx.filter_jit(lambda: toy.scheme().trajectory(loop, sample))()
    output = sample.feedforward.output
    found = {
        "time": toy.dt_di * np.arange(toy.tmax_di),
        "output": output + states.deviation.rate[-1],
        "feedforward_output": jnp.broadcast_to(output, (toy.tmax_di, 1)),
        "target": jnp.broadcast_to(output + sample.error, (toy.tmax_di, 1)),
        "output_change": states.deviation.rate[-1],
        "target_change": jnp.broadcast_to(sample.error, (toy.tmax_di, 1)),
        "control": states.control,
    }
    return _rows({name: np.asarray(values, np.float64).ravel() for name, values in found.items()})


def figure_2(seed: int, matrices: int = 2000) -> list[Row]:
    """Feedback weights with Col(Q) = Row(J) that satisfy Condition 3, and pseudo-inverses, in two dimensions.

    Of a network 5-2-2 tanh and one random input; each matrix has a Frobenius norm of one. The plane is
    that of the two principal components of all of them.
    """
    rng = np.random.default_rng(seed)
    model = dfc.mlp((5, 2, 2), key=jr.key(seed), output_activation=dfc.Tanh())
    state = model.feedforward(jnp.asarray(rng.standard_normal(5), jnp.float32))
    J = np.concatenate([np.asarray(j, np.float64) for j in model.jacobian(state.voltages)], axis=1)
    random = []
    while len(random) < matrices:
        Q = J.T @ rng.standard_normal((2, 2))
        if np.all(np.linalg.eigvals(J @ Q).real >= 0):
            random.append(Q)
    dampings = np.logspace(-5, 2, 100)
    damped = [J.T @ np.linalg.inv(J @ J.T + g * np.eye(2)) for g in dampings]
    kinds = ["random"] * matrices + ["damped"] * len(damped) + ["pseudo_inverse", "transpose"]
    everything = np.stack([*random, *damped, np.linalg.pinv(J), J.T])
    unit = everything / np.linalg.norm(everything, axis=(1, 2), keepdims=True)
    plane = PCA(2).fit_transform(unit.reshape(len(unit), -1))
    gamma = np.concatenate([np.full(matrices, np.nan), dampings, [0, np.inf]])
    return _rows({"kind": kinds, "damping": gamma, "pc1": plane[:, 0], "pc2": plane[:, 1]})


class ToyDiagnostics(dfc.Diagnostics):
    """The library's, and for Figure S1 the means and deviations over samples of the loop's eigenvalues.

    Each is the largest real part: of the whole loop, of that without proportional control, and of -(J Q +
    alpha I), neurons without delay. (The published A_I and its twin share their eigenvalues.)
    """

    def __call__(self, model: dfc.Network, method: dfc.AbstractMethod, validation: dfc.Split) -> Row:
        found = super().__call__(model, method, validation)
        x, y = (jnp.asarray(array[: self.samples]) for array in (validation.x, validation.y))
        inputs = jax.vmap(model.feedforward)(x).inputs
        for i, rate in enumerate(inputs):
            found[f"norm_of_layer_{i}"] = float(jnp.mean(jnp.linalg.norm(rate, axis=1)))
        if method.loop(model) is None:
            return found
        loop = eqx.tree_at(lambda l: l.tau_v, method.loop(model), jnp.asarray(FIGURE_3.time_constant_ratio))
        integral = eqx.tree_at(lambda l: l.controller.k_p, loop, jnp.asarray(0.0))
        gains = jax.vmap(loop.output_gain)(jax.vmap(loop.sample)(x, y))
        instant = -np.linalg.eigvals(np.asarray(gains)).real - float(loop.controller.alpha)
        for name, values in (
            ("whole", dfc.loop_eigenvalues(loop, jax.vmap(loop.sample)(x, y)).real),
            ("integral", dfc.loop_eigenvalues(integral, jax.vmap(loop.sample)(x, y)).real),
            ("instant", instant),
        ):
            largest = np.max(values, axis=1)
            found[f"eigenvalue_{name}_mean"] = float(np.mean(largest))
            found[f"eigenvalue_{name}_std"] = float(np.std(largest))
        return found


def figure_3(
    method: ToyMethod, feedback: Literal["learned", "fixed"], seed: int, epochs: int = FIGURE_3.epochs
) -> list[Row]:
    """The diagnostics of one method after every epoch of training."""
    toy, learned = FIGURE_3, feedback == "learned"
    start = dfc.ProductOfWeights() if method != "dfa" and not learned else dfc.RandomFeedback()
    found = []
    dfc.fit(
        toy_model(toy, seed, start),
        toy.method(method),
        toy_data(toy, seed),
        toy.optimiser(),
        epochs=epochs,
        key=jr.fold_in(jr.key(seed), 1),
        batch_size=BATCH_SIZE,
        feedback_learning=toy.feedback_learning() if learned else None,
        diagnostics=ToyDiagnostics(1, BATCH_SIZE, toy.gn_damping),
        on_epoch=found.append,
        progress=False,
    )
    scalars = [{k: v for k, v in record.items() if not isinstance(v, list)} for record in found]
    return [{"method": method, "feedback": feedback} | record for record in scalars]


def pretraining_sweep(name: str, seed: int, epochs: int | None = None) -> list[Row]:
    """Figures S2 to S4: feedback pre-training, a curve for each value, with linear and tanh hidden layers."""
    sweep = SWEEPS[name]
    data = toy_data(sweep.toy, seed)
    steps = (sweep.toy.epochs_fb if epochs is None else epochs) * (len(data.train) // BATCH_SIZE)
    plan = Pretraining(sweep.toy, steps)
    rows = []
    for hidden in HIDDEN:
        activation = {"linear": dfc.Linear(), "tanh": dfc.Tanh()}[hidden]
        model = toy_model(sweep.toy, seed, activation=activation)
        for value, curves in _swept_curves(sweep, plan, model, data, jr.fold_in(jr.key(seed), 1)):
            iterations = plan.every * np.arange(len(curves["condition_two"]))
            rows += _rows({"iteration": iterations} | curves, hidden=hidden, value=value)
    return rows


def _swept_curves(
    sweep: Sweep, plan: Pretraining, model: dfc.Network, data: dfc.Dataset, key: Array
) -> list[tuple[float, dict[str, np.ndarray]]]:
    """The curves of every swept value. One run has those of all references; else all runs are one program."""
    phase, field = sweep.toy.phase(), {"alpha_fb": "alpha", "k_p_fb": "k_p"}.get(sweep.swept)
    if field is None:
        _, found = eqx.filter_jit(pretrained)(plan, model, phase, data, sweep.values, key)
        angles = np.asarray(found.pop("angle_to_pseudo_inverse"))
        return [
            (value, {k: np.asarray(v) for k, v in found.items()} | {"angle_to_pseudo_inverse": angles[:, i]})
            for i, value in enumerate(sweep.values)
        ]

    def run(value: Float[Array, ""]) -> dict[str, Array]:
        chosen = eqx.tree_at(lambda p: getattr(p.controller, field), phase, value)
        return pretrained(plan, model, chosen, data, (sweep.toy.gn_damping,), key)[1]

    found = jax.jit(jax.vmap(run))(jnp.asarray(sweep.values, jnp.float32))
    return [
        (value, {name: np.asarray(curves)[i].reshape(-1) for name, curves in found.items()})
        for i, value in enumerate(sweep.values)
    ]


def _rows(columns: dict[str, Any], **same: Any) -> list[Row]:
    """A table by rows from one by columns; `same` is in every row."""
    return [same | dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
