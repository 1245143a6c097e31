"""Hostile `.keras` files: nothing in them runs, nothing in them fills the memory."""

import io
import json
import os
import pathlib
import struct
import tracemalloc
import zipfile

import h5py
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osvos_tf.errors import InputError
from osvos_tf.network import keras_file, model
from osvos_tf.network.files import load_model, save_model
from osvos_tf.network.parents import PARENTS
from osvos_tf.network.precision import with_precision
from support import fuzzing

keras_3 = pytest.mark.skipif(keras.__version__ < "3", reason="Keras 2 writes another config")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The members of a tiny network's file."""
    path = tmp_path_factory.mktemp("good") / "good.keras"
    save_model(model.build_foreground(width_multiplier=1 / 32, start="scratch", seed=1), path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def with_config(good, change):
    config = json.loads(good["config.json"])
    change(config, {layer["name"]: layer for layer in config["config"]["layers"]})
    return {**good, "config.json": json.dumps(config)}


def with_weights(good, change):
    content = io.BytesIO(good["model.weights.h5"])
    with h5py.File(content, "r+") as file:
        change(file)
    return {**good, "model.weights.h5": content.getvalue()}


def refused(*words):
    return pytest.raises(InputError, match=r"[\s\S]*".join(words))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("build", [model.build_foreground, model.build_contour])
def test_what_the_package_writes_is_let_pass(tmp_path, precision, build):
    for start, crop in (("scratch", "aligned"), ("imagenet", "center")):
        network = build(width_multiplier=1 / 32, start=start, crop=crop, seed=1)
        network.get_layer("preprocess").working_height = 240
        save_model(with_precision(network, precision), tmp_path / "m.keras")
        assert load_model(tmp_path / "m.keras").name == network.name


@pytest.mark.parametrize("class_", [keras.layers.Dense, keras.layers.BatchNormalization])
def test_keras_own_layers_that_no_network_of_ours_has(tmp_path, class_):
    inputs = keras.Input((None, None, 3))
    outputs = class_(1)(inputs) if class_ is keras.layers.Dense else class_()(inputs)
    keras.Model(inputs, outputs).save(tmp_path / "m.keras")
    with refused("m.keras is refused", class_.__name__, "SECURITY.md"):
        load_model(tmp_path / "m.keras")


def test_lambda_does_not_run(tmp_path):
    ran = tmp_path / "ran"
    inputs = keras.Input((None, None, 3))
    layer = keras.layers.Lambda(
        lambda x, ran=str(ran): (pathlib.Path(ran).touch(), x)[1], output_shape=(None, None, 3)
    )
    outputs = layer(inputs)
    keras.Model(inputs, outputs).save(tmp_path / "m.keras")
    ran.unlink(missing_ok=True)
    with refused("refused", "'Lambda'"):
        load_model(tmp_path / "m.keras")
    assert not ran.exists()


def test_a_legacy_file_inside_a_zip_is_no_way_around(tmp_path):
    """HDF5 with a zip archive behind it: by its suffix Keras would take the old, unsafe format."""
    for suffix in (".h5", ".hdf5", ".zip", ""):
        path = write(tmp_path / f"m{suffix}", {"a": "b"})
        with refused("is not a .keras file"):
            load_model(path)


@keras.saving.register_keras_serializable("elsewhere")
class Stranger(keras.layers.Layer):
    """A registered layer of another package."""

    built_ones = 0

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        Stranger.built_ones += 1

    def call(self, inputs):
        return inputs


def a_stranger(layers):
    layers["preprocess"].update(
        module=__name__, class_name="Stranger", registered_name="elsewhere>Stranger"
    )


def our_name_for_a_stranger(layers):
    layers["preprocess"].update(module=__name__, registered_name="elsewhere>Stranger")


def a_module_of_the_attacker(layers):
    layers["preprocess"].update(module="attack", registered_name=None)


def a_function(layers):
    """CVE-2025-1550: any function of any module, with arguments."""
    layers["preprocess"]["config"]["scale"] = {
        "module": "os",
        "class_name": "function",
        "config": "system",
        "registered_name": "function",
    }


def a_call_of_a_keras_function(layers):
    layers["block1_conv1"]["config"]["activation"] = {
        "module": "keras.utils",
        "class_name": "get_file",
        "config": {"fname": "x", "origin": "http://localhost:1/x"},
        "registered_name": "get_file",
    }


def a_lambda(layers):
    layers["block1_conv1"]["config"]["activation"] = {"class_name": "__lambda__", "config": {}}


def a_network_in_the_network(layers):
    layers["preprocess"].update(
        module="keras.src.models.functional", class_name="Functional", registered_name="Functional"
    )


def many_filters(layers):
    layers["block1_conv1"]["config"]["filters"] = 10**9


def wide_layers(layers):
    for layer in layers.values():
        if layer["class_name"] == "Conv2D":
            layer["config"]["filters"] = 20_000


def a_wide_kernel(layers):
    layers["block1_conv1"]["config"]["kernel_size"] = [30_000, 30_000]


def a_high_frame(layers):
    layers["preprocess"]["config"]["working_height"] = 10**6


def a_stride(layers):
    layers["side2"]["config"]["stride"] = 2**20


def text_for_a_number(layers):
    layers["preprocess"]["config"]["scale"] = "1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (a_stranger, ["'Stranger'"]),
        (our_name_for_a_stranger, ["'Preprocess' comes from"]),
        (a_module_of_the_attacker, ["'attack'"]),
        (a_function, ["'function'"]),
        (a_call_of_a_keras_function, ["'get_file'"]),
        (a_lambda, ["'__lambda__'"]),
        (a_network_in_the_network, ["'Functional'"]),
        (many_filters, ["filters of a Conv2D is 1000000000"]),
        (wide_layers, ["weights, the limit is 536870912"]),
        (a_wide_kernel, ["kernel_size"]),
        (a_high_frame, ["working_height"]),
        (a_stride, ["stride of a Upsample"]),
        (text_for_a_number, ["scale"]),
    ],
)
def test_configs_that_are_refused(good, tmp_path, change, words, monkeypatch):
    monkeypatch.setattr(os, "system", lambda _: pytest.fail("code ran"))
    path = write(tmp_path / "m.keras", with_config(good, lambda _, layers: change(layers)))
    before = Stranger.built_ones
    with refused("m.keras is refused", *words):
        load_model(path)
    assert Stranger.built_ones == before


