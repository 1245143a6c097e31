"""Weight files as other programs write them, by other means than the readers under test.

The layers' names and shapes are spelled out from the authors' network definitions, so that a slip
in the package's tables shows.
"""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# Ours, Caffe's, TensorFlow's (below osvos/), PyTorch's, shape (out, in, height, width).
TRUNK = [
    ("block1_conv1", "conv1_1", "conv1/conv1_1", "stages.0.0", (64, 3, 3, 3)),
    ("block1_conv2", "conv1_2", "conv1/conv1_2", "stages.0.2", (64, 64, 3, 3)),
    ("block2_conv1", "conv2_1", "conv2/conv2_1", "stages.1.1", (128, 64, 3, 3)),
    ("block2_conv2", "conv2_2", "conv2/conv2_2", "stages.1.3", (128, 128, 3, 3)),
    ("block3_conv1", "conv3_1", "conv3/conv3_1", "stages.2.1", (256, 128, 3, 3)),
    ("block3_conv2", "conv3_2", "conv3/conv3_2", "stages.2.3", (256, 256, 3, 3)),
    ("block3_conv3", "conv3_3", "conv3/conv3_3", "stages.2.5", (256, 256, 3, 3)),
    ("block4_conv1", "conv4_1", "conv4/conv4_1", "stages.3.1", (512, 256, 3, 3)),
    ("block4_conv2", "conv4_2", "conv4/conv4_2", "stages.3.3", (512, 512, 3, 3)),
    ("block4_conv3", "conv4_3", "conv4/conv4_3", "stages.3.5", (512, 512, 3, 3)),
    ("block5_conv1", "conv5_1", "conv5/conv5_1", "stages.4.1", (512, 512, 3, 3)),
    ("block5_conv2", "conv5_2", "conv5/conv5_2", "stages.4.3", (512, 512, 3, 3)),
    ("block5_conv3", "conv5_3", "conv5/conv5_3", "stages.4.5", (512, 512, 3, 3)),
]
HEADS = [
    ("prep_side2", "conv2_2_16", "conv2_2_16", "side_prep.0", (16, 128, 3, 3)),
    ("prep_side3", "conv3_3_16", "conv3_3_16", "side_prep.1", (16, 256, 3, 3)),
    ("prep_side4", "conv4_3_16", "conv4_3_16", "side_prep.2", (16, 512, 3, 3)),
    ("prep_side5", "conv5_3_16", "conv5_3_16", "side_prep.3", (16, 512, 3, 3)),
    ("score_side2", "score-dsn_2", "score-dsn_2", "score_dsn.0", (1, 16, 1, 1)),
    ("score_side3", "score-dsn_3", "score-dsn_3", "score_dsn.1", (1, 16, 1, 1)),
    ("score_side4", "score-dsn_4", "score-dsn_4", "score_dsn.2", (1, 16, 1, 1)),
    ("score_side5", "score-dsn_5", "score-dsn_5", "score_dsn.3", (1, 16, 1, 1)),
    ("fused", "new-score-weighting", "upscore-fuse", "fuse", (1, 64, 1, 1)),
]
LAYERS = TRUNK + HEADS
# Caffe's (contour network: no score-dsn layers), TensorFlow's, PyTorch's, stride, channels.
UPSAMPLERS = [
    ("upsample2_", "score-multi2-up", "upscale.0", 2, 16),
    ("upsample4_", "score-multi3-up", "upscale.1", 4, 16),
    ("upsample8_", "score-multi4-up", "upscale.2", 8, 16),
    ("upsample16_", "score-multi5-up", "upscale.3", 16, 16),
    ("upsample_2", "score-dsn_2-up", "upscale_.0", 2, 1),
    ("upsample_4", "score-dsn_3-up", "upscale_.1", 4, 1),
    ("upsample_8", "score-dsn_4-up", "upscale_.2", 8, 1),
    ("upsample_16", "score-dsn_5-up", "upscale_.3", 16, 1),
]
TORCHVISION = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]  # places of VGG16's convolutions


def random_arrays(layers=LAYERS, seed=0):
    """Kernels (out, in, height, width) and biases by our layer name; logits come out about one."""
    random = np.random.default_rng(seed)
    arrays = {}
    for ours, _, _, _, shape in layers:
        spread = np.sqrt(2 / np.prod(shape[1:]))
        if ours == "block1_conv1":
            spread /= 60  # colours come in 0..255
        kernel = random.normal(0, spread, shape).astype(np.float32)
        arrays[ours] = kernel, random.normal(0, 0.1, shape[0]).astype(np.float32)
    return arrays


