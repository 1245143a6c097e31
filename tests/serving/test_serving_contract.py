"""What every server of our exports answers: TF Serving and the embedded one, by one file of tests.

    python -m pytest tests/test_serving_contract.py             # the embedded server, on loopback
    OSVOS_SERVER=host:8500 python -m pytest tests/test_serving_contract.py       # that server

`OSVOS_SERVER` is the gRPC address; REST is expected at the port after it, as TF Serving has it,
unless `OSVOS_REST` names another address. The server must have a model from export_saved_model,
called `specialist` or what `OSVOS_MODEL` says. `OSVOS_BASE_PATH` names the model's folder if it can
be written to from here; the swap of versions is tested then.
"""

import base64
import concurrent.futures
import contextlib
import io
import itertools
import json
import os
import pathlib
import shutil
import socket
import threading
import types

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from support import toy_model

SECONDS = 120
HEIGHT, WIDTH = 48, 80
OK, INVALID, NOT_FOUND = (
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
)
# TF Serving says so over gRPC; over REST it is a 400.
NO_SIGNATURE = {grpc.StatusCode.FAILED_PRECONDITION, INVALID}
# A server may have limits that another one has not. It says so, and lives on.
LIMITED = {INVALID, grpc.StatusCode.RESOURCE_EXHAUSTED}
LIMITED_HTTP = {400, 413, 429, 503}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Where the server is: `grpc`, `rest`, `model`, `base_path` (None if out of reach)."""
    if "OSVOS_SERVER" in os.environ:
        host, _, port = os.environ["OSVOS_SERVER"].rpartition(":")
        yield types.SimpleNamespace(
            grpc=f"{host}:{port}",
            rest=os.environ.get("OSVOS_REST", f"{host}:{int(port) + 1}"),
            model=os.environ.get("OSVOS_MODEL", "specialist"),
            base_path=os.environ.get("OSVOS_BASE_PATH"),
        )
        return
    from osvos_tf.network import model, saved_model
    from osvos_tf.serving import server as model_server

    base_path = tmp_path_factory.mktemp("saved_models") / "specialist"
    network = model.build_foreground(width_multiplier=1 / 16, start="scratch", seed=0)
    saved_model.export_saved_model(network, base_path, threshold=0.5)
    with model_server.ModelServer({"specialist": base_path}, poll_seconds=0.1) as embedded:
        yield types.SimpleNamespace(
            grpc=f"127.0.0.1:{embedded.grpc_port}",
            rest=f"127.0.0.1:{embedded.rest_port}",
            model="specialist",
            base_path=base_path,
        )


class Client:
    """Speaks both protocols, and leaves the judgement to the tests."""

    def __init__(self, server):
        self.name, self._server = server.model, server
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(server.grpc, options=options)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._model = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._session = requests.Session()

    def close(self):
        self._session.close()
        self._channel.close()

    def call(self, signature="", wanted=(), *, model=None, version=None, **inputs):
        """Starts a gRPC Predict; returns its future."""
        request = predict_pb2.PredictRequest(output_filter=wanted)
        self._fill(request.model_spec, model, version)
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            dtype = tf.string if name == "image_bytes" and not len(value) else None
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value, dtype))
        return self.send(request)

    def send(self, request):
        """Starts the call that goes with a request; returns its future."""
        method = {
            classification_pb2.ClassificationRequest: self._prediction.Classify,
            regression_pb2.RegressionRequest: self._prediction.Regress,
            inference_pb2.MultiInferenceRequest: self._prediction.MultiInference,
            predict_pb2.PredictRequest: self._prediction.Predict,
            get_model_metadata_pb2.GetModelMetadataRequest: self._prediction.GetModelMetadata,
            get_model_status_pb2.GetModelStatusRequest: self._model.GetModelStatus,
        }[type(request)]
        return method.future(request, timeout=SECONDS)

    def status(self, model=None, version=None):
        request = get_model_status_pb2.GetModelStatusRequest()
        self._fill(request.model_spec, model, version)
        return self.send(request)

    def metadata(self, model=None, version=None, fields=("signature_def",)):
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
        self._fill(request.model_spec, model, version)
        return self.send(request)

    def url(self, suffix="", model=None):
        return f"http://{self._server.rest}/v1/models/{model or self.name}{suffix}"

    def get(self, suffix="", model=None):
        return self._session.get(self.url(suffix, model), timeout=SECONDS)

    def post(self, document=None, *, body=None, suffix=":predict", model=None):
        body = json.dumps(document) if body is None else body
        return self._session.post(self.url(suffix, model), data=body, timeout=SECONDS)

    def _fill(self, spec, model, version):
        spec.name = model or self.name
        if version is not None:
            spec.version.value = version


@pytest.fixture
def client(server):
    """A `Client`; the server must answer as before when the test is over."""
    client = Client(server)
    yield client
    assert client.call(images=frames(1)).code() is OK
    client.close()


def frames(count, height=HEIGHT, width=WIDTH):
    """Returns frames with something in them, uint8 [count, height, width, 3]."""
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), np.uint8)


def encode(frame, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(frame).save(file, kind)
    return file.getvalue()


def decode(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


def arrays(response):
    return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}


def assert_refused(answer, statuses=(400,)):
    """The answer is TF Serving's error body."""
    assert answer.status_code in statuses, answer.text[:500]
    assert list(answer.json()) == ["error"] and answer.json()["error"]


