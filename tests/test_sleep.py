"""Feedback learning in the sleep phase: the rule, its noise, and where it leads."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import angle, flat, make_batch, make_network, Plain, relative_error, Replayed, softmax
from jaxtyping import Array, PRNGKeyArray

import dfc_jax as dfc


SIZES = (4, 6, 5, 3)


@eqx.filter_jit
def dream(sleep: dfc.SleepPhase, model: dfc.Network, x: Array, y: Array, key: PRNGKeyArray) -> dfc.Network:
    return sleep(model, x, y, key=key)


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("proactive", [False, True])
def test_update_is_that_of_a_replay_in_numpy(filtered: bool, clamp: bool, proactive: bool, getkey) -> None:
    """v_fb[t] u[t+1]^T over sigma^2, averaged over steps and samples, in raw voltages (PAPER.md 3.3)."""
    k_p, alpha, tau_v, tau_apical, tau_noise, dt, states = 0.3, 0.4, 0.05, 0.3, 0.07, 0.01, 30
    sigmas = (0.2, 0.2, 0.5)
    model = make_network(getkey(), SIZES, (dfc.Tanh(), dfc.ReLU()), dfc.RandomFeedback())
    x, y = make_batch(getkey(), 3)
    y = 0.8 * y + 0.2 / 3
    noise = [jr.normal(getkey(), (states - 1, 3, n)) for n in SIZES[1:]]
    sleep = dfc.SleepPhase(
        dfc.PIController(k_p, alpha),
        dfc.FilteredNoise(0.2, tau_noise, 0.5) if filtered else dfc.WhiteNoise(0.2, 0.5),
        tau_v,
        None if filtered else tau_apical,
        Replayed(dt, states, True, proactive, x, tuple(noise)),
        dfc.Clamp() if clamp else dfc.Rest(),
    )
    update = dream(sleep, model, x, y, getkey())

    plain, total = Plain(model), [np.zeros(Q.shape) for Q in model.feedback.weights]
    for b in range(3):
        voltages, rates = plain.settle(np.asarray(x[b]))
        target, integral, u = np.asarray(y[b]) if clamp else rates[-1], np.zeros(3), np.zeros(3)
        held, eps = ([np.zeros(n) for n in SIZES[1:]] for _ in range(2))
        apical = held
        for t in range(states - 1):
            error = target - (softmax(rates[-1]) if clamp else rates[-1])
            integral = integral + dt * (error - alpha * u)
            before, u = u, integral + k_p * error
            total = [Q + np.outer(a, u) for Q, a in zip(total, apical, strict=True)]
            drive = [Q @ (u if proactive else before) for Q in plain.Q]
            draws = [np.asarray(n[t, b]) for n in noise]
            if filtered:
                eps = [e + dt / tau_noise * (n / np.sqrt(dt) - e) for e, n in zip(eps, draws, strict=True)]
                apical = [q + s * e for q, s, e in zip(drive, sigmas, eps, strict=True)]
            else:
                pulled = [a + dt / tau_apical * (q - a) for a, q in zip(apical, drive, strict=True)]
                kick = np.sqrt(dt) / tau_apical
                apical = [a + kick * s * n for a, s, n in zip(pulled, sigmas, draws, strict=True)]
            rate = np.asarray(x[b])
            for i, (W, bias) in enumerate(zip(plain.W, plain.b, strict=True)):
                basal = W @ rate + bias
                voltages[i] = voltages[i] + dt / tau_v * (basal + apical[i] - voltages[i])
                rates[i] = rate = plain.phi[i](voltages[i])
    wanted = [Q / (3 * (states - 1) * s**2) for Q, s in zip(total, sigmas, strict=True)]
    assert relative_error(update.feedback.weights, wanted) < 1e-10
    assert not np.any(flat(update.layers))
    assert jax.tree.structure(update) == jax.tree.structure(model)


class Probe(dfc.PublishedEuler):
    """No dynamics: the apical voltage is the draw (or its square) and the control one, so that the update
    is the draws' mean."""

    squared: bool = eqx.field(static=True, default=False)

    def step(
        self, loop: dfc.ClosedLoop, state: dfc.PublishedState, sample: dfc.Sample, draws: tuple = ()
    ) -> dfc.PublishedState:
        shown = tuple(d**2 if self.squared else d for d in draws)
        return eqx.tree_at(lambda s: (s.apical, s.control), state, (shown, jnp.ones_like(state.control)))


def test_draws_are_standard_normal_and_independent(getkey) -> None:
    """Means over T steps and B samples scatter over neurons as those of T B independent numbers do."""
    steps, batch = 30, 8  # the first step has no draw before it
    model = make_network(getkey(), (2, 400, 300), feedback=dfc.RandomFeedback())
    x, y = make_batch(getkey(), batch, 2, 300)

    def average(squared: bool) -> np.ndarray:
        sleep = dfc.SleepPhase(noise=dfc.WhiteNoise(1.0), scheme=Probe(0.002, steps + 2, squared=squared))
        update = dream(sleep, model, x, y, jr.key(5))
        return np.concatenate([Q[:, 0] for Q in update.feedback.weights]) * (steps + 1) / steps

    mean, square = average(False), average(True)
    count, neurons = steps * batch, 700
    assert abs(np.mean(square) - 1) < 5 * np.sqrt(2 / (count * neurons))
    assert abs(np.mean(mean)) < 5 / np.sqrt(count * neurons)
    assert abs(np.var(mean) * count - 1) < 5 * np.sqrt(2 / neurons)
    assert abs(np.var(square) * count / 2 - 1) < 5 * np.sqrt(2 / neurons) * 1.5