def bilinear(stride, channels):
    """The authors' upsampling kernel (in, out, height, width)."""
    tent = np.array([1 - abs(i - stride + 0.5) / stride for i in range(2 * stride)])
    kernel = np.zeros((channels, channels, 2 * stride, 2 * stride), np.float32)
    for channel in range(channels):
        kernel[channel, channel] = np.outer(tent, tent)
    return kernel


def torch_state(arrays):
    """The state dict of the authors' PyTorch network."""
    state = {}
    for ours, _, _, name, _ in LAYERS:
        state[f"{name}.weight"], state[f"{name}.bias"] = arrays[ours]
    return state | {
        f"{name}.weight": bilinear(stride, channels) for _, _, name, stride, channels in UPSAMPLERS
    }


def tf_variables(arrays):
    """The variables of the authors' TensorFlow network (kernels height, width, in, out)."""
    variables = {}
    for ours, _, name, _, _ in LAYERS:
        kernel, bias = arrays[ours]
        variables[f"osvos/{name}/weights"] = kernel.transpose(2, 3, 1, 0)
        variables[f"osvos/{name}/biases"] = bias
    return variables | {
        f"osvos/{name}/weights": bilinear(stride, channels).transpose(2, 3, 1, 0)
        for _, name, _, stride, channels in UPSAMPLERS
    }


def caffe_layers(arrays, *, scores=True, contour=False):
    """The layers of the authors' Caffe network: name -> blobs."""
    suffix = "_contour" if contour else ""
    layers = {
        f"{name}{suffix}": list(arrays[ours])
        for ours, name, _, _, _ in LAYERS
        if scores or "dsn" not in name
    }
    for name, _, _, stride, channels in UPSAMPLERS:
        if scores or channels == 16:
            name = f"upsample{stride}_contour" if contour else name
            layers[name] = [bilinear(stride, channels), np.zeros(channels, np.float32)]
    return layers


def write_checkpoint(path, arrays):
    """A checkpoint as TensorFlow 1 left it: by a saver of graph variables."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, array in arrays.items():
            tf.compat.v1.get_variable(name, initializer=tf.constant(array), use_resource=False)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(path))


def write_v1_checkpoint(path, arrays):
    """A checkpoint of the first version, one file, as TF-Slim's are."""
    tf.raw_ops.Save(
        filename=str(path),
        tensor_names=list(arrays),
        data=[tf.constant(a) for a in arrays.values()],
    )


class _Storage:
    def __init__(self, key, array, kind):
        self.key, self.array, self.kind = key, array, kind


class _Tensor:
    """Pickles as `torch.Tensor` does."""

    def __init__(self, storage, array):
        self.storage, self.array = storage, array

    def __reduce__(self):
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        strides = tuple(stride // self.array.itemsize for stride in self.array.strides)
        place = (self.storage, 0, self.array.shape, strides)
        return rebuild, (*place, False, collections.OrderedDict())


def _pickle_torch(state, view):
    """Returns the pickled state dict, and its storages in order. `view`: more of a storage's id."""
    kinds = {"float32": "FloatStorage", "float16": "HalfStorage", "float64": "DoubleStorage"}

    def rebuild(*arguments):
        raise AssertionError("only named")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    made = {name: type(name, (), {"__module__": "torch"}) for name in kinds.values()}
    modules = {
        "torch": types.SimpleNamespace(**made),
        "torch._utils": types.SimpleNamespace(_rebuild_tensor_v2=rebuild),
    }
    storages, items = [], collections.OrderedDict()
    for number, (name, array) in enumerate(state.items()):
        array = np.asarray(array)
        storage = _Storage(str(number), array, made[kinds[array.dtype.name]])
        storages.append(storage)
        items[name] = _Tensor(storage, array)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, _Storage):
                return ("storage", value.kind, value.key, "cuda:0", value.array.size, *view)
            return None

    out = io.BytesIO()
    real = {name: sys.modules.get(name) for name in modules}
    try:
        sys.modules.update(modules)
        # A real state dict has an attribute, which the pickle sets in a second step.
        items._metadata = collections.OrderedDict(version=1)
        Pickler(out, protocol=2).dump(items)
    finally:
        for name, module in real.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module
    return out.getvalue(), storages


