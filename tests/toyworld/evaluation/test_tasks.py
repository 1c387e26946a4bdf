"""The tasks besides text-to-video, evaluated on clips whose correct scores are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from starflow.evaluation.clips import CaptionedClips, read_clips
from starflow.evaluation.metrics.reconstruction import Reconstruction
from starflow.evaluation.settings import EvaluationSettings
from starflow.media.frames import Frames
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.evaluation.continuation import CONTINUED_FRAMES, evaluate_continuation, follow, judge
from starflow.toyworld.evaluation.image_tasks import change_at_joint, evaluate_image_to_video, evaluate_last_frame
from starflow.toyworld.evaluation.prompts import held_out_clips, held_out_prompts
from starflow.toyworld.evaluation.video_to_video import EditTask, evaluate_video_to_video, held_out_edits, judge_edits
from starflow.toyworld.world.edits import sample_edit
from starflow.toyworld.world.render import render
from starflow.toyworld.world.scene import Scene, SceneObject
from starflow.toyworld.world.vocabulary import NUM_FRAMES
from tiny_pipeline import tiny_pipeline

SETTINGS = EvaluationSettings(seed=0, guidance_scale=2.0, tolerance=1e-2)
CIRCLE = SceneObject("red", "circle", "large", "still", x=20, y=32, radius=10)
SQUARE = SceneObject("blue", "square", "small", "still", x=46, y=32, radius=7)


@pytest.fixture(scope="module")
def pipeline() -> StarFlowPipeline:
    torch.manual_seed(0)
    return tiny_pipeline(num_frames=17, height=64, width=64, max_text_tokens=12)


def makes(pipeline: StarFlowPipeline, frames: dict[str, Frames], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model generate these frames `(F, height, width, 3)` for each caption."""
    call = type(pipeline).__call__

    def fake(self: StarFlowPipeline, captions: list[str], **options: object):
        output = call(self, captions, **options)
        output.frames = np.stack([frames[caption] for caption in captions]) / 255
        return output

    monkeypatch.setattr(type(pipeline), "__call__", fake)


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(pipeline: StarFlowPipeline) -> CaptionedClips:
    return read_clips(held_out_clips(0, 2), pipeline, 2)


def test_the_first_frame_is_the_reconstruction_of_the_picture(pipeline: StarFlowPipeline, clips: CaptionedClips):
    measured = evaluate_image_to_video(pipeline, clips, SETTINGS)
    first = measured.results["first_frame"]
    assert first["largest_difference"] < 0.01
    assert first["psnr"]["mean"] == pytest.approx(first["vae_psnr"]["mean"], abs=0.01)
    card, _ = measured.cards
    assert card.title == clips.captions[0]
    np.testing.assert_array_equal(card.clips["given"], clips.frames[0, :1])
    assert card.clips["generated"].shape == clips.frames[0].shape


def test_a_video_that_starts_with_another_picture_is_judged_wrong(
    pipeline: StarFlowPipeline, clips: CaptionedClips, monkeypatch
):
    makes(pipeline, dict(zip(clips.captions, clips.frames[::-1], strict=True)), monkeypatch)
    perfect = Reconstruction(torch.zeros(2), clips.frames, torch.zeros(2))
    monkeypatch.setattr("starflow.toyworld.evaluation.image_tasks.reconstruct", lambda *_: perfect)
    results = evaluate_image_to_video(pipeline, clips, SETTINGS).results
    assert results["first_frame"]["vae_psnr"]["mean"] > 90
    assert results["first_frame"]["psnr"]["mean"] < 30
    assert results["ceiling"]["all"]["value"] == 1
    assert results["generated"]["all"]["value"] == 0


def test_change_at_the_joint_is_compared_with_later_steps():
    levels = np.array([[0, 10, 12, 10], [5, 5, 5, 5]], np.uint8)
    change = change_at_joint(np.broadcast_to(levels[:, :, None, None, None], (2, 4, 8, 8, 3)))
    assert change["first_step"]["mean"] == 5
    assert change["later_steps"]["mean"] == 1


def test_the_last_frame_is_compared_with_the_given_picture(
    pipeline: StarFlowPipeline, clips: CaptionedClips, monkeypatch
):
    makes(pipeline, dict(zip(clips.captions, clips.frames, strict=True)), monkeypatch)
    results = evaluate_last_frame(pipeline, clips, SETTINGS).results
    for name in ("last", "first_and_last"):
        assert results[name]["psnr"]["mean"] > 90
        assert results[name]["other_psnr"]["mean"] < 30
        assert results[name]["generated"]["all"]["value"] == 1


# --- continuation -----------------------------------------------------------------------------------------------------


def moved(positions: list[float]) -> Frames:
    """A clip whose object is at these positions."""
    frames = [render(Scene((replace(CIRCLE, x=x),), "black"), 1)[0] for x in positions]
    return np.stack(frames)


def test_the_jump_is_the_error_of_linear_extrapolation():
    steady = [14 + t for t in range(CONTINUED_FRAMES)]
    track = follow(moved(steady))
    assert track.there
    assert track.is_seamless
    assert track.jump == pytest.approx(0, abs=0.2)
    assert track.velocity_change == pytest.approx(0, abs=0.1)

    jumping = follow(moved([x + 5 * (t >= NUM_FRAMES) for t, x in enumerate(steady)]))
    assert jumping.jump == pytest.approx(5, abs=0.2)
    assert jumping.usual_jumps.max() < 0.2
    assert not jumping.is_seamless

    stopping = follow(moved([min(x, steady[NUM_FRAMES - 1]) for x in steady]))
    assert stopping.jump == pytest.approx(1, abs=0.2)
    assert stopping.velocity_change == pytest.approx(1, abs=0.1)
    assert stopping.is_seamless  # the jump is too small to be visible


