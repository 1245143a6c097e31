"""Versions on disk and in memory: which one is in use, and what becomes of the others."""

import logging
import pathlib
import re
import shutil
import weakref

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from osvos_tf.errors import InputError
from osvos_tf.network import model_store
from osvos_tf.serving import model_config, served_models
from osvos_tf.serving import tf_serving_messages as messages
from osvos_tf.serving.model_config import ModelConfig
from support import toy_model

IMAGES = np.full((1, 4, 6, 3), 255, np.uint8)
CONFIG = 'model_config_list {{ config {{ name: "dog" base_path: "{}" {} }} }}'


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    """One version, to be copied."""
    return toy_model.save(tmp_path_factory.mktemp("toy") / "1")


@pytest.fixture
def base(tmp_path):
    """An empty base path."""
    folder = tmp_path / "dog"
    folder.mkdir()
    return folder


@pytest.fixture
def publish(base, saved_model):
    """Puts a version below the base path."""
    return lambda version: shutil.copytree(saved_model, base / str(version))


def states(model):
    return {version: state for version, state, _ in model.states()}


def test_the_largest_number_is_in_use(base, publish):
    for folder in ("2", "10", "tmp-11", "1a"):
        publish(folder)
    (base / "12").write_text("a file")
    model = served_models.ServedModel("dog", base)
    model.refresh()
    assert model.version == 10
    assert states(model) == {10: "AVAILABLE"}
    assert model.servable() is model.servable(10)
    for version in (2, 11):
        with pytest.raises(messages.RequestError, match=rf"Specific\(dog, {version}\)"):
            model.servable(version)


def test_a_servable_runs_both_signatures(base, publish):
    publish(1)
    model = served_models.ServedModel("dog", base)
    model.refresh()
    outputs = model.servable().run("", {"images": IMAGES})
    assert {name: (array.dtype, array.shape) for name, array in outputs.items()} == {
        "probabilities": (np.float32, (1, 4, 6, 1)),
        "masks": (np.uint8, (1, 4, 6, 1)),
    }
    assert list(model.servable().run("", {"images": IMAGES}, ["masks"])) == ["masks"]
    png = tf.io.encode_png(IMAGES[0]).numpy()
    outputs = model.servable().run("encoded", {"image_bytes": np.array([png, png], object)})
    assert outputs["mask_bytes"].shape == (2,)


@pytest.mark.parametrize(
    ("signature", "inputs", "wanted", "message"),
    [
        ("x", {"images": IMAGES}, [], '"x" not found'),
        ("", {}, [], "Missing but required: .'images'"),
        ("", {"images": IMAGES, "more": IMAGES}, [], "Sent extra: .'more'"),
        ("", {"images": IMAGES.astype(np.float32)}, [], "wanted uint8 .* got float32"),
        ("", {"images": IMAGES[0]}, [], r"got uint8 of shape \(4, 6, 3\)"),
        ("", {"images": IMAGES[..., :2]}, [], r"wanted uint8 of shape \(\?, \?, \?, 3\)"),
        ("encoded", {"image_bytes": IMAGES}, [], "wanted string"),
        ("", {"images": IMAGES}, ["mask"], "alias not found in signature: mask"),
    ],
)
def test_what_does_not_fit_the_signature(base, publish, signature, inputs, wanted, message):
    publish(1)
    model = served_models.ServedModel("dog", base)
    model.refresh()
    model.servable().check("", {"images": IMAGES}, ["masks"])
    with pytest.raises(messages.RequestError, match=message):
        model.servable().check(signature, inputs, wanted)


def test_what_the_graph_refuses(base, publish):
    publish(1)
    model = served_models.ServedModel("dog", base)
    model.refresh()
    with pytest.raises(tf.errors.OpError) as caught:
        model.servable().run("encoded", {"image_bytes": np.array([b"no image"], object)})
    error = messages.to_request_error(caught.value)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert re.fullmatch("Unknown image file format.*", str(error)), "and not where in the graph"


