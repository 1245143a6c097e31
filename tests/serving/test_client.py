"""The client: the same answers from a folder, gRPC and REST, and what it does when there are none.

The servers here are stubs that run a real export and fail on demand; `test_query.py` has the
embedded server.
"""

import base64
import collections
import concurrent.futures
import contextlib
import http.server
import json
import socket
import sys
import threading
import time

import grpc
import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from osvos_tf.errors import InputError
from osvos_tf.network import model, saved_model
from osvos_tf.parallel import parallel_map
from osvos_tf.segmentation import inference
from osvos_tf.serving import client, client_base
from osvos_tf.serving.client_base import ServingError

WAYS = {  # how to ask for masks: kind of server, then arguments of `connect`
    "folder": ("folder", {}),
    "grpc": ("grpc", {}),
    "grpc encoded": ("grpc", {"encoded": True}),
    "rest": ("rest", {}),
    "rest inputs": ("rest", {"form": "inputs"}),
    "rest text": ("rest", {"encoded": False}),
    "rest text inputs": ("rest", {"encoded": False, "form": "inputs"}),
}
SERVERS = ("grpc", "rest")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """`saved_models/` with a two-stream model, dog, whose versions differ in the threshold."""
    root = tmp_path_factory.mktemp("saved_models")
    tiny = {"width_multiplier": 1 / 16, "start": "scratch"}
    network = model.build_foreground(**tiny, seed=1)
    contour = model.build_contour(**tiny, seed=2)
    for threshold in (0.99, 0.5):
        saved_model.export_saved_model(network, root / "dog", contour=contour, threshold=threshold)
    return root


@pytest.fixture(scope="session")
def truth(folder):
    """The outputs of the newest version, {name: array} from frames."""
    loaded = tf.saved_model.load(str(folder / "dog" / "2"))

    def run(frames):
        outputs = loaded.signatures["serving_default"](images=tf.constant(frames))
        return {name: value.numpy() for name, value in outputs.items()}

    return run


@pytest.fixture(scope="session")
def backend(folder):
    return Backend(folder / "dog" / "2")


@pytest.fixture(scope="session")
def addresses(backend, folder):
    """Where each kind of server is."""
    with grpc_server(backend) as grpc_address, rest_server(backend) as rest_address:
        yield {"folder": str(folder), "grpc": grpc_address, "rest": rest_address}


@pytest.fixture(autouse=True)
def well_behaved(backend):
    """The servers forget what an earlier test told them, and pauses between tries are short."""
    backend.reset()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client_base, "_FIRST_WAIT", 0.01)
        yield


class Refusal(Exception):
    """A status to answer with."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = grpc.StatusCode[code]


class Backend:
    """What both stubs put in front of: a SavedModel that refuses, is slow, and keeps a record."""

    def __init__(self, path):
        self._model = tf.saved_model.load(str(path))
        self.reset()

    def reset(self):
        self.refusals = collections.deque()  # (code, message), one for each of the next requests
        self.seconds = 0.0
        self.most = None  # frames in one request
        self.batches = []  # what was asked for: (signature, frames)
        self.versions = []
        self.lost = ()  # outputs that the signatures do not list

    def signatures(self, spec_name, version):
        self.versions.append(version)
        if spec_name != "dog" or version not in (None, 1, 2):
            raise Refusal("NOT_FOUND", "Servable not found for request")
        return {
            name: (
                list(function.structured_input_signature[1]),
                [output for output in function.structured_outputs if output not in self.lost],
            )
            for name, function in self._model.signatures.items()
        }

    def run(self, spec_name, version, signature, inputs):
        self.signatures(spec_name, version)
        ((name, value),) = inputs.items()
        self.batches.append((signature, len(value)))
        time.sleep(self.seconds)
        if self.refusals:
            raise Refusal(*self.refusals.popleft())
        if self.most is not None and len(value) > self.most:
            raise Refusal("RESOURCE_EXHAUSTED", f"{len(value)} frames do not fit")
        outputs = self._model.signatures[signature](**{name: tf.constant(value)})
        return {key: tensor.numpy() for key, tensor in outputs.items()}


class GrpcStub(prediction_service_pb2_grpc.PredictionServiceServicer):
    """TF Serving's two calls, with its replies: numbers in lists, only the outputs asked for."""

    def __init__(self, backend):
        self._backend = backend

    def GetModelMetadata(self, request, context):
        found = self._try(
            context, self._backend.signatures, request.model_spec.name, version_of(request)
        )
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, (inputs, outputs) in found.items():
            for key in inputs:
                signatures.signature_def[name].inputs[key].name = key
            for key in outputs:
                signatures.signature_def[name].outputs[key].name = key
        signatures.signature_def["__saved_model_init_op"].outputs["op"].name = "NoOp"
        reply = get_model_metadata_pb2.GetModelMetadataResponse()
        reply.metadata["signature_def"].Pack(signatures)
        return reply

    def Predict(self, request, context):
        outputs = self._try(
            context,
            self._backend.run,
            request.model_spec.name,
            version_of(request),
            request.model_spec.signature_name,
            {name: tf.make_ndarray(value) for name, value in request.inputs.items()},
        )
        reply = predict_pb2.PredictResponse()
        for name in request.output_filter:
            reply.outputs[name].CopyFrom(as_proto_field(outputs[name]))
        return reply

    def _try(self, context, function, *arguments):
        try:
            return function(*arguments)
        except Refusal as refusal:
            context.abort(refusal.code, str(refusal))


