"""Others' weights in: files of the real ones' layouts and shapes, and no network."""

import hashlib
import socket

import cv2
import h5py
import keras
import numpy as np
import pytest
import scipy.io
import tensorflow as tf

from osvos_tf.errors import InputError
from osvos_tf.network import layers, model
from osvos_tf.network.weights import loading, readers
from osvos_tf.network.weights.loading import (
    IMAGENET_FILE,
    import_network,
    load_imagenet,
    load_vgg16,
)
from support import foreign

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
    write_notop_file(home / "models" / IMAGENET_FILE, arrays)
    return home


@pytest.fixture
def offline(monkeypatch):
    """No name can be resolved, so a download ends as without a network."""

    def fail(*arguments, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)


def use(monkeypatch, home):
    content = (home / "models" / IMAGENET_FILE).read_bytes()
    monkeypatch.setenv("KERAS_HOME", str(home))
    monkeypatch.setattr(loading, "IMAGENET_MD5", hashlib.md5(content).hexdigest())


def test_file_has_the_layout_that_keras_reads(cache, arrays):
    path = str(cache / "models" / IMAGENET_FILE)
    vgg16 = keras.applications.VGG16(include_top=False, weights=path)
    for name, pair in arrays.items():
        for found, expected in zip(vgg16.get_layer(name).get_weights(), pair, strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("build", [model.build_foreground, model.build_contour])
def test_every_array_lands(build, cache, arrays, offline, monkeypatch):
    use(monkeypatch, cache)
    network = build(seed=1)
    before = {layer.name: layer.get_weights() for layer in network.layers}
    load_imagenet(network)
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
        load_imagenet(model.build_foreground())
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
    content = (cache / "models" / IMAGENET_FILE).read_bytes()
    (home / "models" / IMAGENET_FILE).write_bytes(content[:-1])
    monkeypatch.setenv("KERAS_HOME", str(home))
    network = model.build_foreground()
    before = network.get_layer("block1_conv1").get_weights()[0]
    with pytest.raises(InputError, match=loading.IMAGENET_MD5):
        load_imagenet(network)
    np.testing.assert_array_equal(before, network.get_layer("block1_conv1").get_weights()[0])


def test_another_width_is_refused_before_any_download(monkeypatch):
    monkeypatch.delattr(keras.utils, "get_file")
    with pytest.raises(InputError, match=r"\(3, 3, 3, 64\) there and \(3, 3, 3, 32\) in this"):
        load_imagenet(model.build_foreground(width_multiplier=0.5))


def test_scaled_colours_are_refused():
    with pytest.raises(ValueError, match=r"expect colours in 0\.\.255.*0\.015625"):
        load_imagenet(model.build_foreground(start="scratch"))


def frames(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), dtype=np.uint8)


def assert_layers(network, arrays):
    """The network's layers hold `arrays` (as in `foreign`), bit for bit."""
    for ours, (kernel, bias) in arrays.items():
        found = network.get_layer(ours).get_weights()
        np.testing.assert_array_equal(found[0], kernel.transpose(2, 3, 1, 0), err_msg=ours)
        np.testing.assert_array_equal(found[1], bias, err_msg=ours)


@pytest.fixture(scope="module")
def vgg16():
    """VGG16's arrays, as in `foreign`."""
    return foreign.random_arrays(foreign.TRUNK)


def write_slim(path, arrays):
    """TF-Slim's checkpoint: the classifier and more beside the trunk; a file of version 1."""
    variables = {"global_step": np.int64(0), "vgg_16/mean_rgb": np.ones(3, np.float32)}
    for layer in ("fc6", "fc7", "fc8"):
        variables[f"vgg_16/{layer}/weights"] = np.ones((1, 1, 2, 2), np.float32)
        variables[f"vgg_16/{layer}/biases"] = np.ones(2, np.float32)
    for ours, _, name, _, _ in foreign.TRUNK:
        kernel, bias = arrays[ours]
        variables[f"vgg_16/{name}/weights"] = kernel.transpose(2, 3, 1, 0)
        variables[f"vgg_16/{name}/biases"] = bias
    foreign.write_v1_checkpoint(path, variables)


