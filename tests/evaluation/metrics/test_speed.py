from starflow.evaluation.metrics.speed import REPEATS, evaluate_speed
from starflow.evaluation.settings import EvaluationSettings
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import tiny_pipeline


def test_the_speed_of_a_video_is_measured(pipeline: StarFlowPipeline):
    speed = evaluate_speed(pipeline, "a red circle", EvaluationSettings(sampler="sequential", guidance_scale=1.0))
    assert (speed["num_frames"], speed["width"], speed["height"]) == (9, 32, 32)
    assert speed["clip"]["n"] == speed["first_frame"]["n"] == REPEATS
    assert 0 < speed["first_frame"]["mean"] < 10
    assert speed["clip"]["mean"] > 0
    assert speed["evaluations_per_token"] == 1  # token by token


def test_the_speed_of_an_image_without_a_denoiser_is_measured():
    model = tiny_pipeline(num_frames=1)
    model.denoiser = None
    assert evaluate_speed(model, "a red circle", EvaluationSettings())["num_frames"] == 1
