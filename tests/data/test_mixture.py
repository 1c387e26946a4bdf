import pytest
import torch

from starflow.data.latent_cache import LatentCache
from starflow.data.mixture import Mixture, TaskWeights
from starflow.data.source import Caption

NONE = TaskWeights(0, 0, 0, 0, 0)
T = 3


@pytest.fixture
def cache() -> LatentCache:
    clips = torch.arange(6 * T, dtype=torch.float32).reshape(6, T, 1, 1, 1)
    return LatentCache(
        clips=clips,
        last_images=clips[:, -1:] + 0.5,
        edits=-clips[:4],
        long_clips=torch.arange(6 * 6, dtype=torch.float32).reshape(6, 6, 1, 1, 1) + 100,
        clip_cells=torch.arange(6, dtype=torch.int8).view(6, 1, 1, 1).repeat(1, 3, 1, 1),
        edit_cells=torch.arange(4, dtype=torch.int8).view(4, 1, 1, 1).repeat(1, 3, 1, 1) + 50,
        captions=[[Caption(f"clip {i}", f"no clip {i}")] for i in range(6)],
        image_captions=[[Caption(f"image {i}", f"no image {i}")] for i in range(6)],
        instructions=[Caption(f"edit {i}", f"no edit {i}") for i in range(4)],
    )


def only(cache: LatentCache, task: str, dropout: float = 0.0) -> Mixture:
    return Mixture(cache, TaskWeights(**{**vars(NONE), task: 1}), batch_size=8, caption_dropout=dropout, seed=0)


def numbers(captions: list[Caption]) -> list[int]:
    return [int(caption.text.split()[-1]) for caption in captions]


@pytest.mark.parametrize(
    ("task", "marker", "expected"),
    [
        ("text_to_video", "clip ", lambda c, i: c.clips[i]),
        ("image", "image ", lambda c, i: c.clips[i, :1]),
        ("video_to_video", "(v2v) edit ", lambda c, i: torch.cat([c.clips[i], c.edits[i]])),
        ("last", "(last) clip ", lambda c, i: torch.cat([c.last_images[i], c.clips[i]])),
    ],
)
def test_each_task_is_what_it_says(cache: LatentCache, task: str, marker: str, expected):
    batch = only(cache, task).batch(0)
    assert batch.is_image == (task == "image")
    for text, distractor in batch.captions:
        head, number = text.rsplit(maxsplit=1)
        assert head + " " == marker
        assert distractor == f"{marker.removesuffix(head.split()[-1] + ' ')}no {head.split()[-1]} {number}"
    for latents, index in zip(batch.latents, numbers(batch.captions), strict=True):
        assert torch.equal(latents, expected(cache, index))


def test_continuations_are_windows_of_longer_clips_and_never_begin_where_those_do(cache: LatentCache):
    length, starts = cache.clips.shape[1], set()
    for step in range(40):
        batch = only(cache, "extend").batch(step)
        assert all(caption.text.startswith("(extend) clip ") for caption in batch.captions)
        for latents, index in zip(batch.latents, numbers(batch.captions), strict=True):
            windows = cache.long_clips[index].unfold(0, length, 1).movedim(-1, 1)
            (start,) = [s for s, window in enumerate(windows) if torch.equal(latents, window)]
            starts.add(start)
    assert starts == {1, 2, 3}


def test_a_batch_follows_from_seed_and_step_alone(cache: LatentCache):
    mixtures = [Mixture(cache, TaskWeights(), 8, 0.1, seed) for seed in (0, 0, 1)]
    first, again, other = ([mixture.batch(step).captions for step in range(5)] for mixture in mixtures)
    assert first == again
    assert first != other
    assert first[0] != first[1]


def test_tasks_come_as_often_as_their_weights_say(cache: LatentCache):
    mixture = Mixture(cache, TaskWeights(3, 0, 0, 1, 0), 2, 0.0, 0)
    edits = sum(mixture.batch(step).captions[0].text.startswith("(v2v)") for step in range(400))
    assert 0.19 < edits / 400 < 0.31


def test_captions_are_dropped_as_often_as_asked(cache: LatentCache):
    mixture = only(cache, "text_to_video", dropout=0.3)
    captions = [caption for step in range(200) for caption in mixture.batch(step).captions]
    assert 0.25 < captions.count(Caption("", "")) / len(captions) < 0.35


@pytest.mark.parametrize(
    ("task", "frame", "offset"), [("text_to_video", 0, 0), ("image", 0, 0), ("video_to_video", T, 50), ("last", 1, 0)]
)
def test_what_is_seen_where_is_told_of_the_first_frame_that_is_made(cache: LatentCache, task, frame, offset):
    batch = only(cache, task, dropout=0.3).batch(0)
    assert batch.grounded_frame == frame
    for (text, _), cells in zip(batch.captions, batch.cells.flatten(1).tolist(), strict=True):
        told = int(text.split()[-1]) + offset if text else -1
        assert cells == [told, told, -1 if task == "image" else told]


def test_nothing_is_told_of_later_frames(cache: LatentCache):
    assert (only(cache, "extend").batch(0).cells == -1).all()
