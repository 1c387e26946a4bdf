"""Sessions, with tiny models that are played frame by frame or compress four frames into one."""

import numpy as np
import pytest
import torch
from accelerate import cpu_offload_with_hook

from starflow.encoders.video import DecoderStream
from starflow.errors import UsageError
from starflow.flow.actions import ActionSpace
from starflow.media.frames import to_frames
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.session import Session
from tiny_pipeline import CAPTIONS, playable_pipeline, tiny_pipeline

PROMPT = CAPTIONS[0]
SPACE = ActionSpace(sizes=(3,))
EXACT = {"sampler": "sequential"}


@pytest.fixture(scope="module")
def pipeline() -> StarFlowPipeline:
    """A frame per step, no look-ahead, with actions; windows of 5 frames that keep 4."""
    return playable_pipeline(SPACE)


@pytest.fixture(scope="module")
def compressing() -> StarFlowPipeline:
    """Four frames per step, a look-ahead, no actions, like the bundled model; windows of 3 latent frames."""
    return tiny_pipeline()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def clip(num_frames: int) -> np.ndarray:
    return np.stack([picture(seed) for seed in range(num_frames)])


def play(session: Session, *actions: int | None) -> np.ndarray:
    return np.concatenate([session.step(action) for action in actions])


def stream(pipeline: StarFlowPipeline, num_frames: int, **options) -> np.ndarray:
    frames = pipeline.stream(PROMPT, num_frames=num_frames, output_type="pt", **options)
    return to_frames(torch.stack([frame.image for frame in frames]) * 2 - 1)


def assert_close(got: np.ndarray, want: np.ndarray) -> None:
    """Up to rounding."""
    assert got.shape == want.shape
    assert np.abs(got.astype(int) - want).max() <= 1


def test_a_session_without_lookahead_shows_what_a_stream_shows(pipeline: StarFlowPipeline):
    actions = [0, 1, 2, 0, 0, 1, 2, 2, 1]  # the first one is ignored
    session = pipeline.session(PROMPT, generator=seeded(), **EXACT)
    first = session.frames
    got = np.concatenate([first, play(session, *actions[1:])])
    assert got.shape == (9, 32, 32, 3) and got.dtype == np.uint8
    assert_close(got, stream(pipeline, 9, actions=actions, generator=seeded(), **EXACT))
    other = pipeline.session(PROMPT, generator=seeded(), **EXACT)
    assert not np.array_equal(play(other, *actions[:0:-1]), got[1:])


def test_a_session_continues_a_picture_or_a_clip_as_a_stream_does(pipeline: StarFlowPipeline):
    """The noise of a session: first that of the given frames, then that of each step."""
    actions = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]
    for name, num_given in (("image", 1), ("clip", 3), ("clip", 7)):
        given = picture() if name == "image" else clip(num_given)
        known = actions[:num_given]
        session = pipeline.session(PROMPT, generator=seeded(), actions=known, **{name: given}, **EXACT)
        assert session.frames.shape == (1, 32, 32, 3)
        got = play(session, *actions[num_given : num_given + 4])
        generator = seeded()
        torch.randn(1, num_given, 4, 2, 2, generator=generator)
        steps = [torch.randn(1, 1, 4, 2, 2, generator=generator) for _ in range(4)]
        noise = torch.cat([torch.zeros(1, num_given, 4, 2, 2), *steps], dim=1)
        options = {"actions": actions[: num_given + 4], "latents": noise, "generator": seeded()} | EXACT
        option = "image" if name == "image" else "extend"
        assert_close(got, stream(pipeline, num_given + 4, **{option: given}, **options)[num_given:])


def test_a_step_of_a_model_that_compresses_time_makes_four_frames(compressing: StarFlowPipeline):
    session = compressing.session(PROMPT, generator=seeded(), **EXACT)
    assert session.frames_per_step == 4
    assert session.frames.shape == (1, 32, 32, 3)
    assert session.step().shape == session.step().shape == session.frames.shape == (4, 32, 32, 3)


def test_with_a_lookahead_a_step_shows_the_end_of_a_video_that_ends_there(
    compressing: StarFlowPipeline, monkeypatch: pytest.MonkeyPatch
):
    """Latents are compared: the decoder has seen earlier frames that were denoised without the look-ahead."""
    decoded = []

    def decode(stream: DecoderStream, latents: torch.Tensor) -> torch.Tensor:
        decoded.append(latents)
        return original(stream, latents)

    original = DecoderStream.__call__
    monkeypatch.setattr(DecoderStream, "__call__", decode)
    play(compressing.session(PROMPT, generator=seeded(), **EXACT), None, None, None)
    assert len(decoded) == 4
    for index, latents in enumerate(decoded):
        whole = compressing(PROMPT, num_frames=1 + 4 * index, fps=8, generator=seeded(), output_type="latent", **EXACT)
        if index:  # the caption of a picture is another one
            torch.testing.assert_close(latents[:, 0], whole.frames[:, -1], atol=1e-4, rtol=0)