def version_of(request):
    spec = request.model_spec
    return spec.version.value if spec.HasField("version") else None


def as_proto_field(array):
    """A TensorProto as TF Serving writes it, without `tensor_content`."""
    proto = tensor_pb2.TensorProto(dtype=tf.as_dtype(array.dtype).as_datatype_enum)
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    values = {"f": proto.float_val, "u": proto.int_val, "O": proto.string_val}[array.dtype.kind]
    values.extend(array.ravel().tolist())
    return proto


@contextlib.contextmanager
def grpc_server(backend, port=0, options=()):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(16), options=list(options))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(GrpcStub(backend), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


STATUSES = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
}


class RestStub(http.server.BaseHTTPRequestHandler):
    """TF Serving's JSON in both forms."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name, version, rest = self._path()
        assert rest == "/metadata"
        self._answer(lambda: self._metadata(name, version))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name, version, rest = self._path()
        assert rest == ":predict"
        self._answer(lambda: self._predict(name, version, body))

    def log_message(self, *arguments):
        pass

    def _path(self):
        path = self.path.removeprefix("/v1/models/")
        name = path.split("/")[0].split(":")[0]
        path = path.removeprefix(name)
        if not path.startswith("/versions/"):
            return name, None, path
        version = path.removeprefix("/versions/").split("/")[0].split(":")[0]
        return name, int(version), path.removeprefix(f"/versions/{version}")

    def _metadata(self, name, version):
        signatures = {
            key: {"inputs": {i: {} for i in ins}, "outputs": {o: {} for o in outs}}
            for key, (ins, outs) in self.server.backend.signatures(name, version).items()
        }
        return {"metadata": {"signature_def": {"signature_def": signatures}}}

    def _predict(self, name, version, body):
        if "instances" in body:
            (key,) = body["instances"][0]
            values = [row[key] for row in body["instances"]]
        else:
            ((key, values),) = body["inputs"].items()
        if key == "image_bytes":
            values = [base64.b64decode(value["b64"]) for value in values]
        else:
            values = np.array(values, np.uint8)
        outputs = self.server.backend.run(name, version, body["signature_name"], {key: values})
        texts = {
            key: [{"b64": base64.b64encode(png).decode()} for png in value]
            if key.endswith("_bytes")
            else value.tolist()
            for key, value in outputs.items()
        }
        if "inputs" in body:
            return {"outputs": texts if len(texts) > 1 else next(iter(texts.values()))}
        rows = [dict(zip(texts, row, strict=True)) for row in zip(*texts.values(), strict=True)]
        return {"predictions": rows if len(texts) > 1 else [next(iter(r.values())) for r in rows]}

    def _answer(self, function):
        try:
            status, content = 200, function()
        except Refusal as refusal:
            status, content = STATUSES[refusal.code.name], {"error": str(refusal)}
        self._write(status, json.dumps(content).encode())

    def _write(self, status, content):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def rest_server(backend, handler=RestStub, port=0):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads, server.backend = True, backend
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def paint(count, height=40, width=53, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


# --- the same answers everywhere ------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_masks(addresses, truth, way):
    kind, arguments = WAYS[way]
    frames = paint(3)
    with client.connect(addresses[kind], "dog", **arguments) as predict:
        masks = predict(frames)
    assert masks.dtype == np.uint8 and 0 < masks.mean() < 1
    np.testing.assert_array_equal(masks, truth(frames)["masks"])


@pytest.mark.parametrize("output", ["probabilities", "contours"])
@pytest.mark.parametrize("way", ["folder", "grpc", "rest", "rest inputs"])
def test_probabilities_and_contours(addresses, truth, way, output):
    kind, arguments = WAYS[way]
    frames = paint(2, 17, 24)
    with client.connect(addresses[kind], "dog", output=output, **arguments) as predict:
        values = predict(frames)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, truth(frames)[output], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["folder", *SERVERS])
def test_no_frames(addresses, backend, kind):
    with client.connect(addresses[kind], "dog") as predict:
        masks = predict(paint(0))
    assert (masks.shape, masks.dtype) == ((0, 40, 53, 1), np.uint8)
    assert not backend.batches


@pytest.mark.parametrize("way", ["folder", "grpc", "rest"])
def test_fits_predict_frames(addresses, truth, way):
    frames = paint(5, 20, 30)
    named = [(f"{index:05d}", frame) for index, frame in enumerate(frames)]
    with client.connect(addresses[way], "dog", output="probabilities") as predict:
        found = list(inference.predict_frames(named, predict, batch_size=2))
    assert [name for name, _, _ in found] == [name for name, _ in named]
    for (_, _, probability), expected in zip(found, truth(frames)["probabilities"], strict=True):
        np.testing.assert_allclose(probability, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", SERVERS)
def test_masks_travel_alone(addresses, backend, kind):
    """gRPC asks for one output; REST has no such filter, and takes the signature of one."""
    with client.connect(addresses[kind], "dog") as predict:
        predict(paint(2))
    assert backend.batches == [("serving_default" if kind == "grpc" else "encoded", 2)]


@pytest.mark.parametrize("kind", SERVERS)
def test_a_version_of_a_server(addresses, backend, kind):
    with client.connect(addresses[kind], "dog", version=1) as predict:
        predict(paint(1))
    assert set(backend.versions) == {1}
    with pytest.raises(InputError, match="version 7 of model 'dog'"):
        client.connect(addresses[kind], "dog", version=7)


def test_folders_and_versions(folder):
    frames = paint(1)
    places = {
        "1": (folder / "dog" / "1", None, None),
        "2": (folder / "dog" / "2", None, None),
        "newest": (folder, "dog", None),
        "newest of a model": (str(folder / "dog"), None, None),
        "chosen": (folder, "dog", 1),
    }
    masks = {}
    for name, (target, called, version) in places.items():
        with client.connect(target, called, version=version) as predict:
            masks[name] = predict(frames)
    assert masks["1"].mean() < masks["2"].mean()
    np.testing.assert_array_equal(masks["newest"], masks["2"])
    np.testing.assert_array_equal(masks["newest of a model"], masks["2"])
    np.testing.assert_array_equal(masks["chosen"], masks["1"])


# --- large batches --------------------------------------------------------------------------------


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(
    count=st.integers(1, 14),
    limit=st.integers(1, 20_000),
    kind=st.sampled_from(SERVERS),
    most=st.one_of(st.none(), st.integers(1, 14)),
)
def test_batches_are_split_in_order(addresses, backend, truth, count, limit, kind, most):
    """By our own limit beforehand, and by the server's once it refuses."""
    backend.reset()
    backend.most = most
    frames = paint(count, 20, 30, seed=count)
    weight = 20 * 30 * (3 if kind == "grpc" else 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client_base, "MAX_REQUEST_BYTES", limit)
        with client.connect(addresses[kind], "dog") as predict:
            np.testing.assert_array_equal(predict(frames), truth(frames)["masks"])
    sizes = [frames for _, frames in backend.batches]
    assert max(sizes) <= max(1, limit // weight)
    assert sum(size for size in sizes if most is None or size <= most) == count


@pytest.mark.parametrize("kind", SERVERS)
def test_the_servers_limit_is_remembered(addresses, backend, kind):
    backend.most = 3
    with client.connect(addresses[kind], "dog") as predict:
        predict(paint(8))
        predict(paint(8))
    assert [frames for _, frames in backend.batches] == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]


