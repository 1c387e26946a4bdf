"""What a model makes of pictures and clips: image-to-video, continuation, video-to-video, last frames."""

from starflow.evaluation.clips import held_out_clips
from starflow.evaluation.generation import SamplingSettings
from starflow.evaluation.measured import Measured
from starflow.evaluation.metrics.reconstruction import reconstruct
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.evaluation.continuation import evaluate_continuation
from starflow.toyworld.evaluation.image_tasks import evaluate_image_to_video, evaluate_last_frame
from starflow.toyworld.evaluation.prompts import held_out_prompts
from starflow.toyworld.evaluation.video_to_video import evaluate_video_to_video, held_out_edits

EDITS_PER_CLIP = 2  # there are four kinds of edit, each with an interval of its own


def evaluate_tasks(
    pipeline: StarFlowPipeline, num_clips: int, settings: SamplingSettings, codec_batch: int, num_shown: int
) -> dict[str, Measured]:
    """Each task on `num_clips` held-out clips, video-to-video on twice as many; `num_shown` of each are to be shown.

    Raises:
        StarflowError: NaN in what was sampled.
    """
    clips = held_out_clips(settings.seed, num_clips)
    reconstructions = reconstruct(pipeline.codec, clips.frames, codec_batch, "image to video: ceiling").frames
    prompts = held_out_prompts(settings.seed, num_clips, 1)
    edits = held_out_edits(settings.seed, EDITS_PER_CLIP * num_clips)
    return {
        "image_to_video": evaluate_image_to_video(pipeline, clips, reconstructions, settings, num_shown),
        "continuation": evaluate_continuation(pipeline, prompts, settings, codec_batch, num_shown),
        "video_to_video": evaluate_video_to_video(pipeline, edits, settings, codec_batch, num_shown),
        "last_frame": evaluate_last_frame(pipeline, clips, settings, num_shown),
    }
