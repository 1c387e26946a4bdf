import base64
import logging
import random
from pathlib import Path

import pytest

from server_helpers import PROMPT, Client, clip_file, serving, settings_for
from starflow.errors import UsageError
from starflow.serve.security import RateLimit, read_keys
from starflow.serve.settings import ServeSettings

ANN, BOB, EVE = "ann-has-this-secret-key", "bob-has-another-secret-key", "eve-asks-too-often-key"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def guarded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys.txt"
    keys.write_text(f"# keys\nann {ANN}\nbob {BOB}  # a comment\neve {EVE}\n")
    limits = {"requests_per_minute": 12, "upload_bytes": 100_000}
    settings = settings_for(
        tiny_model, folder / "data", keys=read_keys(keys), origins=("https://page.example",), limits=limits
    )
    with serving(settings) as client:
        yield client


def test_the_api_needs_a_key_and_health_does_not(guarded: Client):
    for headers in ({}, bearer("wrong"), bearer(ANN[:-1]), {"Authorization": f"Basic {ANN}"}, bearer("é".encode())):
        response = guarded.get("/v1/videos", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert guarded.get("/metrics").status_code == 401
    assert guarded.get("/health").status_code == 200
    assert guarded.get("/v1/videos", headers=bearer(ANN)).status_code == 200


def test_a_key_sees_its_own_videos_only(guarded: Client):
    video = guarded.post("/v1/videos", json={"prompt": PROMPT}, headers=bearer(ANN)).json()
    path = f"/v1/videos/{video['id']}"
    assert guarded.get(path, headers=bearer(ANN)).status_code == 200
    for method, url in (("GET", path), ("DELETE", path), ("GET", f"{path}/content"), ("POST", f"{path}/cancel")):
        assert guarded.request(method, url, headers=bearer(BOB)).status_code == 404
    assert guarded.get("/v1/videos", headers=bearer(BOB)).json()["data"] == []
    refused = guarded.post(
        "/v1/videos", json={"prompt": PROMPT, "extend_reference": {"id": video["id"]}}, headers=bearer(BOB)
    )
    assert refused.status_code == 404


def test_requests_are_limited_for_each_key(guarded: Client):
    statuses = [guarded.post("/v1/videos", content=b"x", headers=bearer(EVE)) for _ in range(15)]
    assert statuses[-1].status_code == 429
    assert statuses[-1].json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(statuses[-1].headers["Retry-After"]) <= 6
    assert guarded.post("/v1/videos", content=b"x", headers=bearer(ANN)).status_code == 415


def test_the_bucket_of_a_key_fills_again(monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    limit = RateLimit(per_minute=2)
    assert [limit.wait("a") for _ in range(3)] == [0, 0, 30]
    now = 30.0
    assert [limit.wait("a"), limit.wait("a")] == [0, 30]
    assert limit.wait("b") == 0


def test_other_hosts_and_other_pages_are_refused(guarded: Client):
    assert guarded.get("/health", headers={"Host": "evil.example"}).status_code == 421
    headers = bearer(ANN) | {"Origin": "https://evil.example"}
    assert guarded.post("/v1/videos", json={"prompt": PROMPT}, headers=headers).status_code == 403
    assert "access-control-allow-origin" not in guarded.get("/health", headers=headers).headers
    allowed = guarded.get("/v1/models", headers=bearer(ANN) | {"Origin": "https://page.example"})
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://page.example"
    own = bearer(ANN) | {"Origin": guarded.url}
    assert guarded.post("/v1/videos", content=b"x", headers=own).status_code == 415


def test_answers_have_security_headers_and_the_request_id(guarded: Client):
    for path in ("/health", "/v1/videos"):
        headers = guarded.get(path, headers={"X-Request-ID": "abc-1"}).headers
        assert headers["X-Request-ID"] == "abc-1"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert guarded.get("/health", headers={"X-Request-ID": "a b"}).headers["X-Request-ID"] != "a b"


def test_a_request_that_is_too_large_is_refused_before_it_is_read(guarded: Client):
    def pieces():
        for _ in range(20):
            yield bytes(10_000)

    for content in (bytes(100_001), pieces()):
        response = guarded.post(
            "/v1/videos", content=content, headers=bearer(ANN) | {"Content-Type": "application/json"}
        )
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "too_large"


def test_requests_are_logged_with_their_id_and_without_their_key(guarded: Client, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "starflow.serve.security")
    guarded.get("/v1/videos", headers=bearer(ANN) | {"X-Request-ID": "logged-1"})
    (record,) = [each for each in caplog.records if getattr(each, "request_id", "") == "logged-1"]
    assert (record.key, record.status, record.path) == ("ann", 200, "/v1/videos")
    assert ANN not in str(record.__dict__)


def test_no_path_of_a_client_reaches_the_disk(client: Client):
    for name in ("..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "..", "video_%00"):
        assert client.get(f"/v1/videos/{name}").status_code in (404, 405)
        assert client.get(f"/v1/videos/{name}/content").status_code == 404
    picture = base64.b64encode(b"x").decode()
    response = client.post("/v1/videos", json={"prompt": PROMPT, "../../a": {"image_url": f"data:;base64,{picture}"}})
    assert response.status_code == 400
    folders = {path.name for path in client.server.settings.data_dir.rglob("*") if path.is_dir()}
    assert all(name in ("videos", "given") or name.startswith("video_") for name in folders)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "is empty"),
        (b"not a video", "it is corrupt, or neither a video nor an image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "cannot read the file"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(50), "cannot read the file"),
    ],
)
def test_an_upload_that_cannot_be_decoded_is_one_clear_error(client: Client, content: bytes, kind: str):
    response = client.post(
        "/v1/videos", data={"prompt": PROMPT}, files={"input_reference": ("../../x.png", content, "image/png")}
    )
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_media")
    assert kind in response.json()["error"]["message"]
    assert str(client.server.settings.data_dir) not in response.text


def test_a_clip_that_is_damaged_or_cut_off_is_one_clear_error(client: Client, tmp_path: Path):
    clip = clip_file(tmp_path / "clip.mp4").read_bytes()
    for damaged in (clip[: len(clip) // 2], clip[:100] + random.Random(0).randbytes(len(clip) - 100)):
        for name in ("extend_reference", "video_reference"):
            response = client.post("/v1/videos", data={"prompt": PROMPT}, files={name: damaged})
            assert response.status_code == 400
            assert response.json()["error"]["code"] == "invalid_media"


def test_a_clip_with_too_many_frames_is_refused(tiny_model: Path, tmp_path: Path):
    clip = clip_file(tmp_path / "clip.mp4", num_frames=30).read_bytes()
    with serving(settings_for(tiny_model, tmp_path / "data", limits={"upload_frames": 20})) as client:
        response = client.post("/v1/videos", data={"prompt": PROMPT}, files={"extend_reference": clip})
        assert response.json()["error"]["message"] == (
            "cannot use extend_reference: the clip is longer than 20 frames at 8 fps, or 2.5 s"
        )
        assert list((tmp_path / "data" / "videos").iterdir()) == []


def test_a_public_host_needs_keys(tmp_path: Path):
    with pytest.raises(UsageError, match="anybody who reaches"):
        ServeSettings("toyworld", tmp_path, host="0.0.0.0")
    ServeSettings("toyworld", tmp_path, host="0.0.0.0", keys={b"": "a"})


@pytest.mark.parametrize("text", ["", "# nothing\n", "short\n", "ann and bob have-a-long-secret-key\n"])
def test_a_file_without_good_keys_is_refused(tmp_path: Path, text: str):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(UsageError):
        read_keys(tmp_path / "keys")
