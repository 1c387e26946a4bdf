import io
import json
from typing import Any

import av
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from server_helpers import MANY_FRAMES, PROMPT, Client, until
from starflow.serve.security import KEY_PROTOCOL


def socket_of(client: Client, **options: Any) -> ClientConnection:
    url = client.url.replace("http", "ws", 1)
    return connect(f"{url}/v1/realtime/video", proxy=None, **options)


def send(socket: ClientConnection, kind: str, **fields: Any) -> None:
    socket.send(json.dumps({"type": kind} | fields))


def receive(socket: ClientConnection) -> dict[str, Any]:
    return json.loads(socket.recv(timeout=60))


def chunks(socket: ClientConnection) -> tuple[list[dict[str, Any]], bytes, dict[str, Any]]:
    """The metadata of all chunks, their bytes, and the message after them."""
    metadata, data = [], b""
    while (message := receive(socket))["type"] == "video.chunk_metadata":
        chunk = socket.recv(timeout=60)
        assert len(chunk) == message["byte_length"]
        metadata.append(message)
        data += chunk
    return metadata, data, message


def frames_of(content: bytes) -> np.ndarray:
    with av.open(io.BytesIO(content)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_a_session_streams_a_video_that_is_then_one_of_the_others(client: Client):
    with socket_of(client) as socket:
        send(socket, "session.start", prompt=PROMPT, width=32, height=32, num_frames=101, seed=2, format="m4s")
        start = receive(socket)
        assert (start["type"], start["format"], start["config"]["seed"]) == ("video.start", "m4s", 2)
        metadata, data, done = chunks(socket)
    assert done == {
        "type": "session.done",
        "request_id": start["request_id"],
        "stopped": False,
        "chunks": len(metadata),
    }
    assert [each["transport_chunk_index"] for each in metadata] == list(range(len(metadata)))
    assert sum(each["num_frames"] for each in metadata) == 101
    assert len(metadata) > 3  # it came in pieces
    finished = client.get(f"/v1/videos/{start['request_id']}/content").content
    np.testing.assert_array_equal(frames_of(data), frames_of(finished))
    folder = client.server.settings.folder(start["request_id"])
    until(lambda: not list(folder.glob("fragments*")))


def test_a_new_prompt_changes_the_frames_after_it(client: Client):
    videos = []
    for new_prompt in (None, "a blue square grows"):
        with socket_of(client) as socket:
            send(socket, "session.start", prompt=PROMPT, num_frames=301, seed=2, guidance_scale=3)
            receive(socket)
            metadata = receive(socket)
            assert metadata["type"] == "video.chunk_metadata"
            data = socket.recv(timeout=60)
            if new_prompt is not None:
                send(socket, "session.interaction", interaction={"event_id": "e1", "event": {"prompt": new_prompt}})
            while (message := receive(socket))["type"] != "session.done":
                if message["type"] == "session.interaction.queued":
                    assert message["event_id"] == "e1"
                else:
                    data += socket.recv(timeout=60)
        videos.append(frames_of(data).astype(int))
    plain, steered = videos
    assert plain.shape == steered.shape == (301, 32, 32, 3)
    differs = np.abs(plain - steered).reshape(301, -1).max(axis=1) > 8
    assert not differs[:5].any()
    assert differs[-50:].any()


def test_a_session_answers_pings_and_stops(client: Client):
    with socket_of(client) as socket:
        send(socket, "session.ping")
        assert receive(socket) == {"type": "session.pong"}
        send(socket, "session.start", prompt=PROMPT, num_frames=MANY_FRAMES)
        video_id = receive(socket)["request_id"]
        send(socket, "session.stop")
        *_, done = chunks(socket)
        assert (done["type"], done["stopped"]) == ("session.done", True)
    assert client.get(f"/v1/videos/{video_id}").json()["status"] == "cancelled"


def test_a_client_that_goes_away_cancels_its_video(client: Client):
    with socket_of(client) as socket:
        send(socket, "session.start", prompt=PROMPT, num_frames=MANY_FRAMES)
        video_id = receive(socket)["request_id"]
    until(lambda: client.get(f"/v1/videos/{video_id}").json()["status"] == "cancelled", 5)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (["{"], "a message must be JSON"),
        (["[]"], "a message must be an object with a type"),
        (['{"type": "session.start"}'], "prompt: Field required"),
        (['{"type": "session.start", "prompt": "a", "format": "gif"}'], "the format must be m4s"),
        (['{"type": "session.start", "prompt": "a", "width": 33, "height": 32}'], "multiples of 16"),
        (['{"type": "session.start", "prompt": "a", "width": 32}'], "'32xNone' is not a size"),
        (['{"type": "session.stop"}'], "begin with session.start"),
    ],
)
def test_a_wrong_message_is_one_clear_error(client: Client, messages: list[str], expected: str):
    with socket_of(client) as socket:
        for message in messages:
            socket.send(message)
        error = receive(socket)
    assert error["type"] == "error"
    assert expected in error["message"]


def test_a_wrong_interaction_does_not_end_the_session(client: Client):
    with socket_of(client) as socket:
        send(socket, "session.start", prompt=PROMPT, num_frames=201)
        receive(socket)
        send(socket, "session.interaction", interaction={"event": {}})
        kinds = []
        while (message := receive(socket))["type"] != "session.done":
            kinds.append(message["type"])
            if message["type"] == "video.chunk_metadata":
                socket.recv(timeout=60)
    assert "error" in kinds
    assert not message["stopped"]


def test_other_pages_cannot_open_a_session(client: Client):
    with pytest.raises(InvalidStatus), socket_of(client, origin="https://evil.example"):
        pass
    with socket_of(client, origin=client.url) as socket:
        send(socket, "session.ping")
        assert receive(socket) == {"type": "session.pong"}


def test_a_browser_gives_its_key_as_a_subprotocol(client: Client):
    with socket_of(client, subprotocols=["realtime", f"{KEY_PROTOCOL}any-key"]) as socket:
        assert socket.subprotocol == "realtime"
