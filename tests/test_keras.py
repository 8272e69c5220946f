"""`fastmap.keras` on the backend that KERAS_BACKEND names: layers with mapped weights, and `tune`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastmap as fm
from fastmap import cli
from fastmap.recipes import _arms
from fastmap.recipes._run import recipe_named

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of TensorFlow
    keras = pytest.importorskip("keras", reason="Keras is not installed: pip install 'fastmap[keras]'")
    import fastmap.keras as fk

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:keras")
BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype(np.float32)
Y = (X @ np.array([0.5, 2.0, 0.1, 1.0]) > 0.3).astype(np.float32)
layers = keras.layers


def numpy(x: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(x))


def positive(units: int = 3, **options: Any) -> Any:
    """A layer with a positive kernel."""
    start = keras.initializers.RandomUniform(0.1, 1.0, seed=1)
    return layers.Dense(units, kernel_initializer=start, **options)


def small_model(*more: Any) -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, "tanh", name="hidden"), *more, layers.Dense(1, name="output")]
    )


@pytest.mark.proves("Keras", "layers", device="CPU, by TensorFlow, torch or JAX")
@pytest.mark.parametrize("is_built", [False, True])
def test_a_mapped_layer_is_the_layer_with_theta(is_built: bool) -> None:
    plain = positive(activation="tanh")
    plain.build((None, 4))
    inner = type(plain).from_config(plain.get_config())
    if is_built:
        inner.build((None, 4))
    mapped = fk.Mapped(inner, {"kernel": "log"})
    assert np.allclose(numpy(mapped(X)), numpy(plain(X)), rtol=1e-5)
    (kernel,) = [v for v in mapped.trainable_variables if v.name == "kernel"]
    np.testing.assert_allclose(numpy(kernel), np.log(numpy(plain.kernel)), rtol=1e-6)
    assert list(mapped.theta) == [kernel.path]
    np.testing.assert_allclose(numpy(mapped.theta[kernel.path]), numpy(plain.kernel), rtol=1e-6)
    assert len(mapped.weights) == len(plain.weights)
    assert mapped.compute_output_shape((None, 4)) == (None, 3)


def gradients(model: Any, loss: Any) -> list[np.ndarray]:
    """d loss(model) / d its variables, by the backend."""
    _, found = fk._compiled(model.trainable_variables, lambda x, y: loss(model(x)), [X, None], True)()
    return found


@pytest.mark.proves("Keras", "layers", gradients="once")
def test_its_gradient_is_that_in_z() -> None:
    plain = positive(use_bias=False)
    plain.build((None, 4))
    mapped = fk.Mapped(type(plain).from_config(plain.get_config()), "softplus")
    mapped.build((None, 4))

    def loss(y: Any) -> Any:
        return keras.ops.mean(keras.ops.square(y))

    (in_theta,), (in_z,) = gradients(plain, loss), gradients(mapped, loss)
    z = numpy(mapped.trainable_variables[0])
    np.testing.assert_allclose(in_z, fm.pullback(in_theta, z, "softplus"), rtol=1e-4)


@pytest.mark.proves("Keras", "layers", compiled="`fit`")
@pytest.mark.parametrize("given_shape", [False, True])
def test_fit_keeps_the_weights_inside(given_shape: bool) -> None:
    """Also where Keras builds the model in a trace of its own, since nobody told it the shape."""
    keras.utils.set_random_seed(0)
    first = [keras.Input((4,))] if given_shape else []
    mapped = fk.Mapped(positive(8, activation="tanh"), {"kernel": fm.Interval(0, 1)})
    norm = fk.Mapped(layers.BatchNormalization(), {"gamma": "softplus"})
    model = keras.Sequential([*first, mapped, norm, layers.Dropout(0.1), layers.Dense(1)])
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    model.optimizer.learning_rate = 0.05
    history = model.fit(X, Y, epochs=30, batch_size=16, verbose=0).history["loss"]
    assert min(history) < 0.5 * history[0]  # at this rate the last epochs are no better, mapped or not
    (kernel,), (gamma,) = (numpy(next(iter(m.theta.values()))).ravel()[None] for m in (mapped, norm))
    assert np.all((kernel > 0) & (kernel < 1))
    assert kernel.std() > 0.2
    assert np.all(gamma > 0)
    assert np.any(gamma != 1)
    assert np.any(numpy(norm.layer.moving_mean) != 0)  # what the layer keeps by itself is kept
    before = numpy(norm.layer.moving_mean)
    model.predict(X, verbose=0)
    assert np.array_equal(before, numpy(norm.layer.moving_mean))


def test_losses_masks_and_layers_with_layers() -> None:
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Embedding(10, 3, mask_zero=True),
            fk.Mapped(layers.LSTM(4, activity_regularizer="l2"), {"*/recurrent_kernel": "asinh"}),
        ]
    )
    codes = np.array([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 9]])
    lstm = model.layers[-1].unwrapped()
    plain = keras.Sequential([keras.Input((6,)), layers.Embedding(10, 3, mask_zero=True), lstm])
    plain.layers[0].set_weights(model.layers[0].get_weights())
    np.testing.assert_allclose(numpy(model(codes)), numpy(plain(codes)), rtol=1e-5, atol=1e-6)
    assert len(model.losses) == 1
    assert float(numpy(model.losses[0])) == pytest.approx(float(numpy(plain.losses[0])), rel=1e-5)


def test_a_frozen_layer_has_theta_too() -> None:
    mapped = fk.Mapped(positive(), {"kernel": "log"})
    before = numpy(mapped(X))
    mapped.trainable = False
    z = mapped.get_weights()
    np.testing.assert_array_equal(numpy(mapped(X)), before)
    for a, b in zip(mapped.get_weights(), z, strict=True):
        np.testing.assert_array_equal(a, b)


def test_mixed_precision_is_the_layers_matter() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        start = keras.initializers.Constant(1e-4)  # whose logarithm bfloat16 rounds to three per cent of it
        mapped = fk.Mapped(layers.Dense(3, kernel_initializer=start), {"kernel": "log"})
        model = keras.Sequential([keras.Input((4,), dtype="float32"), mapped])
        y = model(X)
    finally:
        keras.config.set_dtype_policy(before)
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    expected = (X * np.float32(1e-4)).sum(1, keepdims=True).repeat(3, 1)
    np.testing.assert_allclose(numpy(keras.ops.cast(y, "float32")), expected, rtol=2e-2, atol=4e-6)


def test_save_load_clone_and_unwrap(tmp_path: Path) -> None:
    trained = positive()
    trained.build((None, 4))
    trained.set_weights([np.full((4, 3), 0.5, np.float32), np.zeros(3, np.float32)])
    config = {**trained.get_config(), "kernel_initializer": "glorot_uniform"}  # half of it is negative
    other = type(trained).from_config(config)
    other.build((None, 4))
    other.set_weights(trained.get_weights())
    model = keras.Sequential([keras.Input((4,)), fk.Mapped(other, {"kernel": fm.Log()}), layers.Dense(1)])
    expected = numpy(model(X))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(again(X)), expected)
    assert again.layers[0].rules == (("kernel", fm.Log()),)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(numpy(copy(X)), expected)
    bare = keras.Sequential([keras.Input((4,)), model.layers[0].unwrapped(), model.layers[1]])
    np.testing.assert_allclose(numpy(bare(X)), expected, rtol=1e-5)
    np.testing.assert_allclose(bare.layers[0].get_weights()[0], 0.5, rtol=1e-6)


def test_what_a_layer_refuses() -> None:
    layer = layers.Dense(3)
    layer.build((None, 4))
    before = layer.get_weights()
    with pytest.raises(fm.DomainError, match=r"kernel: \d+ of 12 values are outside the domain"):
        fk.Mapped(layer, "log")
    for a, b in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.all(numpy(next(iter(fk.Mapped(layer, {"kernel": "log"}, invalid="clip").theta.values()))) >= 0)
    with pytest.raises(ValueError, match=r"^map: 'gamma' fits no trainable weight"):
        fk.Mapped(positive(), {"gamma": "log"}).build((None, 4))
    for option in ("kernel_regularizer", "kernel_constraint"):
        value = "l2" if "reg" in option else "non_neg"
        with pytest.raises(ValueError, match=f"kernel: its {option.partition('_')[2]} would act on z"):
            fk.Mapped(positive(**{option: value}), {"kernel": "log"}).build((None, 4))
    with pytest.raises(TypeError, match=r"^layer: is mapped already"):
        fk.Mapped(fk.Mapped(positive(), "softplus"), "softplus")
    with pytest.raises(TypeError, match="maps whole rows"):
        fk.Mapped(positive(), fm.Simplex())
    with pytest.raises(ValueError, match=r"kernel: .*|map: parameters of shape"):
        fk.Mapped(positive(use_bias=False), fm.Interval(0, [1, 2, 3, 4, 5])).build((None, 4))
    with pytest.raises(TypeError, match=r"^KerasTensor .*call fastmap in a layer"):
        fm.forward(keras.Input((3,)), "log")


@pytest.mark.proves("Keras", "maps", device="CPU, by TensorFlow, torch or JAX")
def test_functions_take_variables_and_lambda_layers() -> None:
    v = keras.Variable(np.array([0.5, 2.0], np.float32))
    z = fm.forward(v, "log")
    assert type(z) is type(keras.ops.convert_to_tensor(np.ones(2, np.float32)))
    np.testing.assert_array_equal(numpy(z), fm.forward(np.float32([0.5, 2.0]), "log"))
    space = fm.Space(v=fm.Param(low=0, shape=2))
    np.testing.assert_array_equal(numpy(fm.forward({"v": v}, space)["v"]), fm.forward(numpy(v), "softplus"))
    np.testing.assert_array_equal(numpy(fm.pullback(v, v, "log")), fm.pullback(numpy(v), numpy(v), "log"))


# --- tune --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lbfgs", "adam", "auto"])
def test_tune_by_gradients(method: str) -> None:
    model = small_model()
    before = numpy(keras.losses.BinaryCrossentropy(from_logits=True)(Y[:, None], model(X)))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    result = fk.tune(model, loss, map="asinh", x=X, y=Y, method=method, budget=150)
    assert result.method == ("lbfgs" if method == "auto" else method)
    assert result.loss < 0.3 * before
    assert float(numpy(loss(Y[:, None], model(X)))) == pytest.approx(result.loss, rel=1e-4)
    for v in model.trainable_variables:
        np.testing.assert_array_equal(numpy(v), np.asarray(result.best[v.path], np.float32))
    assert result.space[model.trainable_variables[0].path].map == fm.Asinh()


def test_tune_without_gradients_and_by_a_metric() -> None:
    model = small_model()
    first = float(np.mean((numpy(model(X))[:, 0] > 0) == Y))

    def accuracy(model: Any) -> float:
        return float(np.mean((numpy(model(X))[:, 0] > 0) == Y))

    result = fk.tune(
        model, accuracy, map="symlog", method="sep-cmaes", budget=300, seed=0, direction="maximize"
    )
    assert result.loss == accuracy(model) > first
    again = fk.tune(
        small_model(), accuracy, map="symlog", method="sep-cmaes", budget=300, seed=0, direction="maximize"
    )
    assert again.loss == result.loss
    model = small_model()
    assert fk.tune(model, "mse", map="symlog", x=X, y=Y, method="es", budget=50, seed=0).loss > 0
    assert fk.tune(model, accuracy, map="symlog", budget=5, seed=0).method != "lbfgs"


def test_tune_some_weights_in_boxes() -> None:
    model = small_model()
    kept, (kernel, bias) = model.layers[0].get_weights(), model.layers[1].trainable_variables
    kernel.assign(np.full((5, 1), 0.2))
    space = fm.Space(
        {kernel.path: fm.Param(0.01, 2, map="log", shape=(5, 1)), bias.path: fm.Param(-1, 1, shape=(1,))}
    )
    result = fk.tune(model, "mse", map=space, x=X, y=Y, method="tpe", budget=20, seed=0)
    assert np.all((numpy(kernel) >= 0.01) & (numpy(kernel) <= 2))
    np.testing.assert_array_equal(numpy(kernel), np.float32(result.best[kernel.path]))
    for a, b in zip(model.layers[0].get_weights(), kept, strict=True):
        np.testing.assert_array_equal(a, b)


def test_tune_counts_the_losses_of_layers_and_builds() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([layers.Dense(1, kernel_regularizer=keras.regularizers.L2(0.1))])
    result = fk.tune(model, "mse", map="identity", x=X, y=Y, method="lbfgs", budget=50)
    kernel, bias = (numpy(v) for v in model.trainable_variables)
    own = float(np.mean((X @ kernel + bias - Y[:, None]) ** 2) + 0.1 * np.sum(kernel**2))
    assert result.loss == pytest.approx(own, rel=1e-4)
    # The solution of that ridge regression, centred for the bias.
    centred, wanted = X - X.mean(0), Y - Y.mean()
    exact = np.linalg.solve(centred.T @ centred / len(X) + 0.1 * np.eye(4), centred.T @ wanted / len(X))
    np.testing.assert_allclose(kernel[:, 0], exact, atol=2e-3)


def test_losses_of_a_mapped_layer_count_once() -> None:
    keras.utils.set_random_seed(0)
    mapped = fk.Mapped(layers.Dense(1, activity_regularizer=keras.regularizers.L2(0.1)), "asinh")
    model = keras.Sequential([keras.Input((4,)), mapped])
    result = fk.tune(model, "mse", map="identity", x=X, y=Y, method="lbfgs", budget=20)
    found = numpy(model(X))[:, 0]
    (own,) = model.losses
    assert result.loss == pytest.approx(np.mean((found - Y) ** 2) + float(numpy(own)), rel=1e-4)


def test_tune_of_a_mapped_layer_and_of_a_training_only_layer() -> None:
    model = small_model(fk.Mapped(layers.LayerNormalization(), {"gamma": "softplus"}), layers.Dropout(0.5))

    def squares(labels: Any, found: Any) -> Any:
        return keras.ops.square(labels - found)  # of one shape, as when Keras trains

    result = fk.tune(model, squares, map="identity", x=X, y=Y, method="lbfgs", budget=60)
    assert result.loss == pytest.approx(float(np.mean((numpy(model(X))[:, 0] - Y) ** 2)), rel=1e-4)
    assert result.loss < 0.5 * Y.var()  # which the best constant has


def test_a_search_that_fails_leaves_the_model_alone() -> None:
    model = small_model()
    before = model.get_weights()

    def unlucky(model: Any) -> float:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fk.tune(model, unlucky, map="identity", method="es", budget=4)
    with pytest.raises(ValueError, match="none of"):
        fk.tune(model, lambda model: float("nan"), map="identity", method="es", budget=4)
    with pytest.raises(fm.DomainError, match=r"kernel: \d+ of 20 values"):
        fk.tune(model, "mse", map="log", x=X, y=Y)
    with pytest.raises(ValueError, match=r"^map: 'nothing' fits no trainable weight"):
        fk.tune(model, "mse", map={"nothing": "log"}, x=X, y=Y)
    with pytest.raises(ValueError, match=r"^map: no trainable weight is called 'w'"):
        fk.tune(model, "mse", map=fm.Space(w=fm.Param()), x=X, y=Y)
    with pytest.raises(ValueError, match=r"^map: .*kernel has shape \(2,\), not \(4, 5\)"):
        fk.tune(model, "mse", map=fm.Space({model.weights[0].path: fm.Param(shape=2)}), x=X, y=Y)
    with pytest.raises(ValueError, match=r"^x: missing"):
        fk.tune(model, unlucky, map="identity", method="adam")
    with pytest.raises(ValueError, match=r"^direction: "):
        fk.tune(model, unlucky, map="identity", direction=["minimize"])
    with pytest.raises(ValueError, match=r"^model: has no trainable weights"):
        fk.tune(keras.Sequential([layers.Dense(1)]), unlucky, map="identity")
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


# --- the rest ----------------------------------------------------------------------------------------------


def test_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    budget = ["--seeds", "1", "--trials", "2", "--epochs", "1", "--steps", "3", "--evaluations", "8"]
    out = tmp_path / "out"
    assert cli.run(["tune", "cancer", "--framework", "keras", *budget, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "Keras" in text
    assert 'fastmap.forward(model["' in text
    assert text.count("before  default") == 4
    result = json.loads((out / "result.json").read_text())
    assert result["versions"]["keras"] == keras.__version__
    arms = {(run["part"], run["arm"]) for run in result["runs"]}
    assert {arm for part, arm in arms if part == "weights"} == {"raw", "fastmap"}
    assert {arm for part, arm in arms if part == "weights, CMA-ES"} == {"raw", "tuner's own", "fastmap"}
    recipe = recipe_named("cancer", "keras")
    before = [run for run in result["runs"] if run["part"] == "before"]
    again = _arms.before(recipe, _arms.split(recipe, 0), 0, epochs=1)
    for one, other in zip(before, again, strict=True):  # the same seed gives the same numbers
        assert one["test_log_loss"] == other.test_log_loss


def test_a_recipe_without_a_keras_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["tune", "cnn", "--framework", "keras"]) == 2
    assert "--framework: the recipe cnn has a model for torch, not for keras" in capsys.readouterr().err


def test_a_backend_that_is_not_installed_is_named() -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "try: import fastmap.keras\n"
        "except ImportError as error: print(error)"
    )
    env = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert "pip install 'fastmap[tensorflow]', or set KERAS_BACKEND" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        code
        for code in re.findall(
            r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs/tensorflow.md").read_text(), re.S
        )
        if "keras" in code
    ],
)
def test_the_examples_of_the_docs(code: str) -> None:
    exec(compile(code, "tensorflow.md", "exec"), {"__name__": "example"})
