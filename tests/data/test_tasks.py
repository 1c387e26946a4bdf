import pytest
import torch

from starflow.data.latents import LatentCache
from starflow.data.tasks import SHORT_LENGTH, Mixture, TaskWeights

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
        captions=[[f"clip {i}"] for i in range(6)],
        image_captions=[[f"image {i}"] for i in range(6)],
        instructions=[f"edit {i}" for i in range(4)],
    )


def only(cache: LatentCache, task: str, dropout: float = 0.0, short: float = 0.0) -> Mixture:
    return Mixture(cache, TaskWeights(**{**vars(NONE), task: 1}), 8, short, dropout, seed=0)


def numbers(captions: list[str]) -> list[int]:
    return [int(caption.split()[-1]) for caption in captions]


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
    assert all(caption.rstrip("0123456789") == marker for caption in batch.captions)
    for latents, index in zip(batch.latents, numbers(batch.captions), strict=True):
        assert torch.equal(latents, expected(cache, index))


def test_continuations_are_windows_of_longer_clips_and_never_begin_where_those_do(cache: LatentCache):
    length, starts = cache.clips.shape[1], set()
    for step in range(40):
        batch = only(cache, "extend").batch(step)
        assert all(caption.startswith("(extend) clip ") for caption in batch.captions)
        for latents, index in zip(batch.latents, numbers(batch.captions), strict=True):
            windows = cache.long_clips[index].unfold(0, length, 1).movedim(-1, 1)
            (start,) = [s for s, window in enumerate(windows) if torch.equal(latents, window)]
            starts.add(start)
    assert starts == {1, 2, 3}


def test_a_batch_follows_from_seed_and_step_alone(cache: LatentCache):
    mixtures = [Mixture(cache, TaskWeights(), 8, 0.5, 0.1, seed) for seed in (0, 0, 1)]
    first, again, other = ([mixture.batch(step).captions for step in range(5)] for mixture in mixtures)
    assert first == again
    assert first != other
    assert first[0] != first[1]


def test_tasks_come_as_often_as_their_weights_say(cache: LatentCache):
    mixture = Mixture(cache, TaskWeights(3, 0, 0, 1, 0), 2, 0.5, 0.0, 0)
    edits = sum(mixture.batch(step).captions[0].startswith("(v2v)") for step in range(400))
    assert 0.19 < edits / 400 < 0.31


def test_captions_are_dropped_as_often_as_asked(cache: LatentCache):
    mixture = only(cache, "text_to_video", dropout=0.3)
    captions = [caption for step in range(200) for caption in mixture.batch(step).captions]
    assert 0.25 < captions.count("") / len(captions) < 0.35


@pytest.mark.parametrize(
    ("task", "num_given", "offset"),
    [("text_to_video", 0, 0), ("image", 0, 0), ("video_to_video", T, 50), ("last", 1, 0)],
)
def test_what_is_seen_where_is_told_of_the_first_frame_that_is_made(cache: LatentCache, task, num_given, offset):
    batch = only(cache, task, dropout=0.3).batch(0)
    assert batch.num_given == num_given
    for text, cells in zip(batch.captions, batch.cells.flatten(1).tolist(), strict=True):
        told = int(text.split()[-1]) + offset if text else -1
        assert cells == [told, told, -1 if task == "image" else told]


def test_nothing_is_told_of_later_frames(cache: LatentCache):
    assert (only(cache, "extend").batch(0).cells == -1).all()


@pytest.mark.parametrize(("task", "num_given"), [("text_to_video", 0), ("video_to_video", T)])
def test_short_batches_end_after_the_first_frames_that_are_made(cache: LatentCache, task: str, num_given: int):
    whole, short = (only(cache, task, short=share).batch(0) for share in (0, 1))
    assert whole.num_given == short.num_given == num_given
    assert short.latents.shape[1] == num_given + SHORT_LENGTH
    assert len(short.latents) == len(short.captions) == len(short.cells) == len(whole.latents) * 3 // 2
    index = numbers(short.captions)[0]
    made = cache.edits[index] if num_given else cache.clips[index]
    assert torch.equal(short.latents[0, num_given:], made[:SHORT_LENGTH])


def test_batches_are_short_as_often_as_asked(cache: LatentCache):
    mixture = only(cache, "text_to_video", short=0.3)
    lengths = [mixture.batch(step).latents.shape[1] for step in range(400)]
    assert 0.23 < lengths.count(SHORT_LENGTH) / len(lengths) < 0.37
