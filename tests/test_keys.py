"""Random keys: in all that training does, each is used once and in one way."""

import collections
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from icml2022.figures import Noise, SinglePhase

import dfc_jax as dfc


Use = tuple[bytes, str, int]  # the key, what was done with it, and the number that was folded in

pytestmark = pytest.mark.usefixtures("as_users_run")
OPERATIONS = (
    *("split", "fold_in"),
    *("bernoulli", "bits", "normal", "permutation", "rademacher", "randint", "uniform"),
)


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Use]]:
    """What `jax.random` is asked to do from here on, within loops and for every sample of a batch too."""
    found = []

    def recorded(name: str) -> Callable:
        operation = getattr(jr, name)

        def perform(key, *args, **options):
            number = args[0] if name == "fold_in" else 0
            note = lambda data, number: found.append((np.asarray(data).tobytes(), name, int(number)))
            jax.debug.callback(note, jr.key_data(key), number)
            return operation(key, *args, **options)

        return perform

    for name in OPERATIONS:
        monkeypatch.setattr(jr, name, recorded(name))
    jax.clear_caches()  # of programs compiled without
    yield found
    jax.clear_caches()  # of those that would go on telling


def assert_used_once(uses: list[Use]) -> None:
    """Nothing is done twice with a key, and nothing but to fold different numbers into it.

    `split(key)[i]` and `fold_in(key, i)` are the same key, and a draw splits its key too.
    """
    jax.effects_barrier()
    of_keys = collections.defaultdict(list)
    for key, *use in uses:
        of_keys[key].append(tuple(use))
    for found in of_keys.values():
        assert len(set(found)) == len(found) and len({operation for operation, _ in found}) == 1, found


def noisy(x: jax.Array, key: jax.Array) -> jax.Array:
    return x + 0.1 * jr.normal(key, x.shape, x.dtype)


@pytest.mark.filterwarnings("ignore:After epoch:UserWarning")  # noise has nothing to teach
@pytest.mark.parametrize(
    "kind, noise, seeds",
    [
        (dfc.SleepPhase, False, 1),
        (dfc.LinearisedSleepPhase, False, 1),
        pytest.param(dfc.SleepPhase, True, 2, marks=pytest.mark.slow),
    ],
)
def test_training_with_sleep_uses_every_key_once(
    uses: list[Use], kind: type[dfc.AbstractSleepPhase], noise: bool, seeds: int
) -> None:
    """With noise in the wake phase too, or in sleep alone.

    It is drawn twice a sample: for two steps or, with signs beside it, for two layers.
    """
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)).astype(np.float32), rng.normal(size=(8, 2)).astype(np.float32)
    split = dfc.Split(x, y)
    data = dfc.Dataset("noise", split, split, split, classification=False)
    loss, scheme = dfc.MeanSquaredError(), dfc.PublishedEuler(0.002, 3)
    strong = dfc.StrongDFC(
        target=dfc.Clamp(1.0), loss=loss, noise=dfc.FilteredNoise(0.01, 0.02), scheme=scheme
    )
    phase = kind(scheme=scheme, loss=loss)
    learning = dfc.FeedbackLearning(optax.sgd(0.1), phase, pretraining_epochs=1, epochs_per_wake_epoch=2)
    model_keys, keys = zip(*(jr.split(jr.key(seed)) for seed in range(seeds)), strict=True)
    dfc.fit_many(
        [dfc.mlp((3, 4, 2), key=key, feedback=dfc.RandomFeedback()) for key in model_keys],
        strong if noise else dfc.Backprop(loss),
        data,
        optax.sgd(0.01),
        epochs=2,
        keys=keys,
        batch_size=4,
        feedback_learning=learning,
        augment=noisy,
        progress=False,
        min_converged=0.0,
    )
    assert_used_once(uses)
    asleep, awake, initial = 1 + 2 * 2, 2, 3  # epochs; weights that are drawn
    found = collections.Counter(operation for _, operation, _ in uses)
    assert found["permutation"] == seeds * (asleep + awake)
    augmented, noisy_steps = len(x) * (asleep + awake), 2 * len(x) * (asleep + noise * awake)
    assert found["normal"] == seeds * (augmented + noisy_steps + initial)
    assert found["bits"] == (len(x) * asleep if kind is dfc.LinearisedSleepPhase else 0)


def test_a_weight_mirror_uses_every_key_once(uses: list[Use]) -> None:
    model = dfc.mlp((3, 4, 5, 2), key=jr.key(0), feedback=dfc.RandomLayeredFeedback())
    dfc.WeightMirror()(model, jnp.ones((4, 3)), jnp.ones((4, 2)), key=jr.key(1))
    assert_used_once(uses)
    drawn = collections.Counter(operation for _, operation, _ in uses)
    assert drawn["rademacher"] == 4  # probes of the weights and the biases of two layers


class Begun(Exception):
    """Training would begin now."""


def begin(models: list[dfc.Network], *_: object, keys: list[jax.Array], **__: object) -> None:
    for key in keys:
        jr.split(key)  # as training does
    raise Begun


@pytest.mark.parametrize("figure", [SinglePhase, Noise])
def test_figures_train_with_other_keys_than_they_draw_weights_with(
    figure: type[SinglePhase | Noise], uses: list[Use], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dfc, "fit_many", begin)
    data = dfc.student_teacher(train_samples=32, validation_samples=8, test_samples=8)
    monkeypatch.setattr(dfc, "load", lambda *_: data)
    with pytest.raises(Begun):
        figure(seeds=1).compute(lambda _, train: train())
    assert_used_once(uses)
