"""Bodies of requests, as JSON or multipart: their fields, and what is uploaded."""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile

from starflow.serve.errors import ApiError

MAX_FILES, MAX_FIELDS, MAX_FIELD_BYTES = 4, 100, 2**20
DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w=.+-]+)*;base64,", re.ASCII)


@dataclass
class Body:
    """The fields of a request, for pydantic, and its uploads, by the name of the field."""

    fields: dict[str, Any] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """A digest of all of it."""
        digest = hashlib.sha256(json.dumps(self.fields, sort_keys=True).encode())
        for name, content in sorted(self.uploads.items()):
            digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
        return digest.hexdigest()


async def read_body(request: Request, *, lists: tuple[str, ...] = ()) -> Body:
    """Read a request. Fields named in `lists` are lists. Raises ApiError if it is neither JSON nor multipart."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        body = await _read_form(request, lists)
    elif kind == "application/json":
        body = Body(await _read_json(request))
    else:
        raise ApiError(415, "send the request as application/json or multipart/form-data", code="invalid_content_type")
    _move_data_urls(body)
    return body


async def _read_json(request: Request) -> dict[str, Any]:
    try:
        fields = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "the body is not valid JSON", code="invalid_json") from error
    if not isinstance(fields, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return fields


async def _read_form(request: Request, lists: tuple[str, ...]) -> Body:
    body = Body()
    async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES) as form:
        for key, value in form.multi_items():
            name, _, inner = key.partition("[")  # OpenAI's clients send video[id] and prompt[]
            inner = inner.removesuffix("]")
            if isinstance(value, UploadFile):
                body.uploads[name] = await value.read()
            elif name in lists:
                body.fields.setdefault(name, []).append(value)
            elif not inner:
                body.fields[name] = value
            elif isinstance(outer := body.fields.setdefault(name, {}), dict):
                outer[inner] = value
    return body


def _move_data_urls(body: Body) -> None:
    """Move pictures and clips in data URLs to the uploads."""
    for name, value in list(body.fields.items()):
        url = value.get("image_url") if isinstance(value, Mapping) else None
        if url is None:
            continue
        found = DATA_URL.match(url) if isinstance(url, str) else None
        if found is None:
            raise ApiError(
                400,
                f"{name}.image_url must be a data URL (data:image/png;base64,…): this server fetches nothing",
                param=name,
                code="invalid_value",
            )
        try:
            body.uploads[name] = base64.b64decode(url[found.end() :], validate=True)
        except (binascii.Error, ValueError) as error:
            raise ApiError(400, f"{name}.image_url is not base64", param=name, code="invalid_value") from error
        del body.fields[name]