def current_version(client):
    states = client.status().result().model_version_status
    return max(s.version for s in states if s.state == s.AVAILABLE)


# Status and metadata


def test_status_by_grpc(client):
    version = current_version(client)
    (entry,) = client.status(version=version).result().model_version_status
    assert (entry.version, entry.state) == (version, entry.AVAILABLE)
    assert entry.status.error_code == 0 and not entry.status.error_message


def test_status_by_rest(client):
    version = current_version(client)
    expected = {
        "version": str(version),
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    answer = client.get(f"/versions/{version}")
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json() == {"model_version_status": [expected]}
    assert expected in client.get().json()["model_version_status"]


def test_metadata_by_grpc(client):
    version = current_version(client)
    for asked in (None, version):
        response = client.metadata(version=asked).result()
        assert (response.model_spec.name, response.model_spec.version.value) == (
            client.name,
            version,
        )
        signatures = get_model_metadata_pb2.SignatureDefMap()
        assert response.metadata["signature_def"].Unpack(signatures)
        images = signatures.signature_def["serving_default"].inputs["images"]
        assert images.dtype == tf.uint8.as_datatype_enum
        assert [dim.size for dim in images.tensor_shape.dim] == [-1, -1, -1, 3]
    for fields in ((), ("else",)):
        assert client.metadata(fields=fields).code() is INVALID


def test_metadata_by_rest(client):
    version = current_version(client)
    for suffix in ("/metadata", f"/versions/{version}/metadata"):
        document = client.get(suffix).json()
        assert document["model_spec"] == {
            "name": client.name,
            "signature_name": "",
            "version": str(version),
        }
        signatures = document["metadata"]["signature_def"]["signature_def"]
        default, encoded = signatures["serving_default"], signatures["encoded"]
        assert default["inputs"]["images"]["dtype"] == "DT_UINT8"
        assert default["inputs"]["images"]["tensor_shape"]["dim"][3] == {"size": "3", "name": ""}
        assert default["outputs"]["probabilities"]["dtype"] == "DT_FLOAT"
        assert default["outputs"]["masks"]["dtype"] == "DT_UINT8"
        assert encoded["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
        assert encoded["outputs"]["mask_bytes"]["dtype"] == "DT_STRING"
        assert default["method_name"] == "tensorflow/serving/predict"


# Both signatures over both protocols


@pytest.mark.parametrize("shape", [(1, HEIGHT, WIDTH), (3, 33, 57), (2, 1, 1)])
def test_frames_by_grpc(client, shape):
    response = client.call(images=frames(*shape)).result()
    outputs = arrays(response)
    assert {"probabilities", "masks"} <= set(outputs)
    probabilities, masks = outputs["probabilities"], outputs["masks"]
    assert (probabilities.dtype, probabilities.shape) == (np.float32, (*shape, 1))
    assert (masks.dtype, masks.shape) == (np.uint8, (*shape, 1))
    assert 0 <= probabilities.min() <= probabilities.max() <= 1
    assert set(np.unique(masks)) <= {0, 1}
    if masks.any() and not masks.all():
        assert probabilities[masks == 1].min() > probabilities[masks == 0].max()
    assert response.model_spec.name == client.name
    assert response.model_spec.signature_name == "serving_default"
    assert response.model_spec.version.value == current_version(client)


def test_values_are_in_typed_fields(client):
    """As much public code reads them; of whatever size."""
    outputs = client.call(images=frames(2)).result().outputs
    count = 2 * HEIGHT * WIDTH
    probabilities, masks = outputs["probabilities"], outputs["masks"]
    assert len(probabilities.float_val) == len(masks.int_val) == count
    assert not probabilities.tensor_content and not masks.tensor_content
    np.testing.assert_array_equal(
        np.float32(probabilities.float_val), tf.make_ndarray(probabilities).ravel()
    )
    assert list(masks.int_val) == tf.make_ndarray(masks).ravel().tolist()
    encoded = client.call("encoded", image_bytes=[encode(frames(1)[0])]).result()
    assert encoded.outputs["mask_bytes"].string_val[0].startswith(b"\x89PNG")


def test_only_the_outputs_asked_for(client):
    assert set(arrays(client.call(wanted=["masks"], images=frames(1)).result())) == {"masks"}
    assert client.call(wanted=["mask"], images=frames(1)).code() is INVALID


def test_a_version_asked_for(client):
    version = current_version(client)
    response = client.call(version=version, images=frames(1)).result()
    assert response.model_spec.version.value == version
    answer = client.post({"instances": frames(1).tolist()}, suffix=f"/versions/{version}:predict")
    assert answer.status_code == 200


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_encoded_frames(client, kind):
    images = [encode(frame, kind) for frame in frames(2)]
    masks = arrays(client.call("encoded", image_bytes=images).result())["mask_bytes"]
    expected = arrays(client.call(images=np.stack([decode(i) for i in images])).result())["masks"]
    for data, mask in zip(masks, expected, strict=True):
        assert data.startswith(b"\x89PNG")
        assert np.mean(decode(data) == mask[..., 0] * 255) > 0.999
    by_row = client.post({"signature_name": "encoded", "instances": [b64(i) for i in images]})
    assert by_row.json() == {"predictions": [b64(data) for data in masks]}
    named = [{"image_bytes": b64(i)} for i in images]
    answer = client.post({"signature_name": "encoded", "instances": named})
    assert answer.json() == by_row.json()
    for inputs in ([b64(i) for i in images], {"image_bytes": [b64(i) for i in images]}):
        answer = client.post({"signature_name": "encoded", "inputs": inputs})
        assert answer.json() == {"outputs": [b64(data) for data in masks]}


def test_frames_by_rest(client):
    images = frames(2, 20, 30)
    expected = arrays(client.call(images=images).result())
    by_row = client.post({"instances": images.tolist()}).json()
    by_column = client.post({"inputs": images.tolist()}).json()
    named = client.post(
        {"signature_name": "serving_default", "inputs": {"images": images.tolist()}}
    )
    assert by_column == named.json()
    assert list(by_row) == ["predictions"] and list(by_column) == ["outputs"]
    for name, array in expected.items():
        for found in ([row[name] for row in by_row["predictions"]], by_column["outputs"][name]):
            np.testing.assert_allclose(np.array(found, array.dtype), array, atol=1e-5)


# Requests that cannot succeed


def test_an_unknown_signature(client):
    assert client.call("no_such", images=frames(1)).code() in NO_SIGNATURE
    answer = client.post({"signature_name": "no_such", "instances": frames(1).tolist()})
    assert_refused(answer)
    assert "no_such" in answer.text


def test_unknown_models_and_versions(client):
    for where, name in (({"model": "stranger"}, "Latest(stranger)"), ({"version": 987}, "987)")):
        called = client.call(images=frames(1), **where)
        assert called.code() is NOT_FOUND
        assert "Servable not found for request" in called.details() and name in called.details()
        assert client.status(**where).code() is NOT_FOUND
        assert client.metadata(**where).code() is NOT_FOUND
        model, suffix = where.get("model"), "/versions/987" if "version" in where else ""
        assert_refused(client.get(suffix, model), [404])
        assert_refused(client.get(f"{suffix}/metadata", model), [404])
        document = {"instances": frames(1).tolist()}
        assert_refused(client.post(document, suffix=f"{suffix}:predict", model=model), [404])


def test_labels_that_there_are_not(client):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.version_label = client.name, "nightly"
    called = client.send(request)
    assert called.code() is INVALID and "nightly" in called.details()
    document = {"instances": frames(1).tolist()}
    answer = client.post(document, suffix="/labels/nightly:predict")
    assert_refused(answer)
    assert "Unrecognized servable version label: nightly" in answer.text


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_signature_of_another_kind(client, kind):
    method = {"classification": "classify", "regression": "regress"}[kind]
    request = {
        "classify": classification_pb2.ClassificationRequest,
        "regress": regression_pb2.RegressionRequest,
    }[method]()
    request.model_spec.name = client.name
    request.input.example_list.examples.add()
    called = client.send(request)
    message = (
        f"Expected {kind} signature method_name to be tensorflow/serving/{method}. Was: "
        "tensorflow/serving/predict"
    )
    assert (called.code(), called.details()) == (INVALID, message)
    answer = client.post({"examples": [{"x": 1.0}]}, suffix=f":{method}")
    assert_refused(answer)
    assert answer.json()["error"] == message
    both = inference_pb2.MultiInferenceRequest()
    both.tasks.add(method_name=f"tensorflow/serving/{method}").model_spec.name = client.name
    both.input.example_list.examples.add()
    assert client.send(both).code() is INVALID


def test_no_model_spec(client):
    assert client.send(predict_pb2.PredictRequest()).code() is INVALID
    assert client.send(get_model_status_pb2.GetModelStatusRequest()).code() is INVALID
    assert client.send(get_model_metadata_pb2.GetModelMetadataRequest()).code() is INVALID


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"image": frames(1)},
        {"images": frames(1), "more": frames(1)},
        {"images": frames(1).astype(np.float32)},
        {"images": [b"text"]},
        {"images": frames(1)[0]},
        {"images": frames(1)[..., :2]},
        {"images": np.uint8(1)},
    ],
    ids=lambda inputs: "_".join(f"{k}-{getattr(v, 'shape', '')}" for k, v in inputs.items()),
)
def test_inputs_that_do_not_fit(client, inputs):
    assert client.call(**inputs).code() is INVALID