def test_an_object_that_vanishes_or_changes_is_not_seamless():
    scene = Scene((CIRCLE,), "black")
    given, empty = render(scene), render(Scene((), "black"), NUM_FRAMES - 1)
    vanished = follow(np.concatenate([given, empty]))
    assert not vanished.there
    assert not vanished.is_seamless
    smaller = render(Scene((replace(CIRCLE, radius=7),), "black"), NUM_FRAMES - 1)
    resized = follow(np.concatenate([given, smaller]))
    assert resized.there
    assert not resized.is_seamless
    lighter = follow(np.concatenate([given, np.maximum(given[1:], 30)]))
    assert lighter.jump == pytest.approx(0, abs=0.1)
    assert not lighter.is_seamless
    assert follow(np.concatenate([given, given[1:]])).is_seamless
    assert not follow(np.concatenate([empty[:1], empty, empty])).is_seamless


def test_true_clips_are_judged_right_after_the_joint():
    prompts = held_out_prompts(0, 12, 1)
    true = judge(np.stack([render(prompt.scene, CONTINUED_FRAMES) for prompt in prompts]), prompts)
    assert true["there"]["value"] == 1
    assert true["seamless"]["value"] > 0.8
    assert true["after"]["color"]["value"] == true["after"]["shape"]["value"] == 1
    assert 0 < true["after"]["motion"]["n"] < 12


def test_true_continuations_are_seamless_and_the_floor_is_not(pipeline: StarFlowPipeline, monkeypatch):
    prompts = held_out_prompts(0, 3, 1)
    truth = {prompt.caption: render(prompt.scene, CONTINUED_FRAMES) for prompt in prompts}
    makes(pipeline, truth, monkeypatch)
    results = evaluate_continuation(pipeline, prompts, SETTINGS).results
    assert results["generated"]["seamless"]["value"] == 1
    assert results["floor"]["seamless"]["value"] < 1
    assert results["floor"]["jump"]["mean"] > results["generated"]["jump"]["mean"]


# --- video to video ---------------------------------------------------------------------------------------------------


def test_edit_targets_are_judged_right_and_unedited_sources_wrong():
    tasks = held_out_edits(0, 24)
    targets = judge_edits(np.stack([render(task.target) for task in tasks]), tasks)
    assert targets["both"]["value"] == 1
    assert targets["path_error"]["mean"] == 0
    sources = judge_edits(np.stack([render(task.source) for task in tasks]), tasks)
    assert sources["happened"]["value"] == sources["both"]["value"] == 0
    assert sources["stayed"]["value"] == 1
    for groups in ("kinds", "sources"):
        assert sum(group["happened"]["n"] for group in sources[groups].values()) == 24
    num_objects = [len(task.source.objects) for task in tasks]
    assert sources["sources"]["two objects"]["both"]["n"] == num_objects.count(2) > 0


def task(kind: str) -> EditTask:
    """An edit of this kind in a scene with a circle and a square."""
    source = Scene((CIRCLE, SQUARE), "charcoal")
    for seed in range(100):
        found = EditTask(*sampled_edit(source, seed))
        if found.kind == kind:
            return found
    raise AssertionError(kind)


def sampled_edit(source: Scene, seed: int) -> tuple[str, Scene, Scene]:
    instruction, target = sample_edit(source, np.random.default_rng(seed))
    return instruction, source, target


@pytest.mark.parametrize("kind", ["recolor", "reshape", "remove", "background"])
def test_an_edit_that_also_moves_objects_is_judged_wrong(kind: str):
    edit = task(kind)
    moved_objects = tuple(replace(item, x=item.x - 12, motion="right", rate=2.0) for item in edit.target.objects)
    other = judge_edits(render(replace(edit.target, objects=moved_objects))[None], [edit])
    assert other["happened"]["value"] == 1
    assert other["stayed"]["value"] == other["both"]["value"] == other["motion"]["value"] == 0
    assert other["path_error"]["mean"] > 5


def test_removing_the_wrong_object_does_not_count():
    edit = task("remove")
    (left,) = edit.target.objects
    wrong = Scene(tuple(item for item in edit.source.objects if item != left), edit.source.background)
    assert judge_edits(render(wrong)[None], [edit])["happened"]["value"] == 0


def test_true_edits_are_judged_right_and_the_floor_wrong(pipeline: StarFlowPipeline, monkeypatch):
    tasks = list({edit.instruction: edit for edit in held_out_edits(1, 4)}.values())
    makes(pipeline, {edit.instruction: render(edit.target) for edit in tasks}, monkeypatch)
    measured = evaluate_video_to_video(pipeline, tasks, SETTINGS)
    assert measured.results["generated"]["both"]["value"] == 1
    assert measured.results["floor"]["both"]["value"] == 0
    np.testing.assert_array_equal(measured.cards[1].clips["source"], render(tasks[1].source))


def test_clips_without_objects_have_no_path_error_and_no_jump(pipeline: StarFlowPipeline):
    tasks = held_out_edits(0, 2)
    nothing = judge_edits(np.full((2, NUM_FRAMES, 64, 64, 3), 60, np.uint8), tasks)
    assert nothing["path_error"] is None
    assert nothing["stayed"]["value"] == 0
    prompts = held_out_prompts(0, 2, 1)
    blank = judge(np.full((2, CONTINUED_FRAMES, 64, 64, 3), 60, np.uint8), prompts)
    assert blank["jump"] is None
    assert blank["there"]["value"] == 0
