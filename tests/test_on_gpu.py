"""The one command for a GPU, on a CPU: its parts, what it skips, what fails, what it asks of a machine."""

import json
import os
import pathlib
import subprocess
import sys

import core_tests
import installed
import jax
import jax.random as jr
import machine
import pytest
import scaling
import solvers
from helpers import make_batch, make_network
from test_precision import products
from updates import default_products

import dfc_jax as dfc


SCRIPT = pathlib.Path(core_tests.__file__).with_name("on_gpu.sh")
PARTS = ["core_tests", "training_step", "solvers", "epoch", "seeds", "sleep", "scaling"]
PARTS += ["training_step-float32"]
# What stands for Python: all as it is but for one part.
BROKEN = """#!/bin/sh
case "$1" in *seeds.py) echo "no luck today" >&2; exit 3 ;; esac
exec {python} "$@"
"""


def on_gpu(
    *arguments: object, python: object = sys.executable, before_path: object = "."
) -> subprocess.CompletedProcess:
    command = ["bash", str(SCRIPT), *map(str, arguments)]
    environment = os.environ | {"PYTHON": str(python), "PATH": f"{before_path}:{os.environ['PATH']}"}
    return subprocess.run(command, capture_output=True, text=True, timeout=1800, env=environment)


@pytest.mark.slow
def test_a_part_that_fails_stops_no_other_and_one_that_is_done_is_skipped(tmp_path: pathlib.Path) -> None:
    broken, out = tmp_path / "python", tmp_path / "out"
    broken.write_text(BROKEN.format(python=sys.executable))
    broken.chmod(0o755)
    first = on_gpu("--small", "--out", out, "seeds", "core_tests", python=broken)
    assert first.returncode == 1, first.stderr
    assert "seeds: failed after 0 s (exit status 3)" in first.stdout and "no luck today" in first.stdout
    assert "core_tests: done in" in first.stdout
    assert not (out / "seeds.json").exists() and not (out / "programs" / "core_tests").exists()
    held = json.loads((out / "core_tests.json").read_text())
    assert held["environment"]["device"] and held["settings"]["small"] and not held["failed"]
    assert held["files"]["test_small_matrices"]["passed"] > 0
    assert json.loads((out / "machine.json").read_text())["products"]["float32"]["relative_error"] < 1e-5
    written = (out / "core_tests.json").stat().st_mtime_ns

    again = on_gpu("--small", "--out", out, "core_tests")
    assert again.returncode == 0 and "core_tests: skipped, " in again.stdout
    assert (out / "core_tests.json").stat().st_mtime_ns == written

    full = on_gpu("--out", out, "core_tests")
    assert full.returncode == 2 and "with `size` 256, not 4096" in full.stderr


@pytest.mark.script
def test_with_many_cores_parts_compile_before_they_are_measured(tmp_path: pathlib.Path) -> None:
    cores, out = tmp_path / "nproc", tmp_path / "out"
    cores.write_text("#!/bin/sh\necho 8\n")
    cores.chmod(0o755)
    done = on_gpu("--small", "--out", out, "seeds", before_path=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "--rounds 1 --epochs 2" in (out / "logs" / "seeds-first.log").read_text()
    held = json.loads((out / "seeds.json").read_text())
    assert held["settings"]["rounds"] == 2  # those of the short round are thrown away
    assert not (out / "programs" / "first").exists() and not (out / "programs" / "seeds").exists()


@pytest.mark.script
def test_all_parts_in_small(tmp_path: pathlib.Path) -> None:
    done = on_gpu("--small", "--out", tmp_path)
    assert done.returncode == 0, done.stdout
    for part in PARTS:
        file = tmp_path / ("float32" if part.endswith("-float32") else "") / part.removesuffix("-float32")
        where = json.loads(file.with_suffix(".json").read_text())["environment"]
        assert where["matmul_precision"] == ("float32" if part.endswith("-float32") else None)
        assert where["device"] in file.with_suffix(".md").read_text()


def test_its_help_names_every_part_and_another_is_refused(tmp_path: pathlib.Path) -> None:
    shown = on_gpu("--help")
    assert shown.returncode == 0 and ", ".join(PARTS) in shown.stdout
    refused = on_gpu("--out", tmp_path / "out", "nonsense")
    assert refused.returncode == 2 and refused.stderr.startswith(
        "error: nonsense is no part; they are core_tests"
    )
    assert not (tmp_path / "out").exists()


def test_what_a_machine_lacks_is_said_in_a_sentence_each() -> None:
    needed = installed.wanted()
    assert {"dfc_jax", "jax>=0.10.0", "pytest>=8.3"} <= set(needed)
    assert not any(name.startswith(("tensorflow", "array_record", "pandas", "ruff")) for name in needed)
    assert installed.lacking(needed) == []
    assert installed.lacking(["no-such-thing>=1.2", "jax>=99.0", "jax", "numpy>=2.0"]) == [
        "no-such-thing is not installed; no-such-thing>=1.2 is needed.",
        f"jax is {jax.__version__}; jax>=99.0 is needed.",
    ]


def test_products_of_the_default_are_in_no_other_program() -> None:
    model, (x, y) = make_network(jr.key(0)), make_batch(jr.key(1), 2)
    full, default = {(jax.lax.Precision.HIGHEST,) * 2}, {(jax.lax.Precision.DEFAULT,) * 2}

    def found() -> set:
        return set(
            products(jax.make_jaxpr(lambda: dfc.DFCSS()(model, x, y)[0].layers[0].transform.bias)().jaxpr)
        )

    assert found() == full
    with default_products():
        assert found() == default
    assert found() == full


def test_figures_of_another_device_are_not_replaced(tmp_path: pathlib.Path) -> None:
    (tmp_path / "machine.json").write_text('{"environment": {"device": "another"}}')
    with pytest.raises(ValueError, match="holds figures of another; name another for this"):
        machine._check_device("this", tmp_path)
    machine._check_device("another", tmp_path)


@pytest.mark.parametrize(
    ("main", "options", "problem"),
    [
        (scaling.main, scaling.Options(width=(256,)), "`width` is (256,); it must be at least two sizes"),
        (scaling.main, scaling.Options(batch=(64, 32)), "`batch` is (64, 32); it must be at least two sizes"),
        (
            solvers.main,
            solvers.Options(regimes=("late",)),
            "`regimes` is ('late',); it must be some of init-",
        ),
        (solvers.main, solvers.Options(solvers=()), "`solvers` is (); it must be some of SSA, "),
        (solvers.main, solvers.Options(precisions=("float64",)), "float32 must be among them"),
    ],
)
def test_choices_that_cannot_be(main, options, problem, capsys) -> None:
    assert main(options) == 2
    assert problem in capsys.readouterr().err


def test_the_tests_of_the_core_are_there() -> None:
    assert all((pathlib.Path(__file__).parent / f"{name}.py").exists() for name in core_tests.FILES)
