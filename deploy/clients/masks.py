"""Asks a server for masks: over REST with Python's own library alone, or over gRPC.

    python masks.py http://localhost:8501 dog frame.jpg mask.png
    python masks.py localhost:8500 dog frame.jpg mask.png      # pip install tensorflow-serving-api

It is made to be copied. The server is TensorFlow Serving or `osvos-serve`, the model an export of
`export_saved_model`: a JPEG or PNG goes in, a PNG comes out.
"""

import base64
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

SECONDS = 60  # that an answer may take
TRIES = 5  # of which each waits twice as long as the one before, where the server is busy


def by_rest(server: str, model: str, image: bytes) -> bytes:
    """Returns a PNG: 0, and 255 or the objects' ids."""
    url = f"{server.rstrip('/')}/v1/models/{urllib.parse.quote(model, safe='')}:predict"
    instance = {"image_bytes": {"b64": base64.b64encode(image).decode()}}
    body = json.dumps({"signature_name": "encoded", "instances": [instance]}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    for left in reversed(range(TRIES)):
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return base64.b64decode(json.load(answer)["predictions"][0]["b64"])
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503) or not left:
                raise SystemExit(f"{url}: {error.code}, {error.read().decode()}") from error
            time.sleep(2 ** (TRIES - left - 1) / 4)
    raise AssertionError("not reached")


def by_grpc(server: str, model: str, image: bytes) -> bytes:
    """Returns a PNG: 0, and 255 or the objects' ids."""
    import grpc
    from tensorflow.core.framework import tensor_pb2, types_pb2
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, "encoded"
    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[image])
    tensor.tensor_shape.dim.add(size=1)
    request.inputs["image_bytes"].CopyFrom(tensor)
    with grpc.insecure_channel(server) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            reply = stub.Predict(request, timeout=SECONDS, wait_for_ready=True)
        except grpc.RpcError as error:
            raise SystemExit(f"{server}: {error.code().name}, {error.details()}") from error
    return reply.outputs["mask_bytes"].string_val[0]


def main() -> None:
    """Reads a picture, writes its mask."""
    if len(sys.argv) != 5:
        raise SystemExit(__doc__)
    server, model, source, target = sys.argv[1:]
    with open(source, "rb") as file:
        image = file.read()
    mask = (by_rest if server.startswith("http") else by_grpc)(server, model, image)
    with open(target, "wb") as file:
        file.write(mask)


if __name__ == "__main__":
    main()
