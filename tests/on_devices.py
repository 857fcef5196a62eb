"""Training on every device there is: `python on_devices.py FOLDER`.

Saves the updates of every case, and what a compiled step exchanges between devices. Run by
`test_devices.py`, which runs the same cases on the one device of its own process.
"""

import json
import pathlib
import re
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import dfc_jax as dfc
from dfc_jax._training.devices import divided, mesh_of, placed


STRONG = dfc.StrongDFC(
    noise=dfc.FilteredNoise(0.01, tau=0.02),
    tau_v=0.01,
    tau_filter=0.1,
    scheme=dfc.PublishedEuler(0.002, 5),
    start=None,
)
SLEEP = dfc.SleepPhase(tau_v=0.02, scheme=dfc.PublishedEuler(0.005, 5, proactive=False))
IMAGE = (1, 6, 6)
SGD = optax.sgd(0.1)
CASES = {  # method, feedback learning, augmentation, whether the network is convolutional
    "steady state": (dfc.DFCSS(), SLEEP, False, False),
    "linearised": (dfc.DFCSSA(), dfc.ExpectedSleepPhase(), True, False),
    "single phase": (STRONG, dfc.HighPassPhase(STRONG), False, False),
    "feature maps": (dfc.DFCSS(), None, True, True),
}


def data() -> dfc.Dataset:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((52, 36)), np.eye(3)[rng.integers(0, 3, 52)]
    splits = [dfc.Split(x[part], y[part]) for part in (slice(32), slice(32, 42), slice(42, 52))]
    return dfc.Dataset("noise", *splits, classification=True, image=IMAGE)


def model(case: str, seed: int) -> dfc.Network:
    _, phase, _, convolutional = CASES[case]
    feedback = dfc.ProductOfWeights() if phase is None else dfc.RandomFeedback()
    if convolutional:
        return dfc.convnet(IMAGE, (2,), (3,), key=jax.random.key(seed), feedback=feedback)
    return dfc.mlp((36, 5, 3), key=jax.random.key(seed), feedback=feedback)


def train(case: str, devices: list[jax.Device] | None, seeds: tuple[int, ...] = (0,), **options) -> list:
    """The models of an epoch, or of as many as `options` say, and their histories."""
    method, phase, augments, _ = CASES[case]
    learning = None
    if phase is not None:
        rest = float(phase is SLEEP)
        learning = dfc.FeedbackLearning(SGD, phase, pretraining_epochs=rest, epochs_per_wake_epoch=rest)
    return dfc.fit_many(
        [model(case, seed) for seed in seeds],
        method,
        data(),
        SGD,
        keys=[jax.random.key(seed + 5) for seed in seeds],
        batch_size=16,
        feedback_learning=learning,
        augment=dfc.CropAndFlip(IMAGE, 1) if augments else None,
        devices=devices,
        min_converged=0.0,  # it is not about that
        progress=False,
        **{"epochs": 1} | options,
    )


def numbers(found: list) -> list[np.ndarray]:
    """Every weight and every metric but the time."""
    weights = [np.asarray(leaf) for model, _ in found for leaf in jax.tree.leaves(model)]
    records = [{**record, "seconds": 0} for _, history in found for record in history.records]
    return [*weights, *(np.asarray([float(value) for value in record.values()]) for record in records)]


def exchanged(method: dfc.AbstractMethod) -> list[str]:
    """The collective operations of one compiled step, and the types of what they gather."""
    mesh = mesh_of(jax.devices())
    network = dfc.mlp((36, 5, 3), key=jax.random.key(0))
    inputs = placed((network, jnp.ones((16, 36)), jnp.eye(16, 3)), mesh)
    step = eqx.filter_jit(lambda model, x, y: method(model, *divided((x, y), mesh))[0])
    text = step.lower(*inputs).compile().compiled.as_text()
    kinds = "all-gather|all-to-all|all-reduce|collective-permute"
    return re.findall(rf"= (.+?) ({kinds})(?:-start)?\(", text)


def main(folder: pathlib.Path) -> None:
    devices = jax.devices()
    for case in CASES:
        found = train(case, devices)
        if case == "steady state":
            found += train(case, devices, (0, 1), epochs=2)
            train(case, devices, resume=folder / "written")
            found += train(case, devices, epochs=2, resume=folder / "read")
        np.savez(folder / f"{case}.npz", *numbers(found))
    collectives = {case: exchanged(CASES[case][0]) for case in ("steady state", "linearised")}
    found = {"devices": len(devices), "collectives": collectives}
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
