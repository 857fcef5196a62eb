"""How the errors of samples act on each other, and where that leads: what `late_rise.py` foretells.

Let m_i be sample i's margin, its own class's logit less the logsumexp of the others. Its loss is log(1
+ exp(-m_i)), whose gradient by the output is sigmoid(-m_i) v_i, with v_i the softmax over the other
classes less a one at the own. Where a rule's update is the sum of sigmoid(-m_j) D_j, D_j its update for
the output error v_j,

    dm_i/dt = sum_j R_ij sigmoid(-m_j),    R_ij = <gradient of -m_i, D_j>.

Once losses are small, l_i = exp(-m_i), these are Lotka and Volterra's equations, dl_i/dt = -l_i (R
l)_i: errors compete where R_ij is positive and foster each other where it is negative. With s the sum
of l and x = l / s, the samples' shares, ds/dt = -s^2 x^T R x, and x follows the replicator equation of
the payoff -R in the time that s dt is (Hofbauer and Sigmund, Evolutionary Games and Population
Dynamics, 1998). A gradient's R is a Gram matrix: x^T R x falls to its least value over all shares,
which is not negative (the square of the hard margin of the model linearised here). That of another rule
may be, though every sample helps itself: for two of them, with R_11 = R_22 = 1, R_12 = -a and R_21 =
-b, a and b positive, the sum grows without bound if and only if ab > 1.
"""

import itertools
import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

import dfc_jax as dfc


HARD, OTHERS = 1200, 400  # samples of the smallest margins, and of those that stand for all the rest
SETTLED = 5  # epochs in which what is common to many samples comes to rest
AT_ONCE = 100  # updates of one sample each
TOLERANCE, MOST_STEPS = 1e-3, 20_000  # of the margins, relative and absolute; of one course


class OutputError(dfc.AbstractLoss):
    """A loss that is linear in the output: its `y` is the error there itself."""

    def __call__(self, output: Float[Array, " out"], y: Float[Array, " out"]) -> Float[Array, ""]:
        return jnp.sum(output * y)

    def gradient(self, output: Float[Array, " out"], y: Float[Array, " out"]) -> Float[Array, " out"]:
        del output
        return y

    @property
    def readout(self) -> dfc.AbstractReadout:
        return dfc.IdentityReadout()


class Chosen(eqx.Module):
    """The samples whose errors are followed: all of the hard ones, and some that stand for the rest."""

    x: Float[Array, "samples ..."]
    margins: Float[Array, " samples"]
    errors: Float[Array, "samples out"]
    """v_i: the gradient by the output if the own class's probability were zero."""
    stands_for: Float[Array, " samples"]
    """How many samples of the data each of these is. It counts as so many copies, which help each other: an
    error towards losses that fall."""

    def loss(self, margins: Float[Array, "*times samples"]) -> Float[Array, "*times"]:
        """The mean over all samples of the data."""
        return jax.nn.softplus(-margins) @ self.stands_for / jnp.sum(self.stands_for)


def choose(model: dfc.Network, data: dfc.Split, key: PRNGKeyArray) -> Chosen:
    """The `HARD` samples of the smallest margins and `OTHERS` drawn from the rest."""
    x, y = jnp.asarray(data.x), jnp.asarray(data.y)
    margins, errors = _margins_and_errors(model, x, y)
    order = jnp.argsort(margins)
    hard, rest = order[:HARD], order[HARD:]
    count = min(OTHERS, len(rest))
    chosen = jnp.concatenate([hard, jax.random.choice(key, rest, (count,), replace=False)])
    stands_for = jnp.ones(len(chosen)).at[len(hard) :].set(len(rest) / max(count, 1))
    return Chosen(x[chosen], margins[chosen], errors[chosen], stands_for)


