"""ImageNet weights: a file of the real one's layout and shapes, and no network."""

import hashlib
import socket

import h5py
import keras
import numpy as np
import pytest

from osvos_tf import model, weights
from osvos_tf.errors import InputError

BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


def random_arrays():
    """VGG16's kernels and biases by layer name, every array with values of its own."""
    random = np.random.default_rng(0)
    arrays, channels = {}, 3
    for block, (convolutions, filters) in enumerate(BLOCKS, start=1):
        for index in range(1, convolutions + 1):
            arrays[f"block{block}_conv{index}"] = (
                random.normal(0, 0.05, (3, 3, channels, filters)).astype(np.float32),
                random.normal(size=filters).astype(np.float32),
            )
            channels = filters
    return arrays


def write_notop_file(path, arrays):
    """The layout of the file that Keras distributes: a group a layer, pools among them."""
    names = ["input_1"]
    for block, (convolutions, _) in enumerate(BLOCKS, start=1):
        names += [f"block{block}_conv{index}" for index in range(1, convolutions + 1)]
        names.append(f"block{block}_pool")
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            group = file.create_group(name)
            values = arrays.get(name, ())
            keys = [f"{name}_W_1:0", f"{name}_b_1:0"][: len(values)]
            group.attrs["weight_names"] = [key.encode() for key in keys]
            for key, value in zip(keys, values, strict=True):
                group[key] = value


@pytest.fixture(scope="module")
def arrays():
    return random_arrays()


@pytest.fixture(scope="module")
def cache(arrays, tmp_path_factory):
    """A Keras home with the file in its place."""
    home = tmp_path_factory.mktemp("keras")
    (home / "models").mkdir()
    write_notop_file(home / "models" / weights.IMAGENET_FILE, arrays)
    return home


@pytest.fixture
def offline(monkeypatch):
    """No name can be resolved, so a download ends as without a network."""

    def fail(*arguments, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)


def use(monkeypatch, home):
    content = (home / "models" / weights.IMAGENET_FILE).read_bytes()
    monkeypatch.setenv("KERAS_HOME", str(home))
    monkeypatch.setattr(weights, "IMAGENET_MD5", hashlib.md5(content).hexdigest())


def test_file_has_the_layout_that_keras_reads(cache, arrays):
    path = str(cache / "models" / weights.IMAGENET_FILE)
    vgg16 = keras.applications.VGG16(include_top=False, weights=path)
    for name, pair in arrays.items():
        for found, expected in zip(vgg16.get_layer(name).get_weights(), pair, strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("build", [model.build_foreground, model.build_contour])
def test_every_array_lands(build, cache, arrays, offline, monkeypatch):
    use(monkeypatch, cache)
    network = build(seed=1)
    before = {layer.name: layer.get_weights() for layer in network.layers}
    weights.load_imagenet(network)
    for layer in network.layers:
        expected = arrays.get(layer.name, before[layer.name])
        for found, array in zip(layer.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(found, array)
    assert len(arrays) == 13
    assert sum(array.size for pair in arrays.values() for array in pair) == 14_714_688


@pytest.mark.parametrize("set_home", [True, False])
def test_a_missing_file_is_explained(set_home, offline, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_HOME", raising=False)
    folder = tmp_path / ".keras" / "models"
    if set_home:
        folder = tmp_path / "cache" / "models"
        monkeypatch.setenv("KERAS_HOME", str(folder.parent))
    with pytest.raises(InputError) as caught:
        weights.load_imagenet(model.build_foreground())
    message = str(caught.value)
    for words in (
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/",
        "6d6bbae143d832006294945121d1f1fc",
        str(folder),
        "Name or service not known",
    ):
        assert words in message
    assert not list(folder.iterdir())


def test_a_damaged_file_is_not_read(cache, offline, monkeypatch, tmp_path):
    use(monkeypatch, cache)
    home = tmp_path / "keras"
    (home / "models").mkdir(parents=True)
    content = (cache / "models" / weights.IMAGENET_FILE).read_bytes()
    (home / "models" / weights.IMAGENET_FILE).write_bytes(content[:-1])
    monkeypatch.setenv("KERAS_HOME", str(home))
    network = model.build_foreground()
    before = network.get_layer("block1_conv1").get_weights()[0]
    with pytest.raises(InputError, match=weights.IMAGENET_MD5):
        weights.load_imagenet(network)
    np.testing.assert_array_equal(before, network.get_layer("block1_conv1").get_weights()[0])


def test_another_width_is_refused_before_any_download(monkeypatch):
    monkeypatch.delattr(keras.utils, "get_file")
    with pytest.raises(InputError, match=r"\(3, 3, 3, 64\) there and \(3, 3, 3, 32\) in this"):
        weights.load_imagenet(model.build_foreground(width_multiplier=0.5))


def test_scaled_colours_are_refused():
    with pytest.raises(ValueError, match=r"expect colours in 0\.\.255.*0\.015625"):
        weights.load_imagenet(model.build_foreground(start="scratch"))
