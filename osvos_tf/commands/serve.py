r"""Serves SavedModels over gRPC and REST, as TF Serving does, where there is no TF Serving.

    python -m pipelines.serve --model=dog:saved_models/dog
    python -m pipelines.serve --model_config=saved_models/models.config

says where it listens once the models are loaded, about 10 seconds later. It takes the largest
version that loads, looks for new ones every second, and moves over to one without dropping a
request. Ctrl-C or SIGTERM ends it when the requests in flight are answered.

    curl http://127.0.0.1:8501/v1/models/dog            # the versions, and their state
    curl http://127.0.0.1:8501/v1/models/dog/metadata   # signatures
    curl http://127.0.0.1:8501/metrics                  # for Prometheus
"""

import logging
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from osvos_tf import runtime
from osvos_tf.commands import cli, shared_flags
from osvos_tf.errors import InputError, missing_package

if TYPE_CHECKING:
    from osvos_tf.serving import served_models
    from osvos_tf.serving import server as model_server

FLAGS = flags.FlagValues()
shared_flags.define_paths(
    "model",
    None,
    "NAME:DIR, the model's name for clients and the folder that holds a folder for each version. "
    "Repeatable.",
    flag_values=FLAGS,
)
shared_flags.define_path(
    "model_config",
    None,
    "TF Serving's text file of models, instead of --model: model_config_list { config { ... } }.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "host",
    "127.0.0.1",
    "Address to listen on. There is no authentication: 0.0.0.0 lets anyone in who can reach it.",
    flag_values=FLAGS,
)
for _name, _default in (("rest_port", 8501), ("grpc_port", 8500)):
    flags.DEFINE_integer(
        _name,
        _default,
        "Port to listen on; 0 takes a free one.",
        lower_bound=0,
        upper_bound=65535,
        flag_values=FLAGS,
    )
flags.DEFINE_integer(
    "queue",
    64,
    "Requests that may wait. One more is refused at once: RESOURCE_EXHAUSTED, over REST 429.",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "workers",
    1,
    "Model calls at the same time. One call keeps all cores busy.",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "max_request_mb",
    64,
    "Largest request in 2^20 bytes.",
    lower_bound=1,
    upper_bound=2047,
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "max_megapixels",
    10.0,
    "Most pixels in all images of a request together, in millions. They decide how much memory a "
    "request takes: 0.9 GB for a million with a network of full width.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "poll_seconds", 1.0, "Time between two looks for new versions.", flag_values=FLAGS
)
flags.DEFINE_boolean(
    "tensor_content",
    False,
    "Answer over gRPC with arrays as bytes in `tensor_content` instead of typed fields such as "
    "`int_val`. As TF Serving's --enable_serialization_as_tensor_content.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "config_poll_seconds",
    0.0,
    "Time between two looks whether --model_config has changed; its models take over then. 0: "
    "never. As TF Serving's --model_config_file_poll_wait_seconds.",
    lower_bound=0.0,
    flag_values=FLAGS,
)
shared_flags.define_path(
    "ssl_config",
    None,
    "File of TF Serving's SSLConfig with server_key and server_cert: gRPC's port is encrypted. As "
    "TF Serving's --ssl_config_file.",
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "grpc_channel_arguments",
    [],
    "NAME=VALUE of gRPC's server, such as grpc.max_connection_age_ms=60000. Several by commas.",
    flag_values=FLAGS,
)
shared_flags.define_path(
    "grpc_socket_path",
    None,
    "Unix socket on which gRPC is answered as well.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "cors",
    False,
    "Let pages of other origins ask over REST. As TF Serving's --rest_api_enable_cors_support.",
    flag_values=FLAGS,
)
GROUPS = (
    ("What you need", ("model", "model_config", "rest_port", "grpc_port", "host")),
    ("Limits", ("queue", "workers", "max_request_mb", "max_megapixels")),
    ("New versions", ("poll_seconds", "config_poll_seconds")),
    (
        "Ways to ask and to answer",
        ("grpc_socket_path", "ssl_config", "grpc_channel_arguments", "cors", "tensor_content"),
    ),
)


