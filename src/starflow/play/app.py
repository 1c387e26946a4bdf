"""The server of the page: each tab has a session of its own, on a WebSocket."""

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

import starflow.serve
from starflow.errors import StarflowError, UsageError
from starflow.play.player import Player
from starflow.serve.security import Security
from starflow.serve.settings import AccessSettings

logger = logging.getLogger(__name__)

MAX_TABS = 4
MAX_MESSAGE_BYTES = 2**16
SECONDS_TO_STOP = 2
SHARED = [Path(starflow.serve.__path__[0], "web", name) for name in ("style.css", "icon.svg", "colors.js")]
FILES = {path.name: path for path in [*Path(__file__).with_name("web").iterdir(), *SHARED]}
CHECKED = {"Cache-Control": "no-cache"}  # browsers ask whether a file has changed


def create_app(new_player: Callable[[], Player], settings: AccessSettings) -> Starlette:
    """The application. `new_player` begins a session, in a thread."""
    num_tabs = 0

    async def play(socket: WebSocket) -> None:
        nonlocal num_tabs
        await socket.accept()
        if num_tabs >= MAX_TABS:
            await _end(socket, f"{MAX_TABS} tabs play already: close one of them")
            return
        num_tabs += 1
        try:
            await _play(socket, new_player)
        finally:
            num_tabs -= 1

    routes = [Route("/", _page), Route("/page/{name}", _file), WebSocketRoute("/play", play)]
    return Starlette(routes=routes, middleware=[Middleware(Security, settings=settings)])


def server_of(app: Starlette) -> uvicorn.Server:
    """The server, which `run(sockets=[listener])` lets serve until SIGINT or SIGTERM."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,  # compressing takes longer than sending, on one machine
        timeout_graceful_shutdown=SECONDS_TO_STOP,
    )
    return uvicorn.Server(config)


async def _page(request: Request) -> FileResponse:
    return FileResponse(FILES["index.html"], headers=CHECKED)


async def _file(request: Request) -> FileResponse:
    name = request.path_params["name"]
    if name not in FILES:
        raise HTTPException(404)
    return FileResponse(FILES[name], headers=CHECKED)


async def _play(socket: WebSocket, new_player: Callable[[], Player]) -> None:
    """A session from beginning to end."""
    try:
        player = await run_in_threadpool(new_player)
        await socket.send_json(player.hello())
        has_news, news = anyio.create_memory_object_stream[None](1)  # the client has sent something
        async with has_news, news, anyio.create_task_group() as tasks:
            tasks.start_soon(_listen, socket, player, has_news)
            tasks.start_soon(_make, socket, player, news)
    except* WebSocketDisconnect:
        pass
    except* StarflowError as group:
        logger.error("a session has ended", exc_info=group)
        await _end(socket, str(group.exceptions[0]))


async def _listen(socket: WebSocket, player: Player, has_news: MemoryObjectSendStream[None]) -> None:
    while True:
        try:
            message = await _receive(socket)
            if message == {"type": "save"}:
                await socket.send_bytes(await run_in_threadpool(player.clip))
            else:
                player.take(message)
        except UsageError as error:
            await _send_error(socket, error)
        with suppress(anyio.WouldBlock):  # there are news already
            has_news.send_nowait(None)


async def _make(socket: WebSocket, player: Player, news: MemoryObjectReceiveStream[None]) -> None:
    """Send frames at the rate of the model, or as fast as they are made."""
    due = anyio.current_time()
    while True:
        while player.is_waiting:
            await news.receive()
        try:
            await socket.send_bytes(await run_in_threadpool(player.advance))
        except UsageError as error:
            await _send_error(socket, error)
        due = max(due + player.seconds_per_step, anyio.current_time())
        await anyio.sleep_until(due)


async def _receive(socket: WebSocket) -> dict[str, Any]:
    """The next message. Raises UsageError if it is no object."""
    try:
        message = json.loads(await socket.receive_text())
    except (ValueError, KeyError, RecursionError) as error:
        raise UsageError("a message must be JSON") from error
    if not isinstance(message, dict):
        raise UsageError("a message must be an object")
    return message


async def _send_error(socket: WebSocket, error: StarflowError) -> None:
    await socket.send_json({"type": "error", "message": str(error)})


async def _end(socket: WebSocket, reason: str) -> None:
    """Say why a session has ended, and close the connection."""
    with suppress(WebSocketDisconnect, RuntimeError):  # it may be closed already
        await socket.send_json({"type": "error", "message": reason})
        await socket.close()