@keras_3
def test_a_file_of_a_later_keras_loads(good, tmp_path):
    """Keras itself refuses settings that it does not know."""

    def change(config, layers):
        for layer in layers.values():
            for setting in layer["config"].values():
                if isinstance(setting, dict):
                    setting["config"]["of_the_future"] = None

    path = write(tmp_path / "m.keras", with_config(good, change))
    with pytest.raises(TypeError, match="of_the_future"):
        keras.models.load_model(path, compile=False)
    found = load_model(path)
    expected = model.build_foreground(width_multiplier=1 / 32, start="scratch", seed=1)
    assert found.get_layer("preprocess").scale == expected.get_layer("preprocess").scale
    for a, b in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("name", "numbers"), [("full", 14_917_637), ("compact", 3_781_733)])
def test_the_parents_of_the_package_load_with_any_keras(name, numbers):
    parent = load_model(PARENTS[name])
    assert parent.name == "foreground" and model.working_height(parent) == 240
    assert sum(np.prod(array.shape) for array in parent.get_weights()) == numbers


def test_files_that_name_our_layers_old_module_load(good, tmp_path):
    """They are known by their registered names, and Keras itself finds them, too."""
    for path in PARENTS.values():
        with zipfile.ZipFile(path) as archive:
            assert b'"module": "osvos_tf.layers"' in archive.read("config.json")
    new, old = b'"module": "osvos_tf.network.layers"', b'"module": "osvos_tf.layers"'
    assert new in good["config.json"]
    path = tmp_path / "old.keras"
    write(path, {**good, "config.json": good["config.json"].replace(new, old)})
    ours, keras_own = load_model(path), keras.models.load_model(path, compile=False)
    for a, b in zip(ours.get_weights(), keras_own.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_graph_that_does_not_fit_together(good, tmp_path):
    def change(config, layers):
        layers["score_side2"]["inbound_nodes"] = layers["block1_conv1"]["inbound_nodes"]

    write(tmp_path / "m.keras", with_config(good, change))
    with refused("cannot be loaded"):
        load_model(tmp_path / "m.keras")


@keras_3
def test_outputs_of_another_size(good, tmp_path):
    def change(config, layers):  # "side2" of the size of a map instead of the image's
        layers["side2"]["inbound_nodes"][0]["args"][0][1] = layers["side2"]["inbound_nodes"][0][
            "args"
        ][0][0]

    write(tmp_path / "m.keras", with_config(good, change))
    with refused("not an OSVOS network", "side2"):
        load_model(tmp_path / "m.keras")


# --- the archive ----------------------------------------------------------------------------------


def test_a_bomb_is_not_unpacked(good, tmp_path, monkeypatch):
    bomb = {**good, "config.json": b" " * 2**24 + good["config.json"]}
    path = write(tmp_path / "m.keras", bomb, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("unpacked"))
    with refused("config.json unpacks to", "the limit is 1048576"):
        load_model(path)


@pytest.mark.parametrize("name", ["../escaped.txt", "/etc/escaped", "assets/x"])
def test_members_that_are_none_of_ours(good, tmp_path, name):
    path = write(tmp_path / "m.keras", {**good, name: b"x"})
    with refused("it holds the members"):
        load_model(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(good, tmp_path):
    path = write(tmp_path / "m.keras", good)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("config.json", "{}")
    with refused("each once"):
        load_model(path)


# --- the weights ----------------------------------------------------------------------------------


def a_link_to_another_file(file):
    file["stolen"] = h5py.ExternalLink("/etc/passwd", "/")


def a_soft_link(file):
    file["again"] = h5py.SoftLink("/elsewhere")


def raw_bytes_of_another_file(file):
    file.create_dataset("stolen", (16,), "uint8", external=[("/etc/passwd", 0, 16)])


def a_view_of_another_file(file):
    layout = h5py.VirtualLayout((4,), "float32")
    layout[:] = h5py.VirtualSource("/elsewhere.h5", "x", (4,))
    file.create_virtual_dataset("stolen", layout)


def an_array_of_any_size(file):
    file.create_dataset("bomb", (2**40,), "float32", chunks=(2**20,), compression="gzip")


def an_array_that_packs_well(file):
    """A few KB that unpack to more than a network of this width has."""
    file.create_dataset("bomb", (2**23,), "float64", chunks=(2**20,), compression="gzip")


def an_array_of_objects(file):
    file.create_dataset("text", (4,), h5py.string_dtype())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (a_link_to_another_file, ["'stolen' are a link"]),
        (a_soft_link, ["'again' are a link"]),
        (raw_bytes_of_another_file, ["'stolen' are not a plain array"]),
        (a_view_of_another_file, ["'stolen' are not a plain array"]),
        (an_array_of_any_size, ["more than [0-9]+ numbers"]),
        (an_array_that_packs_well, ["more than [0-9]+ numbers"]),
        (an_array_of_objects, ["'text' are not a plain array"]),
    ],
)
def test_weights_that_are_refused(good, tmp_path, change, words):
    path = write(tmp_path / "m.keras", with_weights(good, change))
    with refused("m.keras is refused", *words):
        load_model(path)