def test_a_new_version_takes_over_and_the_old_one_leaves(base, publish):
    publish(1)
    model = served_models.ServedModel("dog", base)
    model.refresh()
    in_flight = model.servable()
    weights = weakref.ref(in_flight._model)
    publish(2)
    model.refresh()
    assert model.version == 2
    assert states(model) == {2: "AVAILABLE", 1: "UNLOADING"}
    assert in_flight.run("", {"images": IMAGES})["masks"].all()
    del in_flight
    assert states(model) == {2: "AVAILABLE", 1: "END"}
    model.refresh()
    assert weights() is None


def test_a_broken_version_is_reported_once_and_tried_again_when_it_changes(
    base, publish, saved_model, caplog
):
    caplog.set_level(logging.ERROR)
    publish(1)
    model = served_models.ServedModel("dog", base)
    model.refresh()
    (base / "2").mkdir()
    for _ in range(3):
        model.refresh()
    assert model.version == 1
    assert states(model) == {2: "END", 1: "AVAILABLE"}
    _, _, error = model.states()[0]
    assert "saved_model.pb" in str(error)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    (base / "2" / "saved_model.pb").write_bytes(b"no such thing")
    model.refresh()
    assert len(caplog.records) == 2
    shutil.copytree(saved_model, base / "2", dirs_exist_ok=True)
    model.refresh()
    assert model.version == 2


def test_a_version_whose_variables_are_cut_off_is_broken(base, publish):
    publish(1)
    (data,) = publish(2).glob("variables/variables.data*")
    data.write_bytes(b"")
    model = served_models.ServedModel("dog", base)
    model.refresh()
    assert states(model) == {2: "END", 1: "AVAILABLE"}


def test_removing_versions(base, publish):
    for version in (1, 2):
        publish(version)
    model = served_models.ServedModel("dog", base)
    model.refresh()
    shutil.rmtree(base / "2")
    model.refresh()
    assert model.version == 1, "a version taken back makes way for the one before"
    shutil.rmtree(base)
    model.refresh()
    assert model.version == 1, "what is in memory does not need the disk"


def write_warmup(folder, images):
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(images))
    (folder / "assets.extra").mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / model_store.WARMUP_FILE)) as writer:
        writer.write(log.SerializeToString())


def test_warm_up_runs_before_a_version_is_in_use(base, publish, monkeypatch):
    runs = []
    run = served_models.Servable.run
    monkeypatch.setattr(
        served_models.Servable, "run", lambda *arguments: runs.append(run(*arguments))
    )
    write_warmup(publish(1), IMAGES)
    model = served_models.ServedModel("dog", base)
    model.refresh()
    assert [outputs["masks"].shape for outputs in runs] == [(1, 4, 6, 1)]
    write_warmup(publish(2), IMAGES[0])
    model.refresh()
    assert model.version == 1, "a warm-up request that fails makes the version a broken one"


def test_watching(base, publish):
    publish(1)
    with served_models.ServedModels({"dog": base}, poll_seconds=0.01) as models:
        assert "dog" in models and "cat" not in models
        with pytest.raises(messages.RequestError, match=r"Latest\(cat\)"):
            models["cat"]
        publish(2)
        toy_model.wait_until(lambda: models["dog"].version == 2)
    publish(3)
    assert not models._watcher.is_alive()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda base, publish: base.rmdir(), "does not exist"),
        (lambda base, publish: None, "holds nothing"),
        (lambda base, publish: publish("one"), "holds .'one'"),
        (lambda base, publish: (base / "1").mkdir(), "version 1: .*saved_model.pb"),
        (lambda base, publish: (base / "saved_model.pb").touch(), "is a version itself"),
    ],
)
def test_nothing_to_serve(base, publish, make, message):
    make(base, publish)
    with pytest.raises(InputError, match=message), served_models.ServedModels({"dog": base}):
        pass


