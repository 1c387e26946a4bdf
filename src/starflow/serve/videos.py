"""The routes of videos: `/v1/videos`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import BaseModel

from starflow.serve.adding import add_video
from starflow.serve.bodies import read_body
from starflow.serve.content import Variant, content_of
from starflow.serve.database import Job
from starflow.serve.decide import TASKS
from starflow.serve.schema import DeletedVideo, Video, VideoList, VideoRequest
from starflow.serve.server import Owner, Server, Serving

router = APIRouter(prefix="/v1/videos", tags=["videos"])


def request_body(model: type[BaseModel], files: tuple[str, ...]) -> dict[str, Any]:
    """The OpenAPI description of a body that may be JSON, or multipart with files."""
    schema = model.model_json_schema()
    schema = _inlined(schema, schema.pop("$defs", {}))
    upload = {"type": "string", "format": "binary"}
    properties = schema["properties"] | dict.fromkeys(files, upload)
    content = {
        "application/json": {"schema": schema},
        "multipart/form-data": {"schema": schema | {"properties": properties}},
    }
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """A JSON schema with definitions in place of the references to them."""
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if (reference := schema.get("$ref")) is not None:
        return _inlined(definitions[reference.rpartition("/")[2]], definitions)
    return {name: _inlined(value, definitions) for name, value in schema.items()}


CREATE = request_body(VideoRequest, tuple(TASKS))


def shown(server: Server, job: Job) -> Video:
    """A video for the client; of a queued one, with its place in the queue."""
    return Video.of(job, server.store.position(job) if job.status == "queued" else None)


@router.post("", openapi_extra=CREATE)
async def create(request: Request, server: Serving) -> Video:
    """Queue a video. The answer comes at once; ask for the video until it is completed."""
    body = await read_body(request)
    job = await add_video(server, request, VideoRequest.model_validate(body.fields), body)
    return await run_in_threadpool(shown, server, job)


@router.post("/sync", openapi_extra=CREATE, response_class=Response, responses={200: {"content": {"video/mp4": {}}}})
async def create_and_wait(request: Request, server: Serving) -> Response:
    """Make a video, and answer with its file. If the client goes away, the video is cancelled."""
    body = await read_body(request)
    job = await add_video(server, request, VideoRequest.model_validate(body.fields), body)
    job = await server.wait(request, job)
    response = content_of(server, job, "video")
    response.headers["X-Video-ID"] = job.id
    return response


@router.get("")
def list_videos(
    server: Serving,
    owner: Owner,
    after: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> VideoList:
    """The client's videos, the newest first unless `order` is `asc`."""
    jobs = server.store.page(owner, after, limit + 1, newest_first=order == "desc", kind="video")
    data = [shown(server, job) for job in jobs[:limit]]
    first_id, last_id = (data[0].id, data[-1].id) if data else (None, None)
    return VideoList(data=data, has_more=len(jobs) > limit, first_id=first_id, last_id=last_id)


@router.get("/{video_id}")
def retrieve(video_id: str, server: Serving, owner: Owner) -> Video:
    """A video."""
    return shown(server, server.video(video_id, owner))


@router.post("/{video_id}/cancel")
def cancel(video_id: str, server: Serving, owner: Owner) -> Video:
    """Cancel a video that has not ended. One that has ended stays as it is."""
    server.cancel(server.video(video_id, owner))
    return shown(server, server.video(video_id, owner))


@router.delete("/{video_id}")
def delete(video_id: str, server: Serving, owner: Owner) -> DeletedVideo:
    """Delete a video and its files; cancel it if it has not ended."""
    server.delete(server.video(video_id, owner))
    return DeletedVideo(id=video_id)


@router.get("/{video_id}/content", response_class=Response, responses={200: {"content": {"video/mp4": {}}}})
def content(video_id: str, server: Serving, owner: Owner, variant: Variant = "video") -> Response:
    """The file of a video, or a picture of it. Of a video that is being made: what there is, and more as it is made."""
    return content_of(server, server.video(video_id, owner), variant)
