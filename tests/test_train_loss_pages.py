"""What the pages say of train losses, of why they rise and settle, is what the committed runs did."""

from collections.abc import Iterable

import numpy as np
import pytest
from committed import read, RESULTS, ROOT
from neurips2021.printed_table import COLUMNS, ROWS
from report.curves import read_curves
from weight_transport.branches import DAMPINGS
from weight_transport.foretelling import HARD, OTHERS, SETTLED


CELLS, CONTROLS = "table1-full/mnist_train_loss", "learning-rate"
SETTLING = (
    *(f"{CELLS}/{row}" for row in ("dfc-ss-fixed", "bp")),
    *(f"{CONTROLS}/{run}" for run in ("fixed-smaller-eps", "bp-larger-eps", "bp-rate-of-fixed")),
    f"{CONTROLS}/bp-rate-of-fixed-published-eps",
)


def the_page() -> str:
    """The page on the column's train losses, in one line."""
    return " ".join((RESULTS / "learning-rate" / "README.md").read_text("utf-8").split())


def span(values: Iterable[float]) -> str:
    """The least and the most, as pages write them."""
    return f"{min(values):.1e} to {max(values):.1e}".replace("e-0", "e-")


def settled(losses: np.ndarray) -> np.ndarray:
    """Those of the seeds whose loss falls below 1e-5 for good."""
    return losses[losses[:, -1] < 1e-5]


def epochs_since(losses: np.ndarray, level: float) -> list[int]:
    """Of each seed, how many epochs at the end are below a level."""
    return [int(np.argmax(of[::-1] >= level)) for of in losses]


def test_the_late_rise_is_in_all_seeds_of_learned_feedback_and_in_none_of_exact():
    page = the_page()
    learned = read_curves(RESULTS / "table1-full" / "mnist" / "dfc-ss")["train_loss"]
    tenfold = [np.argmax(of > 10 * np.minimum.accumulate(of)) for of in learned]
    told = sorted(int(epoch) + 1 for epoch in tenfold)
    assert f"in epochs {', '.join(map(str, told[:-1]))} and {told[-1]}, ten times" in page
    highest = [of[epoch:].max() for of, epoch in zip(learned, tenfold, strict=True)]
    assert f"between {min(highest):.1e} and {max(highest):.2g}.".replace("e-0", "e-") in page
    fallen = sorted(of[-1] for of in learned)[:3]
    assert f"falls back to {span(fallen)} by" in page
    exact = read_curves(RESULTS / "learning-rate" / "exact")["train_loss"]
    assert np.all(np.diff(exact[:, 29:]) < 0) and "from the 31st on" in page
    one, other = (
        read(RESULTS / run / "config.json")["config"]
        for run in ("table1-full/mnist/dfc-ss", "learning-rate/exact")
    )
    same = ("method", "hidden", "nudge", "controller", "optimiser", "batch_size", "epochs", "initial_weights")
    assert all(one[name] == other[name] for name in same)


def test_what_is_said_of_other_feedback_before_the_late_rise_is_what_its_runs_did():
    page = the_page()
    rows, slept = (
        read(RESULTS / "late-rise" / "late_rise.json")["rows"],
        read(RESULTS / "late-rise/start/slept.json"),
    )
    last = {name: sorted(row["last_train_loss"]) for name, row in rows.items()}
    lowest = {name: row["lowest_train_loss"] for name, row in rows.items()}
    for name, words in (("mean-inverse", "last epoch, to {}; with"), ("exact", "own J^T to {}, and"),
                        ("layered", "of then, to {}. With the mean of J^T")):  # fmt: skip
        assert words.format(span(last[name])) in page
        assert last[name] == sorted(lowest[name])  # the last epoch is the lowest
    assert f"to {last['learned'][1]:.1e} and {last['learned'][2]:.3f}, and".replace("e-0", "e-") in page
    assert np.allclose(lowest["learned"], lowest["tenth-nudge"], rtol=5e-3)
    risen = {name: np.divide(row["last_train_loss"], lowest[name]) for name, row in rows.items()}
    for name, seeds in (
        ("learned", 3),
        ("kept", 2),
        ("mean-jacobian", 3),
        ("mean-damped", 2),
        ("sleep-gain", 3),
    ):
        assert np.sum(risen[name] > 1.01) == seeds
    first = {
        name: tenfold(name) for name in ("mean-jacobian", "sleep-gain", "learned", "mean-damped", "kept")
    }
    assert first["mean-jacobian"] <= first["sleep-gain"] < first["learned"] < first["mean-damped"]
    assert first["mean-damped"] < first["kept"]
    most, less = last["mean-damped"][2], sorted(risen["mean-damped"])[1]
    damped = f"to {most:.1e} in the one network and by {less:.1f} times"
    assert damped.replace("e-0", "e-") in page
    by_damping = dict(zip(DAMPINGS, np.mean([seed["degrees"] for seed in slept], axis=0), strict=True))
    near, far = by_damping[30], by_damping[0]
    assert f"at {near:.0f} degrees from the mean of inverses damped by 30 and at {far:.0f} from" in page
    own, best = (np.mean([seed[part] for seed in slept], axis=0) for part in ("own", "condition_two"))
    assert f"Condition 2 is {own:.3f}, that mean's {best[0]:.3f}." in page
    angles = {name: sorted(rows[name]["angles"]["network"]) for name in ("kept", "exact")}
    kept, exact = (f"{angles[name][0]:.0f} to {angles[name][-1]:.0f}" for name in ("kept", "exact"))
    assert f"at {kept} degrees, with exact feedback and the same weights at {exact}." in page
    logits = read_curves(RESULTS / "late-rise" / "learned")["test_largest_mean_logit"][0]
    assert f"from {logits[0]:.0f} to {logits[-1]:.0f} in the network that rises first" in page


