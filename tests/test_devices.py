"""Many devices: the same numbers as on one, within rounding, from a batch that is truly divided."""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import jax
import jaxtyping
import numpy as np
import on_devices
import pytest
from run import command as command_line

import dfc_jax as dfc
from dfc_jax._training.arguments import check_batches


ROOT = pathlib.Path(__file__).parent.parent


def virtual_devices(number: int) -> dict[str, str]:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={number}"
    return {"XLA_FLAGS": flags, "MPLBACKEND": "Agg"}


@contextlib.contextmanager
def jaxtyping_off() -> Iterator[None]:
    """As users call: without the suite's type checks, which would be the first to complain."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:After epoch:UserWarning")  # noise has nothing to teach
def test_eight_devices_train_as_one(tmp_path: pathlib.Path) -> None:
    """In every case, from each other's checkpoints too, and the samples are truly divided."""
    on_devices.train("steady state", None, resume=tmp_path / "read")
    command = [sys.executable, str(pathlib.Path(__file__).with_name("on_devices.py")), str(tmp_path)]
    variables = os.environ | virtual_devices(8) | {"JAX_ENABLE_X64": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 0, done.stderr
    for case in on_devices.CASES:
        alone = on_devices.train(case, None)
        if case == "steady state":
            together = on_devices.train(case, None, (0, 1), epochs=2)
            twice = on_devices.train(case, None, epochs=2)
            alone += together + twice
            going_on = on_devices.train(case, None, epochs=2, resume=tmp_path / "written")
            close(on_devices.numbers(going_on), on_devices.numbers(twice))
        found = np.load(tmp_path / f"{case}.npz")
        close([found[name] for name in found.files], on_devices.numbers(alone))

    # Nothing but sums cross between devices, flags for each sample and, on CPUs, the matrices of the
    # fallback's loop over them, which only runs where a sample needs it.
    exchanged = json.loads((tmp_path / "found.json").read_text())
    assert exchanged["devices"] == 8
    for operations in exchanged["collectives"].values():
        assert any(name == "all-reduce" for _, name in operations)  # else nothing was divided
        gathered = [kind for kind, name in operations if name != "all-reduce"]
        types = [one for kind in gathered for one in re.findall(r"[a-z0-9]+\[[0-9,]*\]", kind)]
        assert all(one.startswith("pred[") or one == "f64[16,3,3]" for one in types), exchanged


def close(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_two_processes_train_as_one(tmp_path: pathlib.Path) -> None:
    """The same command twice, in processes of two devices each; then once, in one process of one device."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    options = [
        "--method",
        "dfc-ss",
        "--epochs",
        "1",
        "--hidden",
        "8",
        "--batch-size",
        "400",
        "--no-progress",
        "--out",
    ]
    options += [str(tmp_path / "two"), "--feedback-learning.pretraining-epochs", "0.5"]
    together = ["--distributed", "--coordinator", address, "--processes", "2", "--process"]
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), *options]
    variables = os.environ | virtual_devices(2)
    started = [
        subprocess.Popen(
            [*command, *together, number], env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for number in ("0", "1")
    ]
    said = [process.communicate(timeout=400)[0].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert "Results:" in said[0] and "Results:" not in said[1]

    options[options.index("--out") + 1] = str(tmp_path / "one")
    assert command_line(options) == 0
    (found,), (wanted,) = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("two", "one")
    )
    assert found == pytest.approx(wanted, rel=1e-3)  # in single precision
    models = [dfc.load_run(tmp_path / name).models[0] for name in ("two", "one")]
    for a, b in zip(*map(jax.tree.leaves, models), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_who_waits_for_other_processes_says_so_and_hears_signals(tmp_path: pathlib.Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    code = (
        "import sys; sys.argv = ['run.py']; import run; from options import together;"
        f"together.PATIENCE = 1.0; sys.argv += {['--distributed', '--coordinator', address]!r};"
        "sys.argv += ['--processes', '2', '--process', '0', '--out', sys.argv[0] + '-out'];"
        "together.leave(run.command())"
    )
    variables = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'experiments'}"}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=tmp_path, env=variables, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "waiting" in line)
        assert said == f"waiting for the other processes at {address}\n"
        process.terminate()
        assert process.stderr.read().strip() == "stopped by SIGTERM"
    assert process.returncode == 143


@pytest.mark.parametrize(
    "devices, augment, problem",
    [
        (
            [1, 2, 3],
            None,
            "`batch_size` is 16, which 3 `devices` cannot share evenly; make it a multiple of 3",
        ),
        ([1, 1], None, "`devices` names 2 devices, 1 of them different; name each once"),
        ([], None, "`devices` names 0 devices"),
        (3, None, "`devices` is 3"),
        (None, 3, "`augment` is 3; it must be a function"),
        (None, lambda x: x, "`augment` does not take the inputs"),
        (None, dfc.CropAndFlip((1, 4, 4)), r"`augment` does not take the inputs of `data`, of shape \(36,\)"),
        (None, lambda x, key: x[:2], r"`augment` returns the shape \(2,\)"),
    ],
)
def test_batches_that_cannot_be_made_are_refused(devices, augment, problem) -> None:
    with jaxtyping_off(), pytest.raises(ValueError, match=problem):
        check_batches(on_devices.data(), 16, augment, devices)
