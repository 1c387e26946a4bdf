"""Text to video with a transformer autoregressive normalizing flow.

Importing the package is cheap: each public name is loaded, with torch and what else it needs, when it is first used
(PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from starflow.errors import StarflowError, UsageError

if TYPE_CHECKING:
    from starflow.flow.denoiser import CausalDenoiser
    from starflow.flow.model import StarFlow
    from starflow.inversion import decode_clip, encode_clip
    from starflow.likelihood import log_likelihood
    from starflow.pipeline import StarFlowPipeline
    from starflow.text import encode_text, wrap_caption
    from starflow.vae import VideoCodec

__version__ = "0.1.0"

_MODULE_OF = {
    "CausalDenoiser": "starflow.flow.denoiser",
    "StarFlow": "starflow.flow.model",
    "StarFlowPipeline": "starflow.pipeline",
    "VideoCodec": "starflow.vae",
    "decode_clip": "starflow.inversion",
    "encode_clip": "starflow.inversion",
    "encode_text": "starflow.text",
    "log_likelihood": "starflow.likelihood",
    "wrap_caption": "starflow.text",
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
    "log_likelihood",
    "wrap_caption",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value  # so that the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
