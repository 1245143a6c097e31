"""The networks: pinned sizes and names, a float64 NumPy reference, and files that come back."""

import concurrent.futures
import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import osvos_tf
from osvos_tf.errors import InputError
from osvos_tf.network import layers, model
from osvos_tf.network.files import load_model, save_model
from osvos_tf.network.precision import PRECISIONS, choose_precision, with_precision
from support.layer_values import check_round_trip, reference_upsample
from support.networks import TINY, frames, tiny, trained

TRUNK = [
    f"block{k}_conv{i}" for k, count in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, count + 1)
]


@pytest.fixture(scope="module")
def network():
    """A tiny network; tests must not change it."""
    return trained(tiny())


def test_full_network_is_vgg16_with_sides():
    network = model.build_foreground()
    trainable = sum(int(np.prod(v.shape)) for v in network.trainable_variables)
    trunk = sum(network.get_layer(name).count_params() for name in TRUNK)
    assert trainable == network.count_params() == 14_917_637
    assert trunk == 14_714_688
    others = [f"prep_side{k}" for k in range(2, 6)] + [f"score_side{k}" for k in range(2, 6)]
    assert {layer.name for layer in network.layers if layer.weights} == {*TRUNK, *others, "fused"}
    for k, channels in enumerate((128, 256, 512, 512), start=2):
        assert network.get_layer(f"prep_side{k}").get_weights()[0].shape == (3, 3, channels, 16)
    assert network.get_layer("fused").get_weights()[0].shape == (1, 1, 64, 1)
    # The authors' initialisers: N(0, 0.001) on the sides, zero biases.
    for name in (*others, "fused"):
        kernel, bias = network.get_layer(name).get_weights()
        assert not bias.any()
        assert np.abs(kernel).max() < 0.006
        if kernel.size > 1000:
            assert kernel.std() == pytest.approx(0.001, rel=0.1)


@pytest.mark.parametrize("size", [(1, 1), (17, 23), (33, 48), (2, 40)])
def test_outputs_have_the_size_of_the_input(network, size):
    images = frames(*size, count=2)
    outputs = network(images)
    assert set(outputs) == set(model.OUTPUTS) == {"side2", "side3", "side4", "side5", "fused"}
    for logits in outputs.values():
        assert logits.dtype == tf.float32
        assert logits.shape == (2, *size, 1)
        assert np.isfinite(logits).all()
    for name, logits in network(images.astype(np.float32)).items():
        np.testing.assert_array_equal(logits, outputs[name])


def test_outputs_are_free_in_size_and_traced_once(network):
    traces = []

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)])
    def run(images):
        traces.append(None)
        return network(images)

    for size in ((20, 31), (48, 80)):
        images = frames(*size)
        for name, logits in run(images).items():
            assert logits.shape == (1, *size, 1)
            np.testing.assert_allclose(logits, network(images)[name], rtol=1e-4, atol=1e-5)
    assert len(traces) == 1