@pytest.mark.parametrize(
    "value",
    [
        frames(1, 4, 4)[0].tolist(),
        [0.5],
        [[[["a", "b", "c"]]]],
        [None],
        [{"b64": "AAAA"}],
        [[[[1, 2, 3], [1, 2]]]],
    ],
    ids=["rank", "float", "text", "null", "bytes", "ragged"],
)
def test_json_values_that_do_not_fit(client, value):
    assert_refused(client.post({"instances": value}))
    assert_refused(client.post({"inputs": value}))
    assert_refused(client.post({"inputs": {"images": value}}))


@pytest.mark.parametrize(
    "images",
    [
        [b"no image at all"],
        [b""],
        [encode(frames(1)[0], "JPEG")[:-200]],
        [encode(frames(1)[0], "PNG")[:-2000]],
        [encode(frames(1)[0]), b"\x89PNG\r\n\x1a\n"],
        [encode(frames(1)[0]), encode(frames(1, 20, 20)[0])],
    ],
    ids=["no image", "empty", "cut JPEG", "cut PNG", "second cut", "two sizes"],
)
def test_images_that_are_none(client, images):
    assert client.call("encoded", image_bytes=images).code() is INVALID
    document = {"signature_name": "encoded", "instances": [b64(image) for image in images]}
    assert_refused(client.post(document))


