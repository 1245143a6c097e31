"""Versions on disk and in memory: which one is in use, and what becomes of the others."""

import logging
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
from osvos_tf.serving import served_models
from osvos_tf.serving import tf_serving_messages as messages
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
    (folder / "assets.extra").mkdir()
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
    (base_path,) = served_models.read_config(path).values()
    assert str(base_path) == "/models/dog"
    (tmp_path / "dog").mkdir()
    assert served_models.read_config(path) == {"dog": tmp_path / "dog"}
    path.write_text(CONFIG.format("of/cat", "model_version_policy { latest {} }"))
    assert served_models.read_config(path) == {"dog": tmp_path / "of" / "cat"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no model"),
        ("models { }", "cannot be read"),
        ("\xff", "cannot be read"),
        (CONFIG.format("", ""), "base_path"),
        (CONFIG.format("a", '} config { name: "dog" base_path: "b"'), "unique name"),
        (CONFIG.format("a", 'model_platform: "torch"'), "'torch'"),
        (CONFIG.format("a", "model_version_policy { all {} }"), "latest"),
        (CONFIG.format("a", 'version_labels { key: "canary" value: 2 }'), "labels"),
    ],
)
def test_config_that_will_not_do(tmp_path, text, message):
    path = tmp_path / "models.config"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        served_models.read_config(path)
