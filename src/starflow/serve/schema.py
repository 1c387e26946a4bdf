"""The objects of the API. Those of videos, images and models have OpenAI's shape, with extensions."""

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from starflow.serve.database import Job

MAX_PROMPT = 32_000  # characters, as in OpenAI's API
MAX_SEED = 2**63 - 1  # that every database stores
IGNORED = ("negative_prompt", "num_inference_steps")  # sent by habit, without meaning for a flow

Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT, pattern=r"\S")]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class Request(BaseModel):
    """The base of requests: an unknown parameter is an error."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Reference(Request):
    """A picture or a clip: a data URL (`data:image/png;base64,…`), or the id of a video of this server."""

    image_url: str | None = None
    id: str | None = Field(None, max_length=100)


class Lora(Request):
    """An adapter that this server has, and its weight."""

    name: str = Field(max_length=64)
    scale: float = Field(1.0, ge=-10, le=10)


class GenerationRequest(Request):
    """What videos and pictures have in common. What is left out is the operator's choice, or else the model's."""

    prompt: Prompt
    model: str | None = Field(None, max_length=200)
    size: str | None = Field(None, max_length=20, description="Width and height, such as 848x480.")
    seed: Seed | None = None
    guidance_scale: float | None = Field(None, ge=0, le=100)
    tolerance: float | None = Field(None, gt=0, le=1000)
    lora: Lora | None = Field(None, description="One of the adapters that /v1/models lists.")
    negative_prompt: str | None = Field(None, max_length=MAX_PROMPT, description="Ignored.")
    num_inference_steps: int | None = Field(None, description="Ignored.")


class VideoRequest(GenerationRequest):
    """A video to make. References are uploaded files in a multipart request."""

    seconds: float | None = Field(None, gt=0, description="Length; to the nearest that the model can make.")
    input_reference: Reference | None = Field(None, description="The first frame.")
    last_image_reference: Reference | None = Field(None, description="The last frame.")
    video_reference: Reference | None = Field(None, description="A clip to edit; the prompt says how.")
    extend_reference: Reference | None = Field(None, description="A clip to continue; the length includes it.")
    num_frames: int | None = Field(None, ge=1, description="Length in frames, instead of seconds.")
    fps: float | None = Field(None, gt=0, le=1000)

    @property
    def ignored(self) -> list[str]:
        """The parameters that were sent but have no meaning here."""
        return [name for name in IGNORED if getattr(self, name) is not None]


class InteractionEvent(Request):
    """What changes."""

    prompt: Prompt


class Interaction(Request):
    """A change of a video that is being made; `transition_chunks` is accepted, but the change is immediate."""

    event: InteractionEvent
    event_id: str | None = Field(None, max_length=200)
    transition_chunks: int | None = None


class VideoError(BaseModel):
    """Why a video failed."""

    code: str
    message: str


class Video(BaseModel):
    """A video, from the request to the end. Times are Unix seconds."""

    id: str
    object: Literal["video"] = "video"
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled"]
    progress: int
    created_at: int
    started_at: int | None
    completed_at: int | None
    expires_at: int | None
    model: str
    prompt: str
    size: str
    seconds: str
    num_frames: int
    fps: float
    seed: int
    guidance_scale: float
    tolerance: float
    lora: Lora | None
    task: str
    remixed_from_video_id: str | None
    ignored: list[str]
    error: VideoError | None
    inference_time_s: float | None
    queue_position: int | None = None

    @classmethod
    def of(cls, job: Job, queue_position: int | None = None) -> "Video":
        """The video of a job."""
        settings = job.settings
        error = VideoError(code=job.error_code, message=job.error_message or "") if job.error_code else None
        return cls(
            id=job.id,
            status=job.status,
            progress=job.progress,
            created_at=int(job.created_at),
            started_at=_whole(job.started_at),
            completed_at=_whole(job.completed_at),
            expires_at=_whole(job.expires_at),
            size=f"{settings['width']}x{settings['height']}",
            seconds=f"{settings['num_frames'] / settings['fps']:g}",
            prompt=job.prompt,
            lora=settings.get("lora"),
            remixed_from_video_id=job.source_id,
            ignored=job.ignored,
            error=error,
            inference_time_s=_inference_time(job),
            queue_position=queue_position,
            **{name: settings[name] for name in _SETTINGS},
        )


_SETTINGS = ("model", "num_frames", "fps", "seed", "guidance_scale", "tolerance", "task")


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def _inference_time(job: Job) -> float | None:
    """The seconds that a job has been made, up to now if it is running."""
    if job.started_at is None:
        return None
    return round((job.completed_at or time.time()) - job.started_at, 3)


class VideoList(BaseModel):
    """A page of videos."""

    object: Literal["list"] = "list"
    data: list[Video]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedVideo(BaseModel):
    """The answer of a deletion."""

    id: str
    deleted: Literal[True] = True
    object: Literal["video.deleted"] = "video.deleted"


class ImagesRequest(GenerationRequest):
    """Pictures to make."""

    n: int = Field(1, ge=1, le=10)
    response_format: Literal["b64_json"] = "b64_json"


class Image(BaseModel):
    """A picture: a PNG in base64, and its seed."""

    b64_json: str
    seed: int


class Images(BaseModel):
    """The pictures made."""

    created: int
    data: list[Image]


class ScoreRequest(Request):
    """A clip whose likelihood under each caption is asked for."""

    prompt: list[Annotated[str, Field(max_length=MAX_PROMPT)]] = Field(min_length=1, max_length=64)
    video: Reference | None = Field(None, description="The clip: an upload, or the id of a video of this server.")
    model: str | None = Field(None, max_length=200)
    noise_samples: int = Field(4, ge=1, le=64)
    seed: Seed = 0


class Score(BaseModel):
    """The log-likelihood of a clip under a caption, in nats, with its standard error over draws of the noise."""

    prompt: str
    log_likelihood: float
    standard_error: float | None
    nats_per_dim: float
    bits_per_dim: float
    per_frame: list[float] = Field(description="Of each latent frame given those before it.")
    surprise: list[list[list[float]]] = Field(
        description="Negative log-likelihood of each token: latent frames, rows, columns."
    )


class Scores(BaseModel):
    """The scores of a clip, one for each caption."""

    object: Literal["video.score"] = "video.score"
    model: str
    num_frames: int
    fps: float
    num_dims: int
    noise_samples: int
    scores: list[Score]


class Model(BaseModel):
    """A model, and what it makes by default."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "starflow"
    size: str
    num_frames: int
    fps: float
    size_multiple: int
    frames_multiple: int
    max_seconds: float
    guidance_scale: float
    tolerance: float
    loras: list[str]


class ModelList(BaseModel):
    """The models of the server."""

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every answer that is an error."""

    error: ErrorDetail


def as_json(value: BaseModel) -> dict[str, Any]:
    """The JSON of an object."""
    return value.model_dump(mode="json")