def write_torchvision(path, arrays):
    state = {}
    for (ours, *_), place in zip(foreign.TRUNK, foreign.TORCHVISION, strict=True):
        state[f"features.{place}.weight"], state[f"features.{place}.bias"] = arrays[ours]
    for place in (0, 3, 6):
        state[f"classifier.{place}.weight"] = np.ones((2, 2), np.float32)
        state[f"classifier.{place}.bias"] = np.ones(2, np.float32)
    foreign.write_torch_legacy(path, state)


def write_caffe_mat(path, arrays):
    """The authors' file: cells of kernels (width, height, in, out) and of biases (n, 1)."""
    cells = {name: np.empty((1, 13), object) for name in ("weights", "biases")}
    for index, (ours, *_) in enumerate(foreign.TRUNK):
        kernel, bias = arrays[ours]
        cells["weights"][0, index] = kernel.T
        cells["biases"][0, index] = bias[:, None]
    scipy.io.savemat(path, cells, appendmat=False)


def write_caffe_vgg(path, arrays):
    layers = {name: list(arrays[ours]) for ours, name, *_ in foreign.TRUNK}
    layers["fc6"] = [np.ones((2, 2), np.float32), np.ones(2, np.float32)]
    foreign.write_caffe(path, layers, old=True, shaped=False)


def write_keras(path, arrays):
    write_notop_file(
        path,
        {ours: (kernel.transpose(2, 3, 1, 0), bias) for ours, (kernel, bias) in arrays.items()},
    )


@pytest.mark.parametrize("write", [write_keras, write_caffe_mat, write_caffe_vgg])
def test_vgg16_for_our_colours_lands_as_it_is(write, vgg16, tmp_path):
    write(tmp_path / "vgg", vgg16)
    network = model.build_foreground(seed=1)
    heads = {ours: network.get_layer(ours).get_weights() for ours, *_ in foreign.HEADS}
    load_vgg16(network, tmp_path / "vgg")
    assert_layers(network, vgg16)
    for ours, pair in heads.items():
        for found, before in zip(network.get_layer(ours).get_weights(), pair, strict=True):
            np.testing.assert_array_equal(found, before)


def first_layer(network, images):
    """The first convolution's output (with its ReLU)."""
    return network.get_layer("block1_conv1")(network.get_layer("preprocess")(images)).numpy()


def convolve(images, kernel, bias, padding):
    """The convolution and ReLU of others, in float64: kernel (out, in, height, width)."""
    found = tf.nn.conv2d(images, kernel.transpose(2, 3, 1, 0).astype(np.float64), 1, padding)
    return tf.nn.relu(found + bias).numpy()


def test_slim_meets_bgr(vgg16, tmp_path):
    """TF-Slim's first layer, on RGB less our mean, gives what ours gives."""
    write_slim(tmp_path / "vgg_16.ckpt", vgg16)
    network = model.build_foreground()
    load_vgg16(network, tmp_path / "vgg_16.ckpt")
    assert_layers(network, {ours: pair for ours, pair in vgg16.items() if ours != "block1_conv1"})
    images = frames(9, 14)
    rgb = images - np.array(layers.MEAN_BGR[::-1])
    expected = convolve(rgb, *vgg16["block1_conv1"], "SAME")
    np.testing.assert_allclose(first_layer(network, images), expected, rtol=1e-4, atol=1e-4)


def test_torchvision_is_folded(vgg16, tmp_path):
    """Exact, if the frame's border is thought to have our mean colour: zeros to us.

    torchvision pads with zeros of its own, another colour, so border pixels alone differ.
    """
    arrays = {**vgg16, "block1_conv1": (60 * vgg16["block1_conv1"][0], vgg16["block1_conv1"][1])}
    write_torchvision(tmp_path / "vgg16.pth", arrays)
    network = model.build_foreground()
    load_vgg16(network, tmp_path / "vgg16.pth")
    assert_layers(network, {ours: pair for ours, pair in vgg16.items() if ours != "block1_conv1"})
    images = frames(9, 14)
    found = first_layer(network, images)

    def scaled(colours):
        return (colours / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]

    framed = np.full((1, 11, 16, 3), layers.MEAN_BGR[::-1])
    framed[:, 1:-1, 1:-1] = images
    kernel, bias = arrays["block1_conv1"]
    expected = convolve(scaled(framed), kernel, bias, "VALID")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    theirs = convolve(scaled(images), kernel, bias, "SAME")
    inside = np.s_[:, 1:-1, 1:-1]
    np.testing.assert_allclose(found[inside], theirs[inside], rtol=1e-4, atol=1e-4)
    # A grey level is 0.017 there; 5 or 3 of 9 taps see the border.
    difference = np.abs(found - theirs).max()
    assert 1e-3 < difference < 0.02 * np.abs(kernel).sum(axis=(1, 2, 3)).max()