def _bytes(storage):
    """A storage's elements in their order in memory, little-endian."""
    array = storage.array
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    return array.astype(array.dtype.newbyteorder("<")).tobytes(order)


def write_torch_zip(path, state, compression=zipfile.ZIP_STORED):
    """`torch.save` since 1.6: a zip archive."""
    data, storages = _pickle_torch(state, ())
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", _bytes(storage))
        archive.writestr("archive/version", "3\n")


def write_torch_legacy(path, state):
    """`torch.save` before 1.6: pickles and raw numbers."""
    data, storages = _pickle_torch(state, (None,))
    sizes = {"short": 2, "int": 4, "long": 4}
    with open(path, "wb") as file:
        for value in (
            0x1950A86A20F9469CFC6C,
            1001,
            {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes},
        ):
            pickle.dump(value, file, protocol=2)
        file.write(data)
        pickle.dump([storage.key for storage in storages], file, protocol=2)
        for storage in storages:
            file.write(struct.pack("<q", storage.array.size) + _bytes(storage))


def _caffe_messages():
    """The part of Caffe's protobuf description that models are made of, as message classes."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe_in_tests.proto", package="caffe")
    kinds = descriptor_pb2.FieldDescriptorProto
    repeated, optional = kinds.LABEL_REPEATED, kinds.LABEL_OPTIONAL

    def message(name, *fields):
        described = file.message_type.add(name=name)
        for field, number, kind, label, packed in fields:
            added = described.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                added.type = kind
            if packed:
                added.options.packed = True

    message("BlobShape", ("dim", 1, kinds.TYPE_INT64, repeated, True))
    for name, packed in (("BlobProto", True), ("UnpackedBlobProto", False)):
        message(
            name,
            *(
                (axis, number, kinds.TYPE_INT32, optional, False)
                for number, axis in enumerate(("num", "channels", "height", "width"), start=1)
            ),
            ("data", 5, kinds.TYPE_FLOAT, repeated, packed),
            ("diff", 6, kinds.TYPE_FLOAT, repeated, packed),
            ("shape", 7, "BlobShape", optional, False),
            ("double_data", 8, kinds.TYPE_DOUBLE, repeated, packed),
        )
    for layer, name_field, blobs_field in (
        ("LayerParameter", 1, 7),
        ("V1LayerParameter", 4, 6),
    ):
        message(
            layer,
            ("name", name_field, kinds.TYPE_STRING, optional, False),
            ("top", 3 if name_field == 4 else 4, kinds.TYPE_STRING, repeated, False),
            ("blobs", blobs_field, kinds.TYPE_BYTES, repeated, False),
        )
    message(
        "NetParameter",
        ("name", 1, kinds.TYPE_STRING, optional, False),
        ("layers", 2, "V1LayerParameter", repeated, False),
        ("layer", 100, "LayerParameter", repeated, False),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        described.name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"caffe.{described.name}")
        )
        for described in file.message_type
    }


_CAFFE = _caffe_messages()


def write_caffe(path, layers, *, old=False, packed=True, double=False, shaped=True):
    """A Caffe model, by the real protobuf library.

    Args:
        path: the file.
        layers: name -> blobs; others without blobs are put among them.
        old: write the V1 `layers` instead of `layer`.
        packed: numbers as one run of bytes, as Caffe does.
        double: numbers as `double_data`.
        shaped: with a BlobShape; else with the legacy four numbers.
    """
    net = _CAFFE["NetParameter"](name="VGG_in_tests")
    into = net.layers if old else net.layer
    into.add(name="data", top=["data"])
    for name, arrays in layers.items():
        layer = into.add(name=name, top=[name])
        for array in arrays:
            blob = _CAFFE["BlobProto" if packed else "UnpackedBlobProto"]()
            (blob.double_data if double else blob.data).extend(array.ravel().tolist())
            if shaped:
                blob.shape.dim.extend(array.shape)
            else:
                shape = (1,) * (4 - array.ndim) + array.shape
                blob.num, blob.channels, blob.height, blob.width = shape
            layer.blobs.append(blob.SerializeToString())
        into.add(name=f"{name}_relu")
    path.write_bytes(net.SerializeToString())
