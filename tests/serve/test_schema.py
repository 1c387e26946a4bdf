"""The OpenAPI description, and requests that follow it only partly: no answer is a failure of the server."""

import json
import re
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import starflow.serve
from server_helpers import PROMPT, Client
from starflow.serve.schema import VideoRequest

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from([*VideoRequest.model_fields, "image_url", "id", ""])
STATUS = re.compile(r"ApiError\(\s*(\d+)")
REFERENCES = st.fixed_dictionaries({}, optional={"image_url": VALUES, "id": VALUES})


def references(schema: Any) -> list[str]:
    """The references in an OpenAPI description."""
    if isinstance(schema, dict):
        own = [schema["$ref"]] if "$ref" in schema else []
        return own + [each for value in schema.values() for each in references(value)]
    return [each for value in schema for each in references(value)] if isinstance(schema, list) else []


def test_the_description_of_the_api_is_complete(client: Client):
    description = client.get("/openapi.json").json()
    found = references(description)
    assert found
    for reference in found:
        _, *parts = reference.split("/")
        node = description
        for part in parts:
            node = node[part]
    body = description["paths"]["/v1/videos"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    assert body["multipart/form-data"]["schema"]["properties"]["input_reference"]["format"] == "binary"


def test_the_status_of_every_error_is_described(client: Client):
    package = Path(starflow.serve.__file__).parent
    raised = {int(found) for path in package.glob("*.py") for found in STATUS.findall(path.read_text())}
    described = client.get("/openapi.json").json()["paths"]["/v1/videos"]["post"]["responses"]
    assert raised - {499} == {int(status) for status in described if int(status) >= 400}  # nobody hears 499


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.dictionaries(NAMES, VALUES | REFERENCES, max_size=5), is_form=st.booleans())
def test_no_request_makes_the_server_fail(client: Client, fields: dict[str, Any], is_form: bool):
    if "prompt" not in fields:
        fields["prompt"] = PROMPT
    for path in ("/v1/videos", "/v1/videos/score"):
        if is_form:
            form = {name: str(value).encode("utf-8", "replace") for name, value in fields.items() if name}
            response = client.post(path, data=form)
        else:
            content = json.dumps(fields).encode("utf-8", "replace")
            response = client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert response.status_code < 500 or response.status_code == 503, response.text
        if response.status_code == 200:
            client.delete(f"/v1/videos/{response.json()['id']}")
        else:
            assert response.json()["error"]["message"]