def test_vgg16_files_that_are_none(vgg16, tmp_path):
    network = model.build_foreground()
    before = network.get_weights()
    write_torchvision(tmp_path / "vgg", {**vgg16, "block5_conv3": vgg16["block5_conv2"][:1] * 2})
    with pytest.raises(InputError, match=r"features\.28\.bias \(512, 512, 3, 3\), not \(512,\)"):
        load_vgg16(network, tmp_path / "vgg")
    foreign.write_torch_zip(tmp_path / "parent", {"stages.0.0.weight": np.ones(1, np.float32)})
    with pytest.raises(InputError, match="goes into import_weights"):
        load_vgg16(network, tmp_path / "parent")
    foreign.write_torch_zip(tmp_path / "other", {"layer4.0.conv1.weight": np.ones(1, np.float32)})
    with pytest.raises(InputError, match=r"not one of .*torchvision.*In it: layer4\.0\.conv1"):
        load_vgg16(network, tmp_path / "other")
    for found, array in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, array)


@pytest.fixture(scope="module")
def osvos():
    """Arrays of a whole network, as in `foreign`."""
    return foreign.random_arrays()


def write_tf(path, arrays):
    """As the authors' training leaves it: momentum and a counter beside the weights."""
    variables = foreign.tf_variables(arrays)
    momentum = {f"{name}/Momentum": np.zeros(2, np.float32) for name in variables}
    foreign.write_checkpoint(path, {**variables, **momentum, "global_step": np.int64(50_000)})


def write_npy(path, arrays):
    """The dict that the TensorFlow version reads Caffe's weights from."""
    content = {}
    for ours, name, *_ in foreign.LAYERS:
        content[f"{name}_w"] = arrays[ours][0].transpose(2, 3, 1, 0)
        content[f"{name}_b"] = arrays[ours][1]
    with open(path, "wb") as file:
        np.save(file, content)


def write_pth(path, arrays):
    foreign.write_torch_zip(path, foreign.torch_state(arrays))


def write_legacy_pth(path, arrays):
    foreign.write_torch_legacy(path, foreign.torch_state(arrays))


def write_caffe(path, arrays):
    foreign.write_caffe(path, foreign.caffe_layers(arrays))


def write_old_caffe(path, arrays):
    foreign.write_caffe(path, foreign.caffe_layers(arrays), old=True, double=True, shaped=False)


@pytest.mark.parametrize(
    ("write", "file_format", "crop"),
    [
        (write_tf, "tf", "center"),
        (write_npy, "tf", "aligned"),
        (write_pth, "pytorch", "center"),
        (write_legacy_pth, "pytorch", "center"),
        (write_caffe, "caffe", "aligned"),
        (write_old_caffe, "caffe", "aligned"),
    ],
)
def test_the_authors_networks_land_whole(write, file_format, crop, osvos, tmp_path):
    path = tmp_path / "parent"
    write(path, osvos)
    network = import_network(path)
    assert network.name == "foreground"
    assert {layer.crop for layer in network.layers if hasattr(layer, "crop")} == {crop}
    assert len(osvos) == sum(bool(layer.weights) for layer in network.layers)
    assert_layers(network, osvos)

    twin = model.build_foreground(crop=crop)
    for ours, (kernel, bias) in osvos.items():
        twin.get_layer(ours).set_weights([kernel.transpose(2, 3, 1, 0), bias])
    images = frames(19, 37)
    expected = twin(images)
    for name, logits in network(images).items():
        np.testing.assert_array_equal(logits, expected[name])
        assert 0.01 < np.std(logits) < 100

    assert import_network(path, file_format).name == "foreground"
    others = {"tf", "pytorch", "caffe"} - {file_format}
    for other in others:
        with pytest.raises(InputError, match=f"of the format {other}, but"):
            import_network(path, other)


