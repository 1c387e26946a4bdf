"""The page of a server in a real Chromium. Tests that need it are skipped where there is none."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from browser import chromium as start_chromium
from starflow.errors import StarflowError

MILLISECONDS = 30_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window."""
    expect.set_options(timeout=MILLISECONDS)
    with ExitStack() as stack:
        try:
            browser = stack.enter_context(start_chromium())
        except StarflowError as error:
            pytest.skip(str(error))
        yield browser


class Tab:
    """A tab with the page. Its `problems` are the errors of scripts, and requests to other hosts."""

    def __init__(self, context: BrowserContext, url: str, address: str = "/") -> None:
        self.page: Page = context.new_page()
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda line: self._hear(line.text))
        self.page.on("request", lambda request: self._check(request.url, url))
        self.page.goto(url + address)
        expect(self.page.locator("#model")).not_to_be_empty()

    def _hear(self, text: str) -> None:
        if "Content Security Policy" in text or "Uncaught" in text:
            self.problems.append(text)

    def _check(self, requested: str, url: str) -> None:
        if not requested.startswith((url, f"blob:{url}", "data:")):
            self.problems.append(f"a request to {requested}")

    @property
    def video_id(self) -> str:
        """The id of the selected video, from the address."""
        return self.page.url.rpartition("#")[2]

    @property
    def status(self):
        return self.page.locator("#status")

    def button(self, name: str):
        return self.page.get_by_role("button", name=name, exact=True)

    def fill(self, label: str, value: object) -> None:
        self.page.get_by_label(label).fill(str(value))

    def submit(self, prompt: str, **fields: object) -> None:
        """Fill the form and send it."""
        self.fill("Prompt", prompt)
        for label, value in fields.items():
            self.fill(label, value)
        self.button("Make the video").click()

    def make(self, prompt: str, **fields: object) -> str:
        """Make a video, and wait until it is shown. Returns its id."""
        with self.page.expect_response(lambda answer: answer.request.method == "POST") as answer:
            self.submit(prompt, **fields)
        video_id = answer.value.json()["id"]
        self.page.wait_for_url(f"**/#{video_id}")
        expect(self.page.locator("#title")).to_have_text(prompt)
        return video_id

    def expect_completed(self) -> None:
        expect(self.status).to_contain_text("Completed")

    def state(self, of: str) -> dict:
        """What the player, or another media element, shows."""
        return self.page.locator(of).evaluate(
            "e => ({time: e.currentTime, duration: e.duration, width: e.videoWidth, src: e.src, ready: e.readyState})"
        )