def test_images_of_a_batch_do_not_mix(network):
    images = frames(30, 41, count=3)
    together = network(images)
    for name in together:
        alone = [network(image[None])[name][0] for image in images]
        np.testing.assert_allclose(together[name], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("multiplier", "channels"), [(1 / 16, (4, 32)), (0.3, (19, 154)), (0.001, (1, 1))]
)
def test_width_multiplier_scales_the_trunk(multiplier, channels):
    network = model.build_foreground(width_multiplier=multiplier)
    for name, count in zip(("block1_conv1", "block5_conv3"), channels, strict=True):
        assert network.get_layer(name).get_weights()[0].shape[-1] == count
    assert network.get_layer("fused").get_weights()[0].shape == (1, 1, 64, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "middle"}, "crop must be one of"),
        ({"start": "caffe"}, "start must be one of"),
        ({"width_multiplier": 0}, "width_multiplier must be positive"),
        ({"width_multiplier": float("nan")}, "width_multiplier must be positive"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        model.build_foreground(**options)


def test_seed_repeats_the_weights():
    first, again, other = tiny(seed=7), tiny(seed=7), tiny(seed=8)
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    kernel = "block3_conv2"
    different = [n.get_layer(kernel).get_weights()[0] for n in (first, other)]
    assert not np.array_equal(*different)
    # Layers of one shape have different weights.
    pair = [first.get_layer(name).get_weights()[0] for name in ("block5_conv1", "block5_conv2")]
    assert not np.array_equal(*pair)
    unseeded = [tiny(seed=None).get_layer(kernel).get_weights()[0] for _ in range(2)]
    assert not np.array_equal(*unseeded)


def test_contour_network_has_the_same_architecture(network):
    contour = model.build_contour(width_multiplier=TINY, start="scratch", seed=1)
    assert contour.name == "contour"
    assert network.name == "foreground"
    contour.set_weights(network.get_weights())
    images = frames(19, 26)
    np.testing.assert_array_equal(contour(images)["fused"], network(images)["fused"])


# The whole network once more, in float64 and without a framework.


def convolve(x, kernel, bias):
    """3x3 with a border of zeros, or 1x1."""
    border = kernel.shape[0] // 2
    x = np.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
    rows, columns = x.shape[1] - 2 * border, x.shape[2] - 2 * border
    return bias + sum(
        x[:, i : i + rows, j : j + columns] @ kernel[i, j].astype(np.float64)
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )


def pool(x):
    """2x2 maxima with stride 2; an odd edge keeps its partial window."""
    odd = [extent % 2 for extent in x.shape[1:3]]
    x = np.pad(x, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)), constant_values=-np.inf)
    batch, rows, columns, channels = x.shape
    return x.reshape(batch, rows // 2, 2, columns // 2, 2, channels).max(axis=(2, 4))


def reference_network(weights, images, crop, scale):
    """The logits by name; `weights` maps a layer's name to its kernel and bias."""
    x = (images[..., ::-1].astype(np.float64) - [104.00699, 116.66877, 122.67892]) * scale
    logits, features, size = {}, [], images.shape[1:3]
    for stage, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
        if stage > 1:
            x = pool(x)
        for index in range(1, convolutions + 1):
            x = np.maximum(convolve(x, *weights[f"block{stage}_conv{index}"]), 0)
        if stage > 1:
            stride = 2 ** (stage - 1)
            side = convolve(x, *weights[f"prep_side{stage}"])
            score = convolve(side, *weights[f"score_side{stage}"])
            logits[f"side{stage}"] = reference_upsample(score, stride, size, crop)
            features.append(reference_upsample(side, stride, size, crop))
    logits["fused"] = convolve(np.concatenate(features, axis=-1), *weights["fused"])
    return logits


def assert_equals_reference(network, images, crop, scale):
    """Every logit within 1e-4 of the output's largest."""
    weights = {layer.name: layer.get_weights() for layer in network.layers if layer.weights}
    expected = reference_network(weights, images, crop, scale)
    for name, logits in network(images).items():
        tolerance = 1e-4 * np.abs(expected[name]).max()
        np.testing.assert_allclose(logits, expected[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("crop", layers.CROPS)
@pytest.mark.parametrize("start", ["scratch", "imagenet"])
@pytest.mark.parametrize("size", [(19, 26), (1, 7), (1, 37), (37, 53), (48, 80)])
def test_network_equals_the_reference(crop, start, size):
    scale = {"scratch": 1 / 64, "imagenet": 1.0}[start]
    network = trained(tiny(crop=crop, start=start))
    assert_equals_reference(network, frames(*size, count=2), crop, scale)


@pytest.mark.parametrize("crop", layers.CROPS)
def test_vgg16_wide_network_equals_the_reference(crop):
    network = trained(model.build_foreground(crop=crop, start="scratch", seed=1))
    assert_equals_reference(network, frames(23, 38), crop, 1 / 64)


def test_crops_share_weights_and_differ_where_the_width_is_not_a_multiple():
    aligned, center = trained(tiny(crop="aligned")), tiny(crop="center", seed=2)
    center.set_weights(aligned.get_weights())
    even = frames(32, 48)
    for name, logits in aligned(even).items():
        np.testing.assert_allclose(logits, center(even)[name], rtol=1e-5, atol=1e-6)
    odd = frames(32, 54)  # as 854: 6 over a multiple of 16
    first, second = aligned(odd), center(odd)
    np.testing.assert_allclose(first["side2"], second["side2"], rtol=1e-5, atol=1e-6)
    # The surplus of side 5 is 16 + 10 pixels: its half is 5 more than the aligned 8.
    np.testing.assert_allclose(
        first["side5"][:, :, 5:], second["side5"][:, :, :-5], rtol=1e-5, atol=1e-6
    )
    assert not np.allclose(first["fused"], second["fused"], atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"crop": "center", "start": "imagenet"}])
def test_saved_networks_come_back(options, tmp_path):
    network = trained(tiny(**options))
    network.get_layer("preprocess").working_height = 24
    back = check_round_trip(network, frames(17, 23), tmp_path / "network.keras")
    assert model.working_height(back) == 24
    predictor = model.build_predictor(network)
    back = check_round_trip(predictor, frames(17, 23), tmp_path / "predictor.keras")
    assert back.get_layer("working_height").height == 24


def test_save_model_and_load_model(network, tmp_path):
    path = tmp_path / "parent.keras"
    path.write_text("what was here before")
    save_model(network, path)
    assert [file.name for file in tmp_path.iterdir()] == ["parent.keras"]
    images = frames(17, 23)
    for load in (load_model, osvos_tf.load_model):
        for given in (path, str(path)):
            loaded = load(given)
            np.testing.assert_array_equal(loaded(images)["fused"], network(images)["fused"])


def test_every_file_that_a_thread_saves_is_a_keras_file(network, tmp_path):
    paths = [tmp_path / f"{number}.keras" for number in range(3)]
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        list(thread.map(lambda path: save_model(network, path), paths))
    assert all(zipfile.is_zipfile(path) for path in paths)


def test_half_size_storage(network, tmp_path):
    save_model(network, tmp_path / "whole.keras")
    save_model(network, tmp_path / "half.keras", storage="float16")
    sizes = [(tmp_path / f"{name}.keras").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.8 * sizes[1]
    loaded, whole = (load_model(tmp_path / f"{name}.keras") for name in ("half", "whole"))
    assert loaded.get_config() == whole.get_config()
    for found, weights in zip(loaded.get_weights(), network.get_weights(), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, weights.astype(np.float16))


def test_quarter_size_storage(network, tmp_path):
    """Four significant bits: within a sixteenth, and nothing but kernels is rounded so."""
    save_model(network, tmp_path / "whole.keras")
    save_model(network, tmp_path / "packed.keras", storage="packed")
    sizes = [(tmp_path / name).stat().st_size for name in ("packed.keras", "whole.keras")]
    assert sizes[0] < 0.5 * sizes[1]  # a small network is mostly what is not weights
    loaded = load_model(tmp_path / "packed.keras")
    for before, after in zip(network.get_weights(), loaded.get_weights(), strict=True):
        near = 2**-4 if before.ndim > 1 else 2**-10
        np.testing.assert_allclose(after, before, rtol=near, atol=2**-18)
        half = np.float16(after)
        assert (half == after).all()
        if before.ndim > 1:
            assert not (half.view(np.uint16) & 0b1111111).any()


def test_with_precision_keeps_weights_and_closes_in(network):
    images = frames(33, 48)
    exact = network(images)
    single = with_precision(network, "float32")
    half = with_precision(network, "bfloat16")
    for copy in (single, half):
        for before, after in zip(network.get_weights(), copy.get_weights(), strict=True):
            assert after.dtype == np.float32
            np.testing.assert_array_equal(before, after)
    for name in model.OUTPUTS:
        np.testing.assert_array_equal(single(images)[name], exact[name])
        rounded = half(images)[name]
        assert rounded.dtype == tf.float32
        error = np.abs(rounded - exact[name])
        assert 0 < error.max() < 0.05 * np.ptp(exact[name])
    assert half.get_layer("block1_conv1").compute_dtype == "bfloat16"
    assert half.get_layer("score_side2").compute_dtype == "float32"
    # A copy: training it leaves the original alone.
    half.get_layer("fused").set_weights([np.ones((1, 1, 64, 1)), np.ones(1)])
    np.testing.assert_array_equal(network(images)["fused"], exact["fused"])
    back = with_precision(half, "float32")
    assert back.get_layer("block1_conv1").compute_dtype == "float32"


def test_working_height_survives_a_change_of_precision():
    network = tiny()
    network.get_layer("preprocess").working_height = 24
    assert model.working_height(with_precision(network, "bfloat16")) == 24


def test_choose_precision():
    assert choose_precision("float32") == "float32"
    assert choose_precision("bfloat16") == "bfloat16"
    assert choose_precision("auto") in PRECISIONS


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_predictor_is_the_sigmoid_of_fused(network):
    images = frames(17, 23, count=5)
    probability = model.build_predictor(network).predict(images, verbose=0)
    assert probability.shape == (5, 17, 23, 1)
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability, sigmoid(network(images)["fused"]), atol=1e-5)


def test_predictor_shares_the_weights():
    network = tiny()
    predictor = model.build_predictor(network)
    network.get_layer("fused").set_weights([np.zeros((1, 1, 64, 1)), np.full(1, 2.0)])
    np.testing.assert_allclose(predictor(frames(5, 6)), sigmoid(2.0), rtol=1e-6)


def test_two_streams_are_both_predictors_in_one_call(tmp_path):
    foreground, contour = tiny(), model.build_contour(width_multiplier=1 / 8, seed=9)
    foreground.get_layer("preprocess").working_height = 20
    both = model.build_two_stream(foreground, contour)
    images = frames(40, 61, count=2)
    found = both.predict(images, verbose=0)
    assert list(found) == ["probabilities", "contours"]
    for name, network in (("probabilities", foreground), ("contours", contour)):
        assert found[name].shape == (2, 40, 61, 1) and found[name].dtype == np.float32
        alone = model.build_predictor(network).predict(images, verbose=0)
        np.testing.assert_allclose(found[name], alone, atol=1e-6)
    # Uncorrelated: no weight of one stream has a part in the other.
    assert len(both.weights) == len(foreground.weights) + len(contour.weights)
    for weight in contour.weights:
        weight.assign(tf.ones_like(weight))
    after = both.predict(images, verbose=0)
    np.testing.assert_allclose(after["probabilities"], found["probabilities"], atol=1e-6)
    assert not np.allclose(after["contours"], found["contours"], atol=1e-2)


def test_predictor_with_a_height_resizes(network):
    images = frames(40, 60, count=2)
    small = tf.image.resize(images, (20, 30), antialias=True)
    logits = tf.image.resize(network(small)["fused"], (40, 60))
    probability = model.build_predictor(network, height=20).predict(images, verbose=0)
    assert probability.shape == (2, 40, 60, 1)
    np.testing.assert_allclose(probability, sigmoid(logits), atol=1e-4)


def test_windows_are_resized_as_their_frames_would_be(network):
    """Far from a window's border its values are those of the whole frame."""
    whole = frames(256, 384)
    predictor = model.build_predictor(network, height=128, frame_height=256)
    expected = model.build_predictor(network, height=128).predict_on_batch(whole)
    np.testing.assert_allclose(predictor.predict_on_batch(whole), expected, atol=1e-6)
    window = predictor.predict_on_batch(whole[:, :, 32:])
    assert window.shape == (1, 256, 352, 1)
    np.testing.assert_allclose(window[:, :, 300:], expected[:, :, 332:], atol=1e-3)


def test_any_size_is_traced_once(network):
    predictor = model.build_predictor(network)
    predict = model.any_size(predictor)
    for size in ((1, 24, 40), (3, 24, 40), (2, 17, 33)):
        images = frames(*size[1:], count=size[0])
        np.testing.assert_allclose(
            predict(images).numpy(), predictor.predict_on_batch(images), atol=1e-6
        )
    assert predict.experimental_get_tracing_count() == 1


def test_predictor_takes_the_networks_own_height():
    network = tiny()
    network.get_layer("preprocess").working_height = 20
    images = frames(40, 60)
    own = model.build_predictor(network)(images)
    np.testing.assert_array_equal(own, model.build_predictor(network, height=20)(images))
    other = model.build_predictor(network, height=40)(images)
    np.testing.assert_allclose(other, sigmoid(network(images)["fused"]), atol=1e-5)


def no_file(path):
    pass


def a_folder(path):
    path.mkdir()


def a_text(path):
    path.write_text("weights, honestly")


def an_empty_file(path):
    path.touch()


def another_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no model in here")


def a_broken_config(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", '{"module": "keras", "class_name":')
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", "")


def another_model(path):
    inputs = keras.Input((None, None, 3))
    scores = keras.layers.Conv2D(1, 3, kernel_initializer="zeros")(inputs)
    keras.Model(inputs, {"fused": scores}).save(path)


def a_stranger_class(path):
    save_model(tiny(), path)
    edit(path, "config.json", lambda text: text.replace(b"Preprocess", b"Postprocess"))


def a_truncated_file(path):
    save_model(tiny(), path)
    path.write_bytes(path.read_bytes()[:-1000])


def damaged_weights(path):
    save_model(tiny(), path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    path.write_bytes(content)


def weights_cut_short(path):
    save_model(tiny(), path)
    edit(path, "model.weights.h5", lambda weights: weights[: len(weights) // 2])


def edit(path, name, change):
    """Replaces one member of the archive by `change` of its content."""
    with zipfile.ZipFile(path) as archive:
        content = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in content.items():
            archive.writestr(member, change(data) if member == name else data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_file, "No model file"),
        (a_folder, "No model file"),
        (a_text, "is not a .keras file"),
        (an_empty_file, "is not a .keras file"),
        (a_truncated_file, "is not a .keras file"),
        (another_zip, "is refused: it holds the members readme.txt"),
        (a_broken_config, "is damaged"),
        (a_stranger_class, "is refused: it holds the class 'Postprocess'"),
        (damaged_weights, "is damaged"),
        (weights_cut_short, "is damaged"),
        (another_model, "is a Keras model, but not an OSVOS network"),
    ],
)
def test_load_model_says_what_is_wrong(make, message, tmp_path):
    path = tmp_path / "model.keras"
    make(path)
    with pytest.raises(InputError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_is_saved_as_the_same_bytes(tmp_path):
    network = model.build_foreground(width_multiplier=1 / 32, start="scratch", seed=1)
    for storage in ("float32", "float16"):
        paths = tmp_path / "a.keras", tmp_path / "b.keras"
        for path in paths:
            save_model(network, path, storage=storage)
        assert paths[0].read_bytes() == paths[1].read_bytes()
        with zipfile.ZipFile(paths[0]) as archive:  # nothing in it tells the time of day
            assert {entry.date_time[0] for entry in archive.infolist()} == {1980}
            assert json.loads(archive.read("metadata.json"))["date_saved"] == ""


def test_predictor_tells_frames_that_it_cannot_take():
    predictor = model.build_predictor(model.build_foreground(width_multiplier=1 / 32, seed=1))
    frames = np.random.default_rng(0).integers(0, 255, (2, 24, 32, 3), np.uint8)
    with pytest.raises(InputError, match=r"do not divide them by 255"):
        predictor.predict(frames / 255.0, verbose=0)
    with pytest.raises(InputError, match=r"One frame alone is frame\[None\]"):
        predictor.predict(frames[0], verbose=0)
    with pytest.raises(InputError, match=r"Got shape \(2, 24, 32\)"):
        predictor.predict(frames[..., 0], verbose=0)
    expected = predictor.predict(frames, verbose=0)
    np.testing.assert_array_equal(predictor.predict(frames.astype(np.float32), verbose=0), expected)
    assert predictor.predict(np.zeros_like(frames, np.float32), verbose=0).shape == expected.shape
