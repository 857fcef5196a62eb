"""`fit(resume=...)` goes on with the same run only, and says by name what is another."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import adam, flat

import dfc_jax as dfc
from dfc_jax._runs import checkpoints
from dfc_jax._runs.identity import described, difference


pytestmark = pytest.mark.usefixtures("standard_promotion")  # Optax mixes whole numbers and floats.


def data(seed: int = 0) -> dfc.Dataset:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((24, 4)), np.eye(3)[np.arange(24) % 3]
    splits = [dfc.Split(x[part], y[part]) for part in (slice(16), slice(16, 20), slice(20, 24))]
    return dfc.Dataset("noise", *splits, classification=True)


def network(seed: int = 0, **options: Any) -> dfc.Network:
    return dfc.mlp((4, 5, 3), key=jr.key(seed), feedback=dfc.RandomFeedback(), **options)


def learning(rate: float = 1e-3, **options: Any) -> dfc.FeedbackLearning:
    return dfc.FeedbackLearning(adam(rate), dfc.ExpectedSleepPhase(), **{"pretraining_epochs": 0} | options)


def shifted(by: float) -> Callable:
    return lambda x, key: x + by * jr.normal(key, x.shape)


GIVEN = {
    "models": [network()],
    "method": dfc.DFCSSA(),
    "data": data(),
    "optimiser": adam(1e-3),
    "epochs": 1,
    "batch_size": 8,
    "feedback_learning": learning(),
    "augment": shifted(0.1),
}


def fit(folder: pathlib.Path | None, **changed: Any) -> list[tuple[dfc.Network, dfc.History]]:
    given = GIVEN | changed
    models, method, held, optimiser = (given.pop(k) for k in ("models", "method", "data", "optimiser"))
    keys = [jr.key(seed) for seed in range(len(models))]
    return dfc.fit_many(models, method, held, optimiser, keys=keys, progress=False, resume=folder, **given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Of a run with the arguments above."""
    folder = tmp_path_factory.mktemp("checkpoints")
    with jax.numpy_dtype_promotion("standard"):
        fit(folder)
    return folder


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"method": dfc.Backprop()}, "`method` is 'DFCSSA' there and 'Backprop' now"),
    "nudge": (
        {"method": dfc.DFCSSA(target=dfc.Nudge(5.0))},
        r"`method\.target\.nudge` is 0\.1 there and 5 now",
    ),
    "gain": (
        {"method": dfc.DFCSSA(dfc.PIController(alpha=0.01))},
        r"`method\.controller\.alpha` is 0\.001 there and 0\.01 now",
    ),
    "rate": ({"optimiser": adam(1.0)}, r"`optimiser\.numbers\[\d+\]` is -0\.001 there and -1 now"),
    "weight decay": ({"optimiser": optax.adamw(1e-3)}, r"`optimiser\.steps` is '\w+' there and '\w+' now"),
    "optimiser": ({"optimiser": optax.lion(1e-3)}, r"`optimiser\.steps` is"),
    "schedule": (
        {"optimiser": optax.adam(optax.cosine_decay_schedule(1e-3, 1000))},
        r"`optimiser\.steps` is",
    ),
    "data": ({"data": data(1)}, r"`data\.train\.x` holds other numbers there than now"),
    "one label": (
        {"data": eqx.tree_at(lambda d: d.train.y, data(), np.roll(data().train.y, 1, 1))},
        r"`data\.train\.y` holds other numbers",
    ),
    "initial weights": ({"models": [network(1)]}, r"`model\.layers\[0\]\.transform\.weight` holds other"),
    "activation": (
        {"models": [network(activation=dfc.ReLU())]},
        r"`model\.layers\[0\]\.activation` is 'Tanh' there and 'ReLU' now",
    ),
    "size": (
        {"models": [dfc.mlp((4, 6, 3), key=jr.key(0), feedback=dfc.RandomFeedback())]},
        r"`model\.layers\[0\]\.transform\.weight` has the shape \[5, 4\] there and \[6, 4\] now",
    ),
    "batch size": ({"batch_size": 4}, "`batch_size` is 8 there and 4 now"),
    "no sleep": ({"feedback_learning": None}, "`feedback_learning` is 'a group' there and None now"),
    "sleep epochs": (
        {"feedback_learning": learning(epochs_per_wake_epoch=2)},
        r"`feedback_learning\.epochs_per_wake_epoch` is 1 there and 2 now",
    ),
    "rate of the feedback": (
        {"feedback_learning": learning(1e-2)},
        r"`feedback_learning\.optimiser\.numbers\[\d+\]` is -0\.001 there and -0\.01 now",
    ),
    "augmentation": ({"augment": shifted(0.2)}, r"`augment\.numbers\[0\]` is 0\.1 there and 0\.2 now"),
    "no augmentation": ({"augment": None}, "`augment` is 'a group' there and None now"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_run_is_refused_by_name(folder: pathlib.Path, kind: str) -> None:
    changed, message = OTHERS[kind]
    with pytest.raises(ValueError, match=f"^`resume` is '.*', which holds another run: {message}"):
        fit(folder, epochs=2, **changed)


def test_the_same_run_goes_on_with_what_no_number_depends_on(folder: pathlib.Path) -> None:
    again = {
        "models": [network()],
        "method": dfc.DFCSSA(),
        "data": data(),
        "optimiser": optax.adam(1e-3),
        "feedback_learning": learning(),
        "augment": shifted(0.1),
    }
    found = fit(folder, epochs=2, **again, min_converged=0.0, on_epoch=lambda *_: None)
    whole = fit(None, epochs=2)
    assert np.array_equal(flat(found[0][0]), flat(whole[0][0]))


def test_several_runs_are_compared_too(tmp_path: pathlib.Path) -> None:
    both = {"models": [network(0), network(1)], "method": dfc.Backprop(), "feedback_learning": None}
    fit(tmp_path, **both)
    with pytest.raises(ValueError, match=r"`models\[1\]\.layers\[0\]\.transform\.weight` holds other"):
        fit(tmp_path, **both | {"models": [network(0), network(2)]})


def test_a_key_of_another_kind_is_said(tmp_path: pathlib.Path) -> None:
    plain = {"method": dfc.Backprop(), "feedback_learning": None, "augment": None}
    fit(tmp_path, **plain)
    given = GIVEN | plain
    message = r"`key` is not that of the run .* \(one of threefry2x32 there and of rbg now\)"
    with pytest.raises(ValueError, match=message):
        dfc.fit(
            given["models"][0], dfc.Backprop(), given["data"], adam(1e-3), epochs=2,
            key=jr.key(0, impl="rbg"), batch_size=8, resume=tmp_path, progress=False,
        )  # fmt: skip


def test_checkpoints_of_before_there_were_descriptions_go_on(tmp_path: pathlib.Path) -> None:
    plain = {"method": dfc.Backprop(), "feedback_learning": None, "augment": None}
    fit(tmp_path, **plain)
    path = sorted(tmp_path.iterdir())[-1]
    header, payload = path.read_bytes().split(b"\n", 2)[1:]
    held = json.loads(header)
    del held["facts"]["identity"]
    body = json.dumps(held).encode() + b"\n" + payload
    first = f"dfc_jax-checkpoint 1 {checkpoints.hashlib.sha256(body).hexdigest()}\n".encode()
    path.write_bytes(first + body)
    ((found, history),) = fit(tmp_path, epochs=2, **plain)
    assert len(history.records) == 2 and np.array_equal(flat(found), flat(fit(None, epochs=2, **plain)[0][0]))


def test_a_checkpoint_of_another_optimiser_is_no_prefix(tmp_path: pathlib.Path) -> None:
    """Adam's moments are not Lion's, though they begin with the same shapes."""
    tree = {"a": jnp.ones(3), "b": jnp.ones(3)}
    checkpoints.save(tmp_path, 1, tree, {})
    held = checkpoints.newest(tmp_path)
    with pytest.raises(ValueError, match="of another model, method or optimiser"):
        held.tree({"a": jnp.zeros(3)})
    assert np.array_equal(held.first({"a": jnp.zeros(3)})["a"], np.ones(3))


def test_roundings_are_no_difference_and_unknown_parts_are_not_compared() -> None:
    x = np.random.default_rng(0).standard_normal((50, 40))
    there, now = described({"x": x, "old": 3}), described({"x": x.astype(np.float32), "new": 4})
    assert difference(there, now) is None
    for changed in (x[::-1], np.where(x == x.max(), 0, x), x[:, ::-1], 1.001 * x):
        assert difference(there, described({"x": changed})) == "`x` holds other numbers there than now"
    one, other = ({"optimiser": {f"jax {version}": {"steps": version}}} for version in ("1", "2"))
    assert difference(one, other) is None
    assert difference({"x": float("nan")}, {"x": float("nan")}) is None
