"""What somebody may have put into a run folder is refused in one sentence, and calls nothing."""

import json
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import jax.random as jr
import numpy as np
import pytest
from helpers import sgd

import dfc_jax as dfc
from dfc_jax._runs import checkpoints


def rewrite(folder: pathlib.Path, change: Callable[[dict], Any]) -> None:
    """The newest checkpoint with other facts, arrays or shapes; its hash is right."""
    path = sorted((folder / "checkpoints").iterdir())[-1]
    header, payload = path.read_bytes().split(b"\n", 2)[1:]
    held = json.loads(header)
    body = json.dumps(change(held) or held).encode() + b"\n" + payload
    first = f"dfc_jax-checkpoint 1 {checkpoints.hashlib.sha256(body).hexdigest()}\n".encode()
    path.write_bytes(first + body)


def deep(levels: int) -> list:
    nested: list = []
    for _ in range(levels):
        nested = [nested]
    return nested


CRAFTED: dict[str, Callable[[dict], Any]] = {
    "a list": lambda held: [1],
    "no facts": lambda held: {"arrays": held["arrays"]},
    "no arrays": lambda held: held["arrays"].clear(),
    "negative lengths": lambda held: held["arrays"][0].__setitem__(1, [-1, -12]),
    "an unknown dtype": lambda held: held["arrays"][0].__setitem__(0, "float31"),
    "no runs": lambda held: held["facts"].pop("runs"),
    "a list without runs": lambda held: held["facts"].update(runs=[]),
    "two runs": lambda held: held["facts"]["runs"].append(held["facts"]["runs"][0]),
    "runs of another kind": lambda held: held["facts"].update(runs=["records"]),
    "no records": lambda held: held["facts"]["runs"][0].update(records=3),
    "no description": lambda held: held["facts"].update(model={}),
    "a description of another kind": lambda held: held["facts"].update(model=[3]),
    "a number for a network": lambda held: held["facts"].update(model=3),
    "a function for a part": lambda held: held["facts"]["model"].update(
        kind="require", condition=False, message="words"
    ),
    "a base class": lambda held: held["facts"]["model"].update(kind="AbstractActivation"),
    "a huge array": lambda held: held["facts"]["model"]["layers"][0]["transform"]["weight"].update(
        shape=[10**6, 10**6]
    ),
    "an array of another shape": lambda held: held["facts"]["model"]["layers"][0]["transform"][
        "weight"
    ].update(shape=[3, 3]),
    "nested deeply": lambda held: held["facts"].update(model=deep(800)),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a run of one epoch."""
    x, y = np.random.default_rng(0).standard_normal((12, 4)), np.eye(3)[np.arange(12) % 3]
    splits = [dfc.Split(x[part], y[part]) for part in (slice(6), slice(6, 9), slice(9, 12))]
    data = dfc.Dataset("noise", *splits, classification=True)
    folder = dfc.RunFolder.create(tmp_path_factory.mktemp("runs") / "run", {"seeds": [0], "epochs": 1})
    model, options = dfc.mlp((4, 3, 3), key=jr.key(0)), {"key": jr.key(1), "batch_size": 3, "progress": False}
    options |= {"resume": folder.checkpoints, "on_epoch": lambda record, _: folder.append(0, record)}
    _, history = dfc.fit(model, dfc.Backprop(), data, sgd(0.1), epochs=1, **options)
    folder.finish({0: history}, "test_accuracy")
    return folder.path


@pytest.mark.parametrize("kind", CRAFTED)
def test_a_made_up_checkpoint_is_one_sentence(finished: pathlib.Path, tmp_path, kind: str) -> None:
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", finished, folder], check=True)
    rewrite(folder, CRAFTED[kind])
    with pytest.raises(ValueError, match=r"^'[^\n]*\.checkpoint' [^\n]*$") as said:
        dfc.load_run(folder)
    assert "words" not in str(said.value)  # no function of ours was called for it


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "line", ["[]", '"a"', "5", "null", "[" * 100_000, '{"seed": [], "epoch": 1}'], ids=lambda line: line[:9]
)
def test_a_line_of_the_metrics_that_is_no_record_is_passed_over(finished, tmp_path, line: str) -> None:
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", finished, folder], check=True)
    metrics = folder / "metrics.jsonl"
    held = metrics.read_text()
    metrics.write_text(f"{line}\n{held}")
    assert dfc.load_run(folder).records == dfc.load_run(finished).records
    metrics.write_text(f"{line}\n" + held.replace('"train_loss": ', '"train_loss": 1'))
    with pytest.raises(ValueError, match=r"in epoch 1 of seed 0 its loss is not that of metrics\.jsonl"):
        dfc.load_run(folder)


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "{}", '{"config": []}', '{"config": {}}', '{"config": {"seeds": 3}}', "[" * 100_000,
     '{"config": {"seeds": []}}', '{"config": {"seeds": [0, 0]}}', '{"config": {"seeds": ["0"]}}'],
)  # fmt: skip
def test_a_made_up_configuration_is_one_sentence(finished: pathlib.Path, tmp_path, text: str) -> None:
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", finished, folder], check=True)
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"^'[^\n]*config\.json' is [^\n]*$"):
        dfc.load_run(folder)
