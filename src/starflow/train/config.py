"""The keys of the training configs. Times are in training steps."""

from dataclasses import dataclass, field
from typing import Any

from starflow.config import MISSING
from starflow.data.buckets import BucketConfig
from starflow.data.tasks import TaskWeights
from starflow.flow.transformer import MATRICES


@dataclass
class OptimizerConfig:
    """AdamW for the parameters of one module; Muon for its matrices and convolution kernels if `muon_lr` is not 0."""

    lr: float = 1e-3
    muon_lr: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0
    clip_norm: float = 1.0  # largest norm of the gradient; AdamW's and Muon's parameters are clipped separately
    skip_norm: float = float("inf")  # after warm-up, a step whose norm before clipping is larger changes no weight


@dataclass
class LoopConfig:
    """The settings of every training run. The learning rate rises linearly, stays at its peak and falls as a cosine."""

    num_steps: int = MISSING
    warmup_steps: int = 100  # steps until the learning rate is at its peak
    decay_steps: int = MISSING  # steps at the end, during which the learning rate falls
    final_lr_factor: float = 0.01  # learning rate at the start and at the end, relative to the peak
    accumulation: int = 1  # micro steps (backward passes) per step; several processes divide them among themselves
    workers: int = 1  # parallel micro steps; runs are reproducible bit for bit with 1, or with 2 if accumulation is 2
    ema_decay: float = 0.999  # of the moving averages of the weights
    seed: int = 0
    device: str = "cpu"
    bf16: bool = True  # forward passes in bfloat16, by autocast
    log_every: int = 20
    preview_every: int = 500  # 0: no previews, which take as much memory as generating
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    wandb: str | None = None  # project on Weights & Biases that the log is also sent to


@dataclass
class ParallelConfig:
    """What several processes divide, and what saves memory or time in each: see `starflow.train.parallelize`."""

    strategy: str = "ddp"  # what processes share besides the work: ddp nothing, fsdp the weights, hsdp both by groups
    group_size: int | None = None  # processes of a group of hsdp; None: those of a machine
    activation_checkpointing: str = "none"  # or selective: recompute all but products and attention; or full
    compile: bool = False  # compile each layer


@dataclass
class Phase:
    """A phase of the VAE's training, and the size of its clips."""

    num_steps: int = MISSING
    num_frames: int = MISSING  # of each clip: 1 + 4k, if the VAE decodes a latent frame to 4 frames
    batch_size: int = MISSING  # of a micro step


@dataclass
class VAEModelConfig:
    """Arguments of `AutoencoderKLWan` in diffusers."""

    base_dim: int = 32
    decoder_base_dim: int | None = None
    z_dim: int = 24
    dim_mult: list[int] = field(default_factory=lambda: [1, 2, 2])
    num_res_blocks: int = 1
    temporal_downsample: list[bool] = field(default_factory=lambda: [True, True])
    is_residual: bool = True
    patch_size: int = 4


@dataclass
class VAELossConfig:
    """Mean squared error of the pixels, Kullback-Leibler term, and noise on the latents in training."""

    pixel_weights: str | None = None  # the name of a weighting of the pixels: see `starflow.train.pixel_weights`
    mark_weight: float | None = None  # weight of the pixels that the source marks; that of the others is 1
    kl_weight: float = 1e-5
    latent_noise: float = 0.05  # largest standard deviation relative to the latents'; that of a clip is uniform from 0