@pytest.mark.parametrize("row", ["dfc-ss-fixed", "dfc-ssa-fixed", "dfa", "bp"])
def test_the_seeds_whose_train_loss_settles_are_those_of_the_page(row):
    page = (RESULTS / "README.md").read_text("utf-8")
    losses = read_curves(RESULTS / "table1-full" / "mnist_train_loss" / row)["train_loss"]
    below = settled(losses)
    first = [101 - epochs for epochs in epochs_since(below, 1e-5)]
    others = span(losses[losses[:, -1] >= 1e-5, -1])
    ends = span(below[:, -1]) if len(below) else ""
    name = row.removesuffix("-fixed").upper() + " (fixed)" * row.endswith("-fixed")
    mean, std = COLUMNS["mnist_train_loss"].paper[list(ROWS).index(name)]
    paper = f"{1e-7 * mean:.1e} ± {1e-7 * std:.1e}".replace("e-0", "e-")
    cells = [name, f"{len(below)} of 5", ", ".join(map(str, sorted(first))), ends, others, paper]
    assert "| " + " | ".join(cells).replace("|  |", "| |").replace("|  |", "| |") + " |" in page


def test_how_many_epochs_it_takes_to_settle_is_what_it_took():
    def took(name: str) -> list[int]:
        losses = settled(read_curves(RESULTS / name)["train_loss"])
        ends = zip(epochs_since(losses, 1e-3), epochs_since(losses, 1e-5), strict=True)
        return [above - below + 1 for above, below in ends]

    paper = [epochs for row in ("dfc-ss-fixed", "dfc-ssa-fixed", "dfa") for epochs in took(f"{CELLS}/{row}")]
    assert f"within {min(paper)} to {max(paper)} epochs" in (RESULTS / "README.md").read_text("utf-8")
    every = [*paper, *took(f"{CONTROLS}/bp-rate-of-fixed")]
    faq = " ".join((ROOT / "docs" / "faq.md").read_text("utf-8").split())
    assert f"within {min(every)} to {max(every)} epochs, under backprop too" in faq


@pytest.mark.parametrize("run", SETTLING)
def test_which_runs_settle_by_eps_is_what_they_did(run):
    page = (RESULTS / "learning-rate" / "README.md").read_text("utf-8")
    losses = read_curves(RESULTS / run)["train_loss"]
    options = read(RESULTS / run / "config.json")["config"]["optimiser"]
    assert losses.shape[1] == 100 and (options["beta1"], options["beta2"]) == (0.99, 0.99)
    lowest, last = span(losses.min(axis=1)), span(losses[:, -1])
    first = sorted(101 - epochs for epochs in epochs_since(settled(losses), 1e-5))
    count = f"{len(first)} of {len(losses)}" + (f": {', '.join(map(str, first))}" if first else "")
    named = run.removeprefix(f"{CONTROLS}/")
    (line,) = (line for line in page.splitlines() if line.endswith(f"| {count} | `{named}` |"))
    _, _, rate, eps, *cells = (cell.strip() for cell in line.split("|"))
    assert cells[:2] == [lowest, last]
    if named == "bp-rate-of-fixed-published-eps":
        assert f"are 6.2e-3 to 7.2e-3 and {lowest}." in " ".join(page.split())
    told = float(rate.split(",")[0]), float(eps.split(",")[0])
    assert told == pytest.approx((options["lr"], options["eps"]), rel=5e-3)


