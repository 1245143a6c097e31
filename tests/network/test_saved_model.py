"""Exports: what a server finds in the folder, and that the SavedModel is the network."""

import io
import os
import pathlib
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from osvos_tf.errors import InputError
from osvos_tf.media.images import read_image
from osvos_tf.network import model, model_store, saved_model
from osvos_tf.network.precision import with_precision
from osvos_tf.segmentation import inference

THRESHOLD = 0.5
TINY = {"width_multiplier": 1 / 16, "start": "scratch"}


@pytest.fixture(scope="session")
def networks():
    """A foreground network that looks at frames 32 pixels high, and a contour network."""
    foreground = model.build_foreground(**TINY, seed=1)
    foreground.get_layer("preprocess").working_height = 32
    return foreground, model.build_contour(**TINY, seed=2)


@pytest.fixture(scope="session")
def exported(networks, tmp_path_factory):
    """The folder of a version with both networks. Only to be read."""
    foreground, contour = networks
    folder = tmp_path_factory.mktemp("saved_models") / "dog"
    return saved_model.export_saved_model(foreground, folder, contour=contour, threshold=THRESHOLD)


@pytest.fixture(scope="session")
def signatures(exported):
    loaded = tf.saved_model.load(str(exported))
    yield loaded.signatures  # which do not keep the weights alive


@pytest.fixture
def quick(monkeypatch):
    """Exports something small instead of a network, for tests of the files around it."""

    def save(signatures, folder):
        (folder / "variables").mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(b"a graph")

    monkeypatch.setattr(saved_model, "_save", save)


def paint(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def encode(pixels, kind="PNG", mode="RGB"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def read_config(root):
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((root / "models.config").read_text(), config)
    return {entry.name: entry for entry in config.model_config_list.config}


def test_signatures_are_the_contract(signatures):
    images, encoded = signatures["serving_default"], signatures["encoded"]
    assert set(signatures) == {"serving_default", "encoded"}
    assert images.structured_input_signature[1] == {
        "images": tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
    }
    maps = {name: (list(s.shape), s.dtype) for name, s in images.structured_outputs.items()}
    assert maps == {
        "probabilities": ([None, None, None, 1], tf.float32),
        "contours": ([None, None, None, 1], tf.float32),
        "masks": ([None, None, None, 1], tf.uint8),
    }
    assert encoded.structured_input_signature[1] == {
        "image_bytes": tf.TensorSpec([None], tf.string, name="image_bytes")
    }
    assert list(encoded.structured_outputs) == ["mask_bytes"]


@pytest.mark.parametrize("shape", [(2, 48, 80), (1, 37, 53), (3, 64, 31), (1, 1, 1)])
def test_gives_what_the_predictors_give(signatures, networks, shape):
    frames = paint(*shape)
    outputs = signatures["serving_default"](images=tf.constant(frames))
    for name, network in zip(("probabilities", "contours"), networks, strict=True):
        expected = model.build_predictor(network).predict_on_batch(frames)
        np.testing.assert_allclose(outputs[name], expected, rtol=0, atol=1e-5)
    masks = inference.to_mask(outputs["probabilities"].numpy(), THRESHOLD)
    np.testing.assert_array_equal(outputs["masks"], masks)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_encoded_frames_give_the_masks_of_their_pixels(signatures, tmp_path, kind):
    smooth = np.repeat(np.repeat(paint(2, 6, 9), 8, axis=1), 7, axis=2)
    images = [encode(frame, kind) for frame in smooth]
    frames = []
    for image in images:
        (tmp_path / "frame").write_bytes(image)
        frames.append(read_image(tmp_path / "frame"))
    masks = signatures["serving_default"](images=tf.constant(np.stack(frames)))["masks"].numpy()
    replies = signatures["encoded"](image_bytes=tf.constant(images))["mask_bytes"].numpy()
    assert 0 < masks.mean() < 1
    for reply, mask in zip(replies, masks, strict=True):
        with Image.open(io.BytesIO(reply)) as picture:
            assert (picture.format, picture.mode) == ("PNG", "L")
            np.testing.assert_array_equal(np.asarray(picture), mask[..., 0] * 255)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_any_png_is_a_frame(signatures, tmp_path, mode):
    image = encode(paint(20, 30), mode=mode)
    (tmp_path / "frame").write_bytes(image)
    frame = read_image(tmp_path / "frame")
    mask = signatures["serving_default"](images=tf.constant(frame[None]))["masks"][0]
    reply = signatures["encoded"](image_bytes=tf.constant([image]))["mask_bytes"][0]
    np.testing.assert_array_equal(tf.io.decode_png(reply), mask * 255)


def test_no_frames_give_no_masks(signatures):
    outputs = signatures["serving_default"](images=tf.zeros([0, 20, 30, 3], tf.uint8))
    assert {tuple(value.shape) for value in outputs.values()} == {(0, 20, 30, 1)}
    reply = signatures["encoded"](image_bytes=tf.zeros([0], tf.string))
    assert reply["mask_bytes"].shape == [0]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([encode(paint(20, 30)), encode(paint(21, 30))], r"one size.*\[1\] \[21 30 3\] \[20 30 3"),
        ([b"no image"], "Unknown image file format"),
        ([b""], "Input is empty"),
    ],
)
def test_images_that_make_no_batch_are_refused(signatures, images, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures["encoded"](image_bytes=tf.constant(images))


def test_runs_in_a_session_as_tensorflow_serving_runs_it(exported, signatures):
    frames = paint(1, 30, 40)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(exported))
        signature = graph.signature_def["serving_default"]
        assert signature.method_name == "tensorflow/serving/predict"
        masks = session.run(
            signature.outputs["masks"].name, {signature.inputs["images"].name: frames}
        )
    expected = signatures["serving_default"](images=tf.constant(frames))["masks"]
    np.testing.assert_array_equal(masks, expected)