@dataclass
class VAETrainConfig:
    """The keys of `starflow train vae`. The steps of the phases add up to those of the run."""

    output: str = MISSING
    data: dict[str, Any] = MISSING  # a source of clips and its arguments: see `starflow.data.sources`
    test_data: dict[str, Any] | None = None  # a source of held-out clips; None: the last clips of `data`
    data_workers: int = 0  # processes that read the next clips; 0: the training process reads them
    num_test_clips: int = 20  # held-out clips that the PSNR is measured on
    fps: float | None = None  # clips are resampled to this rate; None: that of the first clip
    height: int | None = None  # clips are scaled and cropped to this size; None: about that of the first clip
    width: int | None = None
    excerpt_frames: int | None = None  # see `starflow.train.vae.VAEStep`
    decoder_of: str | None = None  # folder of a trained VAE: train only its decoder; its latents do not change
    model: VAEModelConfig = field(default_factory=VAEModelConfig)
    loss: VAELossConfig = field(default_factory=VAELossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    phases: list[Phase] = MISSING


@dataclass
class FlowModelConfig:
    """Arguments of `starflow.flow.model.StarFlow`."""

    shallow_layers: list[int] = field(default_factory=lambda: [2, 2, 2])
    deep_layers: int = 6
    shallow_width: int = 192
    deep_width: int = 256
    head_dim: int = 64
    position_length: float | None = None  # None: the side of a square with as many tokens as a frame has
    soft_clip: float = 4


@dataclass
class DenoiserModelConfig:
    """Arguments of `starflow.flow.denoiser.CausalDenoiser`."""

    width: int = 192
    num_layers: int = 4
    window: int = 10
    temporal_causal: int = 2  # 1: no look-ahead, for a model that is played


@dataclass
class TextModelConfig:
    """The small T5 that encodes the captions."""

    vocab_size: int = 1024
    width: int = 128
    num_layers: int = 2


@dataclass
class PipelineConfig:
    """Settings of `starflow.pipeline.pipeline.StarFlowPipeline`.

    None: the setting of the model that training starts from (`init`), or else the default of the pipeline.
    """

    noise_std: float | None = None
    num_frames: int | None = None
    fps: float | None = None
    height: int | None = None
    width: int | None = None
    guidance_scale: float | None = None
    max_text_tokens: int | None = None
    later_frame_scale: float | None = None
    caption_has_fps: bool | None = None
    caption_has_noise_level: bool | None = None
    caption_has_aspect_ratio: bool | None = None
    sampler: str | None = None
    block_size: int | None = None
    shallow_block_size: int | None = None
    tolerance: float | None = None


@dataclass
class ClipsConfig:
    """The keys that `starflow train flow` and `starflow train lora` share: the clips, the batches, and the loop."""

    output: str = MISSING  # folder of the run: its checkpoints, its log, and what was trained in `final`
    data: dict[str, Any] = MISSING  # a source of clips and its arguments: see `starflow.data.sources`
    frames: str = "head"  # which frames of a clip are used: head, uniform, chunks or random; see `ClipFormat`
    shots: bool = False  # whether files are cut into shots first; needs the extra `shots`
    buckets: BucketConfig = field(default_factory=BucketConfig)
    data_workers: int = 0  # processes that read clips while latents are encoded; 0: the training process reads them
    latents: str | None = None  # folder of the latent cache; None: `latents` in the folder of the run
    batch_size: int = 8  # of a micro step
    tasks: TaskWeights = field(default_factory=TaskWeights)
    caption_dropout: float = 0.1
    action_dropout: float = 0.1  # of clips with actions; half of them with the caption, if both shares are equal
    short_clips: float = 0.0  # share of the batches with short clips: see `starflow.data.tasks`
    loop: LoopConfig = field(default_factory=LoopConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)


@dataclass
class FlowTrainConfig(ClipsConfig):
    """The keys of `starflow train flow`.

    With `init`, training starts from all parts and settings of that model; the config changes some of them. Without
    `init`, the config needs `vae` and the num_frames, fps, height and width of the pipeline; `flow`, `denoiser` and
    `text` are the sizes of the new networks.
    """

    init: str | None = None  # model to start from: a name, a folder or a hub id
    vae: str | None = None  # folder of a trained autoencoder, or Wan-AI/Wan2.2-TI2V-5B-Diffusers/vae
    text_encoder: str | None = None  # folder of a trained text encoder and its tokenizer, or google/flan-t5-xl
    train_text_encoder: bool = True
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    batch_size: int = 32  # of a micro step
    auxiliary_loss: str | None = None  # a name: see `starflow.train.auxiliary`
    auxiliary_weight: float = 1.0  # of its nats, relative to those of the clip
    flow: FlowModelConfig = field(default_factory=FlowModelConfig)
    denoiser: DenoiserModelConfig = field(default_factory=DenoiserModelConfig)
    text: TextModelConfig = field(default_factory=TextModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    denoiser_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass
class LoraConfig:
    """The adapter: matrices of rank `rank` that are added to those of the layers, scaled by `alpha / rank`."""

    rank: int = 16
    alpha: int = 16
    dropout: float = 0.0  # of the adapter's inputs
    targets: list[str] = field(default_factory=lambda: list(MATRICES))
    shallow_blocks: bool = False  # adapt them too, not only the deep block


@dataclass
class LoraTrainConfig(ClipsConfig):
    """The keys of `starflow train lora`. The model `init` is frozen, and an adapter of its flow is trained.

    None: the setting of the model. An adapter that was trained at another size can be used at any size.
    """

    init: str = MISSING  # model to adapt: a name, a folder or a hub id
    base_precision: str = "float32"  # of the frozen weights: see `starflow.train.models.BASE_PRECISIONS`
    num_frames: int | None = None  # of the clips in training
    fps: float | None = None
    height: int | None = None
    width: int | None = None
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