def test_messages_may_be_large_on_the_way_back_and_small_on_the_way_there(backend, truth):
    """gRPC's own limit is 4 MB: clients are born with it, and so are most servers."""
    frames = paint(4, 480, 854)
    four_megabytes = [("grpc.max_receive_message_length", 4 * 2**20)]
    with (
        grpc_server(backend, options=four_megabytes) as address,
        client.connect(address, "dog", output="probabilities", deadline=300) as predict,
    ):
        found = predict(frames)
    np.testing.assert_allclose(found, truth(frames)["probabilities"], rtol=0, atol=1e-6)
    assert [count for _, count in backend.batches] == [2, 2]


@pytest.mark.parametrize("kind", SERVERS)
def test_a_frame_that_does_not_fit(addresses, backend, kind):
    backend.most = 0
    with (
        client.connect(addresses[kind], "dog") as predict,
        pytest.raises(ServingError, match="RESOURCE_EXHAUSTED: 1 frames do not fit"),
    ):
        predict(paint(2))


# --- tries and deadlines --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SERVERS)
def test_tries_again_while_unavailable(addresses, backend, truth, kind):
    frames = paint(2)
    with client.connect(addresses[kind], "dog") as predict:
        backend.refusals.extend([("UNAVAILABLE", "loading")] * 3)
        np.testing.assert_array_equal(predict(frames), truth(frames)["masks"])
    assert len(backend.batches) == 4