def test_a_contour_network_without_scores(osvos, tmp_path):
    foreign.write_caffe(
        tmp_path / "contour", foreign.caffe_layers(osvos, scores=False, contour=True)
    )
    network = import_network(tmp_path / "contour")
    assert network.name == "contour"
    assert network.get_layer("fused").crop == "aligned"
    assert_layers(network, {ours: p for ours, p in osvos.items() if not ours.startswith("score")})
    outputs = network(frames(16, 16))
    for side in ("side2", "side3", "side4", "side5"):
        assert not np.any(outputs[side])


def test_a_caffe_parent_without_scores(osvos, tmp_path):
    layers = foreign.caffe_layers(osvos, scores=False)
    foreign.write_caffe(tmp_path / "parent", layers)
    network = import_network(tmp_path / "parent")
    assert_layers(network, {ours: p for ours, p in osvos.items() if not ours.startswith("score")})
    # All scores or none.
    foreign.write_caffe(tmp_path / "parent", {**layers, "score-dsn_3": list(osvos["score_side3"])})
    with pytest.raises(InputError, match=r"missing: score-dsn_2/0, score-dsn_2/1, score-dsn_4/0"):
        import_network(tmp_path / "parent")


def test_what_does_not_fit_is_listed(osvos, tmp_path):
    state = foreign.torch_state(osvos)
    learned = state["upscale.1.weight"].copy()
    learned[3, 5] += 1e-3
    broken = state["side_prep.2.bias"].copy()
    broken[7] = np.nan
    state |= {
        "stages.2.3.weight": state["stages.2.3.weight"][:, :-1].copy(),
        "side_prep.2.bias": broken,
        "upscale.1.weight": learned,
        "stages.5.1.weight": np.ones((2, 2), np.float32),
    }
    del state["fuse.bias"], state["score_dsn.0.weight"]
    foreign.write_torch_zip(tmp_path / "parent", state)
    with pytest.raises(InputError) as caught:
        import_network(tmp_path / "parent")
    for words in (
        "the OSVOS of PyTorch",
        "missing: score_dsn.0.weight, fuse.bias",
        "left over: stages.5.1.weight.",
        "of another shape: stages.2.3.weight (256, 255, 3, 3), not (256, 256, 3, 3)",
        "not finite: side_prep.2.bias",
        "not the fixed bilinear upsampling: upscale.1.weight",
    ):
        assert words in str(caught.value)


def test_vgg16_is_no_osvos(vgg16, cache, tmp_path):
    with pytest.raises(InputError, match="VGG16 of Keras, which goes into train_parent --weights"):
        import_network(cache / "models" / IMAGENET_FILE)
    write_caffe_vgg(tmp_path / "vgg", vgg16)
    with pytest.raises(InputError, match=r"missing: conv2_2_16/0.*left over: fc6/0, fc6/1"):
        import_network(tmp_path / "vgg")