def test_an_empty_batch(client):
    called = client.call(images=frames(0))
    assert called.code() in (OK, INVALID)
    if called.code() is OK:
        assert arrays(called.result())["masks"].shape == (0, HEIGHT, WIDTH, 1)
    called = client.call("encoded", image_bytes=[])
    assert called.code() in (OK, INVALID)
    if called.code() is OK:
        assert arrays(called.result())["mask_bytes"].shape == (0,)
    assert_refused(client.post({"instances": []}))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"instances": [1,]}',
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b"{}",
        b'{"instances": 5}',
        b'{"instances": [], "inputs": []}',
        b'{"signature_name": 5, "instances": [1]}',
    ],
)
def test_bodies_that_are_no_request(client, body):
    assert_refused(client.post(body=body))


def test_paths_that_are_none(client):
    assert_refused(client.get(":predict"), [400, 404, 405])
    assert_refused(client.post({}, suffix=""), [400, 404, 405])
    assert_refused(client.post({}, suffix="/versions/one:predict"), [400, 404])


def test_paths_are_read_as_tf_serving_reads_them(client):
    session = requests.Session()
    root = client.url().partition("/v1/")[0]
    assert session.get(f"{root}/V1/Models/{client.name}", timeout=SECONDS).status_code == 200
    quoted = "".join(f"%{ord(letter):02x}" for letter in client.name)
    assert session.get(f"{root}/v1/models/{quoted}", timeout=SECONDS).status_code == 200
    answer = session.get(f"{root}/v1/models", timeout=SECONDS)
    assert_refused(answer)
    assert answer.json()["error"] == "Missing model name in request."
    assert_refused(session.get(f"{client.url()}?verbose=1", timeout=SECONDS), [400, 404])
    answer = client.post({"instances": frames(1).tolist()}, suffix=":predict?verbose=1")
    assert_refused(answer)
    assert answer.json()["error"].startswith("Malformed request: POST /v1/models/")