@pytest.fixture(scope="module")
def small() -> tuple[dfc.Network, Array, Array]:
    return make_network(jr.key(31), SIZES, feedback=dfc.RandomFeedback()), *make_batch(jr.key(32), 4)


def test_a_samples_noise_does_not_depend_on_its_batch(small) -> None:
    """What the second sample contributes is the same whatever the first one is, and in a longer batch."""
    model, x, y = small
    sleep, key = dfc.SleepPhase(), jr.key(3)

    def total(*rows: int) -> np.ndarray:
        chosen = jnp.array(rows)
        return len(rows) * flat(dream(sleep, model, x[chosen], y[chosen], key).feedback)

    second = total(0, 1) - total(0)
    assert np.linalg.norm(second) > 0
    assert relative_error(total(2, 1) - total(2), second) < 1e-9
    assert relative_error(total(0, 1, 3) - total(0, 2, 3), second - (total(0, 2) - total(0))) < 1e-9
    # Equal inputs in one batch do not hear the same noise, and another key brings other noise.
    assert relative_error(total(1, 1), 2 * total(1)) > 1e-2
    other = flat(dream(sleep, model, x[:1], y[:1], jr.key(4)).feedback)
    assert relative_error(other, total(0)) > 1e-2


@pytest.mark.script
def test_feedback_turns_to_the_damped_pseudoinverse() -> None:
    """Theorem 6: for a single sample Q settles along J^T (J J^T + gamma I)^-1, from any start."""
    model = make_network(jr.key(33), (3, 8, 2), dfc.Linear(), dfc.RandomFeedback())
    model = eqx.tree_at(
        lambda m: m.feedback.weights[-1], model, replace_fn=lambda Q: jr.normal(jr.key(34), Q.shape)
    )
    J = np.concatenate(Plain(model).jacobian([np.zeros(8), np.zeros(2)]), axis=1)
    x, y = jnp.ones((256, 3)), jnp.ones((256, 2)) / 2  # one sample, many draws
    sleep = dfc.SleepPhase(
        dfc.PIController(0.0, 1.0),
        dfc.WhiteNoise(0.05),
        tau_v=0.01,
        tau_apical=0.05,
        scheme=dfc.PublishedEuler(0.005, 200, proactive=False),
    )

    rate, decay = 0.05, 0.5

    @eqx.filter_jit
    def learn(Q: tuple[Array, ...], key: PRNGKeyArray) -> tuple[Array, ...]:
        def step(Q: tuple[Array, ...], key: PRNGKeyArray) -> tuple[tuple[Array, ...], None]:
            update = sleep(eqx.tree_at(lambda m: m.feedback.weights, model, Q), x, y, key=key)
            change = update.feedback.weights
            return tuple(q - rate * (c + decay * q) for q, c in zip(Q, change, strict=True)), None

        return jax.lax.scan(step, Q, jr.split(key, 150))[0]

    before, after = model.feedback.weights, learn(model.feedback.weights, jr.key(35))
    gammas = 10.0 ** np.arange(-2, 3)
    inverses = [J.T @ np.linalg.inv(J @ J.T + g * np.eye(2)) for g in gammas]
    to = lambda Q: [angle(np.concatenate(Q), wanted) for wanted in inverses]
    print(to(before), to(after), np.linalg.norm(flat(after)), np.linalg.norm(flat(before)))
    assert min(to(before)) > 60
    assert min(to(after)) < 15


def test_what_cannot_learn_says_so(small) -> None:
    model, x, y = small
    exact = eqx.tree_at(lambda m: m.feedback, model, dfc.ExactFeedback())
    with pytest.raises(ValueError, match="is ExactFeedback; SleepPhase needs FeedbackWeights"):
        dfc.SleepPhase()(exact, x, y, key=jr.key(0))
    with pytest.raises(ValueError, match=r"`noise.sigma` is 0"):
        dfc.SleepPhase(noise=dfc.WhiteNoise(0.0))
    with pytest.raises(ValueError, match="`tau_v` is -1"):
        dfc.SleepPhase(tau_v=-1.0)
    with pytest.raises(ValueError, match="`tau_apical` is None; white noise"):
        dfc.SleepPhase(tau_apical=None)


@pytest.mark.parametrize("phase", [dfc.SleepPhase, dfc.LinearisedSleepPhase, dfc.ExpectedSleepPhase])
def test_a_layer_without_noise_learns_nothing(phase: type[dfc.AbstractSleepPhase], small) -> None:
    """Though the control reaches it: dividing by sigma^2 makes no sense there."""
    scheme = dfc.PublishedEuler(0.002, 5, proactive=False)
    learned = phase(noise=dfc.WhiteNoise(0.1, sigma_output=0.0), scheme=scheme)
    *hidden, output = dream(learned, *small, jr.key(0)).feedback.weights
    assert np.all(np.asarray(output) == 0)
    assert all(np.any(np.asarray(Q) != 0) for Q in hidden)
