"""The command line: what was given counts as given, and what cannot be is refused by name."""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import pytest
import run
from options.config import Config
from options.groups import Feedback, Optimiser, Solver, Strong
from options.script import parse
from report.written import new_folder


EXPERIMENTS = pathlib.Path(__file__).parents[1] / "experiments"
DFA = [
    "--method",
    "dfa",
    "--hidden",
    "8",
    "--feedback",
    "fixed",
    "--no-progress",
    "--epochs",
    "2",
    "--batch-size",
    "419",
]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The options of every run that would be trained, instead of its training."""
    configs = []

    def train(config, method, data, folder, heard):
        assert dfc_folder(folder) in (config.out, str(pathlib.Path(config.out) / method))
        configs.append(config)
        return {}

    monkeypatch.setattr(run, "train", train)
    monkeypatch.setattr(run, "compare", lambda *_: None)
    return configs


def dfc_folder(folder) -> str:
    return str(folder.path)


def folders(out: pathlib.Path) -> list[str]:
    return sorted(str(file.parent.relative_to(out)) for file in out.rglob("config.json"))


def test_a_run_goes_on_for_more_epochs_with_its_own_options(tmp_path, started, capsys):
    out = tmp_path / "run"
    assert run.command([*DFA, "--out", str(out), "--nudge", "0.1"]) == 0
    assert run.command(["--out", str(out), "--resume", "--epochs", "4"]) == 0
    assert "goes on from epoch 1" in capsys.readouterr().out
    first, again = started
    assert (again.epochs, again.resume, again.progress) == (4, True, True)
    changed = {"epochs": 2, "resume": False, "progress": False}
    assert dataclasses.replace(again, **changed) == first and folders(out) == ["."]


def test_an_option_given_at_its_default_is_given(tmp_path, started, capsys):
    out = ["--out", str(tmp_path / "run")]
    assert run.command(["--method", "dfc-ss", "--hidden", "8", "--nudge", "0.5", *out]) == 0
    for given, said in (
        (["--nudge", "0.1"], "`nudge` is 0.5 there and 0.1 now"),
        (["--hidden", "128", "128"], "`hidden` is [8] there and [128, 128] now"),
        (["--method", "dfc-ss", "bp"], "holds a run of dfc-ss alone"),
        (["--solver.rtol", "1"], "`solver.rtol` is"),
    ):
        assert run.command([*out, "--resume", *given]) == 2
        assert said in capsys.readouterr().err
    assert len(started) == 1 and folders(tmp_path / "run") == ["."]


def test_resuming_what_is_no_run_is_refused(tmp_path, started, capsys):
    assert run.command(["--out", str(tmp_path / "typo"), "--resume", "--no-progress"]) == 2
    assert "typo', which holds no run to go on with" in capsys.readouterr().err
    for name, method in (("a", "dfa"), ("bp", "bp")):
        assert run.command(["--method", method, "--out", str(tmp_path / name)]) == 0
    assert run.command(["--out", str(tmp_path), "--resume"]) == 2
    assert "holds no run of its own but a, bp; name one of them" in capsys.readouterr().err
    assert run.command(["--out", str(tmp_path)]) == 2  # nor are others' runs given a run around them
    assert "holds runs already (a, bp)" in capsys.readouterr().err
    assert folders(tmp_path) == ["a", "bp"] and len(started) == 2


def test_a_job_of_several_methods_goes_on_as_it_is(tmp_path, started, capsys):
    out = ["--out", str(tmp_path / "job")]
    both = ["--method", "dfa", "bp", *DFA[2:]]
    assert run.command([*both, *out]) == 0
    assert run.command([*out, "--resume", "--epochs", "3"]) == 0
    assert [(c.method[0], c.hidden, c.epochs) for c in started[2:]] == [("bp", (8,), 3), ("dfa", (8,), 3)]
    shutil.rmtree(tmp_path / "job" / "bp")  # as a crash between the two leaves it
    assert run.command([*out, "--resume", "--method", "bp"]) == 2  # whose other options are not given
    assert "dfa' holds a run with other options: `feedback` is 'fixed' there" in capsys.readouterr().err
    assert run.command([*both, *out, "--resume", "--epochs", "3"]) == 0
    assert "bp: a new run" in capsys.readouterr().out
    assert folders(tmp_path / "job") == ["bp", "dfa"] and started[-1].hidden == (8,)


@pytest.mark.parametrize("given", [["--out", ""], ["--out="]])
def test_an_empty_folder_name_is_refused(given, started, capsys):
    assert run.command([*given, "--resume"]) == 2
    assert "`out` is empty" in capsys.readouterr().err
    assert run.main(Config(out="")) == 2


def test_the_home_folder_is_found_wherever_it_stands():
    home = str(pathlib.Path.home())
    assert parse(Config, ["--out=~/x"], "").out == parse(Config, ["--out", "~/x"], "").out == f"{home}/x"


@pytest.mark.parametrize(
    "options, said",
    [
        (
            {"optimiser": Optimiser(beta1=1.5)},
            "`optimiser.beta1` is 1.5; it must be at least 0 and less than 1",
        ),
        ({"optimiser": Optimiser(beta2=2.0)}, "`optimiser.beta2` is 2.0"),
        ({"optimiser": Optimiser(beta1=float("nan"))}, "`optimiser.beta1` is nan"),
        ({"optimiser": Optimiser(eps=-1.0)}, "`optimiser.eps` is -1.0"),
        ({"optimiser": Optimiser(lr=1e-300)}, "`optimiser.lr` is 1e-300"),
        (
            {"optimiser": Optimiser(clip_over="layer")},
            "`optimiser.clip_over` is given without `optimiser.clip`",
        ),
        ({"feedback_learning": Feedback(weight_decay=-1.0)}, "`feedback_learning.weight_decay` is -1.0"),
        ({"feedback_learning": Feedback(clip=-1.0)}, "`feedback_learning.clip` is -1.0"),
        ({"feedback_learning": Feedback(lr=0.0)}, "`feedback_learning.lr` is 0.0"),
        ({"feedback_learning": Feedback(sleep_epochs=-1)}, "`feedback_learning.sleep_epochs` is -1"),
        ({"solver": Solver(dt=0.0)}, "`solver.dt` is 0.0"),
        ({"solver": Solver(dt=float("nan"))}, "`solver.dt` is nan"),
        ({"solver": Solver("published", duration=float("inf"))}, "`solver.duration` is inf"),
        ({"solver": Solver("published", duration=1e9)}, "which make 5e+10 states"),
        ({"method": ("strong-dfc",), "strong": Strong(steps=1)}, "`strong.steps` is 1"),
        (
            {"seeds": (1, 2**32 + 1)},
            "`seeds` is 4294967297; it must be a whole number between 0 and 4294967295",
        ),
        ({"diagnostics": 100, "epochs": 1}, "nothing would be measured"),
        (
            {"feedback": "fixed", "feedback_learning": Feedback(lr=5.0)},
            "`feedback_learning.lr` is given, but",
        ),
        ({"method": ("bp",), "feedback": "exact"}, "`feedback` is exact; bp has none"),
        ({"method": ("bp",), "nudge": 0.5}, "`nudge` is given, which bp does not read"),
        ({"strong": Strong(sigma=0.5)}, "`strong.sigma` is given, which dfc-ss and bp does not read"),
        (
            {"solver": Solver(duration=5.0)},
            "`solver.duration` is given, which dfc-ss and bp does not read with",
        ),
        (
            {"method": ("dfc",), "solver": Solver(diffrax_solver="Heun")},
            "`solver.diffrax_solver` is given, which dfc does not read with `solver.trajectory` implicit",
        ),
        (
            {"method": ("strong-dfc",), "feedback_learning": Feedback(sigma=0.2)},
            "`feedback_learning.sigma` is given, which strong-dfc does not read",
        ),
        ({"damping": 0.5}, "`damping` is given, but neither mn, gn nor `diagnostics`"),
        ({"processes": 2, "process": 2, "coordinator": "localhost:1", "distributed": True}, "the last is 1"),
        ({"coordinator": "nonsense", "distributed": True}, "it must be HOST:PORT"),
        ({"coordinator": "no.such.host.invalid:1", "distributed": True}, "there is no such host"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("as_users_run")
def test_numbers_and_inert_options_are_refused_by_name(options, said, tmp_path, capsys):
    assert run.main(Config(**options, out=str(tmp_path / "run"))) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("backend", ["nonsense", "module://not_there"])
def test_a_notebooks_backend_does_not_matter(backend):
    code = (
        "from run import plot_curves; from report.pictures import plt; plt.figure(); print(plt.get_backend())"
    )
    environment = os.environ | {"MPLBACKEND": backend, "PYTHONPATH": str(EXPERIMENTS)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.lower() == "agg\n", done.stderr


def test_jobs_of_the_same_second_have_folders_of_their_own():
    assert new_folder("digits") != new_folder("digits")


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ["--hidden", "99999999999999999999"],
            "`hidden` is 99999999999999999999; it must be at most 2147483647",
        ),
        (
            ["--strong.steps", "99999999999", "--method", "strong-dfc"],
            "`strong.steps` is 99999999999; it must",
        ),
        (["--optimiser.lr", "1e-300"], "`optimiser.lr` is 1e-300, which float32 rounds to 0.0; it must be"),
        (["--optimiser.lr", "1e300"], "`optimiser.lr` is 1e+300, which float32 rounds to inf; it must be"),
    ],
)
def test_numbers_that_the_machine_does_not_hold_are_said(words, said, capsys):
    with jax.enable_x64(False):
        assert run.command([*words, "--no-progress"]) == 2
    assert said in capsys.readouterr().err