def test_what_is_said_of_errors_that_foster_each_other_is_what_they_foretell():
    page = the_page()
    rows = read(RESULTS / "late-rise" / "late_rise.json")["rows"]
    rows = {name: row for name, row in rows.items() if "foretold" in row}
    seen, lowest = (
        np.array([row[f"{which}_train_loss"] for row in rows.values()]) for which in ("last", "lowest")
    )
    start = [[each["train_loss"] for each in row["foretold"]["start"]] for row in rows.values()]
    foretold = np.array(start)[..., -1]
    falls = seen == lowest
    ratios = (seen / foretold)[falls]
    assert f"ends {ratios.min():.1f} to {ratios.max():.1f} times as high as foretold" in page
    # Where two are foretold in another order than seen, they end within 5 % of each other.
    wrong = []
    for network in range(3):
        of, came_to = foretold[:, network], seen[:, network]
        pairs = [(i, j) for i in range(len(of)) for j in range(len(of)) if of[i] < 0.99 * of[j]]
        wrong += [came_to[i] / came_to[j] for i, j in pairs if came_to[i] > came_to[j]]
    assert len(wrong) == 1 and max(wrong) < 1.05
    rises = np.array([[max(np.diff(each[1:])) > 0 for each in of] for of in start])
    assert rises.sum() == 1 and rises[list(rows).index("mean-jacobian"), 0]
    ends = np.array([[each["growth"][SETTLED] for each in row["foretold"]["end"]] for row in rows.values()])
    risen = seen / lowest > 1.01
    assert risen.sum() == 7 and (ends > 0).sum() == 6 and np.all(risen[ends > 0])
    assert f"whose loss is {(seen / lowest)[risen & (ends < 0)].item():.0f} times its lowest by then" in page
    assert "after five epochs of its course" in page and SETTLED == 5
    assert "negative in six of the seven networks that have risen and positive in all that fall" in page
    courses = np.array([[each["train_loss"] for each in row["foretold"]["end"]] for row in rows.values()])
    courses = courses[(ends > 0) & (np.diff(courses, axis=2).min(axis=2) < -1e-5)]
    falls = courses[:, 0] / courses.min(axis=1)
    assert f"at {span(courses[:, 0])} in this estimate" in page and len(falls) == 3
    assert f"fall first, {falls.min():.1f}- to {falls.max():.0f}-fold" in page
    growth = {
        name: np.array([each["growth"][SETTLED] for each in row["foretold"]["start"]])
        for name, row in rows.items()
    }
    for name in ("kept", "mean-jacobian", "mean-damped"):
        assert np.all(growth["mean-inverse"] < growth[name]) and np.all(growth["kept"] <= growth[name])
    assert f"R of {HARD + OTHERS} samples, the {HARD} of the smallest margins and {OTHERS} that" in page


def tenfold(name: str) -> int:
    """The first epoch of a branch where a network's loss is ten times its lowest until then; 99 if none."""
    losses = read_curves(RESULTS / "late-rise" / name)["train_loss"]
    (_, epochs) = np.nonzero(losses > 10 * np.minimum.accumulate(losses, axis=1))
    return int(min(epochs, default=99))


@pytest.mark.parametrize(
    ("run", "beginning"),
    [
        ("table1-full/mnist_train_loss/bp", "backprop | 0.99, 0.99 | the last column | 100"),
        ("learning-rate/bp-default-betas", "backprop | 0.9, 0.999 | the last column | 100"),
        ("learning-rate/quarter-sleep", "DFC-SS, learned feedback | 0.99, 0.99 | the MNIST column | 40"),
        (
            "learning-rate/quarter-sleep-default-betas",
            "DFC-SS, learned feedback | 0.9, 0.999 | the MNIST column | 40",
        ),
        (
            "table1-full/mnist/dfc-ss",
            "DFC-SS, learned feedback, sleep as published | 0.99, 0.99 | the MNIST column | 100",
        ),
        ("learning-rate/exact", "DFC-SS, exact feedback | 0.99, 0.99 | the MNIST column | 100"),
    ],
)
def test_the_table_of_betas_is_that_of_its_runs(run, beginning):
    page = (RESULTS / "learning-rate" / "README.md").read_text("utf-8")
    losses = read_curves(RESULTS / run)["train_loss"]
    optimiser = read(RESULTS / run / "config.json")["config"]["optimiser"]
    assert f"{optimiser['beta1']:g}, {optimiser['beta2']:g} | " in beginning
    assert f"| {beginning} | {span(losses.min(axis=1))} | {span(losses[:, -1])} |" in page