def test_a_group_in_itself_ends(good, tmp_path):
    def change(file):
        group = file.create_group("round")
        group["and_round"] = group

    keras_file.check(write(tmp_path / "m.keras", with_weights(good, change)))


# --- anything -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_value_anywhere_in_the_config(good, tmp_path_factory, data):
    """Every place of the config with any other value is let pass or refused, without a fault."""
    config = json.loads(good["config.json"])
    fuzzing.spoil(data.draw, config)
    path = tmp_path_factory.mktemp("fuzz") / "m.keras"
    write(path, {**good, "config.json": json.dumps(config)})
    try:
        keras_file.check(path)
    except InputError as error:
        assert "\n" not in str(error)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_damaged_archives(good, tmp_path_factory, data):
    """Bytes of the archive changed or cut off: a message."""
    path = write(tmp_path_factory.mktemp("fuzz") / "m.keras", good)
    content = bytearray(path.read_bytes())
    directory = len(content) - 400  # where the archive's own structure lies
    for _ in range(data.draw(st.integers(1, 4))):
        first = data.draw(st.sampled_from([0, directory]))
        content[data.draw(st.integers(first, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(len(content) // 2, len(content))) :]
    path.write_bytes(content)
    try:
        keras_file.check(path)
    except InputError as error:
        assert "\n" not in str(error)


def test_weights_are_read_without_pickle(good, tmp_path):
    """The least that must hold: what was checked loads, to the same numbers."""
    path = write(tmp_path / "m.keras", good, zipfile.ZIP_DEFLATED)
    for array in load_model(path).get_weights():
        assert array.dtype == np.float32


def test_weights_that_are_no_numbers(good, tmp_path):
    def change(file):
        kernels = []
        file.visititems(lambda _, item: kernels.append(item) if hasattr(item, "size") else None)
        largest = max(kernels, key=lambda item: item.size)
        largest[(0,) * largest.ndim] = np.nan

    path = write(tmp_path / "m.keras", with_weights(good, change))
    with refused("not finite numbers"):
        load_model(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_that_are_packed_otherwise(good, tmp_path, compression):
    path = write(tmp_path / "m.keras", good, compression)
    with refused("packed in a way that Keras does not use"):
        load_model(path)


def test_a_member_that_unpacks_to_more_than_it_claims(good, tmp_path):
    """100 MB of blanks in 100 KB, said to be 1,000 bytes: no more than that is unpacked."""
    claimed, blanks = 1000, 10**8
    path = write(tmp_path / "m.keras", {**good, "config.json": b" " * blanks}, zipfile.ZIP_DEFLATED)
    content = path.read_bytes()
    assert content.count(struct.pack("<L", blanks)) == 2  # in both of its headers
    path.write_bytes(content.replace(struct.pack("<L", blanks), struct.pack("<L", claimed)))
    tracemalloc.start()
    try:
        with refused("damaged"):
            load_model(path)
        assert tracemalloc.get_traced_memory()[1] < blanks / 10
    finally:
        tracemalloc.stop()
