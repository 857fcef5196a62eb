"""What the figures of the NeurIPS 2021 paper show, computed: each function returns the rows of a table."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from neurips2021.presets import paper
from neurips2021.toy_presets import (
    AlignmentTask,
    Kind,
    make_data,
    make_feedback_learning,
    make_method,
    make_model,
    make_optimiser,
    PIPELINES,
    Sweep,
    Toy,
)
from options.config import Config, Method
from options.groups import Sleep
from options.objects import (
    make_feedback_learning as make_run_learning,
    make_method as make_run_method,
    make_model as make_run_model,
    make_optimiser as make_run_optimiser,
    steps_of,
)
from report.figure import Curves, Rows
from report.spread import spread
from sklearn.decomposition import PCA

import dfc_jax as dfc
from dfc_jax._bar import progress_bar


METHODS = ("dfc", "dfc-ss", "dfc-ssa")
MATRICES = ("A_I", "A_inst", "A_PI")
MOST_OUTPUTS = 100  # of whose loops eigenvalues are computed: the autoencoder's 784 would take hours


def control_of_samples(toy: Toy, samples: int) -> Rows:
    """Figure 1D: output and control of the first training samples, step for step as published.

    The network's forward weights are new, its feedback weights pre-trained.
    """
    data, learning = make_data(toy), make_feedback_learning(toy)
    model = make_model(toy, dfc.RandomFeedback())
    key = jax.random.fold_in(jax.random.key(toy.random_seed), 1)
    options = {"batch_size": toy.batch_size, "progress": False}
    model = dfc.pretrain_feedback(model, learning, data, key=key, **options)
    loop = make_method(toy, "dfc").loop(model)
    scheme = dfc.PublishedEuler(toy.dt_di, toy.tmax_di)
    rows = []
    for i in range(samples):
        sample = loop.sample(jnp.asarray(data.train.x[i]), jnp.asarray(data.train.y[i]))
        states = eqx.filter_jit(scheme.trajectory)(loop, sample)
        start, change = np.asarray(sample.feedforward.output), np.asarray(states.deviation.rate[-1])
        for step, (moved, u) in enumerate(zip(change, np.asarray(states.control), strict=True)):
            row = {"sample": i, "time": step * toy.dt_di, "output": start[0] + moved[0]}
            # The error by itself: as the difference of two large outputs it would be rounded away.
            error = np.asarray(sample.error)[0] - moved[0]
            rows.append(row | {"target": start[0] + float(sample.error[0]), "control": u[0], "error": error})
    return rows


def feedback_in_two_components(seed: int, number: int, dampings: Float[np.ndarray, " n"]) -> Rows:
    """Figure 2: random stable Q = J^T M beside the damped pseudo-inverses of J, in their two main components.

    J is that of a new 5-2-2 tanh network for one normal input. M is normal; Q is drawn again until all
    eigenvalues of J Q have non-negative real parts (Condition 3). Each matrix has unit Frobenius norm.
    """
    network_key, input_key = jax.random.split(jax.random.key(seed))
    model = dfc.mlp((5, 2, 2), key=network_key)
    jacobian = model.jacobian(model.feedforward(jax.random.normal(input_key, (5,))).voltages)
    J = np.concatenate(jacobian, axis=1, dtype=np.float64)
    rng = np.random.default_rng(seed)
    random = []
    while len(random) < number:
        Q = J.T @ rng.normal(size=(2, 2))
        if np.all(np.linalg.eigvals(J @ Q).real >= 0):
            random.append(Q)
    damped = [J.T @ np.linalg.inv(J @ J.T + gamma * np.eye(2)) for gamma in dampings]
    matrices = [*random, *damped, np.linalg.pinv(J), J.T]
    points = PCA(2).fit_transform([(Q / np.linalg.norm(Q)).ravel() for Q in matrices])
    kinds = ["random"] * number + ["damped"] * len(dampings) + ["pseudo_inverse", "transpose"]
    gammas = [None] * number + list(dampings) + [0.0, None]
    return [
        {"kind": kind, "gamma": gamma, "pc1": a, "pc2": b}
        for kind, gamma, (a, b) in zip(kinds, gammas, points, strict=True)
    ]


def measurements(samples: int, damping: float) -> dfc.Diagnostics:
    """The library's diagnostics in every epoch, and what only the figures show.

    `angle_to_published_minimum_norm`, of the network and by layer: the reference that the published code
    uses with this plasticity rule, the minimum-norm displacement J^T (J J^T + damping I)^-1 delta passed
    through the nonlinearity. That is DFC-SSA with Q = J^T and `damping` for its leak, to first order in the
    nudge. With a controller also the largest real part of each sample's eigenvalues, mean and std, for the
    published matrices A_I (integral control), A_inst (instantaneous neurons) and A_PI (here in the
    feedforward state), and |r_i| of the input and the hidden layers, mean and std over the samples.
    """

    published = functools.partial(_angles_to_minimum_norm, damping=jnp.asarray(damping))
    return dfc.Diagnostics(1, samples, damping, also=(published, _stability_and_norms))


@eqx.filter_jit
def _angles_to_minimum_norm(
    model: dfc.Network, method: dfc.AbstractMethod, x: Array, y: Array, damping: Array
) -> dict[str, Array]:
    exact = dfc.Network(model.layers, dfc.ExactFeedback())
    reference = dfc.DFCSSA(dfc.PIController(0.0, damping), dfc.Nudge(1e-4), method.loss)
    angles = dfc.update_angles(method(model, x, y, key=jax.random.key(0))[0], reference(exact, x, y)[0])
    name = "angle_to_published_minimum_norm"
    return {name: angles.network, f"{name}_by_layer": jnp.stack(angles.layers)}


def _stability_and_norms(
    model: dfc.Network, method: dfc.AbstractMethod, x: Array, y: Array
) -> dict[str, float]:
    loop = method.loop(model)
    if loop is None or y.shape[1] > MOST_OUTPUTS:
        return {}
    return _stability(loop, x, y) | _norms(model, x)


def _stability(loop: dfc.ClosedLoop, x: Array, y: Array) -> dict[str, float]:
    samples = jax.vmap(loop.sample)(x, y)
    alpha = loop.controller.alpha
    integral = eqx.tree_at(lambda l: l.controller, loop, dfc.PIController(0.0, alpha))
    gains = np.asarray(jax.vmap(loop.output_gain)(samples), np.float64)
    largest = {
        "A_I": dfc.loop_eigenvalues(integral, samples).real.max(axis=1),
        "A_inst": np.linalg.eigvals(-gains - float(alpha) * np.eye(gains.shape[-1])).real.max(axis=1),
        "A_PI": dfc.loop_eigenvalues(loop, samples).real.max(axis=1),
    }
    return _mean_and_std(largest)


def _norms(model: dfc.Network, x: Array) -> dict[str, float]:
    inputs = jax.vmap(model.feedforward)(x).inputs
    norms = [np.linalg.norm(rates, axis=1) for rates in inputs]
    mean = np.mean(norms, axis=0)
    names = ["input", *(f"layer_{i}" for i in range(1, len(norms)))]
    deviations = {f"norm_{name}": (n - mean) / mean for name, n in zip(names, norms, strict=True)}
    return _mean_and_std({"norm_mean": mean} | deviations)


def _mean_and_std(values: dict[str, np.ndarray]) -> dict[str, float]:
    """Over the samples of one network, not over seeds, as `name_mean` and `name_std`."""
    means = {f"{name}_mean": float(np.mean(array)) for name, array in values.items()}
    return means | {f"{name}_std": float(spread(array)) for name, array in values.items()}


def train(toy: Toy, method: Method, feedback: Kind, sleep: Sleep, samples: int, progress: bool) -> Rows:
    """Figures 3 and S1: one training run; a row an epoch, measured on the first validation samples."""
    learns, random = feedback == "learned", feedback == "learned" or method == "dfa"
    model = make_model(toy, dfc.RandomFeedback() if random else dfc.ProductOfWeights())
    _, history = dfc.fit(
        model,
        make_method(toy, method),
        make_data(toy),
        make_optimiser(toy),
        epochs=toy.epochs,
        key=jax.random.fold_in(jax.random.key(toy.random_seed), 1),
        batch_size=toy.batch_size,
        feedback_learning=make_feedback_learning(toy, sleep) if learns else None,
        diagnostics=measurements(samples, toy.gn_damping),
        progress=progress,
    )
    return [{"method": method, "feedback": feedback} | record for record in history.records]


def sweep_pretraining(sweep: Sweep, samples: int, progress: bool, curves: Curves) -> Rows:
    """Figures S2 to S4: the feedback during its pre-training, every `log_interval` batches.

    Every such group of batches is drawn anew from all training samples. `gn_damping` belongs to the reference
    alone, so one run serves all its values.
    """
    rows = []
    for activation in sweep.hidden_activations:
        base = dataclasses.replace(sweep.base, hidden_activation=activation)
        toys = [dataclasses.replace(base, **{sweep.flag: value}) for value in sweep.values]
        runs = [toys] if sweep.flag == "gn_damping" else [[toy] for toy in toys]
        for run in progress_bar(runs, activation, progress=progress):
            dampings, first = [toy.gn_damping for toy in run], getattr(run[0], sweep.flag)
            compute = functools.partial(_pretraining_curve, run[0], dampings, sweep, samples)
            for row in curves(f"{activation}-{first:g}", compute):
                value = row["damping"] if sweep.flag == "gn_damping" else first
                rows.append({"activation": activation, "value": value} | row)
    return rows


def _pretraining_curve(toy: Toy, dampings: list[float], sweep: Sweep, samples: int) -> Rows:
    data, learning = make_data(toy), make_feedback_learning(toy)
    model = make_model(toy, dfc.RandomFeedback())
    key = jax.random.fold_in(jax.random.key(toy.random_seed), 1)
    batches = -(-toy.num_train // toy.batch_size)
    learning, rows = dataclasses.replace(learning, pretraining_epochs=sweep.log_interval / batches), []
    x = jnp.asarray(data.validation.x[:samples])
    for i in range(toy.epochs_fb * batches // sweep.log_interval + 1):
        if i > 0:  # plain SGD has no state that a new call would lose
            options = {"key": jax.random.fold_in(key, i), "batch_size": toy.batch_size, "progress": False}
            model = dfc.pretrain_feedback(model, learning, data, **options)
        for damping in dampings:
            found = {"iteration": i * sweep.log_interval, "damping": damping}
            rows.append(found | _feedback_measures(model, x, damping))
    return rows


@eqx.filter_jit
def _measure_feedback(model: dfc.Network, x: Array, damping: Array) -> tuple[Array, Array, Array]:
    measures = (
        dfc.feedback_angles(model, x, damping),
        dfc.feedback_angles(model, x),
        dfc.condition_two(model, x),
    )
    return tuple(jnp.mean(measure) for measure in measures)


def _feedback_measures(model: dfc.Network, x: Array, damping: float) -> dict[str, float]:
    names = ("angle_to_pseudo_inverse", "angle_to_transpose", "condition_two")
    found = _measure_feedback(model, x, jnp.asarray(damping, x.dtype))
    return {name: float(value) for name, value in zip(names, found, strict=True)}


def alignment(
    task: AlignmentTask,
    feedback: Kind,
    epochs: int | None,
    seed: int,
    samples: int,
    progress: bool,
    curves: Curves,
) -> Rows:
    """Figures S5 to S12: DFC, DFC-SS, DFC-SSA and DFA with Table 1's hyperparameters."""
    data = dfc.load(task)
    rows = []
    for config in alignment_runs(task, feedback, epochs, seed):
        rows += curves(config.method[0], functools.partial(_aligned, config, data, samples, progress))
    return rows


