"""The files of a video: finished, or while it is made."""

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal

import anyio
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response, StreamingResponse

from starflow.serve.database import Job
from starflow.serve.errors import ApiError
from starflow.serve.job_files import VARIANTS, fragments_of
from starflow.serve.server import Server

Variant = Literal["video", "thumbnail", "spritesheet"]
MEDIA_TYPES = {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/jpeg"}
CHUNK_BYTES = 2**18
SECONDS_BETWEEN_READS = 0.02
READS_BETWEEN_LOOKS = 10  # at the database


def content_of(server: Server, job: Job, variant: Variant) -> Response:
    """A file of a completed video, in which clients can seek; or the stream of one that is being made.

    Raises ApiError if there is nothing yet, or never will be.
    """
    if job.status == "completed":
        path = server.settings.folder(job.id) / VARIANTS[variant]
        if not path.exists():
            raise ApiError(404, f"the {variant} has been removed", code="no_content")
        return FileResponse(
            path, media_type=MEDIA_TYPES[variant], filename=f"{job.id}{path.suffix}", content_disposition_type="inline"
        )
    if job.status == "in_progress" and variant == "video":
        return StreamingResponse(follow(server, job), media_type=MEDIA_TYPES[variant])
    if job.status in ("queued", "in_progress"):
        raise ApiError(409, f"the {variant} is not ready: the video is {job.status}", code="not_ready", wait=1)
    raise ApiError(404, f"the video has no content: it is {job.status}", code="no_content")


async def follow(server: Server, job: Job) -> AsyncIterator[bytes]:
    """The bytes of the growing video of a job's current attempt, until it ends."""
    folder = server.settings.folder(job.id)
    growing, finished = fragments_of(folder, job.attempts), folder / VARIANTS["video"]
    while (opened := open_first(growing, finished)) is None:
        if not await _is_being_made(server, job):
            return
        await anyio.sleep(SECONDS_BETWEEN_READS)
    async with anyio.wrap_file(opened) as file:
        reads, is_last = 0, False
        while True:
            if chunk := await file.read(CHUNK_BYTES):
                yield chunk
            elif is_last:
                return
            else:
                await anyio.sleep(SECONDS_BETWEEN_READS)
                reads += 1
                is_last = reads % READS_BETWEEN_LOOKS == 0 and not await _is_being_made(server, job)


def open_first(*paths: Path) -> BinaryIO | None:
    """The first of several files that is there. The worker may rename or remove them at this moment."""
    for path in paths:
        with suppress(FileNotFoundError):
            return path.open("rb")
    return None


async def _is_being_made(server: Server, job: Job) -> bool:
    """Whether the same attempt still runs."""
    current = await run_in_threadpool(server.store.get, job.id)
    return current is not None and current.status == "in_progress" and current.attempts == job.attempts


def image_of(folder: Path) -> bytes:
    """The PNG of an image."""
    return (folder / "image.png").read_bytes()