def test_the_same_seed_and_actions_give_the_same_frames(pipeline: StarFlowPipeline):
    one, other = (pipeline.session(PROMPT, generator=seeded(3)) for _ in range(2))
    want = play(one, 0, 1, 2, 0, 1, 2)
    assert np.array_equal(play(other, 0, 1, 2, 0, 1, 2), want)
    different = pipeline.session(PROMPT, generator=seeded(4))
    assert not np.array_equal(play(different, 0, 1, 2, 0, 1, 2), want)


def test_a_session_leaves_the_generator_of_the_caller_alone(pipeline: StarFlowPipeline):
    generator = seeded()
    play(pipeline.session(PROMPT, generator=generator), 0, 1)
    assert torch.equal(generator.get_state(), seeded().get_state())


def test_reset_goes_back_to_the_start(pipeline: StarFlowPipeline):
    session = pipeline.session(PROMPT, image=picture(), generator=seeded())
    start, want = session.frames, play(session, 0, 1, 2)
    session.say(CAPTIONS[1])
    assert np.array_equal(session.reset(), start)
    assert np.array_equal(play(session, 0, 1, 2), want)
    session.reset(seeded(1))
    other = play(session, 0, 1, 2)
    assert not np.array_equal(other, want)
    session.reset()
    assert np.array_equal(play(session, 0, 1, 2), other)


@pytest.mark.parametrize("num_before", [1, 3, 5, 8])
def test_rewind_brings_the_same_frames_again_also_across_moves_of_the_window(
    pipeline: StarFlowPipeline, num_before: int
):
    session = pipeline.session(PROMPT, generator=seeded())
    play(session, *[1] * num_before)
    here, want = session.frames, play(session, 0, 2, 1, 1)
    assert np.array_equal(session.rewind(4), here)
    assert not np.array_equal(play(session, 2, 1, 1, 0), want)
    session.rewind(4)
    assert np.array_equal(play(session, 0, 2, 1, 1), want)


def test_a_session_goes_back_no_further_than_it_remembers(pipeline: StarFlowPipeline):
    session = pipeline.session(PROMPT, generator=seeded(), max_rewind=2)
    with pytest.raises(UsageError, match="can go back 0 to 0 steps, not 1"):
        session.rewind()
    play(session, 0, 1, 2)
    with pytest.raises(UsageError, match="can go back 0 to 2 steps, not 3"):
        session.rewind(3)
    session.rewind(2)


def test_forks_are_two_futures_of_one_past(pipeline: StarFlowPipeline):
    session = pipeline.session(PROMPT, generator=seeded())
    play(session, 1, 1)
    fork = session.fork()
    one, other = [], []
    for left, right in zip([0, 0, 0, 0, 0, 0], [0, 0, 2, 2, 2, 2], strict=True):
        one.append(session.step(left))
        other.append(fork.step(right))
    assert np.array_equal(one[:2], other[:2])
    assert not np.array_equal(one[2], other[2])
    alone = pipeline.session(PROMPT, generator=seeded())
    assert np.array_equal(play(alone, 1, 1, *[0] * 6)[2:], np.concatenate(one))


def test_a_new_caption_takes_effect_with_the_next_frame(pipeline: StarFlowPipeline):
    session = pipeline.session(PROMPT, generator=seeded())
    play(session, 1)
    here, unchanged = session.frames, session.fork()
    session.say(CAPTIONS[1])
    assert np.array_equal(session.frames, here)
    assert not np.array_equal(session.step(0), unchanged.step(0))
    session.rewind()
    again = session.step(0)
    session.rewind(2)
    assert not np.array_equal(play(session, 1, 0)[1:], again)  # the old caption is back


def test_actions_of_given_frames_matter(pipeline: StarFlowPipeline):
    one, other = (
        pipeline.session(PROMPT, clip=clip(3), actions=each, generator=seeded()) for each in ([0] * 3, [2] * 3)
    )
    assert not np.array_equal(one.step(1), other.step(1))
    with pytest.raises(UsageError, match="must be those of the 3 given frames"):
        pipeline.session(PROMPT, clip=clip(3), actions=[0] * 4)


def test_a_score_has_a_value_for_each_token_and_changes_nothing(pipeline: StarFlowPipeline):
    session, twin = (pipeline.session(PROMPT, generator=seeded()) for _ in range(2))
    play(session, 0, 1), play(twin, 0, 1)
    real = picture(5)
    score = session.score(real, 2)
    assert score.shape == (2, 2) and np.isfinite(score).all()
    assert np.array_equal(session.score(real[None], 2), score)
    assert not np.array_equal(session.score(real, 1), score)
    assert not np.array_equal(session.score(picture(6), 2), score)
    assert np.array_equal(session.step(2), twin.step(2))


