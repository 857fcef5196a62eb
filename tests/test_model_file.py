"""A model in a file comes back as it was, or the file is refused; and what a model says of a batch."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import cast, sgd

import dfc_jax as dfc


class Cubic(dfc.Tanh):
    """An activation of the user's own."""


MODELS = {
    "mlp": lambda: dfc.mlp((4, 5, 3), key=jr.key(0), activation=dfc.LeakyReLU(0.3)),
    "random feedback": lambda: dfc.mlp((4, 5, 3), key=jr.key(0), feedback=dfc.RandomFeedback()),
    "exact feedback": lambda: dfc.mlp((4, 5, 3), key=jr.key(0), feedback=dfc.ExactFeedback()),
    "convnet": lambda: dfc.convnet((1, 8, 8), (2, 3), (4,), key=jr.key(0)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_comes_back_bit_for_bit(tmp_path: pathlib.Path, kind: str) -> None:
    model = MODELS[kind]()
    dfc.save_model(tmp_path / "model", model)
    found = dfc.load_model(tmp_path / "model")
    assert jax.tree.structure(found) == jax.tree.structure(model)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(model), strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)


@pytest.mark.slow  # a process of its own
def test_it_needs_nothing_but_the_library(tmp_path: pathlib.Path) -> None:
    dfc.save_model(tmp_path / "model", cast(MODELS["mlp"](), np.float32))
    program = "import sys, numpy, dfc_jax as dfc; print(dfc.load_model(sys.argv[1])(numpy.ones(4)).shape)"
    command = [sys.executable, "-c", program, str(tmp_path / "model")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "(3,)\n"


def test_a_file_is_replaced_as_a_whole(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    dfc.save_model(path, MODELS["mlp"]())

    def full(*_: object) -> None:
        raise OSError(28, "No space left")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(OSError, match="No space left"):
            dfc.save_model(path, MODELS["convnet"]())
    assert len(dfc.load_model(path).layers) == 2
    dfc.save_model(path, MODELS["convnet"]())
    assert len(dfc.load_model(path).layers) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_parts_of_the_users_own_need_a_model(tmp_path: pathlib.Path) -> None:
    model = dfc.mlp((4, 5, 3), key=jr.key(0), activation=Cubic())
    dfc.save_model(tmp_path / "model", model)
    with pytest.raises(ValueError, match="`like` is None, but the run's network has"):
        dfc.load_model(tmp_path / "model")
    other = dfc.mlp((4, 5, 3), key=jr.key(1), activation=Cubic())
    found = dfc.load_model(tmp_path / "model", other)
    assert np.array_equal(found.layers[1].transform.weight, model.layers[1].transform.weight)
    dfc.save_model(tmp_path / "known", MODELS["mlp"]())
    with pytest.raises(ValueError, match=r"`like\.layers\[0\]\.activation` is .* is of another architecture"):
        dfc.load_model(tmp_path / "known", dfc.mlp((4, 5, 3), key=jr.key(1)))


def test_double_precision_is_not_halved_in_silence(tmp_path: pathlib.Path) -> None:
    dfc.save_model(tmp_path / "model", MODELS["mlp"]())
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"holds float64 arrays, .*jax_enable_x64"):
        dfc.load_model(tmp_path / "model")


def test_what_is_no_model_is_refused(tmp_path: pathlib.Path, unchecked: None) -> None:
    path = tmp_path / "model"
    dfc.save_model(path, MODELS["mlp"]())
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:200] + b"?" + whole[201:], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model' is damaged"):
            dfc.load_model(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        dfc.load_model(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="`model` is 3; it must be of the type Network"):
        dfc.save_model(path, 3)
    split = dfc.Split(np.ones((2, 4), np.float32), np.eye(3, dtype=np.float32)[:2])
    data = dfc.Dataset("two", split, split, split, classification=True)
    options = {"epochs": 1, "batch_size": 2, "key": jr.key(0), "progress": False}
    dfc.fit(
        cast(MODELS["mlp"](), np.float32), dfc.Backprop(), data, sgd(0.1), resume=tmp_path / "run", **options
    )
    with pytest.raises(ValueError, match=r"is no file of `save_model`; `load_run` reads the folder of a run"):
        dfc.load_model(next((tmp_path / "run").glob("*.checkpoint")))


@pytest.mark.parametrize("samples", [1, 7, 2003])
def test_predictions_are_the_models_outputs_or_their_classes(samples: int) -> None:
    model = MODELS["mlp"]()
    x = np.random.default_rng(0).standard_normal((samples, 4))
    outputs = dfc.predict(model, x)
    np.testing.assert_allclose(outputs, jax.vmap(model)(jnp.asarray(x)), rtol=1e-12)
    named = dfc.predict(model, x, classes=("a", "b", "c"))
    assert named.tolist() == ["abc"[i] for i in np.argmax(outputs, axis=1)]


def test_inputs_and_classes_that_do_not_fit_are_named() -> None:
    model = MODELS["mlp"]()
    with pytest.raises(ValueError, match=r"`classes` has shape \(2,\); it must name the 3 outputs"):
        dfc.predict(model, np.ones((2, 4)), classes=("a", "b"))
    with pytest.raises(ValueError, match=r"`x` has shape \(5,\), which this network does not take"):
        dfc.predict(model, np.ones((2, 5)))
    with pytest.raises(ValueError, match=r"`x` has shape \(4,\); it must be \(batch, inputs\), not empty"):
        dfc.predict(model, np.ones(4))
