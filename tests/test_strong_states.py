"""What the figure `strong-states` measures, against arrays whose answers are known and states at rest."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from figures import main
from helpers import angle, make_network
from icml2022 import states
from icml2022.states import AFTER, BACKPROP, EXACT, LEAKY, LogProbabilities, REST, States, WEAK
from icml2022.updates import measure, saturated, shared_part

import dfc_jax as dfc


def test_what_batches_share_is_found_without_bias():
    """Of a vector of length 3 with noise of mean square 7 around it, 9 of 16; of noise alone, nothing."""
    draw = np.random.default_rng(0)
    noise = draw.normal(size=(4000, 50)) * np.sqrt(7 / 50)
    shared = np.zeros(50)
    shared[0] = 3
    assert shared_part(noise + shared) == pytest.approx(9 / 16, abs=0.02)
    few = [shared_part(draw.normal(size=(2, 50))) for _ in range(500)]
    assert np.mean(few) == pytest.approx(0, abs=0.02)
    assert shared_part(np.ones((3, 4))) == pytest.approx(1)


def test_saturated_rates_are_counted_in_both_directions():
    rates = (jnp.array([[0.995, -0.999], [0.5, 0.989]]), jnp.array([[-1.0], [0.0]]))
    assert np.allclose(saturated(rates), [0.5, 0.5])


def test_the_regression_is_least_where_the_clamped_target_is_and_its_gradient_is_its_own():
    loss, y = LogProbabilities(), jnp.eye(4)[1]
    output = jnp.array([0.3, -1.0, 2.0, 0.5])
    assert np.allclose(loss.gradient(output, y), jax.grad(loss)(output, y), atol=1e-5)
    target = jnp.log(jnp.array([0.01 / 3, 0.99, 0.01 / 3, 0.01 / 3])) + 5
    assert float(loss(target, y)) == pytest.approx(0, abs=1e-9)
    assert np.allclose(dfc.Clamp(0.99).initial_error(dfc.CrossEntropy(), target, y), 0, atol=1e-6)


@pytest.fixture(scope="module")
def small():
    model = make_network(jr.key(1), (6, 8, 7, 4))
    x = jr.normal(jr.key(2), (2, 16, 6))
    return model, x, jnp.eye(4)[jnp.arange(32) % 4].reshape(2, 16, 4)


def test_the_measured_update_is_that_of_all_samples_and_its_parts_are_of_their_own(small):
    model, x, y = small
    model = jax.tree.map(lambda leaf: 3 * leaf, model)  # some samples are confident, some rates flat
    found = measure(dfc.Backprop(), model, x, y)
    flat = lambda a: a.reshape(-1, a.shape[-1])
    wanted, report = dfc.Backprop()(model, flat(x), flat(y))
    assert angle(found.update.layers, wanted.layers) < 0.01
    each = [dfc.Backprop()(model, a[None], b[None])[0] for a, b in zip(flat(x), flat(y), strict=True)]
    sizes = np.array([np.sqrt(sum(np.sum(w**2) for w in jax.tree.leaves(one.layers))) for one in each])
    p = np.sum(jax.nn.softmax(report.output) * flat(y), axis=1)
    wrong = np.argmax(report.output, axis=1) != np.argmax(flat(y), axis=1)
    assert 0 < np.mean(wrong) < 1
    assert found.numbers["wrong"] == pytest.approx(sizes[wrong].sum() / sizes.sum(), rel=1e-4)
    assert found.numbers["confident"] == pytest.approx(sizes[p > 0.99].sum() / sizes.sum(), abs=1e-5)
    assert found.numbers["largest"] == pytest.approx(np.sort(sizes)[-2:].sum() / sizes.sum(), rel=1e-4)
    rates = jax.vmap(model.feedforward)(flat(x)).inputs[1]
    assert found.numbers["saturated_layer_1"] == pytest.approx(np.mean(np.abs(rates) > 0.99)) != 0


def test_a_long_trajectory_teaches_what_rest_teaches_and_a_short_one_what_a_large_leak_does(small):
    model, x, y = small
    rules = States().rules()
    of = lambda rule: measure(rule, model, x, y).update.layers
    target, short = rules[REST].target, rules[AFTER].equilibrium
    leaky = dataclasses.replace(rules[REST], controller=dfc.PIController(2.0, 0.1))
    scheme = dfc.StateAtTime(dfc.PublishedEuler(0.01, 8000), 0.05)
    long = dfc.DFCSS(leaky.controller, target, equilibrium=scheme, fallback=None)
    assert angle(of(long), of(leaky)) < 0.5
    assert short.scheme.states * float(short.scheme.dt) == pytest.approx(0.5)
    assert angle(of(rules[AFTER]), of(rules[LEAKY])) < 0.5 * angle(of(rules[AFTER]), of(rules[REST]))


@pytest.mark.usefixtures("as_users_run")
def test_the_figure_has_every_rule_and_epoch(tmp_path, monkeypatch):
    config = States.config
    monkeypatch.setattr(States, "config", lambda self: dataclasses.replace(config(self), hidden=(12, 8)))
    options = States(out=tmp_path, epochs=1, samples=256, progress=False)
    rows = []
    draw = States.draw
    monkeypatch.setattr(States, "draw", lambda self, found: rows.extend(found) or draw(self, found))
    assert main(options) == 0
    first = [row for row in rows if row["trained"] == REST]
    assert {row["rule"] for row in first} == {REST, EXACT, LEAKY, AFTER, WEAK, BACKPROP}
    assert sorted({row["epoch"] for row in rows}) == [0, 1]
    assert {row["trained"] for row in rows} == set(states.TRAINERS)
    angles = {(row["rule"], row["epoch"]): row["angle_to_after"] for row in first}
    assert angles[AFTER, 1] < 0.1 < angles[LEAKY, 1]


def test_one_batch_is_refused(tmp_path, capsys):
    assert main(States(out=tmp_path, samples=128)) == 2
    assert "`samples` is 128" in capsys.readouterr().err
