"""The options that make a model fit a device, and a check of memory before anything is loaded."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import click

from starflow.errors import UsageError

if TYPE_CHECKING:
    import torch

    from starflow.hardware.architecture import Architecture
    from starflow.hardware.memory import Request
    from starflow.pipeline.pipeline import StarFlowPipeline


@dataclass(frozen=True)
class Fitting:
    """The values of `fitting_options`."""

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


def fitting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options `--offload`, `--quantize`, `--cache-dtype` and `--tiling`: the fields of `Fitting`."""
    for option in (
        click.option("--tiling", is_flag=True, help="Decode large frames in tiles, which saves memory."),
        click.option(
            "--cache-dtype",
            type=click.Choice(["bfloat16", "float8"]),
            help="Precision of the key/value cache. [default: that of the weights]",
        ),
        click.option(
            "--quantize",
            type=click.Choice(["int8", "fp8", "int4"]),
            help="Quantize the weights of flow and denoiser. [default: no]",
        ),
        click.option(
            "--offload",
            type=click.Choice(["none", "model", "group"]),
            default="none",
            show_default=True,
            help="Keep on the CPU: nothing, the parts not in use (model), or the layers not in use (group).",
        ),
    ):
        command = option(command)
    return command


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
