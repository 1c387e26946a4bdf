"""The socket of a server."""

import socket

from starflow.errors import StarflowError
from starflow.serve.settings import AccessSettings


def bound(settings: AccessSettings) -> socket.socket:
    """A socket that listens at the address, so that a second server at the same port fails before it loads anything."""
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        raise StarflowError(f"cannot listen at {settings.host}:{settings.port}: {error.strerror}") from error


def url_of(listener: socket.socket) -> str:
    """The URL at which a socket listens."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
