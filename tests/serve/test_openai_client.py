"""The official client of OpenAI, unchanged."""

import base64
import io
from collections.abc import Iterator

import av
import numpy as np
import openai
import pytest
from PIL import Image

from server_helpers import PROMPT, Client

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@pytest.fixture
def official(client: Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{client.url}/v1", api_key="none") as official:
        yield official


def num_frames(content: bytes) -> int:
    with av.open(io.BytesIO(content)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_create_poll_list_download_and_delete(official: openai.OpenAI):
    video = official.videos.create_and_poll(prompt=PROMPT, seconds="4", size="64x32", poll_interval_ms=50)
    assert (video.status, video.progress, video.size) == ("completed", 100, "64x32")
    assert video.seconds == "4.125"  # the nearest that the VAE can make: 33 frames
    assert video.completed_at >= video.created_at
    assert video.expires_at > video.completed_at
    assert video.id in [each.id for each in official.videos.list(limit=1)]
    assert num_frames(official.videos.download_content(video.id).read()) == 33
    thumbnail = official.videos.download_content(video.id, variant="thumbnail").read()
    assert Image.open(io.BytesIO(thumbnail)).size == (64, 32)
    sheet = official.videos.download_content(video.id, variant="spritesheet").read()
    assert Image.open(io.BytesIO(sheet)).size == (640, 32)
    assert official.videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError):
        official.videos.retrieve(video.id)


def test_a_picture_as_a_file_is_the_first_frame(official: openai.OpenAI):
    picture = io.BytesIO()
    Image.new("RGB", (50, 40), "red").save(picture, "PNG")
    video = official.videos.create_and_poll(
        prompt=PROMPT, input_reference=("red.png", picture.getvalue(), "image/png"), poll_interval_ms=50
    )
    assert (video.status, video.task) == ("completed", "image-to-video")


def test_a_picture_as_a_data_url_gives_the_same_video_as_a_file(official: openai.OpenAI, client: Client):
    picture = io.BytesIO()
    Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)).save(picture, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
    of_file = official.videos.create_and_poll(
        prompt=PROMPT,
        input_reference=("a.png", picture.getvalue(), "image/png"),
        extra_body={"seed": 1},
        poll_interval_ms=50,
    )
    of_url = client.wait(client.make(seed=1, input_reference={"image_url": url}))
    first, second = (official.videos.download_content(each).read() for each in (of_file.id, of_url["id"]))
    assert first == second


def test_images_and_models(official: openai.OpenAI):
    images = official.images.generate(prompt=PROMPT, n=2, extra_body={"seed": 5})
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each.b64_json)))) for each in images.data]
    assert pictures[0].shape == (32, 32, 3)
    assert (pictures[0] != pictures[1]).any()
    (model,) = official.models.list().data
    assert official.models.retrieve(model.id) == model


def test_errors_are_those_of_openai(official: openai.OpenAI):
    with pytest.raises(openai.BadRequestError) as caught:
        official.videos.create(prompt=PROMPT, size="33x32")
    assert caught.value.body["message"] == "width and height must be multiples of 16 pixels, not 33×32"
    with pytest.raises(openai.NotFoundError, match="there is no model 'sora-2' here"):
        official.videos.create(prompt=PROMPT, model="sora-2")
    with pytest.raises(openai.NotFoundError):
        official.videos.retrieve("video_unknown")
