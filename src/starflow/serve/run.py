"""Run the API with uvicorn."""

from collections.abc import Callable

import uvicorn

from starflow.serve.api import create_app
from starflow.serve.listening import bound, url_of
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
        announce(url_of(listener))
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