@pytest.mark.parametrize("kind", SERVERS)
def test_gives_up_in_the_end(addresses, backend, kind):
    with client.connect(addresses[kind], "dog", tries=3) as predict:
        backend.refusals.extend([("UNAVAILABLE", "loading")] * 9)
        with pytest.raises(ServingError, match=r"No answer for model 'dog'.*loading"):
            predict(paint(1))
    assert len(backend.batches) == 3


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("code", ["INTERNAL", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"])
def test_tries_nothing_else_again(addresses, backend, kind, code):
    with client.connect(addresses[kind], "dog") as predict:
        backend.refusals.append((code, "for a reason"))
        with pytest.raises(ServingError, match="for a reason"):
            predict(paint(1))
    assert len(backend.batches) == 1


@pytest.mark.parametrize("kind", SERVERS)
def test_deadline(addresses, backend, kind):
    with client.connect(addresses[kind], "dog", deadline=1.5) as predict:
        backend.seconds = 3.0
        with pytest.raises(ServingError, match=r"deadline of 1\.5 s"):
            predict(paint(1))


@pytest.mark.parametrize("kind", SERVERS)
def test_deadline_ends_the_tries(addresses, backend, kind, monkeypatch):
    with client.connect(addresses[kind], "dog", deadline=1.5, tries=1000) as predict:
        monkeypatch.setattr(client_base, "_FIRST_WAIT", 0.05)
        backend.refusals.extend([("UNAVAILABLE", "loading")] * 1000)
        started = time.monotonic()
        with pytest.raises(ServingError, match="loading"):
            predict(paint(1))
    assert time.monotonic() - started < 10
    assert 1 < len(backend.batches) < 12


@pytest.mark.parametrize("kind", SERVERS)
def test_waits_for_a_server_that_is_starting(backend, kind, monkeypatch):
    monkeypatch.setattr(client_base, "_FIRST_WAIT", 0.2)
    port = free_port()
    start = {"grpc": grpc_server, "rest": rest_server}[kind]
    address = f"127.0.0.1:{port}" if kind == "grpc" else f"http://127.0.0.1:{port}"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        connection = pool.submit(client.connect, address, "dog")
        time.sleep(0.5)
        with start(backend, port=port), connection.result(timeout=60) as predict:
            assert predict(paint(1)).shape == (1, 40, 53, 1)


@pytest.mark.parametrize("kind", SERVERS)
def test_no_server(kind):
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ServingError, match="Is a server running there"):
        client.connect(address if kind == "grpc" else f"http://{address}", "dog", tries=2)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SERVERS)
