"""`WS /v1/realtime/video`: a video as fragments of MP4 while it is made, in the dialect of vLLM-Omni.

    client   session.start {prompt, width, height, num_frames, …}     a video; the fields of `VideoRequest` may be used
             session.interaction {interaction: {event: {prompt}}}     a new prompt, from the next latent frame on
             session.ping, session.stop
    server   video.start {request_id, format, config}                 once more if a worker died and another begins anew
             video.chunk_metadata, then a binary message              the first has the header, each one or more frames
             session.interaction.queued, session.pong, session.done, error

A browser, which cannot send headers, gives its key as the subprotocol `openai-insecure-api-key.KEY`, beside `realtime`
"""

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import anyio
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError

from starflow.errors import StarflowError
from starflow.media.files import remove
from starflow.serve.adding import add_video
from starflow.serve.bodies import Body
from starflow.serve.content import follow
from starflow.serve.database import Job
from starflow.serve.errors import ApiError, of_validation
from starflow.serve.job_files import fragments_of
from starflow.serve.jobs import ACTIVE, MAX_ATTEMPTS
from starflow.serve.schema import Interaction, Video, VideoRequest, as_json
from starflow.serve.server import Server, get_server

router = APIRouter()

SUBPROTOCOL = "realtime"
FORMAT = "m4s"
SECONDS_BETWEEN_LOOKS = 0.03
MAX_BOX_BYTES = 2**26
BOX_HEADER = 8  # four bytes of size, four of type


class Chunk(NamedTuple):
    """Whole boxes of an MP4, and the number of frames in them."""

    data: bytes
    num_frames: int


@router.websocket("/v1/realtime/video")
async def realtime(socket: WebSocket) -> None:
    """One video for each session."""
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in socket.scope["subprotocols"] else None)
    server = get_server(socket)
    job: Job | None = None
    try:
        job = await _start(server, socket)
        await _converse(server, socket, job)
    except WebSocketDisconnect:
        pass
    except (ApiError, StarflowError, ValidationError) as error:
        await _send_error(socket, error)
    finally:
        with anyio.CancelScope(shield=True):
            if job is not None:
                await run_in_threadpool(_end, server, job)


async def _start(server: Server, socket: WebSocket) -> Job:
    """Wait for the client's start, and queue the video."""
    while (message := await _receive(socket))["type"] != "session.start":
        await _answer_ping(socket, message, "begin with session.start")
    fields = {name: value for name, value in message.items() if name not in ("type", "format")}
    if message.get("format", FORMAT) != FORMAT:
        raise ApiError(400, f"the format must be {FORMAT}", param="format", code="invalid_value")
    if "width" in fields or "height" in fields:
        fields["size"] = f"{fields.pop('width', None)}x{fields.pop('height', None)}"
    body = Body(fields)
    return await add_video(server, socket, VideoRequest.model_validate(fields), body, realtime=True)


async def _converse(server: Server, socket: WebSocket, job: Job) -> None:
    """Send the video while the client's messages are read."""
    async with anyio.create_task_group() as tasks:

        async def listen() -> None:
            try:
                while (message := await _receive(socket))["type"] != "session.stop":
                    await _take(server, socket, job, message)
            except WebSocketDisconnect:
                tasks.cancel_scope.cancel()
            await run_in_threadpool(server.cancel, job)

        tasks.start_soon(listen)
        await _send_video(server, socket, job)
        tasks.cancel_scope.cancel()


async def _take(server: Server, socket: WebSocket, job: Job, message: dict[str, Any]) -> None:
    """A message of the client while its video is made."""
    if message["type"] != "session.interaction":
        await _answer_ping(socket, message, "send session.interaction, session.ping or session.stop")
        return
    try:
        interaction = Interaction.model_validate(message.get("interaction"))
    except ValidationError as error:
        await _send_error(socket, error)
        return
    await run_in_threadpool(server.store.steer, job.id, interaction.event.prompt.strip())
    await socket.send_json(
        {"type": "session.interaction.queued", "request_id": job.id, "event_id": interaction.event_id}
    )


async def _answer_ping(socket: WebSocket, message: dict[str, Any], otherwise: str) -> None:
    if message["type"] == "session.ping":
        await socket.send_json({"type": "session.pong"})
    else:
        await _send_error(socket, ApiError(400, f"{message['type']} is not expected here: {otherwise}", param="type"))


async def _send_video(server: Server, socket: WebSocket, job: Job) -> None:
    """Send every attempt at the video until it has ended, and how it ended."""
    index, attempts = 0, 0
    while (current := await run_in_threadpool(server.store.get, job.id)) is not None:
        if current.attempts > attempts and current.status in ("in_progress", "completed"):
            attempts = current.attempts
            config = as_json(Video.of(current))
            await socket.send_json({"type": "video.start", "request_id": job.id, "format": FORMAT, "config": config})
            async for chunk in in_boxes(follow(server, current)):
                about = {"kind": "media", "transport_chunk_index": index, "generation_chunk_index": index}
                about |= {"num_frames": chunk.num_frames, "byte_length": len(chunk.data)}
                await socket.send_json({"type": "video.chunk_metadata", "request_id": job.id, **about})
                await socket.send_bytes(chunk.data)
                index += 1
        elif current.status not in ACTIVE:
            break
        await anyio.sleep(SECONDS_BETWEEN_LOOKS)
    if current is not None and current.error_code is not None:
        await _send_error(socket, ApiError(500, current.error_message or "", code=current.error_code))
    stopped = current is None or current.status == "cancelled"
    await socket.send_json({"type": "session.done", "request_id": job.id, "stopped": stopped, "chunks": index})
    await socket.close()


async def in_boxes(pieces: AsyncIterator[bytes]) -> AsyncIterator[Chunk]:
    """Whole boxes of a fragmented MP4, with at least one frame in each chunk."""
    waiting = b""
    async for piece in pieces:
        waiting += piece
        end, num_frames, position = 0, 0, 0
        while len(waiting) - position >= BOX_HEADER:
            size, kind = int.from_bytes(waiting[position : position + 4]), waiting[position + 4 : position + 8]
            if not BOX_HEADER <= size <= MAX_BOX_BYTES:
                raise StarflowError("the growing video is damaged")
            position += size
            if position > len(waiting):
                break
            if kind == b"mdat":  # the frames that the `moof` before it announced
                end, num_frames = position, num_frames + 1
        if num_frames:
            yield Chunk(waiting[:end], num_frames)
            waiting = waiting[end:]


async def _receive(socket: WebSocket) -> dict[str, Any]:
    """The next message. Raises ApiError if it is not an object with a type."""
    try:
        message = json.loads(await socket.receive_text())
    except (ValueError, KeyError, RecursionError) as error:
        raise ApiError(400, "a message must be JSON", code="invalid_json") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ApiError(400, "a message must be an object with a type", param="type", code="invalid_value")
    return message


async def _send_error(socket: WebSocket, error: Exception) -> None:
    if isinstance(error, ValidationError):
        error = of_validation(error.errors())
    elif not isinstance(error, ApiError):
        error = ApiError(400, str(error), code="invalid_value")
    await socket.send_json({"type": "error", "message": error.message, "code": error.code, "param": error.param})


def _end(server: Server, job: Job) -> None:
    """Cancel the video if it has not ended, and remove the fragments, which were kept for this session."""
    server.cancel(job)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        remove(fragments_of(server.settings.folder(job.id), attempt))
