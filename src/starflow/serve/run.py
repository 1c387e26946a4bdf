"""Run the API with uvicorn."""

import socket
from collections.abc import Callable

import uvicorn

from starflow.errors import StarflowError
from starflow.serve.api import create_app
from starflow.serve.logs import log_as_json
from starflow.serve.settings import ServeSettings

SECONDS_TO_STOP = 5
SECONDS_TO_KEEP_CONNECTIONS = 75  # longer than clients keep those that they do not use


def listen(settings: ServeSettings, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. `announce` is given the URL, which connections can wait at from then on.

    Raises StarflowError if the address cannot be used, and as `create_app`.
    """
    with bound(settings) as listener:
        app = create_app(settings)
        log_as_json()
        host, port = listener.getsockname()[:2]
        announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=SECONDS_TO_KEEP_CONNECTIONS,
            timeout_graceful_shutdown=SECONDS_TO_STOP,
            ws_max_size=settings.limits.upload_bytes,
        )
        uvicorn.Server(config).run(sockets=[listener])


def bound(settings: ServeSettings) -> socket.socket:
    """A socket that listens at the address, so that a second server at the same port fails before it loads anything."""
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        raise StarflowError(f"cannot listen at {settings.host}:{settings.port}: {error.strerror}") from error
