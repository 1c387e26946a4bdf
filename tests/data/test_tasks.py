from dataclasses import replace

import pytest
import torch
from torch import Tensor

from starflow.data.buckets import Bucket
from starflow.data.latents import CachedClip
from starflow.data.tasks import DEFAULT_WEIGHTS, SHORT_LENGTH, Batch, Mixture, TaskWeights, task_shares
from starflow.errors import UsageError
from starflow.flow.actions import ActionSpace

T, F = 3, 9  # latent frames and frames of a clip of the model
NONE = dict.fromkeys(DEFAULT_WEIGHTS, 0.0)
PICTURE, LONG = 4, 5  # indices of the clips of other lengths


class Cache:
    """Six clips with one number per frame: `10·clip + frame`. A last frame adds 0.5; an edit negates the numbers."""

    num_latent_frames = T
    action_space = None

    def __init__(self) -> None:
        lengths = [T, T, T, T, 1, 2 * T]
        edits = [{0: "edit 0"}, {1: "edit 1"}, {}, {}, {}, {}]
        self.bucket = Bucket(F, 32, 32)
        self.clips = [
            CachedClip(
                index,
                length,
                [f"clip {index}"],
                [f"image {index}"],
                instructions,
                Bucket(1 if length == 1 else F, 32, 32),
            )
            for index, (length, instructions) in enumerate(zip(lengths, edits, strict=True))
        ]

    def grid(self, bucket: Bucket) -> tuple[int, int, int]:
        return 1 + bucket.num_frames // 4, bucket.height // 16, bucket.width // 16

    def read(self, clip: CachedClip, name: str, start: int = 0, length: int | None = None) -> Tensor:
        index = clip.index
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
        ("text_to_video", "clip {}", {0, 1, 2, 3, LONG}, lambda i: CACHE.read(CACHE.clips[i], "clip", length=T)),
        ("image", "image {}", {0, 1, 2, 3, PICTURE, LONG}, lambda i: CACHE.read(CACHE.clips[i], "clip", length=1)),
        ("last", "(last) clip {}", {0, 1, 2, 3, LONG}, lambda i: _cat(i, "last", "clip")),
        ("video_to_video", "(v2v) edit {}", {0, 1}, lambda i: _cat(i, "clip", f"edit.{i}")),
    ],
)
def test_batches_of_each_task_have_its_latents_and_captions(task: str, caption: str, clips: set[int], expected):
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
    return torch.cat([CACHE.read(CACHE.clips[index], name, length=T) for name in names])


def test_continuations_are_excerpts_that_start_after_the_first_frame_of_longer_clips():
    starts = set()
    for number in range(40):
        batch = only("extend").batch(number)
        assert batch.captions == [f"(extend) clip {LONG}"] * 8
        for latents in batch.latents:
            start = int(latents[0]) - 10 * LONG
            assert torch.equal(latents, CACHE.read(CACHE.clips[LONG], "clip", start, T))
            starts.add(start)
    assert starts == {1, 2, 3}


def test_a_batch_depends_only_on_the_seed_and_its_number():
    mixtures = [Mixture(CACHE, TaskWeights(), 8, 0.5, 0.1, seed) for seed in (0, 0, 1)]
    first, again, other = ([mixture.batch(number).captions for number in range(5)] for mixture in mixtures)
    assert first == again
    assert first != other
    assert first[0] != first[1]


def test_tasks_are_drawn_in_proportion_to_their_weights():
    weights = TaskWeights(**(NONE | {"text_to_video": 3.0, "video_to_video": 1.0}))
    mixture = Mixture(CACHE, weights, 2, 0.5, 0.0, 0)
    edits = sum(mixture.batch(number).task == "video_to_video" for number in range(400))
    assert 0.19 < edits / 400 < 0.31


def test_captions_are_dropped_at_the_given_rate():
    batches = [only("text_to_video", dropout=0.3).batch(number) for number in range(200)]
    dropped = [drop for batch in batches for drop in batch.dropped]
    assert [caption == "" for batch in batches for caption in batch.captions] == dropped
    assert 0.25 < sum(dropped) / len(dropped) < 0.35


