"""The other routes: pictures, scores, models, and what operators watch."""

import base64
import secrets
import time

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse

from starflow.serve.adding import add_score, add_video
from starflow.serve.bodies import Body, read_body
from starflow.serve.content import image_of
from starflow.serve.errors import RETRY_SECONDS, ApiError
from starflow.serve.schema import Image, Images, ImagesRequest, Model, ModelList, ScoreRequest, Scores, VideoRequest
from starflow.serve.server import Serving
from starflow.serve.videos import request_body

router = APIRouter()
STARTED = int(time.time())


@router.post("/v1/images/generations", tags=["images"])
async def make_images(asked: ImagesRequest, request: Request, server: Serving) -> Images:
    """Make pictures, and wait for them."""
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    values = asked.model_dump(exclude={"n", "response_format", "seed"}, exclude_none=True)
    jobs = []
    try:
        for index in range(asked.n):
            one = VideoRequest(**values, num_frames=1, seed=seed + index)
            jobs.append(await add_video(server, request, one, Body(), kind="image"))
        jobs = [await server.wait(request, job) for job in jobs]
        made = [await run_in_threadpool(image_of, server.settings.folder(job.id)) for job in jobs]
    finally:
        for job in jobs:
            await run_in_threadpool(server.delete, job)
    images = [
        Image(b64_json=base64.b64encode(png).decode(), seed=job.settings["seed"])
        for png, job in zip(made, jobs, strict=True)
    ]
    return Images(created=int(time.time()), data=images)


@router.post("/v1/videos/score", tags=["videos"], openapi_extra=request_body(ScoreRequest, ("video",)))
async def score(request: Request, server: Serving) -> Scores:
    """How likely a clip is under each caption, and how much each part of it surprises the model."""
    body = await read_body(request, lists=("prompt",))
    if isinstance(body.fields.get("prompt"), str):
        body.fields["prompt"] = [body.fields["prompt"]]
    job = await add_score(server, request, ScoreRequest.model_validate(body.fields), body)
    try:
        job = await server.wait(request, job)
    finally:
        await run_in_threadpool(server.delete, job)
    return Scores.model_validate(job.result)


@router.get("/v1/models", tags=["models"])
def models(server: Serving) -> ModelList:
    """The model of this server."""
    model, options = server.decisions.model, server.decisions.defaults
    about = Model(
        id=server.settings.model_id,
        created=STARTED,
        size=f"{options['width']}x{options['height']}",
        num_frames=options["num_frames"] or model.config.num_frames,
        fps=options["fps"],
        size_multiple=model.codec.spatial_factor,
        frames_multiple=model.codec.temporal_factor,
        max_seconds=server.settings.limits.seconds,
        guidance_scale=options["guidance_scale"],
        tolerance=options["tolerance"],
        loras=list(server.settings.loras),
    )
    return ModelList(data=[about])


@router.get("/v1/models/{model_id:path}", tags=["models"])
def retrieve_model(model_id: str, server: Serving) -> Model:
    """A model."""
    server.decisions.check_model(model_id)
    return models(server).data[0]


@router.get("/health", tags=["operation"])
def health() -> JSONResponse:
    """Whether the API answers."""
    return JSONResponse({"status": "ok"})


@router.get("/ready", tags=["operation"])
def ready(server: Serving) -> JSONResponse:
    """Whether a worker has loaded the model."""
    workers = server.store.ready_workers()
    if not workers:
        message = server.supervisor.failure or "no worker has loaded the model yet"
        raise ApiError(503, message, code="not_ready", wait=RETRY_SECONDS)
    return JSONResponse({"status": "ready", "workers": len(workers)})


@router.get("/metrics", tags=["operation"], response_class=PlainTextResponse)
def metrics(server: Serving) -> PlainTextResponse:
    """Metrics for Prometheus."""
    return PlainTextResponse(server.metrics.page(server.store), media_type="text/plain; version=0.0.4")
