"""What every public function refuses, and that the sentence names the argument."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import optax
import pytest

import dfc_jax as dfc


@pytest.fixture(scope="module", autouse=True)
def as_users_call(record_testsuite_property):
    """Without the suite's type checks, which would be the first to complain."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield
    record_testsuite_property("wrong arguments of functions tried", len(TRIED))


TRIED: list[str] = []  # one entry an input, for the report
MODEL = dfc.mlp((4, 5, 3), key=jr.key(0))
X, Y = np.ones((2, 4)), np.eye(3)[:2]
LOOP = dfc.ClosedLoop(MODEL)
SAMPLES = jax.vmap(LOOP.sample)(jnp.asarray(X), jnp.asarray(Y))
ONE = LOOP.sample(jnp.asarray(X[0]), jnp.asarray(Y[0]))
LONG = np.random.default_rng(0).standard_normal((90, 90))


def mlp(**options: object) -> dfc.Network:
    return dfc.mlp((4, 5, 3), key=jr.key(0), **options)


def convnet(**options: object) -> dfc.Network:
    return dfc.convnet((1, 8, 8), (2,), (3,), key=jr.key(0), **options)


def fit(**changed: object) -> object:
    split = dfc.Split(X, Y)
    given = {"method": dfc.Backprop(), "optimiser": optax.sgd(0.1), "batch_size": 2, "epochs": 1}
    given |= {"data": dfc.Dataset("two", split, split, split, classification=True), "progress": False}
    return dfc.fit(MODEL, key=jr.key(0), **given | changed)


