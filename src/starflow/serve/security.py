"""Who may use the API, from where, how often, and with how large a request: ASGI middleware."""

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from starflow.errors import UsageError
from starflow.serve.errors import ApiError
from starflow.serve.settings import LOOPBACK, AccessSettings

logger = logging.getLogger(__name__)

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OPEN_PATHS = re.compile("/health|/ready|/|/page/.*")  # the page asks for a key itself
MIN_KEY_LENGTH = 16
KEY_PROTOCOL = "openai-insecure-api-key."  # how browsers, which send no headers, give the key of a WebSocket
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; media-src 'self' blob:; img-src 'self' blob: data:; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
}


def read_keys(path: Path) -> dict[bytes, str]:
    """The keys of a file: one a line, optionally after a name and a space; `#` begins a comment.

    Returns the names by the SHA-256 of the key. Raises UsageError if there is none, or one is too short to be secret.
    """
    keys = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) > 2 or len(words[-1]) < MIN_KEY_LENGTH:
            raise UsageError(f"{path}: each line is a key of {MIN_KEY_LENGTH} or more characters, or a name and a key")
        digest = hashlib.sha256(words[-1].encode()).digest()
        keys[digest] = words[0] if len(words) == 2 else digest.hex()[:12]
    if not keys:
        raise UsageError(f"{path} holds no key")
    return keys


class RateLimit:
    """A bucket of tokens for each key, which fills at `per_minute`."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and when they were counted

    def wait(self, key: str) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        now = time.monotonic()
        tokens, then = self._buckets.get(key, (float(self.per_minute), now))
        tokens = min(self.per_minute, tokens + (now - then) * self.per_minute / 60)
        is_allowed = tokens >= 1
        self._buckets[key] = (tokens - is_allowed, now)
        return 0.0 if is_allowed else (1 - tokens) * 60 / self.per_minute


class Security:
    """Checks each request before the API sees it, and adds the request's id and headers to each answer.

    The API finds the name of the key and the id in `scope["state"]`.
    """

    def __init__(self, app: ASGIApp, settings: AccessSettings) -> None:
        self.app, self.settings = app, settings
        self._rate = RateLimit(settings.limits.requests_per_minute)
        self._hosts = {*LOOPBACK, settings.host, *settings.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers, start = Headers(scope=scope), time.perf_counter()
        request_id = _request_id(headers.get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                for name, value in {"X-Request-ID": request_id, **SECURITY_HEADERS}.items():
                    added.setdefault(name, value)
            await send(message)

        try:
            self._check(scope, headers)
        except ApiError as error:
            await _refuse(error, scope, receive, answer)
        else:
            await self.app(scope, self._bounded(receive, scope["type"]), answer)
        finally:
            about = {"request_id": request_id, "method": scope.get("method", "WS"), "path": scope["path"]}
            about |= {"status": status, "seconds": round(time.perf_counter() - start, 4)}
            logger.info("a request", extra=about | {"key": scope["state"].get("owner", "")})

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raise ApiError if the request is not allowed."""
        host = _host_name(headers.get("host", ""))
        if "*" not in self._hosts and host not in self._hosts:
            raise ApiError(421, f"this server is not called {host!r}: see --allow-host", code="unknown_host")
        is_safe = scope["type"] == "http" and scope["method"] in SAFE_METHODS
        if not is_safe and not self._is_allowed_origin(headers):
            raise ApiError(403, "requests from other web pages are not allowed: see --allow-origin", code="origin")
        is_open = OPEN_PATHS.fullmatch(scope["path"]) or (scope["type"] == "http" and scope["method"] == "OPTIONS")
        scope["state"]["owner"] = owner = "" if is_open else self._owner(headers)
        if self.settings.keys and not is_safe and (wait := self._rate.wait(owner)):
            raise ApiError(429, "too many requests with this key", code="rate_limit_exceeded", wait=int(wait) + 1)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.settings.limits.upload_bytes:
            raise self._too_large()

    def _is_allowed_origin(self, headers: Headers) -> bool:
        """Whether a request that changes something comes from a page of this server, or of no page at all."""
        origin = headers.get("origin")
        return origin is None or origin.partition("://")[2] == headers.get("host") or origin in self.settings.origins

    def _owner(self, headers: Headers) -> str:
        """The name of the client's key. Every key is compared, in constant time. Raises ApiError if it is unknown."""
        if not self.settings.keys:
            return ""
        digest = hashlib.sha256(_key(headers).encode()).digest()
        known = self.settings.keys.items()
        names = [name for each, name in known if hmac.compare_digest(each, digest)]
        if not names:
            raise ApiError(401, "give a valid API key: Authorization: Bearer KEY", code="invalid_api_key")
        return names[0]

    def _bounded(self, receive: Receive, kind: str) -> Receive:
        """Receive no more than the largest body that is allowed."""
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.settings.limits.upload_bytes:
                raise self._too_large()
            return message

        return bounded if kind == "http" else receive

    def _too_large(self) -> ApiError:
        return ApiError(413, f"a request may have {self.settings.limits.upload_bytes} bytes", code="too_large")


def _key(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    protocols = (each.strip() for each in headers.get("sec-websocket-protocol", "").split(","))
    return next((each.removeprefix(KEY_PROTOCOL) for each in protocols if each.startswith(KEY_PROTOCOL)), "")


def _request_id(given: str | None) -> str:
    """The client's id of a request if it is a harmless word, or else a new one."""
    is_harmless = given is not None and re.fullmatch(r"[\w.-]{1,64}", given, re.ASCII)
    return given if given is not None and is_harmless else secrets.token_hex(8)


def _host_name(host: str) -> str:
    """The name in a `Host` header, without the port; empty if it is damaged."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await error.response()(scope, receive, send)
        return
    await receive()  # the client's handshake
    await send({"type": "websocket.close", "code": 1008, "reason": error.message[:120]})