@eqx.filter_jit
def _margins_and_errors(
    model: dfc.Network, x: Float[Array, "samples ..."], y: Float[Array, "samples out"]
) -> tuple[Float[Array, " samples"], Float[Array, "samples out"]]:
    outputs = jax.lax.map(model, x, batch_size=AT_ONCE)
    others = jnp.where(y > 0, -jnp.inf, outputs)
    own = jnp.sum(jnp.where(y > 0, outputs, 0), axis=-1)
    return own - jax.nn.logsumexp(others, axis=-1), jax.nn.softmax(others, axis=-1) - y


@eqx.filter_jit
def interaction(
    model: dfc.Network,
    method: dfc.AbstractMethod,
    x: Float[Array, "samples features"],
    errors: Float[Array, "samples out"],
) -> Float[Array, "samples samples"]:
    """R of a dense network: by how much descent along the update for sample j alone, at the output error
    `errors[j]`, raises the margin of sample i, to first order.

    An update of a dense layer is the product of a signal, which is the bias's update, and its inputs, for
    which those without control are taken: right for small nudges.

    **Arguments:**

    - `method`: what updates; its loss is an `OutputError`.
    """

    def signals(method: dfc.AbstractMethod) -> list[Float[Array, "samples n"]]:
        def of_one(sample: tuple[Array, Array]) -> list[Array]:
            update, _ = method(model, *(part[None] for part in sample))
            return [layer.transform.bias for layer in update.layers]

        return jax.lax.map(of_one, (x, errors), batch_size=AT_ONCE)

    inputs = jax.vmap(model.feedforward)(x).inputs
    downhill, taught = signals(dfc.Backprop(OutputError())), signals(method)
    return sum(
        (1 + rate @ rate.T) * (own @ others.T)
        for rate, own, others in zip(inputs, downhill, taught, strict=True)
    )


def growth(
    R: Float[Array, "samples samples"], chosen: Chosen, margins: Float[Array, " samples"]
) -> Float[Array, ""]:
    """-x^T R x over the mean of R_ii of the chosen, x the samples' shares of all error: positive where the
    loss rises."""
    shares = chosen.stands_for * jax.nn.sigmoid(-margins)
    shares = shares / jnp.sum(shares)
    return -shares @ R @ shares / jnp.mean(jnp.diagonal(R))


@eqx.filter_jit
def course(
    R: Float[Array, "samples samples"], chosen: Chosen, rate: float, epochs: int
) -> Float[Array, "epochs+1 samples"]:
    """The margins after 0, 1, ... epochs if errors went on acting on each other as by `R`, infinite from
    where the solver ran out of steps.

    **Arguments:**

    - `rate`: an epoch's number of updates, each by the mean over its batch, times their learning rate.
    """

    def moved(t: Array, margins: Array, args: None) -> Array:
        del t, args
        errors = chosen.stands_for * jax.nn.sigmoid(-margins)
        return rate * (R @ errors) / jnp.sum(chosen.stands_for)

    return diffrax.diffeqsolve(
        diffrax.ODETerm(moved),
        diffrax.Tsit5(),
        t0=0.0,
        t1=float(epochs),
        dt0=1e-3,
        y0=chosen.margins,
        saveat=diffrax.SaveAt(ts=jnp.arange(epochs + 1.0)),
        stepsize_controller=diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE),
        max_steps=MOST_STEPS,
        throw=False,
    ).ys


def foretell(
    model: dfc.Network, method: dfc.AbstractMethod, chosen: Chosen, rate: float, epochs: int
) -> dict[str, list[float]]:
    """By epoch, from the present one to the last or to where `course` was not solved: `growth`, and the train
    loss."""
    R = interaction(model, method, chosen.x, chosen.errors)
    margins = course(R, chosen, rate, epochs)
    courses = [(float(growth(R, chosen, each)), float(chosen.loss(each))) for each in margins]
    solved = list(itertools.takewhile(lambda course: all(map(math.isfinite, course)), courses))
    return {"growth": [each for each, _ in solved], "train_loss": [each for _, each in solved]}