def alignment_runs(task: AlignmentTask, feedback: Kind, epochs: int | None, seed: int) -> list[Config]:
    """The options of each curve in the alignment figures."""
    options = {"feedback": feedback, "preset": "paper", "epochs": epochs, "seeds": (seed,)}
    configs = [Config(task, method=(method,), **options) for method in (*METHODS, "dfa")]
    return [paper(config, config.method[0]).resolved() for config in configs]


def _aligned(config: Config, data: dfc.Dataset, samples: int, progress: bool) -> Rows:
    """The training run of one method in the alignment figures."""
    (method,), (seed,), feedback = config.method, config.seeds, config.feedback
    pipeline = PIPELINES[config.dataset, feedback]
    loss = dfc.CrossEntropy() if data.classification else dfc.MeanSquaredError()
    duration = pipeline.dt_di[0 if method == "dfc" else 1] * pipeline.tmax_di
    config = dataclasses.replace(config, solver=dataclasses.replace(config.solver, duration=duration))
    rule = make_run_method(config, method, loss)
    if method == "dfc-ss":
        rule = dataclasses.replace(rule, include_unconverged=pipeline.include_non_converged_samples)
    learns = feedback == "learned" and method != "dfa"
    steps = steps_of(config, data)
    _, history = dfc.fit(
        make_run_model(config, method, data, seed),
        rule,
        data,
        make_run_optimiser(config.optimiser, steps),
        epochs=config.epochs,
        key=jax.random.fold_in(jax.random.key(seed), 1),
        feedback_learning=make_run_learning(config, method, loss, steps) if learns else None,
        diagnostics=measurements(samples, pipeline.gn_damping),
        progress=progress,
    )
    return [{"method": method, "feedback": feedback} | record for record in history.records]