def test_weights_are_frozen_and_float32(signatures, networks):
    foreground, contour = networks
    weights = signatures["serving_default"].variables
    assert len(weights) == len(foreground.weights) + len(contour.weights)
    assert not signatures["serving_default"].trainable_variables
    assert {weight.dtype for weight in weights} == {tf.float32}


def test_a_bfloat16_network_is_exported_in_float32(networks, tmp_path):
    halved = with_precision(networks[0], "bfloat16")
    path = saved_model.export_saved_model(halved, tmp_path / "dog")
    frames = paint(1, 40, 50)
    serving_default = tf.saved_model.load(str(path)).signatures["serving_default"]
    outputs = serving_default(images=tf.constant(frames))
    assert set(outputs) == {"probabilities", "masks"}
    expected = model.build_predictor(networks[0]).predict_on_batch(frames)
    np.testing.assert_allclose(outputs["probabilities"], expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(outputs["masks"], inference.to_mask(expected))


def test_warm_up_has_a_request_for_each_signature(exported, signatures):
    seen = {}
    for record in tf.data.TFRecordDataset(str(exported / model_store.WARMUP_FILE)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.name == "dog"
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        inputs = {key: tf.constant(value) for key, value in inputs.items()}
        seen[request.model_spec.signature_name] = signatures[request.model_spec.signature_name](
            **inputs
        )
    assert set(seen) == set(signatures)
    assert seen["serving_default"]["masks"].shape == [1, 480, 854, 1]


def test_next_free_version(quick, networks, tmp_path):
    folder = tmp_path / "saved_models" / "dog"
    assert saved_model.export_saved_model(networks[0], folder) == folder / "1"
    assert saved_model.export_saved_model(networks[0], folder, version=7) == folder / "7"
    (folder / "notes").mkdir()
    (folder / "0012").mkdir()  # TensorFlow Serving reads it as 12
    assert saved_model.export_saved_model(networks[0], folder) == folder / "13"
    for taken in (7, 12):
        with pytest.raises(InputError, match=f"Version {taken} .* exists"):
            saved_model.export_saved_model(networks[0], folder, version=taken)
    assert {path.name for path in folder.iterdir()} == {"1", "7", "0012", "13", "notes"}


def test_another_export_takes_the_number_first(quick, networks, tmp_path, monkeypatch):
    rename, folder = os.rename, tmp_path / "dog"

    def late(source, target):
        if not (folder / "1").exists():
            (folder / "1" / "variables").mkdir(parents=True)
        rename(source, target)

    monkeypatch.setattr(saved_model.os, "rename", late)
    assert saved_model.export_saved_model(networks[0], folder) == folder / "2"


def test_a_version_appears_whole(networks, tmp_path, monkeypatch):
    rename, seen = os.rename, []

    def spy(source, target):
        seen.append({str(path.relative_to(source)) for path in pathlib.Path(source).rglob("*")})
        seen.append({path.name for path in pathlib.Path(target).parent.iterdir()})
        rename(source, target)

    monkeypatch.setattr(saved_model.os, "rename", spy)
    saved_model.export_saved_model(networks[0], tmp_path / "dog")
    complete, names = seen
    assert {"saved_model.pb", "variables/variables.index", model_store.WARMUP_FILE} <= complete
    assert len(names) == 1 and not names.pop().isdigit()


@pytest.mark.parametrize("step", ["_save", "_write_warmup", "publish"])
def test_a_failure_leaves_no_version(quick, networks, tmp_path, monkeypatch, step):
    def fail(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(saved_model, step, fail)
    with pytest.raises(OSError, match="No space"):
        saved_model.export_saved_model(networks[0], tmp_path / "dog")
    assert list(tmp_path.iterdir()) == [tmp_path / "dog"]
    assert not list((tmp_path / "dog").iterdir())


def test_models_config_lists_what_is_there(quick, networks, tmp_path):
    (tmp_path / "a_file").touch()
    (tmp_path / "notes").mkdir()
    (tmp_path / "cat" / "3").mkdir(parents=True)
    saved_model.export_saved_model(networks[0], tmp_path / "dog")
    models = read_config(tmp_path)
    assert {name: entry.base_path for name, entry in models.items()} == {
        "cat": "/models/cat",
        "dog": "/models/dog",
    }
    assert {entry.model_platform for entry in models.values()} == {"tensorflow"}


def test_models_config_keeps_what_others_set(quick, networks, tmp_path):
    (tmp_path / "cat" / "3").mkdir(parents=True)
    (tmp_path / "models.config").write_text(
        """model_config_list {
          config { name: "cat" base_path: "/models/cat" model_platform: "tensorflow"
                   model_version_policy { all {} } }
          config { name: "gone" base_path: "/models/gone" model_platform: "tensorflow" }
          config { name: "far" base_path: "gs://bucket/far" model_platform: "tensorflow" }
        }"""
    )
    saved_model.export_saved_model(networks[0], tmp_path / "dog")
    models = read_config(tmp_path)
    assert set(models) == {"cat", "far", "dog"}
    assert models["cat"].model_version_policy.HasField("all")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# mine: } {\n",
        "model_config_list {}",
        "model_config_list: < > # > }",
        """# mine
        model_config_list { # { mine
          config {  # "mine"
            name: 'cat' base_path: "gs://}#{\\"" model_version_policy { all {} }  # mine }
          }; # mine
        }
        # mine }""",
        """model_config_list {
          config: [ { name: "cat" base_path: "/x" }, # mine
                    { name: "gone" base_path: "/models/gone" model_platform: "tensorflow" } ]
        }  # ]""",
    ],
)
def test_models_config_keeps_what_others_wrote(quick, networks, tmp_path, text):
    """Each word of theirs, comments too; the model is added where it belongs."""
    path = tmp_path / "models.config"
    path.write_text(text)
    before = read_config(tmp_path)
    saved_model.export_saved_model(networks[0], tmp_path / "dog")
    found = path.read_text()
    position = 0
    for word in text.replace("{}", "{ }").split():
        position = found.index(word, position) + len(word)
    models = read_config(tmp_path)
    assert models.pop("dog").base_path == "/models/dog" and models == before
    made = path.stat().st_ino
    saved_model.export_saved_model(networks[0], tmp_path / "dog")
    assert path.stat().st_ino == made  # nothing to add: not touched


def test_a_model_that_was_removed_is_not_listed(quick, networks, tmp_path):
    for name in ("cat", "dog"):
        saved_model.export_saved_model(networks[0], tmp_path / name)
    shutil.rmtree(tmp_path / "cat")
    path = tmp_path / "models.config"
    path.write_text(path.read_text() + "# mine")
    saved_model.export_saved_model(networks[0], tmp_path / "dog")
    assert set(read_config(tmp_path)) == {"dog"} and path.read_text().endswith("}\n# mine")


def test_what_is_written_to_models_config_meanwhile_stays(quick, networks, tmp_path, monkeypatch):
    write_warmup = saved_model._write_warmup

    def write_and_edit(*arguments):
        write_warmup(*arguments)
        (tmp_path / "models.config").write_text(
            'model_config_list { config { name: "far" base_path: "gs://far" } }  # mine'
        )

    monkeypatch.setattr(saved_model, "_write_warmup", write_and_edit)
    saved_model.export_saved_model(networks[0], tmp_path / "dog")
    assert set(read_config(tmp_path)) == {"dog", "far"}
    assert (tmp_path / "models.config").read_text().endswith("# mine")


def test_a_config_of_another_kind_is_told_before_anything_is_written(networks, tmp_path):
    (tmp_path / "models.config").write_text("custom_model_config { }")
    with pytest.raises(InputError, match=r"models\.config is a custom_model_config"):
        saved_model.export_saved_model(networks[0], tmp_path / "dog")
    assert [path.name for path in tmp_path.iterdir()] == ["models.config"]


def test_a_broken_models_config_is_found_before_anything_is_written(networks, tmp_path):
    (tmp_path / "models.config").write_text("models { dog }")
    with pytest.raises(InputError, match=r"models\.config is not a ModelServerConfig"):
        saved_model.export_saved_model(networks[0], tmp_path / "dog")
    assert [path.name for path in tmp_path.iterdir()] == ["models.config"]


def test_files_for_the_server_are_written_once(quick, networks, tmp_path):
    saved_model.export_saved_model(networks[0], tmp_path / "dog")
    compose = (tmp_path / "compose.yaml").read_text()
    assert "--model_config_file=/models/models.config" in compose and ".:/models:ro" in compose
    (tmp_path / "compose.yaml").write_text("mine")
    (tmp_path / "batching.config").write_text("mine too")
    saved_model.export_saved_model(networks[0], tmp_path / "cat")
    assert (tmp_path / "compose.yaml").read_text() == "mine"
    assert (tmp_path / "batching.config").read_text() == "mine too"


@pytest.mark.parametrize("name", ["with space", "a:b", ".hidden", "12", "größe"])
def test_names_that_clients_could_not_use_are_refused(networks, tmp_path, name):
    with pytest.raises(InputError, match="clients put into a URL"):
        saved_model.export_saved_model(networks[0], tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_the_folder_of_all_models_is_no_model(quick, networks, tmp_path):
    saved_model.export_saved_model(networks[0], tmp_path / "dog")
    with pytest.raises(InputError, match="holds models itself"):
        saved_model.export_saved_model(networks[0], tmp_path)


@pytest.mark.parametrize("version", [0, -1, 2**63])
def test_versions_are_positive(networks, tmp_path, version):
    with pytest.raises(InputError, match="number from 1"):
        saved_model.export_saved_model(networks[0], tmp_path / "dog", version=version)


def test_says_which_extra_is_missing(networks, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.raises(InputError, match=r"pip install .tensorflow-serving-api<2\.22. "):
        saved_model.export_saved_model(networks[0], tmp_path / "dog")
    assert not list(tmp_path.iterdir())
