"""From a request to the settings of a job: the client's values, else the operator's, else the model's."""

import secrets
from collections.abc import Mapping
from typing import Any

from starflow.errors import UsageError
from starflow.media.sizes import parse_size
from starflow.pipeline.options import Options
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.serve.errors import ApiError
from starflow.serve.schema import Lora, VideoRequest, as_json
from starflow.serve.settings import ServeSettings

CLIENT_OPTIONS = ("num_frames", "fps", "guidance_scale", "tolerance")
TASKS = {  # by the parameter, the name of the task and the option of the pipeline
    "input_reference": ("image-to-video", "image"),
    "last_image_reference": ("image-to-video", "last_image"),
    "video_reference": ("video-to-video", "video"),
    "extend_reference": ("continuation", "extend"),
}


class Decisions:
    """Decides about requests for one model.

    Args:
        settings: the operator's.
        model: the pipeline with the model's settings; it needs no weights.
    """

    def __init__(self, settings: ServeSettings, model: StarFlowPipeline) -> None:
        self.settings, self.limits, self.model = settings, settings.limits, model
        self.defaults = self._options({})

    def check_model(self, name: str | None) -> None:
        """Raise ApiError if a client names another model."""
        if name not in (None, self.settings.model_id):
            raise ApiError(
                404,
                f"there is no model {name!r} here: this server has {self.settings.model_id!r}",
                param="model",
                code="model_not_found",
            )

    def check_lora(self, lora: Lora | None) -> None:
        """Raise ApiError if a client names an adapter that the operator does not allow."""
        if lora is not None and lora.name not in self.settings.loras:
            here = ", ".join(self.settings.loras) or "none"
            raise ApiError(
                404,
                f"there is no LoRA {lora.name!r} here: this server has {here}",
                param="lora",
                code="lora_not_found",
            )

    def video(self, request: VideoRequest, given: Mapping[str, int]) -> dict[str, Any]:
        """The settings of a video.

        Args:
            request: the client's.
            given: the number of frames of each reference, by its parameter.

        Raises:
            ApiError, UsageError: the request asks for what the model cannot make, or the operator does not allow.
        """
        self.check_model(request.model)
        self.check_lora(request.lora)
        if request.num_frames is not None and request.seconds is not None:
            raise ApiError(400, "give num_frames or seconds, not both", param="seconds", code="invalid_value")
        options = self.options(request)
        num_frames = options.pop("num_frames")
        if request.seconds is not None:
            num_frames = self._allowed(request.seconds * options["fps"])
        options["num_frames"] = self._num_frames(num_frames, given)
        self._check_limits(options)
        names = [TASKS[name][0] for name in given]
        seed = secrets.randbelow(2**31) if request.seed is None else request.seed
        task = names[0] if names else "text-to-video" if options["num_frames"] > 1 else "text-to-image"
        lora = {} if request.lora is None else {"lora": as_json(request.lora)}
        return {"model": self.settings.model_id, "task": task, "seed": seed, **options, **lora}

    def options(self, request: VideoRequest) -> dict[str, Any]:
        """The options of generation, before the length is known."""
        asked: dict[str, Any] = {name: getattr(request, name) for name in CLIENT_OPTIONS}
        if request.size is not None:
            asked["width"], asked["height"] = self._size(request.size)
        return self._options({name: value for name, value in asked.items() if value is not None})

    def _size(self, size: str) -> tuple[int, int]:
        """The width and height of a size that the model can make."""
        try:
            width, height = parse_size(size)
            self.model.codec.latent_shape(1, 1, height, width)
        except UsageError as error:
            raise ApiError(400, str(error), param="size", code="invalid_value") from error
        return width, height

    def _options(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        chosen = {**self.settings.options, **asked}
        if chosen.get("num_frames") is not None:
            chosen["num_frames"] = self._allowed(chosen["num_frames"])
        options = Options(**chosen).with_defaults(self.model.config)
        return {name: getattr(options, name) for name in (*CLIENT_OPTIONS, "height", "width")}

    def _allowed(self, num_frames: float) -> int:
        """The nearest number of frames that the model can make, if it is not too long to be counted."""
        return self.model.codec.nearest_num_frames(round(min(num_frames, 2.0**31)))

    def _num_frames(self, num_frames: int | None, given: Mapping[str, int]) -> int:
        """The length of the video after what is given; by default, that of the clip, or that of the model after it."""
        trained = self.model.config.num_frames
        if "video_reference" in given:
            if given["video_reference"] > trained:
                message = f"a clip to edit may have at most the {trained} frames that this model was trained on"
                raise ApiError(400, message, param="video_reference", code="video_too_long")
            return given["video_reference"]
        if "extend_reference" in given and num_frames is None:
            return given["extend_reference"] + trained - 1
        return trained if num_frames is None else num_frames

    def _check_limits(self, options: Mapping[str, Any]) -> None:
        seconds, pixels = options["num_frames"] / options["fps"], options["height"] * options["width"]
        if options["num_frames"] > 1 and seconds > self.limits.seconds:
            raise ApiError(
                400,
                f"a video may last {self.limits.seconds:g} s here, not {seconds:g} s",
                param="seconds",
                code="video_too_long",
            )
        if pixels > self.limits.pixels:
            raise ApiError(
                400, f"a frame may have {self.limits.pixels} pixels here, not {pixels}", param="size", code="too_large"
            )


def batch_key(settings: Mapping[str, Any]) -> str | None:
    """Jobs with the same key can be made in a batch. None: not with others, because a picture or a clip is given."""
    if settings["task"] not in ("text-to-video", "text-to-image"):
        return None
    return " ".join(str(settings.get(name)) for name in ("width", "height", *CLIENT_OPTIONS, "lora"))
