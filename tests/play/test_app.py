"""The server of the page, with a tiny model and without a browser."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from html_page import Page
from play_helpers import tiny_game, tiny_starts, unpacked
from starflow.errors import StarflowError
from starflow.play import app as module
from starflow.play.app import FILES, create_app
from starflow.play.player import Player
from starflow.serve.security import SECURITY_HEADERS
from starflow.serve.settings import AccessSettings

URL = "http://127.0.0.1:8010"
SOCKET = "ws://127.0.0.1:8010/play"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    pipeline, starts = tiny_game(), tiny_starts()
    app = create_app(lambda: Player(pipeline, "tiny", starts, seed=3), AccessSettings())
    with TestClient(app, base_url=URL) as client:
        yield client


def frames(socket: WebSocketTestSession) -> dict[str, Any]:
    """The header of the next frames, which are then seen."""
    header, _ = unpacked(socket.receive_bytes())
    assert header["type"] == "frames"
    socket.send_json({"type": "seen", "index": header["index"]})
    return header


def hello(socket: WebSocketTestSession) -> dict[str, Any]:
    message = socket.receive_json()
    assert message["type"] == "hello"
    return message


def test_a_tab_is_shown_frames_after_its_actions(client: TestClient):
    with client.websocket_connect(SOCKET) as socket:
        assert hello(socket)["model"] == "tiny"
        assert frames(socket)["action"] == 0
        socket.send_json({"type": "action", "action": [1, 1], "id": 7})
        headers = [frames(socket) for _ in range(5)]
        assert headers[-1]["action"] == 7
        assert [each["index"] for each in headers] == [2, 3, 4, 5, 6]


def test_frames_come_at_the_rate_of_the_model(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Player, "seconds_per_step", 0.1)
    with client.websocket_connect(SOCKET) as socket:
        hello(socket)
        frames(socket)
        start = time.monotonic()
        for _ in range(5):
            frames(socket)
    assert time.monotonic() - start > 0.4


def test_the_clip_is_saved(client: TestClient):
    with client.websocket_connect(SOCKET) as socket:
        hello(socket)
        socket.send_json({"type": "save"})
        while (message := unpacked(socket.receive_bytes()))[0]["type"] != "clip":
            pass
        assert message[1][4:8] == b"ftyp"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "must be JSON"),
        ("[]", "must be an object"),
        ('{"type": "action", "action": [9, 0], "id": 1}', "a whole number from 0 to 2, not 9"),
        ('{"type": "dance"}', "no message of a player"),
    ],
)
def test_a_bad_message_is_one_error_and_the_game_goes_on(client: TestClient, text: str, problem: str):
    with client.websocket_connect(SOCKET) as socket:
        hello(socket)
        socket.send_text(text)
        received = [socket.receive() for _ in range(3)]
        (error,) = (message["text"] for message in received if "text" in message)
        assert problem in error
        assert sum("bytes" in message for message in received) == 2


def test_tabs_have_sessions_of_their_own_but_not_too_many(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_TABS", 2)
    with client.websocket_connect(SOCKET) as one, client.websocket_connect(SOCKET) as two:
        hello(one), hello(two)
        two.send_json({"type": "reset", "start": "nothing"})
        prompts = [{frames(socket)["prompt"] for _ in range(4)} for socket in (one, two)]
        assert len(prompts[0]) == 1 and len(prompts[1]) == 2
        with client.websocket_connect(SOCKET) as third:
            assert "2 tabs play already" in third.receive_json()["message"]
    with client.websocket_connect(SOCKET) as again:
        hello(again)


def test_a_session_that_fails_says_why_and_ends(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    def fail(player: Player) -> bytes:
        raise StarflowError("a sampled frame has NaN")

    with monkeypatch.context() as patch, client.websocket_connect(SOCKET) as socket:
        patch.setattr(Player, "advance", fail)
        hello(socket)
        assert socket.receive_json() == {"type": "error", "message": "a sampled frame has NaN"}
        with pytest.raises(WebSocketDisconnect):
            socket.receive_json()
    with client.websocket_connect(SOCKET) as again:
        hello(again)


def test_other_pages_cannot_play(client: TestClient):
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(SOCKET, headers=headers):
            pass
    with client.websocket_connect(SOCKET, headers={"origin": URL}) as socket:
        hello(socket)


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_and_its_files_are_served(client: TestClient):
    assert client.get("/").content == FILES["index.html"].read_bytes()
    for name, path in FILES.items():
        response = client.get(f"/page/{name}")
        assert response.content == path.read_bytes()
        assert all(response.headers[header] == value for header, value in SECURITY_HEADERS.items())


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fapp.py", "../app.py"])
def test_no_other_file_is_served(client: TestClient, name: str):
    assert client.get(f"/page/{name}").status_code == 404


def test_the_page_is_whole():
    page = Page(FILES["index.html"].read_text())
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    assert set(page.values("for", "label")) <= set(ids)
    assert {address.removeprefix("page/") for address in page.values("src") + page.values("href")} <= FILES.keys()
    own = [path for path in FILES.values() if path.parent != Path(FILES["style.css"]).parent]
    for path in own:
        text = path.read_text()
        assert set(re.findall(r'from "\./(.+?)"', text)) <= FILES.keys()
        assert set(re.findall(r'\bfind\("([\w-]+)"\)', text)) <= set(ids)
        assert not re.findall(r"https?://", text)
