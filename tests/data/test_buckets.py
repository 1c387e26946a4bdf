import pytest

from starflow.data.buckets import BucketConfig, balanced_batch_size, bucket_lengths, bucket_sizes, nearest_size
from starflow.data.fitting import ClipFormat
from starflow.errors import UsageError
from starflow.media.sizes import ASPECT_RATIOS


def test_buckets_have_the_aspect_ratios_of_the_published_model_at_its_area():
    sizes = bucket_sizes(BucketConfig(list(ASPECT_RATIOS)), 480, 848, 16)
    assert sizes[0] == (480, 848)
    assert (640, 640) in sizes and (848, 480) in sizes
    assert len(sizes) == len(ASPECT_RATIOS)
    assert all(height % 16 == width % 16 == 0 for height, width in sizes)
    assert all(abs(height * width / (480 * 848) - 1) < 0.06 for height, width in sizes)


@pytest.mark.parametrize("size", [(1080, 1920), (480, 640), (1920, 1080), (500, 500), (300, 1000)])
def test_a_clip_goes_to_the_nearest_aspect_ratio_and_stays_there(size: tuple[int, int]):
    sizes = bucket_sizes(BucketConfig(list(ASPECT_RATIOS)), 480, 848, 16)
    nearest = nearest_size(sizes, *size)
    ratio = size[1] / size[0]
    errors = [max(ratio * height / width, width / height / ratio) for height, width in sizes]
    assert max(ratio * nearest[0] / nearest[1], nearest[1] / nearest[0] / ratio) == min(errors)
    assert nearest_size(sizes, *nearest) == nearest


def test_a_clip_goes_to_the_longest_bucket_that_it_fills():
    lengths = tuple(bucket_lengths(BucketConfig(num_frames=[49, 17]), 81))
    to = ClipFormat(81, 16, 480, 848, lengths=lengths)
    assert lengths == (17, 49, 81)
    assert [to.length_for(number) for number in (16, 17, 48, 49, 81, 500)] == [None, 17, 17, 49, 81, 81]
    assert [bucket.num_frames for bucket in to.buckets] == [1, 17, 49, 81]


def test_without_buckets_all_clips_have_the_models_size():
    to = ClipFormat(17, 8, 64, 96)
    assert to.size_for(1000, 10) == (64, 96)
    assert to.buckets == [(1, 64, 96), (17, 64, 96)]


def test_batches_are_balanced_by_tokens():
    assert balanced_batch_size(8, 100, 100) == 8
    assert balanced_batch_size(8, 50, 100) == 16
    assert balanced_batch_size(1, 1000, 100) == 1


def test_bad_buckets_are_usage_errors():
    with pytest.raises(UsageError, match="is not an aspect ratio"):
        bucket_sizes(BucketConfig(["wide"]), 64, 64, 16)
    with pytest.raises(UsageError, match='put aspect ratios in quotes, such as "9:16"'):
        bucket_sizes(BucketConfig(["556"]), 64, 64, 16)
    with pytest.raises(UsageError, match="pictures have buckets of their own"):
        bucket_lengths(BucketConfig(num_frames=[1]), 17)
