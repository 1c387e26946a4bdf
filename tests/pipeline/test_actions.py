"""Videos, streams and likelihoods with actions."""

import pytest
import torch

from invertible_maps import randomize
from starflow.errors import UsageError
from starflow.flow.actions import ActionSpace
from starflow.likelihood.score import log_likelihood
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import CAPTIONS, tiny_pipeline

SPACE = ActionSpace(sizes=(3,))
ONE, OTHER = [0, 1, 1, 1, 1, 2, 2, 2, 2], [0, 1, 1, 1, 1, 0, 0, 0, 0]  # they differ in the last latent frame


@pytest.fixture(scope="module")
def pipeline() -> StarFlowPipeline:
    pipeline = tiny_pipeline(tolerance=1e-5)
    pipeline.flow.add_actions(SPACE)
    randomize(pipeline.flow, dtype=pipeline.flow.dtype)
    return pipeline


def latents(pipeline: StarFlowPipeline, prompt: str | list[str] = CAPTIONS[0], **options) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipeline(prompt, generator=generator, output_type="latent", **options).frames


def test_an_action_changes_its_own_frames_and_nothing_before(pipeline: StarFlowPipeline):
    noise = [pipeline.plan(CAPTIONS[0], actions=each).sampling.actions for each in (ONE, OTHER)]
    assert torch.equal(noise[0][:, :2], noise[1][:, :2])
    frames = {}
    for name, actions in (("one", ONE), ("other", OTHER)):
        seen = frames.setdefault(name, [])
        latents(
            pipeline,
            actions=actions,
            callback_on_step_end=lambda _, __, ___, tensors, seen=seen: seen.append(tensors["latents"].clone()),
        )
    for index, (one, other) in enumerate(zip(frames["one"], frames["other"], strict=True)):
        assert torch.allclose(one, other, atol=1e-3) == (index < 2)


def test_actions_set_the_length_of_the_video(pipeline: StarFlowPipeline):
    assert latents(pipeline, actions=[0] * 13).shape[1] == 4
    with pytest.raises(UsageError, match="must have the shape \\(9, 1\\), not \\(13,\\)"):
        latents(pipeline, actions=[0] * 13, num_frames=9)


def test_each_video_of_a_batch_may_have_its_own_actions(pipeline: StarFlowPipeline):
    each = torch.tensor([ONE, OTHER])[..., None].numpy()
    plan = pipeline.plan(CAPTIONS[:2], actions=each).sampling
    alone = [pipeline.plan(CAPTIONS[0], actions=one).sampling.actions for one in (ONE, OTHER)]
    assert torch.equal(plan.actions, torch.cat(alone))
    with pytest.raises(UsageError, match="of one video or of all 3, not of 2"):
        pipeline.plan(CAPTIONS, actions=each)


def test_given_frames_that_are_not_shown_have_no_action(pipeline: StarFlowPipeline):
    picture = torch.rand(3, 32, 32)
    plan = pipeline.plan(CAPTIONS[0], actions=ONE, last_image=picture).sampling
    assert plan.actions.shape == (1, 4, 3)
    assert plan.actions[0].sum(dim=1).tolist() == [0, 0, 1, 1]


def test_a_stream_takes_actions(pipeline: StarFlowPipeline):
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    streamed = [frame.image for frame in pipeline.stream("a", actions=ONE, output_type="pt", generator=generators[0])]
    whole = pipeline("a", actions=ONE, output_type="pt", generator=generators[1]).frames[0]
    torch.testing.assert_close(torch.stack(streamed), whole, atol=1e-3, rtol=0)


def test_a_model_without_a_denoiser_takes_actions_too(pipeline: StarFlowPipeline):
    plain = StarFlowPipeline(**pipeline.components | {"denoiser": None})
    plain.set_progress_bar_config(disable=True)
    one, other = (latents(plain, actions=each) for each in (ONE, OTHER))
    assert (one - other)[:, 2].abs().max() > 1e-2


def test_the_likelihood_of_earlier_frames_does_not_depend_on_a_later_action(pipeline: StarFlowPipeline):
    clip = torch.randint(256, (9, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    one, other = (log_likelihood(pipeline, clip, ["a"], actions=each)[0].per_frame for each in (ONE, OTHER))
    torch.testing.assert_close(one[:2], other[:2])
    assert abs(one[2] - other[2]) > 1e-3


@pytest.mark.parametrize(
    ("actions", "message"),
    [([0] * 8 + [3], "from 0 to 2, not 3"), ([0] * 8 + [float("nan")], "NaN"), (3, "one for each frame"), ([], "one")],
)
def test_bad_actions_are_one_clear_error(pipeline: StarFlowPipeline, actions, message: str):
    with pytest.raises(UsageError, match=message):
        latents(pipeline, actions=actions)


def test_a_model_that_takes_no_actions_says_so():
    with pytest.raises(UsageError, match="this model takes no actions"):
        latents(tiny_pipeline(), actions=ONE)
