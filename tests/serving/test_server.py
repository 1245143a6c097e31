"""The embedded server's own promises: limits, swaps, clients that go, what it tells of itself.

What it shares with TF Serving is in test_serving_contract.py.
"""

import base64
import concurrent.futures
import contextlib
import gc
import gzip
import io
import json
import shutil
import socket
import struct
import subprocess
import threading
import tracemalloc
import weakref
import zlib

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from osvos_tf.errors import InputError
from osvos_tf.network import model_store
from osvos_tf.serving import grpc_front, served_models, service
from osvos_tf.serving import server as model_server
from support import toy_model

IMAGES = np.full((1, 4, 6, 3), 255, np.uint8)
SECONDS = 30


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    """One version, to be copied."""
    return toy_model.save(tmp_path_factory.mktemp("toy") / "1")


@pytest.fixture
def base(tmp_path, saved_model):
    """A base path with version 1."""
    shutil.copytree(saved_model, tmp_path / "dog" / "1")
    return tmp_path / "dog"


@pytest.fixture
def start(base):
    """Starts servers of the model `dog`; they stop after the test."""
    with contextlib.ExitStack() as stack:

        def enter(base_paths=None, poll_seconds=60, **limits):
            server = model_server.ModelServer(
                base_paths or {"dog": base},
                poll_seconds=poll_seconds,
                limits=service.Limits(**limits),
            )
            return stack.enter_context(server)

        yield enter


class Gate:
    """Holds up every model call until it is opened."""

    def __init__(self, monkeypatch):
        self.entered, self._open = 0, threading.Event()
        run = served_models.Servable.run

        def wait_and_run(*arguments):
            self.entered += 1
            assert self._open.wait(SECONDS)
            return run(*arguments)

        monkeypatch.setattr(served_models.Servable, "run", wait_and_run)

    def open(self):
        self._open.set()


@pytest.fixture
def gate(monkeypatch):
    """A closed `Gate`; it opens after the test at the latest."""
    gate = Gate(monkeypatch)
    yield gate
    gate.open()


