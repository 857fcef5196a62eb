"""How the errors of samples act on each other: against autodiff, closed forms and training itself."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import relative_error
from weight_transport import foretelling
from weight_transport.foretelling import choose, Chosen, course, foretell, growth, interaction, OutputError

import dfc_jax as dfc


X, Y = jr.normal(jr.key(1), (7, 6)), jnp.eye(3)[jnp.arange(7) % 3]
MODEL = dfc.mlp((6, 5, 4, 3), key=jr.key(0))
SPLIT = dfc.Split(np.asarray(X), np.asarray(Y))


def margins(model: dfc.Network) -> jax.Array:
    """Of all samples, from the probabilities: log(p / (1 - p)) of the own class."""
    own = jnp.sum(Y * jax.nn.softmax(jax.vmap(model)(X)), axis=-1)
    return jnp.log(own / (1 - own))


def along(update: dfc.Network) -> jax.Array:
    """By how much the margins rise in descent along an update."""
    weights, rest = eqx.partition(MODEL, eqx.is_inexact_array)
    of = lambda weights: margins(eqx.combine(weights, rest))
    return -jax.jvp(of, (weights,), (eqx.filter(update, eqx.is_inexact_array),))[1]


def of_two(a: float, b: float) -> tuple[jax.Array, Chosen]:
    """Two samples that help themselves and harm each other."""
    R = jnp.array([[1.0, -a], [-b, 1.0]])
    return R, Chosen(jnp.zeros((2, 1)), jnp.array([3.0, 4.0]), jnp.zeros((2, 2)), jnp.ones(2))


@pytest.mark.parametrize("name", ["backprop", "learned", "exact"])
def test_what_an_error_does_to_a_margin_is_what_the_update_by_its_sample_does(name: str) -> None:
    model = dfc.Network(MODEL.layers, dfc.ExactFeedback()) if name == "exact" else MODEL
    rule = lambda loss: (
        dfc.Backprop(loss) if name == "backprop" else dfc.DFCSS(target=dfc.Nudge(1e-6), loss=loss)
    )
    chosen = choose(model, SPLIT, jr.key(0))
    order = jnp.argsort(margins(MODEL))
    assert relative_error(chosen.margins, margins(MODEL)[order]) < 1e-12
    found = interaction(model, rule(OutputError()), chosen.x, chosen.errors)
    errors = 1 - jnp.sum(Y * jax.nn.softmax(jax.vmap(MODEL)(X)), axis=-1)
    wanted = []
    for j in order:
        update = rule(dfc.CrossEntropy())(model, X[j : j + 1], Y[j : j + 1])[0]
        wanted.append(along(dfc.Network(update.layers, MODEL.feedback))[order] / errors[j])
    assert relative_error(found, jnp.stack(wanted, axis=1)) < 1e-5
    symmetric = bool(jnp.allclose(found, found.T, rtol=1e-9))
    assert symmetric is (name == "backprop")


def test_margins_take_the_course_of_training_where_nothing_else_changes() -> None:
    # Two classes and one layer: errors act on each other alike for ever.
    X, labels = jr.normal(jr.key(3), (9, 4)), jnp.arange(9) % 2
    data = dfc.Split(np.asarray(X), np.asarray(jnp.eye(2)[labels]))
    model = dfc.mlp((4, 2), key=jr.key(4))
    chosen = choose(model, data, jr.key(0))
    R = interaction(model, dfc.Backprop(OutputError()), chosen.x, chosen.errors)
    layers, steps = model.layers, 2000
    for _ in range(steps):
        update, _ = dfc.Backprop()(dfc.Network(layers, model.feedback), X, jnp.eye(2)[labels])
        layers = jax.tree.map(lambda w, change: w - 3 / steps * change, layers, update.layers)
    outputs = jax.vmap(dfc.Network(layers, model.feedback))(chosen.x)
    signs = jnp.sign(chosen.errors[:, 1])  # of the other class: 1, of the own: -1
    wanted = signs * (outputs[:, 0] - outputs[:, 1])
    found = course(R, chosen, 1.0, 3)
    assert float(jnp.max(jnp.abs(wanted - chosen.margins))) > 0.5
    assert relative_error(found[-1], wanted) < 2e-3
    assert jnp.allclose(chosen.loss(found[-1]), jnp.mean(jnp.log1p(jnp.exp(-wanted))), rtol=2e-3)


def test_one_sample_of_many_takes_the_course_of_the_closed_form() -> None:
    # m' = c sigmoid(-m): exp(m) + m grows by c a unit of time, c = rate times R, for any number of copies.
    one = Chosen(jnp.zeros((1, 1)), jnp.array([1.0]), jnp.zeros((1, 2)), jnp.array([50.0]))
    found = course(jnp.array([[3.0]]), one, 4.0, 6)[:, 0]
    assert jnp.allclose(jnp.exp(found) + found, jnp.e + 1 + 12 * jnp.arange(7.0), rtol=1e-2)


@pytest.mark.parametrize("a, b", [(0.5, 0.5), (0.2, 3.0), (2.0, 1.0), (0.5, 4.0)])
def test_two_that_harm_each_other_make_the_loss_rise_if_their_product_is_more_than_one(a, b) -> None:
    R, chosen = of_two(a, b)
    found = course(R, chosen, 1.0, 400)
    losses = chosen.loss(found)
    assert bool(losses[-1] > losses[-2]) is (a * b > 1)
    # At rest in between: x_1 - a x_2 = x_2 - b x_1.
    if a * b < 1:
        assert float(growth(R, chosen, found[-1])) == pytest.approx((a * b - 1) / (2 + a + b), rel=2e-2)


def test_under_a_gradient_the_loss_falls_all_the_way_and_what_comes_of_it_is_the_hard_margin() -> None:
    # The shares that make |sum x_i grad m_i| least are one half of each of the first two: (1, 0).
    gradients = jnp.array([[1.0, 1.0], [1.0, -1.0], [3.0, 0.0]])
    chosen = Chosen(jnp.zeros((3, 1)), jnp.array([5.0, 4.0, 4.5]), jnp.zeros((3, 2)), jnp.ones(3))
    R = gradients @ gradients.T
    found = course(R, chosen, 3.0, 3000)[::60]
    grown = jnp.stack([growth(R, chosen, each) for each in found])
    assert bool(jnp.all(jnp.diff(chosen.loss(found)) < 0)) and bool(jnp.all(jnp.diff(grown) > 0))
    assert float(grown[-1]) == pytest.approx(-3 / 13, rel=2e-2)


def test_one_that_stands_for_two_counts_as_they_would() -> None:
    R, two = of_two(0.5, 3.0)
    copies = jnp.array([0, 0, 1])
    once = Chosen(two.x, two.margins, two.errors, jnp.array([2.0, 1.0]))
    twice = Chosen(two.x[copies], two.margins[copies], two.errors[copies], jnp.ones(3))
    found, wanted = course(R, once, 1.0, 5), course(R[copies][:, copies], twice, 1.0, 5)
    assert jnp.allclose(found[:, copies], wanted, rtol=1e-6)
    assert jnp.allclose(once.loss(found), twice.loss(wanted), rtol=1e-6)
    alike = growth(R, once, found[-1]), growth(R[copies][:, copies], twice, wanted[-1])
    assert float(alike[0]) == pytest.approx(float(alike[1]), rel=1e-6)


def test_the_hard_ones_are_followed_and_some_stand_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = choose(MODEL, SPLIT, jr.key(0))
    wanted = jnp.mean(jax.vmap(dfc.CrossEntropy())(jax.vmap(MODEL)(X), Y))
    assert jnp.allclose(whole.loss(whole.margins), wanted, rtol=1e-9)
    monkeypatch.setattr(foretelling, "HARD", 3)
    monkeypatch.setattr(foretelling, "OTHERS", 2)
    some, others = (choose(MODEL, SPLIT, jr.key(seed)) for seed in (0, 2))
    assert jnp.array_equal(some.margins[:3], jnp.sort(whole.margins)[:3])
    assert some.stands_for.tolist() == [1, 1, 1, 2, 2]
    assert not jnp.array_equal(some.margins[3:], others.margins[3:])


def test_a_course_that_is_not_solved_ends_early(change) -> None:
    method = dfc.Backprop(OutputError())
    chosen = choose(MODEL, SPLIT, jr.key(0))
    whole = foretell(MODEL, method, chosen, 1.0, 4)
    assert len(whole["growth"]) == len(whole["train_loss"]) == 5
    assert whole["train_loss"][0] == pytest.approx(float(chosen.loss(chosen.margins)))
    assert np.all(np.diff(whole["train_loss"]) < 0) and max(whole["growth"]) < 0
    change(foretelling, "MOST_STEPS", 3)
    assert len(foretell(MODEL, method, chosen, 1e4, 4)["train_loss"]) < 5
