"""The options that make a model fit a device: loading with them, and a check of memory before. It imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from starflow.errors import UsageError

if TYPE_CHECKING:
    import torch

    from starflow.hardware.architecture import Architecture
    from starflow.hardware.memory import Request
    from starflow.pipeline.pipeline import StarFlowPipeline


@dataclass(frozen=True)
class Fitting:
    """How a model is made to fit a device.

    Attributes:
        offload: see `starflow.hardware.placement`.
        quantize: see `starflow.hardware.quantization`.
        cache_dtype: `bfloat16` or `float8`, for the key/value cache; None for the dtype of the weights.
        tiling: whether the VAE decodes in tiles.
    """

    offload: Literal["none", "model", "group"] = "none"
    quantize: Literal["int8", "fp8", "int4"] | None = None
    cache_dtype: str | None = None
    tiling: bool = False

    @property
    def torch_cache_dtype(self) -> "torch.dtype | None":
        """The dtype of the key/value cache; None for that of the weights."""
        import torch

        names = {"bfloat16": torch.bfloat16, "float8": torch.float8_e4m3fn}
        return None if self.cache_dtype is None else names[self.cache_dtype]

    def check(self, architecture: "Architecture", processes: int) -> None:
        """Raise UsageError if a model, or processes that share one, cannot be used with these options."""
        from starflow.hardware.quantization import check_quantizable

        check_quantizable(architecture.flow, architecture.denoiser, self.quantize)
        if processes == 1:
            return
        from starflow.hardware.parallel import check_heads

        for part in (architecture.flow, architecture.denoiser):
            if part is not None:
                check_heads(part, processes)
        if self.quantize or self.offload != "none":
            raise UsageError(
                "processes that share a model split its weights already: leave out --offload and --quantize"
            )

    def applied_to(self, request: "Request") -> "Request":
        """The request with these options."""
        return replace(
            request,
            offload=self.offload,
            quantize=self.quantize,
            cache_dtype=self.torch_cache_dtype,
            tiling=self.tiling,
        )

    def load(self, model: str, device: "torch.device", dtype: str) -> "StarFlowPipeline":
        """Load a model with these options, for a device. `place` must then put it there, with `self.offload`.

        Raises StarflowError if the model cannot be loaded.
        """
        import torch

        from starflow.hardware.quantization import quantization_config
        from starflow.pipeline.pipeline import StarFlowPipeline

        options: dict[str, Any] = {}
        if self.quantize is not None:
            options["quantization_config"] = quantization_config(self.quantize, device)
        if self.quantize == "int4" and device.type != "cpu":
            options["device_map"] = device.type
        pipeline = StarFlowPipeline.from_pretrained(model, dtype=getattr(torch, dtype), **options)
        pipeline.flow.cache_dtype = self.torch_cache_dtype
        if self.tiling:
            pipeline.vae.enable_tiling()
        return pipeline


def require_fit(
    model: str,
    device: "torch.device",
    fitting: Fitting,
    processes: int,
    request_for: "Callable[[StarFlowPipeline], Request]",
) -> None:
    """Check memory and options before anything is loaded: only configuration files are read.

    `request_for` gets a pipeline with the model's settings but without weights.

    Raises:
        UsageError: the device has too little memory (the message names options that help), or the model does not
            support `fitting`.
    """
    from starflow.hardware.architecture import load_architecture
    from starflow.hardware.memory import require_memory

    architecture = load_architecture(model)
    fitting.check(architecture, processes)
    request = fitting.applied_to(request_for(architecture.pipeline()))
    require_memory(architecture, replace(request, processes=processes), device)