@contextlib.contextmanager
def grpc_predict(server):
    """Yields a function that sends a request by gRPC and returns its future."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

        def predict(images=IMAGES, model="dog"):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model
            request.inputs["images"].CopyFrom(tf.make_tensor_proto(images))
            return stub.Predict.future(request, timeout=SECONDS)

        yield predict


def url(server, path="/v1/models/dog:predict"):
    return f"http://127.0.0.1:{server.rest_port}{path}"


def post(server, document=None, **arguments):
    document = document or {"instances": IMAGES.tolist()}
    return requests.post(url(server), json=document, timeout=SECONDS, **arguments)


def metric(server, name):
    """Returns {labels: value} of a metric."""
    page = requests.get(url(server, "/metrics"), timeout=SECONDS).text
    lines = [line for line in page.splitlines() if line.startswith(name)]
    return {line.rpartition(" ")[0].removeprefix(name): float(line.split()[-1]) for line in lines}


def wait_for_queue(server, length):
    toy_model.wait_until(lambda: metric(server, "osvos_queue_length") == {"": length})


def test_a_full_queue_refuses_at_once(start, gate):
    server = start(queue=2)
    with grpc_predict(server) as predict, concurrent.futures.ThreadPoolExecutor() as threads:
        waiting = [predict(), predict()]
        posted = threads.submit(post, server)
        wait_for_queue(server, 3)
        assert predict().code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        refused = post(server)
        assert refused.status_code == 429
        assert "3 requests are waiting or running" in refused.json()["error"]
        assert requests.get(url(server, "/v1/models/dog"), timeout=SECONDS).ok
        gate.open()
        assert [future.code() for future in waiting] == [grpc.StatusCode.OK] * 2
        assert posted.result().ok
        wait_for_queue(server, 0)
        assert post(server).ok


def test_more_calls_than_the_grpc_server_has_threads(start, gate):
    server = start(queue=0)
    with grpc_predict(server) as predict:
        running = predict()
        toy_model.wait_until(lambda: gate.entered)
        others = [predict() for _ in range(40)]
        codes = {future.code() for future in others}
        assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        gate.open()
        assert running.code() is grpc.StatusCode.OK


def test_the_work_of_clients_that_have_gone_is_dropped(start, gate):
    server = start()
    with grpc_predict(server) as predict:
        running = predict()
        toy_model.wait_until(lambda: gate.entered)
        gone = [predict() for _ in range(5)]
        body = json.dumps({"instances": IMAGES.tolist()}).encode()
        head = f"POST /v1/models/dog:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        for sent in (body, body[:50]):  # one waits for its reply, one has not said everything
            with socket.create_connection(("127.0.0.1", server.rest_port)) as connection:
                before = metric(server, "osvos_queue_length")[""]
                connection.sendall(head.encode() + b"\r\n" + sent)
                toy_model.wait_until(
                    lambda before=before: metric(server, "osvos_queue_length")[""] > before
                )
        for future in gone:
            future.cancel()
        wait_for_queue(server, 1)
        gate.open()
        assert running.code() is grpc.StatusCode.OK
        assert predict().code() is grpc.StatusCode.OK
    assert gate.entered == 2
    counts = metric(server, "osvos_requests_total")
    assert {labels: n for labels, n in counts.items() if "INTERNAL" in labels} == {}


def test_a_cancelled_call_lets_its_arguments_go():
    class Payload:
        pass

    with service.WorkQueue(waiting=5, workers=1) as queue:
        opened = threading.Event()
        queue.submit(opened.wait, SECONDS)
        payload = Payload()
        left = weakref.ref(payload)
        call = queue.submit(print, payload)
        del payload
        assert call.cancel()
        gc.collect()
        assert left() is None
        opened.set()


def test_a_slow_body_is_given_up(start):
    server = start(read_seconds=0.1)
    with socket.create_connection(("127.0.0.1", server.rest_port)) as connection:
        connection.sendall(
            b"POST /v1/models/dog:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
        )
        assert b" 504 " in connection.recv(100)
    wait_for_queue(server, 0)


def test_an_over_long_request(start):
    server = start(request_bytes=10_000)
    with grpc_predict(server) as predict:
        large = np.zeros((1, 100, 100, 3), np.uint8)
        assert predict(large).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert predict().code() is grpc.StatusCode.OK
    document = {"instances": large.tolist()}
    for body in (json.dumps(document), iter([json.dumps(document).encode()])):  # told, and not
        answer = requests.post(url(server), data=body, timeout=SECONDS)
        assert answer.status_code == 400
        assert "10000 bytes" in answer.json()["error"]
    assert post(server).ok


def test_a_body_that_is_not_what_its_header_says(start):
    server = start()
    body = json.dumps({"instances": IMAGES.tolist()}).encode()
    headers = {"Content-Encoding": "gzip"}
    assert requests.post(url(server), gzip.compress(body), headers=headers, timeout=SECONDS).ok
    answer = requests.post(url(server), body, headers=headers, timeout=SECONDS)
    assert answer.status_code == 400
    assert "cannot be read" in answer.json()["error"]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_body_that_unpacks_to_more_than_a_request_may_have(start, coding):
    """A quarter of a megabyte that would be a quarter of a gigabyte."""
    server = start(request_bytes=1_000_000)
    pack = gzip.compress if coding == "gzip" else zlib.compress
    bomb, headers = pack(bytes(2**28)), {"Content-Encoding": coding}
    assert len(bomb) < 1_000_000
    tracemalloc.start()
    try:
        answer = requests.post(url(server), bomb, headers=headers, timeout=SECONDS)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status_code == 400 and "1000000 bytes" in answer.json()["error"]
    assert most < 2**27
    assert post(server).ok


def as_base64(size, kind="PNG"):
    file = io.BytesIO()
    Image.new("L", size).save(file, kind)
    return {"b64": base64.b64encode(file.getvalue()).decode()}


def bomb(side):
    """A PNG of a few bytes that claims to be large."""
    data = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000)))):
        checksum = zlib.crc32(kind + content)
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
    return {"b64": base64.b64encode(data).decode()}


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_pixels_are_counted_before_images_are_decoded(start, kind, monkeypatch):
    server = start(pixels=1000)
    document = {"signature_name": "encoded", "instances": [as_base64((20, 25), kind)] * 2}
    assert post(server, document).ok
    monkeypatch.setattr(served_models.Servable, "run", None)  # may not be called from here on
    document["instances"].append(as_base64((1, 1), kind))
    answer = post(server, document)
    assert answer.status_code == 400
    assert "may have 1000 pixels in all its images together, as the network" in answer.text
    assert "this one has 1001" in answer.text
    assert "has 1200" in post(server, {"instances": np.zeros((3, 20, 20, 3), int).tolist()}).text


@pytest.mark.parametrize("side", [100, 9_600, 20_000])  # at 9,460 Pillow warns, at 13,378 it raises
def test_small_files_of_large_images(start, side):
    server = start(pixels=1000)
    answer = post(server, {"signature_name": "encoded", "instances": [bomb(side)]})
    assert answer.status_code == 400
    assert "1000 pixels" in answer.json()["error"]


def test_images_count_as_the_network_sees_them(base, start, monkeypatch):
    """Small ones are enlarged to its height: 43 bytes can stand for gigabytes."""
    model_store.write_facts(base / "1", 240)
    server = start(pixels=10_000_000)
    monkeypatch.setattr(served_models.Servable, "run", None)
    with grpc_predict(server) as predict:
        called = predict(np.zeros((1000, 1, 1, 3), np.uint8))
        assert called.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "this one has 57600000" in called.details()
        called = predict(np.zeros((1, 1, 1000, 3), np.uint8))
        assert "1000x1 (width x height). No side may be 16 times" in called.details()
    for instances in ([as_base64((1, 1))] * 300, [as_base64((1000, 1))], [as_base64((1, 1000))]):
        answer = post(server, {"signature_name": "encoded", "instances": instances})
        assert answer.status_code == 400 and "Internal" not in answer.text


def test_many_claims_in_one_message(start):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "dog"
    for number in range(200):
        tensor = request.inputs[f"images{number}"]
        tensor.dtype, tensor.int_val[:] = tf.uint8.as_datatype_enum, [1]
        tensor.tensor_shape.dim.add(size=64 << 20)
    server = start()
    tracemalloc.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            called = stub.Predict.future(request, timeout=SECONDS)
            assert called.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_a_jpeg_with_a_thousand_scans(start, monkeypatch):
    file = io.BytesIO()
    Image.new("L", (16, 16)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    start_of_scan = data.rindex(b"\xff\xda")
    many = data[:start_of_scan] + data[start_of_scan:-2] * 1000 + data[-2:]
    server = start()
    monkeypatch.setattr(served_models.Servable, "run", None)
    document = {
        "signature_name": "encoded",
        "instances": [{"b64": base64.b64encode(many).decode()}],
    }
    answer = post(server, document)
    assert answer.status_code == 400 and "more than 100 scans" in answer.json()["error"]


def test_requests_in_flight_finish_on_the_old_version(start, base, gate):
    server = start(poll_seconds=0.01)

    def state(version):
        path = f"/v1/models/dog/versions/{version}"
        answer = requests.get(url(server, path), timeout=SECONDS).json()
        return answer["model_version_status"][0]["state"] if "error" not in answer else None

    with grpc_predict(server) as predict:
        running, waiting = predict(), predict()
        wait_for_queue(server, 2)
        shutil.copytree(base / "1", base / "temporary")
        (base / "temporary").rename(base / "2")
        toy_model.wait_until(lambda: state(2) == "AVAILABLE")
        assert state(1) == "UNLOADING"
        late = predict()
        gate.open()
        versions = [f.result().model_spec.version.value for f in (running, waiting, late)]
        assert versions == [1, 1, 2]
        toy_model.wait_until(lambda: state(1) == "END")
    assert metric(server, "osvos_model_version") == {'{model="dog"}': 2}


def test_a_broken_version_leaves_the_old_one_in_service(start, base):
    server = start(poll_seconds=0.01)
    (base / "2").mkdir()

    def statuses():
        answer = requests.get(url(server, "/v1/models/dog"), timeout=SECONDS).json()
        return answer["model_version_status"]

    toy_model.wait_until(lambda: len(statuses()) == 2 and statuses()[0]["state"] == "END")
    broken, current = statuses()
    assert broken["version"] == "2" and broken["status"]["error_code"] != "OK"
    assert "saved_model.pb" in broken["status"]["error_message"]
    assert current["version"] == "1" and current["state"] == "AVAILABLE"
    assert post(server).ok


def test_several_models(start, base, tmp_path):
    cat = toy_model.save(tmp_path / "cat" / "7", gain=0.25).parent
    server = start({"dog": base, "cat": cat})
    with grpc_predict(server) as predict:
        for model, brightness in (("dog", 1.0), ("cat", 0.25)):
            response = predict(model=model).result()
            probabilities = tf.make_ndarray(response.outputs["probabilities"])
            np.testing.assert_array_equal(probabilities, np.full((1, 4, 6, 1), brightness))
    assert metric(server, "osvos_model_version") == {'{model="dog"}': 1, '{model="cat"}': 7}


def test_metrics_count_and_time(start):
    server = start()
    post(server)
    post(server, {"instances": [1.5]})
    requests.post(url(server, "/v1/models/stranger:predict"), data=b"{}", timeout=SECONDS)
    with grpc_predict(server) as predict:
        predict().result()
    assert metric(server, "osvos_requests_total") == {
        '{code="OK",model="dog",protocol="rest"}': 1,
        '{code="INVALID_ARGUMENT",model="dog",protocol="rest"}': 1,
        '{code="NOT_FOUND",model="",protocol="rest"}': 1,
        '{code="OK",model="dog",protocol="grpc"}': 1,
    }
    assert metric(server, "osvos_request_seconds_count")['{model="dog",protocol="rest"}'] == 2


def test_a_fault_of_the_server_is_logged_and_told(start, monkeypatch, caplog):
    server = start()
    monkeypatch.setattr(served_models.Servable, "run", lambda *arguments: 1 / 0)
    answer = post(server)
    assert answer.status_code == 500
    assert answer.json() == {"error": "ZeroDivisionError: division by zero"}
    with grpc_predict(server) as predict:
        assert predict().code() is grpc.StatusCode.INTERNAL
    faults = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(faults) == 2 and all(record.exc_info for record in faults)


def test_stopping_lets_requests_finish(base, gate):
    with contextlib.ExitStack() as stack:
        server = model_server.ModelServer({"dog": base})
        with server, grpc_predict(server) as predict:
            threads = stack.enter_context(concurrent.futures.ThreadPoolExecutor())
            called, posted = predict(), threads.submit(post, server)
            wait_for_queue(server, 2)
            threading.Timer(0.2, gate.open).start()
            stopping = threads.submit(server.__exit__)
            assert called.code() is grpc.StatusCode.OK
            assert posted.result().ok
            stopping.result()
    with pytest.raises(requests.ConnectionError):
        post(server)


def test_stopping_waits_for_a_body_under_way(base):
    server = model_server.ModelServer({"dog": base})
    body = json.dumps({"instances": IMAGES.tolist()}).encode()
    head = f"POST /v1/models/dog:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with server, requests.Session() as late, concurrent.futures.ThreadPoolExecutor() as threads:

        def answer_to_another():
            return late.post(url(server), data=b"", timeout=SECONDS)

        assert answer_to_another().status_code == 400
        with socket.create_connection(("127.0.0.1", server.rest_port)) as connection:
            connection.sendall(head.encode() + body[:50])
            wait_for_queue(server, 1)
            stopping = threads.submit(server.__exit__)
            toy_model.wait_until(lambda: answer_to_another().status_code == 503)
            connection.sendall(body[50:])
            assert b" 200 " in connection.recv(100)
            stopping.result()


def test_it_listens_on_loopback_only(start):
    server = start()
    assert server.host == "127.0.0.1"
    for port in (server.rest_port, server.grpc_port):
        with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port)):
            pass


@pytest.mark.parametrize("which", ["rest_port", "grpc_port"])
def test_a_port_that_is_taken(base, which):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(InputError, match=f"Cannot listen on port {port}"),
            model_server.ModelServer({"dog": base}, **{which: port}),
        ):
            pass


def test_a_host_that_is_not_ours(base):
    with (
        pytest.raises(InputError, match="address of this machine"),
        model_server.ModelServer({"dog": base}, host="192.0.2.1"),
    ):
        pass


def test_two_servers_do_not_share_a_port(start):
    server = start()
    for ports in ({"rest_port": server.rest_port}, {"grpc_port": server.grpc_port}):
        with (
            pytest.raises(InputError, match="Cannot listen"),
            model_server.ModelServer({}, **ports),
        ):
            pass


# --- what TF Serving has by flags -----------------------------------------------------------------


def test_bytes_instead_of_typed_fields(base):
    with (
        model_server.ModelServer({"dog": base}, ways=service.Ways(tensor_content=True)) as server,
        grpc_predict(server) as predict,
    ):
        masks = predict().result().outputs["masks"]
        assert masks.tensor_content and not masks.int_val


def test_pages_of_other_origins(base, start):
    origin = {"Origin": "https://page.example"}
    allowed = "Access-Control-Allow-Origin"
    plain = start()
    assert allowed not in post(plain, headers=origin).headers
    assert requests.options(url(plain), headers=origin, timeout=SECONDS).status_code == 400
    with model_server.ModelServer({"dog": base}, ways=service.Ways(cors=True)) as server:
        answer = requests.options(url(server), headers=origin, timeout=SECONDS)
        assert answer.status_code == 200 and answer.headers[allowed] == "*"
        assert answer.headers["Access-Control-Allow-Methods"] == "POST, GET"
        assert post(server, headers=origin).headers[allowed] == "*"
        assert post(server, {"instances": []}, headers=origin).headers[allowed] == "*"


def test_a_unix_socket(base, tmp_path):
    path = tmp_path / "serving.sock"
    with model_server.ModelServer({"dog": base}, ways=service.Ways(grpc_socket_path=str(path))):
        with grpc.insecure_channel(f"unix:{path}") as channel:
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            request = get_model_status_pb2.GetModelStatusRequest()
            request.model_spec.name = "dog"
            reply = stub.GetModelStatus(request, timeout=SECONDS)
        assert [entry.version for entry in reply.model_version_status] == [1]


def test_health(start):
    server = start()
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        reply = health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_metrics_under_tf_servings_names(start):
    server = start()
    post(server)
    with grpc_predict(server) as predict:
        assert predict(model="stranger").code() is grpc.StatusCode.NOT_FOUND
    page = requests.get(url(server, "/monitoring/prometheus/metrics"), timeout=SECONDS).text
    count = ":tensorflow:serving:request_count"
    assert f"# TYPE {count} counter" in page
    assert f'{count}{{model_name="dog",status="OK"}} 1.0' in page
    latency = metric(server, ":tensorflow:serving:request_latency_count")
    assert latency['{API="Predict",entrypoint="REST",model_name="dog"}'] == 1
    buckets = metric(server, ":tensorflow:serving:request_latency_bucket")
    assert any('le="18.0"' in labels for labels in buckets)


def test_other_models_by_a_request(start, base, tmp_path):
    server = start()
    shutil.copytree(base, base.with_name("cat"))
    request = model_management_pb2.ReloadConfigRequest()
    models = request.config.model_config_list

    def wanted(**configs):
        del models.config[:]
        for name, path in configs.items():
            models.config.add(name=name, base_path=str(path), model_platform="tensorflow")

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        reload = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
        wanted(dog=base, cat=base.with_name("cat"))
        assert reload(request, timeout=SECONDS).status.error_code == 0
        assert requests.get(url(server, "/v1/models/cat"), timeout=SECONDS).ok
        assert metric(server, "osvos_model_version").keys() == {
            '{model="dog"}', '{model="cat"}'
        }  # fmt: skip
        wanted(cat=base.with_name("cat"), cow=tmp_path / "far" / "cow")
        with pytest.raises(grpc.RpcError) as error:
            reload(request, timeout=SECONDS)
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert requests.get(url(server, "/v1/models/dog"), timeout=SECONDS).ok
        wanted(cat=base.with_name("cat"))
        reload(request, timeout=SECONDS)
        assert requests.get(url(server, "/v1/models/dog"), timeout=SECONDS).status_code == 404
        request.config.Clear()
        with pytest.raises(grpc.RpcError, match="Only ModelConfigList is currently supported"):
            reload(request, timeout=SECONDS)


def test_grpc_by_tls_and_with_channel_arguments(base, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    key, certificate, config = (tmp_path / name for name in ("key", "certificate", "ssl.config"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
         "-days", "1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    message = grpc_front.ssl_config()
    message.server_key, message.server_cert = key.read_text(), certificate.read_text()
    config.write_text(text_format.MessageToString(message))
    arguments = {"grpc.max_connection_age_ms": 60_000}
    ways = service.Ways(ssl_config=str(config), channel_arguments=arguments)
    with model_server.ModelServer({"dog": base}, ways=ways) as server:
        secure = grpc.ssl_channel_credentials(certificate.read_bytes())
        with grpc.secure_channel(f"localhost:{server.grpc_port}", secure) as channel:
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            request = get_model_status_pb2.GetModelStatusRequest()
            request.model_spec.name = "dog"
            assert stub.GetModelStatus(request, timeout=SECONDS).model_version_status
        with grpc_predict(server) as predict:
            assert predict().code() is grpc.StatusCode.UNAVAILABLE  # in the clear
    config.write_text("server_key: ''")
    with (
        pytest.raises(InputError, match="no server_key"),
        model_server.ModelServer({"dog": base}, ways=ways),
    ):
        pass
