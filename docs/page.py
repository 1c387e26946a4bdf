"""Make the picture of the page in docs/serving.md, from a server that runs: `python docs/page.py http://127.0.0.1:8000`."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

PROMPTS = [
    ("a green square grows", 4),
    ("two blue circles bounce", 2),
    ("a large blue square bounces", 1),
    ("a small yellow triangle orbits", 3),
    ("a red circle moves right", 0),
]


def main(url: str) -> None:
    """Make videos on the page, and take the picture."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000}, color_scheme="light")
        page.goto(url)
        for prompt, seed in PROMPTS:
            page.get_by_label("Prompt").fill(prompt)
            page.get_by_label("Seed").fill(str(seed))
            page.get_by_role("button", name="Make the video").click()
            expect(page.locator("#title")).to_have_text(prompt)
        expect(page.locator("#history-list img:visible")).to_have_count(len(PROMPTS), timeout=120_000)
        page.get_by_role("button", name="Surprise").click()
        expect(page.locator("#surprise")).to_be_visible(timeout=60_000)
        page.locator("#video").evaluate("video => { video.pause(); video.currentTime = 1; }")
        page.wait_for_timeout(1000)  # until the controls fade
        page.screenshot(path=Path(__file__).with_name("page.png"), full_page=True)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