def test_pytorch_gives_the_same_logits(osvos, tmp_path):
    """The network in PyTorch's own functions, from a file that `torch.save` wrote."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    state = {
        name: torch.from_numpy(np.ascontiguousarray(array))
        for name, array in foreign.torch_state(osvos).items()
    }
    torch.save(state, tmp_path / "parent.pth")
    images = frames(37, 54)

    def convolution(name, x):
        kernel = state[f"{name}.weight"]
        return functional.conv2d(x, kernel, state[f"{name}.bias"], padding=kernel.shape[-1] // 2)

    def upsample(name, x):
        kernel = state[f"{name}.weight"]
        large = functional.conv_transpose2d(x, kernel, stride=kernel.shape[-1] // 2)
        top, left = (large.shape[2] - 37) // 2, (large.shape[3] - 54) // 2
        return large[:, :, top : top + 37, left : left + 54]

    bgr = images[..., ::-1] - np.array(layers.MEAN_BGR)
    x = torch.from_numpy(bgr.transpose(0, 3, 1, 2)).float()
    expected, sides, stage = {}, [], "0"
    for _, _, _, name, _ in foreign.TRUNK:
        if name.split(".")[1] != stage:
            stage = name.split(".")[1]
            if stage != "1":
                sides.append(x)
            x = functional.max_pool2d(x, 2, ceil_mode=True)
        x = functional.relu(convolution(name, x))
    fused = []
    for index, side in enumerate([*sides, x]):
        prepared = convolution(f"side_prep.{index}", side)
        score = convolution(f"score_dsn.{index}", prepared)
        expected[f"side{index + 2}"] = upsample(f"upscale_.{index}", score)
        fused.append(upsample(f"upscale.{index}", prepared))
    expected["fused"] = convolution("fuse", torch.cat(fused, 1))
    for name, logits in import_network(tmp_path / "parent.pth")(images).items():
        theirs = expected[name].numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(logits, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_caffe_gives_the_same_logits(osvos, tmp_path):
    """OpenCV before version 5 runs Caffe models: here the authors' deployed network."""
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        pytest.skip("this OpenCV does not run Caffe models")
    height, width = 37, 54
    text = f'input: "data" input_shape {{ dim: 1 dim: 3 dim: {height} dim: {width} }}\n'

    def layer(kind, name, below, more):
        bottoms = " ".join(f'bottom: "{bottom}"' for bottom in below)
        return f'layer {{ name: "{name}" type: "{kind}" {bottoms} top: "{name}" {more} }}\n'

    def convolution(name, below, channels, size):
        more = f"num_output: {channels} kernel_size: {size} pad: {size // 2}"
        return layer("Convolution", name, [below], f"convolution_param {{ {more} }}")

    last, sides = "data", []
    for _, name, _, _, shape in foreign.TRUNK:
        if name.endswith("_1") and name != "conv1_1":
            stage = int(name[4])
            sides.append(last)
            pooling = "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"
            text += layer("Pooling", f"pool{stage}", [last], pooling)
            last = f"pool{stage}"
        text += convolution(name, last, shape[0], 3)
        text += layer("ReLU", f"{name}_relu", [name], "")
        last = f"{name}_relu"
    cropped = []
    for side, (name, stride) in zip(
        [*sides[1:], last],
        (("conv2_2_16", 2), ("conv3_3_16", 4), ("conv4_3_16", 8), ("conv5_3_16", 16)),
        strict=True,
    ):
        text += convolution(name, side, 16, 3)
        more = f"num_output: 16 kernel_size: {2 * stride} stride: {stride}"
        text += layer(
            "Deconvolution", f"upsample{stride}_", [name], f"convolution_param {{ {more} }}"
        )
        crop = f"crop_param {{ axis: 2 offset: {stride // 2} }}"
        text += layer("Crop", f"crop{stride}", [f"upsample{stride}_", "data"], crop)
        cropped.append(f"crop{stride}")
    text += layer("Concat", "concat", cropped, "")
    text += convolution("new-score-weighting", "concat", 1, 1)
    (tmp_path / "deploy.prototxt").write_text(text)
    foreign.write_caffe(tmp_path / "parent", foreign.caffe_layers(osvos, scores=False))
    images = frames(height, width)
    caffe = cv2.dnn.readNetFromCaffe(str(tmp_path / "deploy.prototxt"), str(tmp_path / "parent"))
    bgr = images[..., ::-1] - np.array(layers.MEAN_BGR)
    caffe.setInput(np.ascontiguousarray(bgr.transpose(0, 3, 1, 2), np.float32))
    theirs = caffe.forward().transpose(0, 2, 3, 1)
    logits = import_network(tmp_path / "parent")(images)["fused"]
    np.testing.assert_allclose(logits, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("how", ["raw bytes", "a link"])
def test_weights_of_another_file_are_not_read(arrays, tmp_path, how):
    path = tmp_path / "weights.h5"
    write_notop_file(path, arrays)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4 * 64))
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["bias"] = np.zeros(64, np.float32)
    with h5py.File(path, "r+") as file:
        group = file["block1_conv1"]
        name = "block1_conv1_b_1:0"
        del group[name]
        if how == "a link":
            group[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), "bias")
        else:
            group.create_dataset(name, (64,), "<f4", external=[(str(secret), 0, 4 * 64)])
    with (
        pytest.raises(InputError, match=r"a link to elsewhere|not a plain array"),
        readers.open_arrays(path, "hdf5"),
    ):
        pass
