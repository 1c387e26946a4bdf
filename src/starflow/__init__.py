"""Text to video with a transformer autoregressive normalizing flow.

Importing the package is cheap: each public name, and torch with it, is loaded when it is first used (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from starflow.errors import StarflowError, UsageError

if TYPE_CHECKING:
    from starflow.encoders.text import encode_text, wrap_caption
    from starflow.encoders.video import VideoCodec
    from starflow.flow.denoiser import CausalDenoiser
    from starflow.flow.model import StarFlow
    from starflow.likelihood.inversion import decode_clip, encode_clip
    from starflow.likelihood.score import log_likelihood
    from starflow.pipeline.export import export_to_video
    from starflow.pipeline.pipeline import StarFlowPipeline

__version__ = "0.1.0"

_MODULE_OF = {
    "CausalDenoiser": "starflow.flow.denoiser",
    "StarFlow": "starflow.flow.model",
    "StarFlowPipeline": "starflow.pipeline.pipeline",
    "VideoCodec": "starflow.encoders.video",
    "decode_clip": "starflow.likelihood.inversion",
    "encode_clip": "starflow.likelihood.inversion",
    "encode_text": "starflow.encoders.text",
    "export_to_video": "starflow.pipeline.export",
    "log_likelihood": "starflow.likelihood.score",
    "wrap_caption": "starflow.encoders.text",
}

__all__ = [
    "CausalDenoiser",
    "StarFlow",
    "StarFlowPipeline",
    "StarflowError",
    "UsageError",
    "VideoCodec",
    "decode_clip",
    "encode_clip",
    "encode_text",
    "export_to_video",
    "log_likelihood",
    "wrap_caption",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value  # the next lookup does not call this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