class CacheOfGame(Cache):
    """The same clips with actions, but for clip 0: `1 + frame` in the first of two features, in every frame."""

    action_space = ActionSpace(sizes=(2,))

    def __init__(self) -> None:
        super().__init__()
        self.clips = [replace(clip, has_actions=clip.index != 0) for clip in self.clips]

    def read(self, clip: CachedClip, name: str, start: int = 0, length: int | None = None) -> Tensor:
        if name != "actions":
            return super().read(clip, name, start, length)
        assert clip.has_actions
        features = torch.tensor([[1 + frame, 0] for frame in range(clip.num_latent_frames)], dtype=torch.float32)
        return features[start : None if length is None else start + length]


@pytest.mark.parametrize("task", DEFAULT_WEIGHTS)
def test_actions_are_those_of_the_latent_frames_of_each_task(task: str):
    weights = TaskWeights(**(NONE | {task: 1.0}))
    mixture = Mixture(CacheOfGame(), weights, 8, caption_dropout=0.0, action_dropout=0.0)
    seen = set()
    for number in range(10):
        batch = mixture.batch(number)
        assert batch.actions is not None and batch.actions.shape == (*batch.latents.shape[:2], 2)
        for latents, actions, index in zip(batch.latents.flatten(1), batch.actions, batch.indices, strict=True):
            frames = latents - 10 * index  # the frames' numbers
            has_actions = index != 0 and task in ("text_to_video", "extend", "last")
            want = (frames + 1) * has_actions
            if task == "last":
                want[0] = 0
            assert torch.equal(actions, torch.stack([want, torch.zeros_like(want)], dim=1))
            seen.add(index)
    assert len(seen) > 1 or task == "extend"


def test_actions_are_dropped_at_the_given_rate_and_half_of_them_with_the_caption():
    weights = TaskWeights(**(NONE | {"last": 1.0}))
    mixture = Mixture(CacheOfGame(), weights, 8, caption_dropout=0.2, action_dropout=0.2)
    batches = [batch for number in range(250) if 0 not in (batch := mixture.batch(number)).indices]
    kept = torch.cat([batch.actions.abs().sum(dim=(1, 2)) > 0 for batch in batches])
    dropped = torch.tensor([drop for batch in batches for drop in batch.dropped])
    assert len(kept) > 300
    assert (~kept).double().mean() == pytest.approx(0.2, abs=0.06)
    assert (~kept & dropped).double().mean() == pytest.approx(0.1, abs=0.05)
    assert dropped.double().mean() == pytest.approx(0.2, abs=0.06)


def test_actions_do_not_change_which_clips_and_captions_are_drawn():
    plain, game = Mixture(CACHE, TaskWeights(), 8), Mixture(CacheOfGame(), TaskWeights(), 8)
    assert all(plain.batch(number).captions == game.batch(number).captions for number in range(20))


class Buckets:
    """Clips in three buckets, with the sizes and lengths that `CLIPS` says. The last one has only two clips."""

    CLIPS = ((Bucket(9, 32, 32), 30), (Bucket(5, 32, 64), 60), (Bucket(1, 64, 32), 2))

    def __init__(self, weights: tuple[float, ...] = (1.0, 1.0, 1.0)) -> None:
        self.bucket, self.num_latent_frames, self.action_space = self.CLIPS[0][0], T, None
        buckets = [(bucket, weight) for (bucket, n), weight in zip(self.CLIPS, weights, strict=True) for _ in range(n)]
        self.clips = [
            CachedClip(index, self.grid(bucket)[0], [str(bucket)], [str(bucket)], {}, bucket, weight=weight)
            for index, (bucket, weight) in enumerate(buckets)
        ]

    def grid(self, bucket: Bucket) -> tuple[int, int, int]:
        return 1 + bucket.num_frames // 4, bucket.height // 16, bucket.width // 16

    def read(self, clip: CachedClip, name: str, start: int = 0, length: int | None = None) -> Tensor:
        frames, rows, columns = self.grid(clip.bucket)
        return torch.zeros(length or frames, 2, rows, columns)