def test_the_surprise_of_a_step_is_that_of_its_latents_and_changes_nothing(pipeline: StarFlowPipeline):
    """Of each step, also across moves of the window, and after going back and with another caption."""
    session, twin = (pipeline.session(PROMPT, generator=seeded(), **EXACT) for _ in range(2))
    surprises = []
    for action in [0, 1, 2, 0, 1, 2, 0, 1]:
        before = session.fork()._moments[-1].rollout
        assert np.array_equal(session.step(action), twin.step(action))
        latents = session._moments[-1].latents[:, -1:]
        expected = before.surprise(latents, SPACE.features(torch.tensor([[[action]]])))
        surprises.append(session.surprise())
        np.testing.assert_allclose(surprises[-1], expected, rtol=1e-5)
    session.rewind(2)
    np.testing.assert_allclose(session.surprise(), surprises[-3], rtol=1e-5)
    session.say(CAPTIONS[1])
    np.testing.assert_allclose(session.surprise(), surprises[-3], rtol=1e-5)


def test_a_surprise_needs_a_step(pipeline: StarFlowPipeline):
    session = pipeline.session(PROMPT, generator=seeded())
    assert session.num_undoable == 0
    with pytest.raises(UsageError, match="has a surprise after a step"):
        session.surprise()
    session.step(0)
    assert session.num_undoable == 1 and session.surprise().shape == (2, 2)


def test_scores_of_a_model_that_compresses_time_are_of_all_frames_of_a_step(compressing: StarFlowPipeline):
    session = compressing.session(PROMPT, clip=clip(9), generator=seeded())
    assert session.score(clip(4)).shape == (2, 2)
    with pytest.raises(UsageError, match="must be the 4 frames of a step"):
        session.score(clip(5))


def test_memory_does_not_grow(pipeline: StarFlowPipeline):
    def size(session: Session) -> int:
        moment = session._moments[-1]
        kept = [moment.latents, moment.rollout.frames, moment.rollout.actions, moment.denoiser.waiting]
        kept += [tensor for layer in moment.denoiser.layers for tensor in layer.pending]
        kept += [feature for feature in moment.decoder.stream.features if isinstance(feature, torch.Tensor)]
        return sum(tensor.numel() for tensor in kept) + moment.shown.size

    session, sizes = pipeline.session(PROMPT, generator=seeded(), max_rewind=3), []
    for _ in range(24):
        session.step(1)
        sizes.append(size(session))
    assert max(sizes[16:]) <= max(sizes[12:16])
    assert len(session._moments) == 4


def test_the_report_says_what_the_solvers_did(pipeline: StarFlowPipeline):
    session = pipeline.session(PROMPT, generator=seeded())
    play(session, 0, 1)
    assert session.report.deep.tokens == 3 * 4
    assert session.report.deep.max_residual <= pipeline.config.tolerance
    session.fork().step(1)
    assert session.report.deep.tokens == 3 * 4


def test_sessions_work_in_inference_mode_and_outside_of_it(pipeline: StarFlowPipeline):
    with torch.inference_mode():
        session = pipeline.session(PROMPT, generator=seeded())
        session.step(1)
    session.step(1)
    session.say(CAPTIONS[1])
    with torch.inference_mode():
        session.fork().step(1)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (3, "a whole number from 0 to 2, not 3"),
        (float("nan"), "NaN"),
        ([0, 1], r"shape \(1, 1\), not \(1, 2\)"),
        ("left", "must be numbers"),
    ],
)
def test_bad_actions_are_one_clear_error_and_change_nothing(pipeline: StarFlowPipeline, action, message: str):
    session = pipeline.session(PROMPT, generator=seeded())
    with pytest.raises(UsageError, match=message):
        session.step(action)
    assert np.array_equal(session.step(0), pipeline.session(PROMPT, generator=seeded()).step(0))


def test_what_a_session_cannot_do_is_one_clear_error(pipeline: StarFlowPipeline, compressing: StarFlowPipeline):
    with pytest.raises(UsageError, match="this model takes no actions"):
        compressing.session(PROMPT).step(1)
    with pytest.raises(UsageError, match="a session has no num_frames"):
        pipeline.session(PROMPT, num_frames=9)
    with pytest.raises(UsageError, match="max_rewind must be 0 or more"):
        pipeline.session(PROMPT, max_rewind=-1)
    with pytest.raises(UsageError, match="must be a string"):
        pipeline.session(["a", "b"])
    with pytest.raises(UsageError, match=r"must be a torch\.Generator"):
        pipeline.session(PROMPT, generator=[seeded()])
    plain = StarFlowPipeline(**compressing.components | {"denoiser": None})
    with pytest.raises(UsageError, match="needs a model of videos with a denoiser"):
        plain.session(PROMPT)
    with pytest.raises(TypeError, match="no option prmpt"):
        pipeline.session(prmpt=PROMPT)


def test_a_session_leaves_weights_that_can_be_trained(pipeline: StarFlowPipeline):
    """Also those that a session moves or casts: those of an offloaded part, and of an autoencoder in float16."""
    game = playable_pipeline(SPACE)
    game.vae.half()
    for part in (game.flow, game.denoiser):
        cpu_offload_with_hook(part, "cpu")
    session = game.session(PROMPT, image=picture(), generator=seeded())
    session.step(1)
    session.score(picture(1), 1)
    for part in (game.flow, game.denoiser, game.vae):
        assert not any(weight.is_inference() for weight in part.parameters())