OF_INPUTS = {
    "condition_one": dfc.condition_one,
    "condition_two": dfc.condition_two,
    "published_condition_one": dfc.published_condition_one,
    "feedback_angles": dfc.feedback_angles,
}
OF_BATCHES = {
    "null_space_fraction": lambda m, x, y: dfc.null_space_fraction(dfc.DFCSSA(), m, x, y),
    "target_alignment": lambda m, x, y: dfc.target_alignment(dfc.DFCSSA(), m, x, y),
    "reasons_for_failure": lambda m, x, y: dfc.reasons_for_failure(dfc.DFCSSA(), m, x, y),
    "DFCSS.doubts": dfc.DFCSS().doubts,
    "DFC.doubts": dfc.DFC().doubts,
}
WRONG_INPUTS = {
    "`model` is 3": (3, X),
    "`x` holds int64": (MODEL, np.ones((2, 4), int)),
    "`x` holds float16": (MODEL, X.astype(np.float16)),
    "`x` holds complex": (MODEL, X + 0j),
    "`x` has shape (4,)": (MODEL, X[0]),
    "`x` has shape (0, 4)": (MODEL, X[:0]),
    "`x` has shape (7,), which this network does not take": (MODEL, np.ones((2, 7))),
    "`model.feedback` has the shapes": (dfc.Network(MODEL.layers, dfc.FeedbackWeights(())), X),
}
WRONG_LABELS = {
    "`y` holds int64": Y.astype(int),
    "`y` (2,)": np.ones(2),
    "`y` (1, 3)": Y[:1],
    "`y` has 4 outputs": np.eye(4)[:2],
}
OTHERS = {
    "`samples` is a single one": lambda: dfc.loop_eigenvalues(LOOP, ONE),
    "`sample` is a batch": lambda: dfc.simulate(LOOP, SAMPLES, t1=1.0, dt0=0.1),
    "`t` is -1.0": lambda: dfc.distance_from_rest(LOOP, SAMPLES, -1.0),
    "`t` is soon": lambda: dfc.distance_from_rest(LOOP, SAMPLES, "soon"),
    "`y` has shape (2,), the output (3,)": lambda: LOOP.sample(jnp.ones(4), jnp.ones(2)),
    "`y` has shape (2, 3), the output (3,)": lambda: LOOP.sample(jnp.asarray(X[0]), jnp.asarray(Y)),
    "`x` has shape (7,)": lambda: MODEL(jnp.ones(7)),
    "`damping` is -1.0": lambda: dfc.feedback_angles(MODEL, X, -1.0),
    "`update` has the shapes": lambda: dfc.update_angles(MODEL, dfc.mlp((4, 6, 3), key=jr.key(0))),
    "`split` is 3": lambda: dfc.evaluate(MODEL, dfc.CrossEntropy(), 3, classification=True),
    "`classification` is 'no'; it must be of the type bool": lambda: dfc.evaluate(
        MODEL, dfc.CrossEntropy(), dfc.Split(X, Y), classification="no"
    ),
    "`classification` is 'yes'": lambda: dfc.Dataset("two", *[dfc.Split(X, Y)] * 3, classification="yes"),
    "`data_dir` is 5; it must be of the type str or PathLike or None": lambda: dfc.load("mnist", data_dir=5),
    "`data_dir` is b'data'": lambda: dfc.load("digits", data_dir=b"data"),
    "`path` is 5; it must be of the type str or PathLike": lambda: dfc.load_run(5),
    "`sizes` is 5": lambda: dfc.mlp(5, key=jr.key(0)),
    "`key` is 3": lambda: dfc.mlp((4, 3), key=3),
    "`key` is Array([0, 1]": lambda: dfc.mlp((4, 3), key=jnp.arange(2)),
    "`feedback` is the class ProductOfWeights; it must be made first: ProductOfWeights()": lambda: dfc.mlp(
        (4, 3), key=jr.key(0), feedback=dfc.ProductOfWeights
    ),
    "`feedback` is 'random'": lambda: dfc.mlp((4, 3), key=jr.key(0), feedback="random"),
    "`activation` is 'relu'; it must be of the type AbstractActivation": lambda: mlp(activation="relu"),
    "`activation` is 'tanh'": lambda: mlp(activation=["tanh"]),
    "`activation` is <jax": lambda: mlp(activation=jax.nn.relu),
    "`activation` is the class ReLU; it must be made first: ReLU()": lambda: mlp(activation=dfc.ReLU),
    "`output_activation` is 'softmax'": lambda: mlp(output_activation="softmax"),
    "`activation` is 'elu'": lambda: convnet(activation="elu"),
    "`output_activation` is the class Tanh": lambda: convnet(output_activation=dfc.Tanh),
    "`loss` is the class MeanSquaredError": lambda: dfc.DFCSS(loss=dfc.MeanSquaredError),
    "`data` is an object of the type tuple; it must be of the type Dataset": lambda: fit(data=(LONG, LONG)),
    "`method` is the class DFCSS": lambda: fit(method=dfc.DFCSS),
    "`optimiser` is 'adam'": lambda: fit(optimiser="adam"),
    "`diagnostics` is True; it must be of the type Diagnostics or None": lambda: fit(diagnostics=True),
    "`feedback_learning` is an object of the type Grad": lambda: fit(feedback_learning=optax.adam(1e-3)),
    "`on_epoch` is 3; it must be a function": lambda: fit(on_epoch=3),
    "`resume` is True; it must be of the type str": lambda: fit(resume=True),
    "`layers` is empty": lambda: dfc.Network((), MODEL.feedback),
    "`layers` is an object of the type list; it must be of the type tuple": lambda: dfc.Network(
        list(MODEL.layers), MODEL.feedback
    ),
    "`layers` is Tanh": lambda: dfc.Network((dfc.Tanh(),), MODEL.feedback),
    "`activation` is <built-in function tanh": lambda: dfc.Layer(MODEL.layers[0].transform, math.tanh),
    "`weight` holds int64": lambda: dfc.Dense(jnp.ones((2, 2), int), X),
    "`image` is (8, 8)": lambda: dfc.convnet((8, 8), (2,), (3,), key=jr.key(0)),
    "`shape` is (3, 32)": lambda: dfc.CropAndFlip((3, 32)),
    "`shape` is 3": lambda: dfc.CropAndFlip(3),
    "`shape` is 0": lambda: dfc.CropAndFlip((3, 0, 4)),
    "`channels` is 2": lambda: dfc.convnet((1, 8, 8), 2, (3,), key=jr.key(0)),
    "`optimiser` is 3": lambda: dfc.FeedbackLearning(3),
    "`input_size` is 0": lambda: dfc.student_teacher(input_size=0),
    "`seed` is -1": lambda: dfc.student_teacher(seed=-1),
    "`name` is 3": lambda: dfc.load(3),
}


def says(call: object, sentence: str) -> None:
    TRIED.append(sentence)
    with pytest.raises(ValueError) as caught:
        call()
    assert sentence in str(caught.value)


@pytest.mark.parametrize("function", OF_INPUTS)
@pytest.mark.parametrize("sentence", WRONG_INPUTS)
def test_wrong_inputs_are_named(function: str, sentence: str) -> None:
    says(lambda: OF_INPUTS[function](*WRONG_INPUTS[sentence]), sentence)


@pytest.mark.parametrize("function", OF_BATCHES)
def test_wrong_batches_are_named(function: str) -> None:
    for sentence, (model, x) in WRONG_INPUTS.items():
        says(lambda m=model, x=x: OF_BATCHES[function](m, x, Y), sentence)
    for sentence, y in WRONG_LABELS.items():
        says(lambda y=y: OF_BATCHES[function](MODEL, X, y), sentence)


@pytest.mark.parametrize("sentence", OTHERS)
def test_other_wrong_arguments_are_named(sentence: str) -> None:
    says(OTHERS[sentence], sentence)