def batches(cache: Buckets, task: str, number: int = 300) -> list[Batch]:
    mixture = Mixture(cache, TaskWeights(**(NONE | {task: 1.0})), 8, caption_dropout=0.0)
    return [mixture.batch(index) for index in range(number)]


def test_a_batch_is_of_one_bucket_and_batches_of_all_buckets_cost_about_the_same():
    seen = set()
    for batch in batches(Buckets(), "text_to_video"):
        assert len(set(batch.captions)) == 1
        seen.add(tuple(batch.latents.shape))
    assert seen == {(8, 3, 2, 2, 2), (6, 2, 2, 2, 4)}  # 96 tokens each
    shapes = {tuple(batch.latents.shape) for batch in batches(Buckets(), "image")}
    assert shapes == {(12, 1, 2, 2, 2), (6, 1, 2, 2, 4), (6, 1, 2, 4, 2)}  # 48 tokens each


def test_clips_of_all_buckets_are_equally_frequent():
    counts = torch.zeros(90)
    for batch in batches(Buckets(), "text_to_video", 1500):
        counts[batch.indices] += 1
    assert counts[:30].mean().item() == pytest.approx(counts[30:].mean().item(), rel=0.15)


def test_clips_are_drawn_by_their_weights():
    seen = [batch.indices[0] < 30 for batch in batches(Buckets((4.0, 1.0, 1.0)), "text_to_video", 600)]
    assert sum(seen) / 600 == pytest.approx(120 / 8 / (120 / 8 + 60 / 6), abs=0.07)
    cache = Cache()
    cache.clips = [replace(clip, weight=3.0 if clip.index == 1 else 1.0) for clip in cache.clips[:3]]
    mixture = Mixture(cache, TaskWeights(**(NONE | {"text_to_video": 1.0})), 100)
    drawn = [index for number in range(20) for index in mixture.batch(number).indices]
    assert drawn.count(1) / len(drawn) == pytest.approx(0.6, abs=0.05)


def test_a_bucket_with_fewer_clips_than_a_batch_is_named():
    mixture = Mixture(Buckets(), TaskWeights(**(NONE | {"image": 1.0})), 8)
    assert mixture.small_buckets() == [
        "image, pictures of 32×64: has 2 of the 6 clips of a batch, in which clips repeat"
    ]


@pytest.mark.parametrize(("task", "num_given"), [("text_to_video", 0), ("video_to_video", T)])
def test_short_batches_end_after_the_first_generated_frames(task: str, num_given: int):
    whole, short = (only(task, short=share).batch(0) for share in (0, 1))
    assert whole.num_given == short.num_given == num_given
    assert short.latents.shape[1] == num_given + SHORT_LENGTH
    assert len(short.latents) == len(short.captions) == len(short.indices) == len(whole.latents) * 3 // 2
    sign = -1 if num_given else 1
    assert torch.equal(
        short.latents[0, num_given:], sign * CACHE.read(CACHE.clips[short.indices[0]], "clip", length=SHORT_LENGTH)
    )


def test_batches_are_short_at_the_given_rate():
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
def test_default_task_weights_depend_on_the_clips(weights, material, expected):
    assert task_shares(TaskWeights(**weights), material) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"extend": 0.2}, "as no clip is longer than the model's: set tasks.extend=0"),
        ({"video_to_video": 0.2}, "as no clip has an edit: set tasks.video_to_video=0"),
        ({"image": -1}, "it must be 0 or more"),
        ({"text_to_video": 0, "image": 0, "last": 0}, "no task has a weight"),
    ],
)
def test_invalid_weights_are_usage_errors(weights, message):
    with pytest.raises(UsageError, match=message):
        task_shares(TaskWeights(**weights), ALL | {"extend": 0, "video_to_video": 0})
