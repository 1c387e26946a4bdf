"""Schemathesis makes requests from the OpenAPI description: no answer is a failure of the server, or undescribed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server_helpers import Client, serving, settings_for

pytestmark = pytest.mark.slow

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def small(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a server that makes short and small videos only, so that no request takes long."""
    limits = {"seconds": 2, "pixels": 64 * 64, "queued": 1000}
    with serving(settings_for(tiny_model, tmp_path_factory.mktemp("data"), limits=limits)) as client:
        yield client


def test_every_answer_is_described_and_no_failure_of_the_server(small: Client):
    schema = schemathesis.openapi.from_url(f"{small.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 10
    statuses = set[int]()
    for operation in operations:
        for mode in schemathesis.GenerationMode:
            check(operation, mode, statuses)
    assert statuses >= {200, 400, 404}


def check(operation: schemathesis.APIOperation, mode: schemathesis.GenerationMode, statuses: set[int]) -> None:
    """Send requests that follow the description, or break it, and note the statuses of the answers."""

    @settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        statuses.add(case.call_and_validate(checks=CHECKS, timeout=120).status_code)

    try:
        send()
    except Unsatisfiable:  # nothing in the operation can be broken
        assert mode is schemathesis.GenerationMode.NEGATIVE