def test_a_model_that_the_server_has_not(addresses, kind):
    with pytest.raises(InputError, match=r"No model 'cat' on"):
        client.connect(addresses[kind], "cat")
    with pytest.raises(InputError, match="Wanted the model's name"):
        client.connect(addresses[kind])


@pytest.mark.parametrize("kind", SERVERS)
def test_another_kind_of_model(addresses, backend, kind):
    backend.lost = ("masks", "mask_bytes", "contours")
    with pytest.raises(InputError, match=r"wanted the signature .* found encoded: image_bytes -> "):
        client.connect(addresses[kind], "dog")
    with pytest.raises(InputError, match=r"with contours where it is given a contour network"):
        client.connect(addresses[kind], "dog", output="contours")


def test_a_web_page_is_no_server(backend):
    class Page(RestStub):
        def do_GET(self):
            self._write(200, b"<html>It works!</html>")

    class Json(RestStub):
        def do_GET(self):
            self._write(200, b'["another", "service"]')

    for handler, message in ((Page, "It works"), (Json, "not as TensorFlow Serving does")):
        with (
            rest_server(backend, handler) as address,
            pytest.raises((ServingError, InputError), match=message),
        ):
            client.connect(address, "dog")


def test_ports_mixed_up(addresses):
    """A REST port asked by gRPC, and the other way round."""
    rest, grpc_address = addresses["rest"], addresses["grpc"]
    for target in (rest.removeprefix("http://"), f"http://{grpc_address}"):
        with pytest.raises(ServingError, match="8500 is gRPC"):
            client.connect(target, "dog", tries=2)


@pytest.mark.parametrize("target", ["saved_models/absent", "localhost", "ftp://host:1", ""])
def test_targets_that_are_none(target):
    with pytest.raises(InputError, match="Wanted a server"):
        client.connect(target, "dog")


def test_folders_without_a_model(folder, tmp_path):
    with pytest.raises(InputError, match=r"Models in this folder: dog\."):
        client.connect(folder)
    with pytest.raises(InputError, match="No SavedModel in"):
        client.connect(folder, "cat")
    with pytest.raises(InputError, match="has no version 3, but 1, 2"):
        client.connect(folder, "dog", version=3)
    (tmp_path / "1").mkdir()
    with pytest.raises(InputError, match="cannot be loaded"):
        client.connect(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": "labels"}, "output must be one of"),
        ({"form": "rows"}, "form must be one of"),
        ({"output": "probabilities", "encoded": True}, "encoded replies are masks"),
    ],
)
def test_arguments_are_checked(addresses, arguments, message):
    with pytest.raises(ValueError, match=message):
        client.connect(addresses["rest"], "dog", **arguments)


@pytest.mark.parametrize(
    "frames",
    [paint(1)[0], paint(1)[..., :2], paint(1).astype(np.float32), np.zeros([0, 3], np.uint8)],
)
def test_frames_are_checked(addresses, frames):
    with (
        client.connect(addresses["rest"], "dog") as predict,
        pytest.raises(ValueError, match="frames must be uint8 RGB"),
    ):
        predict(frames)


@pytest.mark.parametrize(("kind", "package"), [("grpc", "grpc"), ("rest", "requests")])
def test_says_which_extra_is_missing(addresses, monkeypatch, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package}.*: pip install .*grpcio .*requests$"):
        client.connect(addresses[kind], "dog")


# --- many at a time -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SERVERS)
def test_threads_share_a_connection(addresses, truth, kind):
    batches = [paint(2, 24, 30, seed=seed) for seed in range(12)]
    with client.connect(addresses[kind], "dog") as predict:
        results = list(parallel_map(predict, batches, workers=6))
    for frames, masks in zip(batches, results, strict=True):
        np.testing.assert_array_equal(masks, truth(frames)["masks"])