def test_config(tmp_path):
    path = tmp_path / "models.config"
    path.write_text(CONFIG.format("/models/dog", 'model_platform: "tensorflow"'))
    assert model_config.read_config(path) == {"dog": ModelConfig(pathlib.Path("/models/dog"))}
    (tmp_path / "dog").mkdir()
    assert model_config.read_config(path) == {"dog": ModelConfig(tmp_path / "dog")}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("model_version_policy { latest {} }", {}),
        ("model_version_policy { latest { num_versions: 3 } }", {"latest": 3}),
        ("model_version_policy { all {} }", {"latest": None}),
        (
            "model_version_policy { specific { versions: 2 versions: 7 } }",
            {"specific": (2, 7)},
        ),
        ('version_labels { key: "canary" value: 2 }', {"labels": {"canary": 2}}),
    ],
)
def test_versions_and_labels_of_a_config(tmp_path, text, wanted):
    path = tmp_path / "models.config"
    path.write_text(CONFIG.format("of/cat", text))
    expected = ModelConfig(tmp_path / "of" / "cat", **wanted)
    assert model_config.read_config(path) == {"dog": expected}


@pytest.mark.parametrize(
    ("wanted", "first", "then"),
    [
        ({}, [3], [9]),
        ({"latest": 2}, [3, 2], [9, 3]),
        ({"latest": None}, [3, 2, 1], [9, 3, 2, 1]),
        ({"specific": (1, 9)}, [1], [9, 1]),
    ],
)
def test_which_versions_are_in_use(base, publish, wanted, first, then):
    for version in (1, 2, 3):
        publish(version)
    model = served_models.ServedModel("dog", ModelConfig(base, **wanted))
    for expected in (first, then):
        model.refresh()
        for version in (1, 2, 3, 9):
            if version in expected:
                assert model.servable(version).version == version
            else:
                with pytest.raises(messages.RequestError, match="Servable not found"):
                    model.servable(version)
        assert model.servable().version == expected[0]
        publish(9) if expected is first else None


def test_labels_name_versions_that_are_loaded(base, publish):
    publish(1)
    publish(2)
    config = ModelConfig(base, latest=2, labels={"stable": 1, "canary": 2})
    with served_models.ServedModels({"dog": config}) as models:
        assert models["dog"].servable("stable").version == 1
        assert models["dog"].servable("canary").version == 2
        with pytest.raises(messages.RequestError, match="Unrecognized servable version label: x"):
            models["dog"].servable("x")
    message = "assign label to version 1 of model dog, which is not currently available"
    with (
        pytest.raises(InputError, match=message),
        served_models.ServedModels({"dog": ModelConfig(base, labels={"stable": 1})}),
    ):
        pass


def test_other_models_take_over(base, publish, tmp_path):
    publish(1)
    shutil.copytree(base, tmp_path / "cat")
    (tmp_path / "bare").mkdir()
    shutil.copytree(base, tmp_path / "elsewhere" / "cow")
    with served_models.ServedModels({"dog": base}, poll_seconds=60) as models:
        servable = models["dog"].servable()
        models.replace({"dog": ModelConfig(base), "cat": ModelConfig(tmp_path / "cat")})
        assert models["dog"].servable() is servable and models["cat"].version == 1
        for config, code in (
            (ModelConfig(tmp_path / "elsewhere" / "cow"), grpc.StatusCode.PERMISSION_DENIED),
            (ModelConfig(tmp_path / "bare"), grpc.StatusCode.FAILED_PRECONDITION),
            (ModelConfig(base, specific=(5,)), grpc.StatusCode.FAILED_PRECONDITION),
            (ModelConfig(base, labels={"new": 5}), grpc.StatusCode.FAILED_PRECONDITION),
        ):
            with pytest.raises(messages.RequestError) as error:
                models.replace({"dog": config})
            assert error.value.code is code
            assert models["dog"].servable() is servable and "cat" in models
            assert models["dog"].config == ModelConfig(base)
        models.replace({"cat": ModelConfig(tmp_path / "cat")})
        assert "dog" not in models and [model.name for model in models] == ["cat"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no model"),
        ("models { }", "Error parsing text-format tensorflow.serving.ModelServerConfig"),
        ("\xff", "Error parsing"),
        (CONFIG.format("", ""), "base_path"),
        (CONFIG.format("a", '} config { name: "dog" base_path: "b"'), "unique name"),
        (CONFIG.format("a", 'model_platform: "torch"'), "'torch'"),
        (CONFIG.format("a", "model_version_policy { specific {} }"), "names none"),
    ],
)
def test_config_that_will_not_do(tmp_path, text, message):
    path = tmp_path / "models.config"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        model_config.read_config(path)