def test_base64_with_line_breaks(client):
    image = encode(frames(1)[0])
    broken = {"b64": base64.encodebytes(image).decode()}
    document = {"signature_name": "encoded", "instances": [broken]}
    plain = {"signature_name": "encoded", "instances": [b64(image)]}
    assert client.post(document).json() == client.post(plain).json()


# Too much at once


@pytest.mark.parametrize("by", ["grpc", "rest"])
def test_an_image_of_50_megapixels(client, by):
    image = encode(np.zeros((5000, 10_000, 3), np.uint8), "JPEG")
    if by == "grpc":
        assert client.call("encoded", image_bytes=[image]).code() in {OK, *LIMITED}
    else:
        answer = client.post({"signature_name": "encoded", "instances": [b64(image)]})
        assert answer.status_code in {200, *LIMITED_HTTP}


def test_an_over_long_body(client):
    body = json.dumps({"instances": frames(1).tolist()}) + " " * (80 << 20)
    assert client.post(body=body).status_code in {200, *LIMITED_HTTP}
    large = np.zeros((90, 480, 640, 3), np.uint8)
    assert client.call(wrong=large).code() in LIMITED


def test_a_shape_that_is_only_claimed(client):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = client.name
    tensor = request.inputs["images"]
    tensor.dtype = tf.uint8.as_datatype_enum
    for size in (1 << 20, 1 << 20, 1 << 20, 3):
        tensor.tensor_shape.dim.add(size=size)
    tensor.int_val.append(1)
    assert client.send(request).code() in LIMITED


def test_clients_that_go_away(client, server):
    called = [client.call(images=frames(4)) for _ in range(4)]
    for future in called:
        future.cancel()
    host, _, port = server.rest.rpartition(":")
    body = json.dumps({"instances": frames(1).tolist()}).encode()
    head = (
        f"POST /v1/models/{client.name}:predict HTTP/1.1\r\nHost: {host}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    for message in (b"", head[:20], head, head + body[:1000], head + body):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(message)


def test_64_clients_at_once(client, server):
    barrier = threading.Barrier(64)
    image = encode(frames(1)[0])
    expected = arrays(client.call("encoded", image_bytes=[image]).result())["mask_bytes"][0]

    def ask(number):
        with contextlib.closing(Client(server)) as own:
            barrier.wait(SECONDS)
            if number % 2:
                answer = own.post({"signature_name": "encoded", "instances": [b64(image)]})
                return answer.json() == {"predictions": [b64(expected)]}
            response = own.call("encoded", image_bytes=[image]).result()
            return arrays(response)["mask_bytes"][0] == expected

    with concurrent.futures.ThreadPoolExecutor(64) as threads:
        assert all(threads.map(ask, range(64)))


def test_a_swap_of_versions_under_load(client, server):
    if server.base_path is None:
        pytest.skip("OSVOS_BASE_PATH does not name the folder that the server watches")
    base_path = pathlib.Path(server.base_path)
    old = current_version(client)
    new = old + 1
    swapped = threading.Event()

    def ask(by):
        """Asks again and again; returns the versions that answered, or how often one did."""
        image = encode(frames(1)[0])
        versions = []
        with contextlib.closing(Client(server)) as own:
            for count in itertools.count():
                over = swapped.is_set()
                if by == "grpc":
                    response = own.call(images=frames(1)).result()
                    versions.append(response.model_spec.version.value)
                else:
                    document = {"signature_name": "encoded", "instances": [b64(image)]}
                    assert own.post(document).status_code == 200
                if over:
                    return versions or count

    with concurrent.futures.ThreadPoolExecutor() as threads:
        asking = [threads.submit(ask, by) for by in ("grpc", "rest", "grpc", "rest")]
        try:
            shutil.copytree(base_path / str(old), base_path / "being_copied")
            os.rename(base_path / "being_copied", base_path / str(new))
            toy_model.wait_until(lambda: current_version(client) == new, SECONDS)
            toy_model.wait_until(
                lambda: (
                    client.get(f"/versions/{old}").json()["model_version_status"][0]["state"]
                    == "END"
                ),
                SECONDS,
            )
        finally:
            swapped.set()
        for versions in (future.result() for future in asking):
            if isinstance(versions, list):
                assert versions == sorted(versions) and set(versions) == {old, new}
    called = client.call(version=old, images=frames(1))
    assert called.code() is NOT_FOUND
