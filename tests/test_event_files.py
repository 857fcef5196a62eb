"""What TensorBoard reads of a run."""

import json
import pathlib
import time

import pytest
from helpers import records
from options.config import Config
from report.event_files import event_files
from run import main


def read(folder: pathlib.Path, seed: int):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # takes seconds

    return EventAccumulator(str(folder / "tensorboard" / f"seed-{seed}")).Reload()


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_tensorboard_reads_what_metrics_hold(tmp_path):
    options = {"epochs": 2, "hidden": (16,), "diagnostics": 1, "progress": False}
    config = Config(method=("bp",), seeds=(3, 5), tensorboard=True, out=str(tmp_path), **options)
    assert main(config) == 0
    for seed in (3, 5):
        found = read(tmp_path, seed)
        for record in (r for r in records(tmp_path) if r["seed"] == seed):
            epoch = record.pop("epoch")
            record |= {
                f"{name}/layer-{i}": number
                for name in [name for name, value in record.items() if isinstance(value, list)]
                for i, number in enumerate(record.pop(name), start=1)
            }
            del record["seed"]
            for name, value in record.items():
                (event,) = [event for event in found.Scalars(name) if event.step == epoch]
                assert event.value == pytest.approx(value, rel=1e-6)


@pytest.mark.slow
def test_epochs_that_come_again_are_read_once(tmp_path):
    def write(epochs: dict[int, float]) -> None:
        with event_files(tmp_path, [0, 1]) as scalars:
            for epoch, loss in epochs.items():
                for seed in (0, 1):
                    scalars(seed, {"epoch": epoch, "train_loss": loss + seed})

    write({1: 0.5, 2: 0.25, 3: 0.125})
    kept = [{"seed": 0, "epoch": 1}, {"seed": 1, "epoch": 1}, {"seed": 1, "epoch": 2}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept))
    time.sleep(1.1)  # files are named by the second
    write({3: 0.75})
    for seed, wanted in ((0, [(1, 0.5), (3, 0.75)]), (1, [(1, 1.5), (2, 1.25), (3, 1.75)])):
        assert [(event.step, event.value) for event in read(tmp_path, seed).Scalars("train_loss")] == wanted


def test_tensorboard_without_its_package_is_refused_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(Config(tensorboard=True, out=str(tmp_path / "run"))) == 2
    assert "tensorboardX is missing: pip install tensorboardX" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
