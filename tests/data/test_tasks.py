import pytest
import torch
from torch import Tensor

from starflow.data.latents import CachedClip
from starflow.data.tasks import DEFAULT_WEIGHTS, SHORT_LENGTH, Mixture, TaskWeights, task_shares
from starflow.errors import UsageError

T = 3  # latent frames of the model's clips
NONE = dict.fromkeys(DEFAULT_WEIGHTS, 0.0)
PICTURE, LONG = 4, 5  # numbers of the clips that are no plain ones


class Cache:
    """Six clips of one number per frame: `10·clip + frame`, their last frames half more, their edits negative."""

    num_latent_frames = T

    def __init__(self) -> None:
        lengths = [T, T, T, T, 1, 2 * T]
        edits = [{0: "edit 0"}, {1: "edit 1"}, {}, {}, {}, {}]
        self.clips = [
            CachedClip(index, length, [f"clip {index}"], [f"image {index}"], instructions)
            for index, (length, instructions) in enumerate(zip(lengths, edits, strict=True))
        ]

    def read(self, index: int, name: str, start: int = 0, length: int | None = None) -> Tensor:
        values = 10 * index + torch.arange(self.clips[index].num_latent_frames, dtype=torch.float32)
        kind, _, number = name.partition(".")
        tensor = {"clip": values, "last": values[T - 1 : T] + 0.5, "edit": -values}[kind]
        assert kind != "edit" or int(number) in self.clips[index].instructions
        return tensor.view(-1, 1, 1, 1)[start : None if length is None else start + length]


CACHE = Cache()


def only(task: str, dropout: float = 0.0, short: float = 0.0) -> Mixture:
    return Mixture(CACHE, TaskWeights(**(NONE | {task: 1.0})), 8, short, dropout, seed=0)


@pytest.mark.parametrize(
    ("task", "caption", "clips", "expected"),
    [
        ("text_to_video", "clip {}", {0, 1, 2, 3, LONG}, lambda i: CACHE.read(i, "clip", length=T)),
        ("image", "image {}", {0, 1, 2, 3, PICTURE, LONG}, lambda i: CACHE.read(i, "clip", length=1)),
        ("last", "(last) clip {}", {0, 1, 2, 3, LONG}, lambda i: _cat(i, "last", "clip")),
        ("video_to_video", "(v2v) edit {}", {0, 1}, lambda i: _cat(i, "clip", f"edit.{i}")),
    ],
)
def test_each_task_is_what_it_says(task: str, caption: str, clips: set[int], expected):
    seen = set()
    for number in range(10):
        batch = only(task).batch(number)
        assert batch.task == task and batch.is_image == (task == "image")
        assert batch.num_given == {"last": 1, "video_to_video": T}.get(task, 0)
        assert batch.captions == [caption.format(index) for index in batch.indices]
        assert batch.edits == (batch.indices if task == "video_to_video" else [])
        for latents, index in zip(batch.latents, batch.indices, strict=True):
            assert torch.equal(latents, expected(index))
        seen |= set(batch.indices)
    assert seen == clips


def _cat(index: int, *names: str) -> Tensor:
    return torch.cat([CACHE.read(index, name, length=T) for name in names])


def test_continuations_are_excerpts_of_longer_clips_and_never_begin_where_those_do():
    starts = set()
    for number in range(40):
        batch = only("extend").batch(number)
        assert batch.captions == [f"(extend) clip {LONG}"] * 8
        for latents in batch.latents:
            start = int(latents[0]) - 10 * LONG
            assert torch.equal(latents, CACHE.read(LONG, "clip", start, T))
            starts.add(start)
    assert starts == {1, 2, 3}


def test_a_batch_follows_from_the_seed_and_its_number_alone():
    mixtures = [Mixture(CACHE, TaskWeights(), 8, 0.5, 0.1, seed) for seed in (0, 0, 1)]
    first, again, other = ([mixture.batch(number).captions for number in range(5)] for mixture in mixtures)
    assert first == again
    assert first != other
    assert first[0] != first[1]


def test_tasks_come_as_often_as_their_weights_say():
    weights = TaskWeights(**(NONE | {"text_to_video": 3.0, "video_to_video": 1.0}))
    mixture = Mixture(CACHE, weights, 2, 0.5, 0.0, 0)
    edits = sum(mixture.batch(number).task == "video_to_video" for number in range(400))
    assert 0.19 < edits / 400 < 0.31


def test_captions_are_dropped_as_often_as_asked():
    batches = [only("text_to_video", dropout=0.3).batch(number) for number in range(200)]
    dropped = [drop for batch in batches for drop in batch.dropped]
    assert [caption == "" for batch in batches for caption in batch.captions] == dropped
    assert 0.25 < sum(dropped) / len(dropped) < 0.35


@pytest.mark.parametrize(("task", "num_given"), [("text_to_video", 0), ("video_to_video", T)])
def test_short_batches_end_after_the_first_frames_that_are_made(task: str, num_given: int):
    whole, short = (only(task, short=share).batch(0) for share in (0, 1))
    assert whole.num_given == short.num_given == num_given
    assert short.latents.shape[1] == num_given + SHORT_LENGTH
    assert len(short.latents) == len(short.captions) == len(short.indices) == len(whole.latents) * 3 // 2
    sign = -1 if num_given else 1
    assert torch.equal(short.latents[0, num_given:], sign * CACHE.read(short.indices[0], "clip", length=SHORT_LENGTH))


def test_batches_are_short_as_often_as_asked():
    mixture = only("text_to_video", short=0.3)
    lengths = [mixture.batch(number).latents.shape[1] for number in range(400)]
    assert 0.23 < lengths.count(SHORT_LENGTH) / len(lengths) < 0.37


ALL = dict.fromkeys(DEFAULT_WEIGHTS, 5)


@pytest.mark.parametrize(
    ("weights", "material", "expected"),
    [
        ({}, ALL, DEFAULT_WEIGHTS),
        ({}, ALL | {"extend": 0, "video_to_video": 0}, {"text_to_video": 5 / 7, "image": 1 / 7, "last": 1 / 7}),
        ({}, {**dict.fromkeys(ALL, 0), "image": 3}, {"image": 1.0}),
        ({"text_to_video": 0.3, "image": 0, "last": 0}, ALL | {"extend": 0, "video_to_video": 0}, {"text_to_video": 1}),
    ],
)
def test_what_is_not_said_of_tasks_follows_from_the_clips(weights, material, expected):
    assert task_shares(TaskWeights(**weights), material) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"extend": 0.2}, "as no clip is longer than the model's: set tasks.extend=0"),
        ({"video_to_video": 0.2}, "as no clip has an edit: set tasks.video_to_video=0"),
        ({"image": -1}, "a weight is 0 or more"),
        ({"text_to_video": 0, "image": 0, "last": 0}, "no task has a weight"),
    ],
)
def test_weights_that_make_no_sense_are_usage_errors(weights, message):
    with pytest.raises(UsageError, match=message):
        task_shares(TaskWeights(**weights), ALL | {"extend": 0, "video_to_video": 0})
