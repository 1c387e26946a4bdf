"""The tasks besides text-to-video: image-to-video, continuation, video-to-video, and a given last frame."""

from starflow.evaluation.clips import read_clips
from starflow.evaluation.contract import Measured
from starflow.evaluation.settings import EvaluationSettings
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.evaluation.continuation import evaluate_continuation
from starflow.toyworld.evaluation.image_tasks import evaluate_image_to_video, evaluate_last_frame
from starflow.toyworld.evaluation.prompts import held_out_clips, held_out_prompts
from starflow.toyworld.evaluation.video_to_video import evaluate_video_to_video, held_out_edits

EDITS_PER_CLIP = 2  # there are four kinds of edit, each with an interval of its own


def evaluate_tasks(pipeline: StarFlowPipeline, num_clips: int, settings: EvaluationSettings) -> dict[str, Measured]:
    """Measure each task on `num_clips` held-out clips, and video-to-video on twice as many.

    Raises:
        StarflowError: NaN in a sample.
    """
    clips = read_clips(held_out_clips(settings.seed, num_clips), pipeline, num_clips)
    prompts = held_out_prompts(settings.seed, num_clips, 1)
    edits = held_out_edits(settings.seed, EDITS_PER_CLIP * num_clips)
    return {
        "image_to_video": evaluate_image_to_video(pipeline, clips, settings),
        "continuation": evaluate_continuation(pipeline, prompts, settings),
        "video_to_video": evaluate_video_to_video(pipeline, edits, settings),
        "last_frame": evaluate_last_frame(pipeline, clips, settings),
    }
