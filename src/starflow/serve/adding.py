"""From a request to a job in the queue: decide, decode what is uploaded, add."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from starflow.errors import StarflowError
from starflow.media.files import remove
from starflow.serve.bodies import Body
from starflow.serve.database import Job
from starflow.serve.decide import TASKS, batch_key
from starflow.serve.decoding import Wanted, decode
from starflow.serve.errors import RETRY_SECONDS, ApiError
from starflow.serve.job_files import VARIANTS
from starflow.serve.jobs import QueueFull, new_id
from starflow.serve.making import PICTURES
from starflow.serve.schema import Reference, ScoreRequest, VideoRequest
from starflow.serve.server import Server

MAX_IDEMPOTENCY_KEY = 255


async def add_video(
    server: Server,
    request: HTTPConnection,
    asked: VideoRequest,
    body: Body,
    *,
    kind: str = "video",
    realtime: bool = False,
) -> Job:
    """Queue a video or an image.

    Args:
        server: of this process.
        request: whose headers are used.
        asked: what the client asks for.
        body: the request, with its uploads.
        kind: `video` or `image`.
        realtime: whether the video is steered while it is made: it is made alone, and its fragments are kept.

    Raises:
        ApiError, StarflowError: the client asks for what cannot be made, or the queue is full.
    """
    owner, digest = request.scope["state"]["owner"], body.digest
    key = request.headers.get("idempotency-key") if kind == "video" else None
    if key is not None and not 0 < len(key) <= MAX_IDEMPOTENCY_KEY:
        raise ApiError(400, f"Idempotency-Key may have 1 to {MAX_IDEMPOTENCY_KEY} characters", code="invalid_value")
    if (earlier := await run_in_threadpool(server.store.find_idempotent, owner, key)) is not None:
        return _same(earlier, digest)
    server.decisions.check_model(asked.model)
    options = server.decisions.options(asked)
    references = {name: getattr(asked, name) for name in TASKS}
    with _new_job(server) as job_id:
        wanted = {name: _wanted(server, name, options) for name in TASKS}
        given = await _decode_all(server, owner, job_id, body, references, wanted)
        settings = server.decisions.video(asked, given) | {"realtime": realtime}
        job = Job(
            id=job_id,
            kind=kind,
            owner=owner,
            request_id=request.scope["state"]["request_id"],
            prompt=asked.prompt.strip(),
            settings=settings,
            ignored=asked.ignored,
            batch_key=None if realtime else batch_key(settings),
            idempotency_key=key,
            digest=digest,
            source_id=next((each.id for each in references.values() if each is not None), None),
        )
        added = await _add(server, job)
    if added.id != job_id:  # an equal request was faster
        remove(server.settings.folder(job_id))
    return _same(added, digest)


async def add_score(server: Server, request: HTTPConnection, asked: ScoreRequest, body: Body) -> Job:
    """Queue the scoring of a clip. Raises ApiError or StarflowError."""
    server.decisions.check_model(asked.model)
    owner, model = request.scope["state"]["owner"], server.decisions.model
    if not any(prompt.strip() for prompt in asked.prompt):
        raise ApiError(
            400, "give a prompt; the empty one can only be an addition", param="prompt", code="invalid_value"
        )
    config, codec = model.config, model.codec
    is_image = config.num_frames == 1
    wanted = Wanted(
        config.height,
        config.width,
        None if is_image else config.fps,
        codec.temporal_factor,
        max_frames=config.num_frames,
    )
    with _new_job(server, "score") as job_id:
        given = await _decode_all(server, owner, job_id, body, {"video": asked.video}, {"video": wanted})
        if not given:
            raise ApiError(400, "give the clip as `video`", param="video", code="missing")
        if given["video"] == 1 and not is_image:
            shortest = 1 + codec.temporal_factor
            message = f"the clip is too short: the model needs {shortest} frames at {config.fps:g} fps"
            raise ApiError(400, message, param="video", code="invalid_value")
        job = Job(
            id=job_id,
            kind="score",
            owner=owner,
            request_id=request.scope["state"]["request_id"],
            prompt=asked.prompt[0],
            settings={
                "model": server.settings.model_id,
                "prompts": asked.prompt,
                "noise_samples": asked.noise_samples,
                "seed": asked.seed,
                "fps": config.fps,
            },
        )
        return await _add(server, job)


@contextmanager
def _new_job(server: Server, kind: str = "video") -> Iterator[str]:
    """The id of a job to be added, with a folder, which an exception removes."""
    job_id = new_id(kind)
    folder = server.settings.folder(job_id)
    try:
        folder.mkdir(parents=True)
        yield job_id
    except BaseException:
        remove(folder)
        raise


def _same(earlier: Job, digest: str) -> Job:
    """The job of an earlier request with the same idempotency key, if the requests are equal."""
    if earlier.digest != digest:
        raise ApiError(409, "this Idempotency-Key was used for another request", code="idempotency_key_reused")
    return earlier


async def _add(server: Server, job: Job) -> Job:
    try:
        return await run_in_threadpool(server.store.add, job, server.settings.limits.queued)
    except QueueFull:
        waiting = server.settings.limits.queued
        message = f"{waiting} jobs are waiting: try again later"
        raise ApiError(429, message, code="queue_full", wait=RETRY_SECONDS) from None


def _wanted(server: Server, name: str, options: Mapping[str, Any]) -> Wanted:
    """What the picture or clip of a parameter is made to fit."""
    height, width = options["height"], options["width"]
    if TASKS[name][1] in PICTURES:
        return Wanted(height, width)
    factor = server.decisions.model.codec.temporal_factor
    return Wanted(height, width, options["fps"], factor, keep_end=name == "extend_reference")


async def _decode_all(
    server: Server,
    owner: str,
    job_id: str,
    body: Body,
    references: Mapping[str, Reference | None],
    wanted: Mapping[str, Wanted],
) -> dict[str, int]:
    """Decode the uploads, and the videos of this server that are named. Returns the number of frames of each."""
    if unknown := body.uploads.keys() - references.keys():
        raise ApiError(400, f"{min(unknown)} takes no file", param=min(unknown), code="invalid_value")
    folder, given = server.settings.folder(job_id), {}
    for name, reference in references.items():
        if name not in body.uploads and reference is None:
            continue
        option = TASKS[name][1] if name in TASKS else name
        (folder / "given").mkdir(parents=True, exist_ok=True)
        upload = folder / "given" / "upload"
        try:
            if name in body.uploads:
                await run_in_threadpool(upload.write_bytes, body.uploads[name])
                source = upload
            else:
                source = await run_in_threadpool(_own_video, server, owner, name, reference)
            async with server.decoders:
                frames = folder / "given" / f"{option}.safetensors"
                given[name] = await run_in_threadpool(decode, source, frames, wanted[name], server.settings.limits)
        except StarflowError as error:
            raise ApiError(400, f"cannot use {name}: {error}", param=name, code="invalid_media") from error
        finally:
            upload.unlink(missing_ok=True)
    return given


def _own_video(server: Server, owner: str, name: str, reference: Reference | None) -> Path:
    """The file of a completed video that a reference names. Raises ApiError if there is none."""
    if reference is None or reference.id is None:
        raise ApiError(400, f"{name} needs a file, a data URL or the id of a video", param=name, code="invalid_value")
    job = server.store.get(reference.id, owner)
    if job is None or job.kind != "video" or job.status != "completed":
        message = f"{name}: there is no completed video {reference.id!r}"
        raise ApiError(404, message, param=name, code="not_found")
    return server.settings.folder(job.id) / VARIANTS["video"]