def main(args: flags.FlagValues) -> None:
    """Flags -> models -> a server, until a signal ends it."""
    shared_flags.require_positive(args, "max_megapixels", "poll_seconds")
    named = _models(args.model or [])
    if bool(named) == bool(args.model_config):
        raise InputError("Wanted models: either --model=NAME:DIR or --model_config=FILE.")

    runtime.import_tensorflow()
    try:
        from osvos_tf.serving import model_config, service
        from osvos_tf.serving import server as model_server
    except ImportError as error:
        raise missing_package("Serving", "serving", error) from error

    arguments = _channel_arguments(args.grpc_channel_arguments)
    models: served_models.Models = named or model_config.read_config(args.model_config)
    _log()
    server = model_server.ModelServer(
        models,
        host=args.host,
        rest_port=args.rest_port,
        grpc_port=args.grpc_port,
        poll_seconds=args.poll_seconds,
        ways=service.Ways(
            grpc_socket_path=args.grpc_socket_path,
            ssl_config=args.ssl_config,
            channel_arguments=arguments,
            cors=args.cors,
            tensor_content=args.tensor_content,
        ),
        limits=service.Limits(
            queue=args.queue,
            workers=args.workers,
            request_bytes=args.max_request_mb << 20,
            pixels=int(args.max_megapixels * 1e6),
        ),
    )
    with server:
        print(_describe(server), flush=True)
        last = time.monotonic()
        while True:  # until a signal; one that another thread received is noticed on waking up
            time.sleep(0.5)
            if args.model_config and 0 < args.config_poll_seconds <= time.monotonic() - last:
                models = _follow(server, args.model_config, models)
                last = time.monotonic()


def run() -> None:
    """Runs the console command."""
    cli.run(main, FLAGS, __doc__, GROUPS)


def _models(values: Sequence[str]) -> dict[str, str]:
    """Returns {name: folder} for the values of --model."""
    models: dict[str, str] = {}
    for value in values:
        name, colon, folder = value.partition(":")
        if not colon or not folder or not re.fullmatch(r"[^/:\s]+", name):
            raise InputError(
                f"Wanted --model=NAME:DIR, such as dog:saved_models/dog. Got {value!r}."
            )
        if name in models:
            raise InputError(f"Two --model flags are called {name!r}. Give each its own name.")
        models[name] = folder
    return models


def _channel_arguments(values: Sequence[str]) -> dict[str, int | str]:
    """Returns {name: value} for the values of --grpc_channel_arguments."""
    found: dict[str, int | str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not name.startswith("grpc.") or not equals:
            raise InputError(
                f"Wanted --grpc_channel_arguments=grpc.NAME=VALUE, not {text!r}. Their names: "
                "https://grpc.github.io/grpc/core/group__grpc__arg__keys.html"
            )
        found[name] = int(value) if re.fullmatch(r"-?[0-9]{1,10}", value) else value
    return found


def _follow(
    server: "model_server.ModelServer", path: str, before: "served_models.Models"
) -> "served_models.Models":
    """Serves what the configuration says now; what is wrong with it is logged. Returns it."""
    from osvos_tf.serving import model_config
    from osvos_tf.serving.tf_serving_messages import RequestError

    log = logging.getLogger("osvos_tf.serving")
    try:
        models = model_config.read_config(path)
        if models != before:
            server.models.replace(models, anywhere=True)
            log.info("%s has changed: %s", path, ", ".join(models))
        return models
    except (InputError, RequestError) as error:
        log.error("%s: %s", path, error)
        return before


def _log() -> None:
    """Reports versions that come and go, and faults, on standard error."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("osvos_tf").setLevel(logging.INFO)
    # Its errors are clients that speak no HTTP.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


def _describe(server: "model_server.ModelServer") -> str:
    """Returns what is served and where."""
    host = f"[{server.host}]" if ":" in server.host else server.host
    lines = [
        f"Serving {model.name}, version {model.version}, from {model.base_path}"
        for model in server.models
    ]
    rest = f"http://{host}:{server.rest_port}/v1/models/{next(iter(server.models)).name}"
    return "\n".join([*lines, f"REST: {rest}", f"gRPC: {host}:{server.grpc_port}"])


if __name__ == "__main__":
    run()
