"""The page and its files, without a browser."""

import re
from pathlib import Path

import pytest

from html_page import Page
from server_helpers import Client, serving, settings_for
from starflow.serve.page import FILES
from starflow.serve.security import SECURITY_HEADERS


@pytest.fixture(scope="module")
def html() -> str:
    return FILES["index.html"].read_text()


def test_the_page_and_its_files_are_served(client: Client, html: str):
    response = client.get("/")
    assert (response.status_code, response.text) == (200, html)
    kinds = {".css": "text/css", ".html": "text/html", ".js": "javascript", ".svg": "image/svg+xml"}
    for name, path in FILES.items():
        response = client.get(f"/page/{name}")
        assert response.content == path.read_bytes()
        assert kinds[path.suffix] in response.headers["content-type"]
        assert response.headers["cache-control"] == "no-cache"
        assert all(response.headers[header] == value for header, value in SECURITY_HEADERS.items())


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fapi.py", "../api.py", "%2Fetc%2Fpasswd"])
def test_no_other_file_is_served(client: Client, name: str):
    assert client.get(f"/page/{name}").status_code == 404


def test_the_page_needs_no_key_but_what_it_shows_does(tiny_model: Path, tmp_path: Path):
    keys = {b"0" * 32: "ann"}
    with serving(settings_for(tiny_model, tmp_path, keys=keys)) as client:
        assert client.get("/").status_code == client.get("/page/app.js").status_code == 200
        assert client.get("/v1/videos").status_code == client.get("/page").status_code == 401


def test_the_html_is_well_formed_and_has_a_label_for_every_field(html: str):
    page = Page(html)
    assert len(set(page.values("id"))) == len(page.values("id"))
    labelled = set(page.values("for", "label"))
    fields = {attrs["id"] for tag, attrs in page.elements if tag in ("input", "textarea") and "id" in attrs}
    assert len(fields) >= 7
    assert fields <= labelled
    named = page.values("aria-labelledby") + page.values("aria-describedby") + page.values("for")
    assert set(named) <= set(page.values("id"))
    assert all("alt" in attrs for tag, attrs in page.elements if tag == "img")
    assert page.values("lang", "html") == ["en"]


def test_nothing_is_inline_as_the_security_headers_demand(html: str):
    page = Page(html)
    assert page.values("src", "script") == ["page/app.js"]
    assert all(attrs.get("src") for tag, attrs in page.elements if tag == "script")
    assert "style" not in [tag for tag, _ in page.elements]
    assert not page.values("style")
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]


def test_everything_that_the_page_loads_is_served_with_it(html: str):
    page = Page(html)
    loaded = page.values("src") + page.values("href")
    assert {address.removeprefix("page/") for address in loaded} <= FILES.keys()
    for path in FILES.values():
        text = path.read_text()
        assert set(re.findall(r'from "\./(.+?)"', text)) <= FILES.keys()
        addresses = re.findall(r"\w+:\s?//[^\s\"'`)]+|url\([^)]*\)|@import[^;]*", text)
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}


def test_the_scripts_find_what_they_look_for_in_the_html(html: str):
    ids = set(Page(html).values("id"))
    for path in FILES.values():
        if path.suffix == ".js":
            assert set(re.findall(r'\bfind\("([\w-]+)"\)', path.read_text())) <= ids
