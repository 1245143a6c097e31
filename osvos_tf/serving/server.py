"""TF Serving's contract without TF Serving: gRPC and REST over the SavedModels of some folders.

    with ModelServer({"dog": "saved_models/dog"}, rest_port=8501, grpc_port=8500):
        ...  # http://127.0.0.1:8501/v1/models/dog, and gRPC on 127.0.0.1:8500

What happens to a request stands in `service`.
"""

import contextlib
import socket

from osvos_tf.errors import InputError
from osvos_tf.serving import grpc_front, rest_front, served_models
from osvos_tf.serving.service import Limits, Service, Ways, WorkQueue


class ModelServer:
    """Serves models over gRPC and REST, in its own threads, from entry to exit.

    Args:
        models: {name: folder that holds a folder for each version, or a `ModelConfig`}.
        host: address to listen on; loopback by default.
        rest_port: 0 takes a free one.
        grpc_port: 0 takes a free one.
        poll_seconds: seconds between two checks for new versions.
        limits: a `Limits`; None takes the defaults.
        ways: a `Ways`; None takes the defaults.

    Attributes:
        rest_port, grpc_port: where it listens, once entered.
        models: the `ServedModels`.

    Raises:
        InputError: on entry; a port is taken, a model has no version that loads, or a certificate
            cannot be read.
    """

    def __init__(
        self,
        models: served_models.Models,
        *,
        host: str = "127.0.0.1",
        rest_port: int = 0,
        grpc_port: int = 0,
        poll_seconds: float = 1.0,
        limits: Limits | None = None,
        ways: Ways | None = None,
    ):
        self.host, self.rest_port, self.grpc_port = host, rest_port, grpc_port
        self.models = served_models.ServedModels(models, poll_seconds=poll_seconds)
        self._limits, self._ways = limits or Limits(), ways or Ways()
        self._running = contextlib.ExitStack()

    def __enter__(self) -> "ModelServer":
        """Loads the models, then listens."""
        limits = self._limits
        secure = grpc_front.credentials(self._ways.ssl_config)  # before models are loaded
        with contextlib.ExitStack() as stack:
            rest_socket = stack.enter_context(_listen(self.host, self.rest_port))
            grpc_socket = stack.enter_context(_listen(self.host, self.grpc_port))
            self.rest_port, self.grpc_port = (
                listening.getsockname()[1] for listening in (rest_socket, grpc_socket)
            )
            stack.enter_context(self.models)
            queue = stack.enter_context(WorkQueue(limits.queue, limits.workers))
            service = Service(self.models, queue, limits, self._ways)
            grpc_socket.close()  # it held the port while the models were loading
            stack.enter_context(grpc_front.running(service, self.host, self.grpc_port, secure))
            stack.enter_context(rest_front.running(service, rest_socket))
            self._running = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Takes no more requests and lets those in flight finish."""
        self._running.close()


def _listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket.

    Raises:
        InputError: the address cannot be used.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise InputError(
            f"Cannot listen on port {port} of {host}: {error.strerror or error}. Name another port "
            "(0 takes a free one) or an address of this machine."
        ) from error
