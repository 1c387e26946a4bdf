"""The page in a real Chromium, with a tiny model."""

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright", reason="there is no playwright")

from playwright.sync_api import Browser, expect

from browser_helpers import Tab, chromium
from server_helpers import MANY_FRAMES, PROMPT, Client, clip_file, serving, settings_for, until

pytestmark = pytest.mark.service

LONG = MANY_FRAMES / 8  # seconds
OpenTab = Callable[..., Tab]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def tab_at(browser: Browser) -> Iterator[OpenTab]:
    """Opens tabs of one new user. In the end, none may have had a problem."""
    context, tabs = browser.new_context(), []

    def open_tab(url: str, address: str = "/") -> Tab:
        tabs.append(Tab(context, url, address))
        return tabs[-1]

    yield open_tab
    problems = [problem for tab in tabs for problem in tab.problems]
    context.close()
    assert problems == []


@pytest.fixture
def tab(tab_at: OpenTab, client: Client) -> Tab:
    return tab_at(client.url)


def png(color: str = "red", side: int = 40) -> bytes:
    picture = io.BytesIO()
    Image.new("RGB", (side, side), color).save(picture, "PNG")
    return picture.getvalue()


def upload(name: str, kind: str, content: bytes) -> dict:
    return {"name": name, "mimeType": kind, "buffer": content}


RED = upload("red.png", "image/png", png())
BLUE = upload("blue.png", "image/png", png("blue"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return upload("clip.mp4", "video/mp4", clip_file(tmp_path_factory.mktemp("clip") / "clip.mp4").read_bytes())


def of_server(client: Client, tab: Tab) -> dict:
    return client.get(f"/v1/videos/{tab.video_id}").json()


def content_of(client: Client, video_id: str) -> bytes:
    return client.get(f"/v1/videos/{video_id}/content").content


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_text_to_video_with_settings(tab: Tab, client: Client):
    tab.make(PROMPT, Length=2, Size="64x32", Seed=5, Guidance=1.5)
    tab.expect_completed()
    video = of_server(client, tab)
    assert (video["task"], video["num_frames"], video["size"]) == ("text-to-video", 17, "64x32")
    assert (video["seed"], video["guidance_scale"]) == (5, 1.5)
    about = tab.page.locator("#about")
    for text in ("17 frames at 8 fps", "64 × 32", "1.5", "from text"):
        expect(about).to_contain_text(text)
    until(lambda: tab.state("#video")["duration"] == pytest.approx(17 / 8, abs=0.01))
    assert tab.state("#video")["width"] == 64


def test_a_picture_is_a_video_of_one_frame(tab: Tab, client: Client):
    tab.fill("Length", 0.1)
    expect(tab.page.locator("#frames")).to_have_text("a picture")
    tab.make(PROMPT)
    tab.expect_completed()
    assert of_server(client, tab)["task"] == "text-to-image"


def test_a_chosen_picture_is_the_first_frame(tab: Tab, client: Client):
    tab.page.locator("#file").set_input_files(RED)
    expect(tab.page.get_by_label("red.png", exact=True)).to_have_value("input_reference")
    tab.make(PROMPT)
    tab.expect_completed()
    assert of_server(client, tab)["task"] == "image-to-video"


def test_two_pictures_are_the_first_and_the_last_frame_and_can_be_swapped(tab: Tab, client: Client):
    tab.page.locator("#file").set_input_files([RED, BLUE])
    first, last = (tab.page.get_by_label(name, exact=True) for name in ("red.png", "blue.png"))
    expect(last).to_have_value("last_image_reference")
    last.select_option(label="The first frame")
    expect(first).to_have_value("last_image_reference")
    tab.make(PROMPT, Seed=1)
    tab.expect_completed()
    files = {"input_reference": ("blue.png", png("blue")), "last_image_reference": ("red.png", png("red"))}
    expected = client.wait(client.post("/v1/videos", data={"prompt": PROMPT, "seed": 1}, files=files).json())
    assert content_of(client, tab.video_id) == content_of(client, expected["id"])
    tab.page.locator("#file").set_input_files(upload("third.png", "image/png", png("green")))
    expect(tab.page.get_by_role("alert").filter(has_text="takes two pictures")).to_be_visible()


def test_a_clip_is_edited_and_another_is_continued(tab: Tab, client: Client, clip: dict):
    tab.page.locator("#file").set_input_files(clip)
    expect(tab.page.get_by_label("Length")).to_be_disabled()
    tab.make("make the circle blue")
    tab.expect_completed()
    assert (of_server(client, tab)["task"], of_server(client, tab)["num_frames"]) == ("video-to-video", 9)
    tab.page.get_by_label("clip.mp4", exact=True).select_option(label="Continue this clip")
    tab.make(PROMPT, Length=2.1)
    tab.expect_completed()
    assert (of_server(client, tab)["task"], of_server(client, tab)["num_frames"]) == ("continuation", 17)


def test_the_surprise_of_a_clip_of_the_user_is_measured(tab: Tab, clip: dict):
    tab.page.locator("#file").set_input_files(clip)
    tab.page.get_by_label("clip.mp4", exact=True).select_option(label="Measure its surprise")
    expect(tab.page.get_by_label("Seed")).to_be_disabled()
    tab.fill("Prompt", PROMPT)
    tab.button("Measure the surprise").click()
    expect(tab.page.locator("#surprise-text")).to_contain_text("bits per dimension")
    expect(tab.page.locator("#title")).to_have_text("clip.mp4")
    assert tab.page.locator("#bars li").count() == 3  # latent frames


def test_the_surprise_of_a_video_is_drawn_over_it(tab: Tab):
    tab.make(PROMPT)
    tab.expect_completed()
    button, heat = tab.button("Surprise"), tab.page.locator("#heat")
    button.click()
    expect(heat).to_be_visible()
    expect(button).to_have_attribute("aria-pressed", "true")
    shown = "c => [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, 1, 1).data]"
    width, height, *_, opacity = heat.evaluate(shown)
    assert (width, height, opacity) == (2, 2, 255)  # tokens
    button.click()
    expect(heat).to_be_hidden()


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(tab: Tab, client: Client, way: str):
    tab.page.evaluate(
        """([way, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "given.png", { type: "image/png" }));
            const event = way === "drop"
                ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
            document.body.dispatchEvent(event);
        }""",
        [way, list(png())],
    )
    expect(tab.page.get_by_label("given.png", exact=True)).to_have_value("input_reference")
    tab.make(PROMPT)
    tab.expect_completed()
    assert of_server(client, tab)["task"] == "image-to-video"


# --- from one video to the next --------------------------------------------------------------------------------------


def test_again_with_another_seed_and_the_same_picture_after_a_reload(tab: Tab, client: Client):
    tab.page.locator("#file").set_input_files(RED)
    first = tab.make(PROMPT, Length=2, Guidance=1.5)
    tab.expect_completed()
    tab.page.reload()
    tab.expect_completed()
    tab.button("Again with another seed").click()
    tab.page.wait_for_url(lambda url: first not in url)
    tab.expect_completed()
    one, two = client.get(f"/v1/videos/{first}").json(), of_server(client, tab)
    for name in ("task", "prompt", "size", "num_frames", "guidance_scale", "tolerance"):
        assert one[name] == two[name]
    assert one["seed"] != two["seed"]


def test_a_lora_is_chosen_and_kept_for_another_seed(tab_at: OpenTab, adapted: Client):
    tab = tab_at(adapted.url)
    tab.page.get_by_label("LoRA", exact=True).select_option("clay")
    tab.fill("LoRA weight", 0.5)
    first = tab.make(PROMPT)
    tab.expect_completed()
    expect(tab.page.locator("#about")).to_contain_text("with clay, weight 0.5")
    tab.button("Again with another seed").click()
    tab.page.wait_for_url(lambda url: first not in url)
    tab.expect_completed()
    assert of_server(adapted, tab)["lora"] == {"name": "clay", "scale": 0.5}


def test_a_server_without_loras_offers_none(tab: Tab):
    expect(tab.page.get_by_label("LoRA", exact=True)).to_be_hidden()


def test_a_browser_without_the_picture_asks_for_it(tab_at: OpenTab, client: Client):
    video = client.post("/v1/videos", data={"prompt": PROMPT}, files={"input_reference": ("a.png", png())}).json()
    client.wait(video)
    tab = tab_at(client.url, f"/#{video['id']}")
    tab.button("Again with another seed").click()
    expect(tab.page.get_by_role("alert").filter(has_text="add it")).to_be_visible()
    expect(tab.page.get_by_label("Prompt")).to_have_value(PROMPT)
    expect(tab.page.locator("#file")).to_be_focused()


@pytest.mark.parametrize(
    ("button", "task"), [("Continue this clip", "continuation"), ("Edit this clip", "video-to-video")]
)
def test_a_video_is_continued_or_edited(tab: Tab, client: Client, button: str, task: str):
    first = tab.make(PROMPT)
    tab.expect_completed()
    tab.button(button).click()
    expect(tab.page.get_by_label("Prompt")).to_be_focused()
    tab.make("make the circle blue")
    tab.expect_completed()
    video = of_server(client, tab)
    assert (video["task"], video["remixed_from_video_id"]) == (task, first)


def test_the_history_leads_to_each_video_with_its_settings(tab: Tab):
    first = tab.make("two green triangles bounce", Seed=3)
    tab.expect_completed()
    tab.make(PROMPT, Seed=4)
    tab.expect_completed()
    card = tab.page.locator(f'a[href="#{first}"]')
    expect(card.locator("img")).to_be_visible()
    card.focus()
    tab.page.keyboard.press("Enter")
    expect(tab.page.locator("#title")).to_have_text("two green triangles bounce")
    expect(card).to_have_attribute("aria-current", "true")
    tab.page.go_back()
    expect(tab.page.locator("#title")).to_have_text(PROMPT)


def test_a_long_history_comes_in_pages_and_a_video_can_be_deleted(tiny_model: Path, tmp_path: Path, tab_at: OpenTab):
    with serving(settings_for(tiny_model, tmp_path)) as client:
        videos = [client.make(num_frames=1, seed=seed) for seed in range(30)]
        tab = tab_at(client.url)
        cards = tab.page.locator("#history-list > li")
        expect(cards).to_have_count(24)
        tab.button("Show more").click()
        expect(cards).to_have_count(30)
        expect(tab.button("Show more")).to_be_hidden()
        tab.expect_completed()
        assert tab.video_id == videos[-1]["id"]
        tab.button("Delete").click()
        expect(cards).to_have_count(29)
        tab.page.wait_for_url(lambda url: url.endswith(videos[-2]["id"]))
        assert client.get(f"/v1/videos/{videos[-1]['id']}").status_code == 404


def test_a_video_is_downloaded(tab: Tab, client: Client):
    tab.make(PROMPT)
    tab.expect_completed()
    with tab.page.expect_download() as download:
        tab.button("Download").click()
    assert download.value.suggested_filename == f"{tab.video_id}.mp4"
    assert download.value.path().read_bytes() == content_of(client, tab.video_id)


# --- jobs ------------------------------------------------------------------------------------------------------------


def test_a_video_plays_while_it_is_made_and_is_cancelled(tab: Tab, client: Client):
    tab.make(PROMPT, Length=LONG)
    until(lambda: tab.state("#video")["time"] > 0.3)
    assert of_server(client, tab)["status"] == "in_progress"
    expect(tab.status).to_contain_text("left")
    assert tab.page.locator("#progress").get_attribute("value") is not None
    tab.button("Cancel").click()
    expect(tab.status).to_have_text("Cancelled")
    assert of_server(client, tab)["status"] == "cancelled"
    expect(tab.button("Cancel")).to_be_hidden()


def test_a_queued_video_shows_its_place(tab: Tab, client: Client):
    blocker = client.wait(client.make(num_frames=MANY_FRAMES), "in_progress")
    others = [client.make(tolerance=0.01) for _ in range(2)]
    tab.make(PROMPT, Length=1)
    expect(tab.status).to_have_text("Queued, 2 videos before it")
    client.delete(f"/v1/videos/{others[0]['id']}")
    expect(tab.status).to_have_text("Queued, 1 video before it")
    client.delete(f"/v1/videos/{blocker['id']}")
    tab.expect_completed()


def test_a_reload_in_the_middle_goes_on(tab: Tab, client: Client):
    video = tab.make(PROMPT, Length=1000 / 8)
    expect(tab.status).to_contain_text("Being made")
    tab.page.reload()
    assert tab.video_id == video
    until(lambda: tab.state("#video")["time"] > 0.1)  # from the fragments, or the finished file
    tab.expect_completed()
    until(lambda: tab.state("#video")["duration"] == pytest.approx(of_server(client, tab)["num_frames"] / 8, abs=0.1))


def test_the_page_outlives_a_restart_of_the_server(tiny_model: Path, tmp_path: Path, tab_at: OpenTab):
    settings = settings_for(tiny_model, tmp_path)
    with serving(settings) as client:
        tab = tab_at(client.url)
        tab.make(PROMPT, Length=400 / 8)
        expect(tab.status).to_contain_text("Being made")
        port = int(client.url.rpartition(":")[2])
    notice = tab.page.locator("#notice")
    expect(notice).to_contain_text("does not answer")
    tab.submit(PROMPT)
    expect(tab.page.locator("#form-error")).to_have_text("The server does not answer.")
    with serving(replace(settings, port=port)):
        expect(notice).to_be_hidden()
        tab.expect_completed()
        until(lambda: tab.state("#video")["ready"] >= 2)


def test_two_tabs_show_the_same_jobs(tab_at: OpenTab, client: Client):
    one, two = tab_at(client.url), tab_at(client.url)
    video = one.make(PROMPT, Length=LONG)
    card = two.page.locator(f'a[href="#{video}"]')
    expect(card).to_contain_text("Being made")
    card.click()
    until(lambda: two.state("#video")["time"] > 0.1 and one.state("#video")["time"] > 0.1)  # both play it
    two.button("Cancel").click()
    expect(one.status).to_have_text("Cancelled")
    one.button("Delete").click()
    expect(card).to_have_count(0)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 300])
def test_a_broken_upload_is_an_error_beside_it(tab: Tab, clip: dict, cut: int):
    broken = upload("broken.mp4", "video/mp4", clip["buffer"][:cut] + b"nonsense" * 10)
    tab.page.locator("#file").set_input_files(broken)
    tab.submit("make the circle blue")
    source = tab.page.locator(".source")
    expect(source.locator(".error")).to_contain_text("cannot use video_reference")
    expect(source.locator("select")).to_be_focused()
    expect(source.locator("select")).to_have_attribute("aria-invalid", "true")
    tab.button("Remove broken.mp4").click()
    tab.make(PROMPT)
    tab.expect_completed()


def test_a_broken_clip_cannot_be_measured(tab: Tab):
    tab.page.locator("#file").set_input_files(upload("broken.mp4", "video/mp4", b"nonsense"))
    tab.page.get_by_label("broken.mp4", exact=True).select_option(label="Measure its surprise")
    tab.fill("Prompt", PROMPT)
    tab.button("Measure the surprise").click()
    expect(tab.page.locator("#stage-error")).to_contain_text("cannot use video")


def test_a_file_of_another_kind_is_refused_at_once(tab: Tab):
    tab.page.locator("#file").set_input_files(upload("notes.txt", "text/plain", b"notes"))
    expect(tab.page.get_by_role("alert").filter(has_text="notes.txt is no picture or clip")).to_be_visible()


def test_errors_of_the_api_stand_at_their_fields_until_these_change(tab: Tab):
    tab.submit(PROMPT, Size="33x32")
    error = tab.page.locator('[data-for="size"]')
    expect(error).to_contain_text("multiples of 16")
    size = tab.page.get_by_label("Size")
    expect(size).to_be_focused()
    expect(size).to_have_attribute("aria-invalid", "true")
    size.fill("32x32")
    expect(error).to_be_hidden()
    expect(size).not_to_have_attribute("aria-invalid", "true")


def test_a_full_queue_is_an_error_of_the_form(tiny_model: Path, tmp_path: Path, tab_at: OpenTab):
    with serving(settings_for(tiny_model, tmp_path, limits={"queued": 1})) as client:
        client.wait(client.make(num_frames=MANY_FRAMES), "in_progress")
        client.make()
        tab = tab_at(client.url)
        tab.submit(PROMPT)
        expect(tab.page.locator("#form-error")).to_contain_text("1 jobs are waiting")


def test_a_server_with_keys_asks_for_one(tiny_model: Path, tmp_path: Path, browser: Browser):
    key = "a-key-that-is-long-enough"
    keys = {hashlib.sha256(key.encode()).digest(): "ann"}
    with serving(settings_for(tiny_model, tmp_path, keys=keys)) as client:
        page = browser.new_page()
        page.goto(client.url)
        for given in ("a-wrong-key-that-is-long-enough", key):
            page.get_by_label("Key", exact=True).fill(given)
            page.get_by_role("button", name="Continue", exact=True).click()
        expect(page.locator("#key-dialog")).to_be_hidden()
        page.get_by_label("Prompt").fill(PROMPT)
        page.get_by_role("button", name="Make the video").click()
        expect(page.locator("#status")).to_contain_text("Completed")
        expect(page.locator("#history-list img")).to_be_visible()
        page.context.close()


# --- for everybody ---------------------------------------------------------------------------------------------------


def test_the_keyboard_is_enough(tab: Tab):
    order = []
    for _ in range(7):
        tab.page.keyboard.press("Tab")
        order.append(tab.page.evaluate("document.activeElement.id"))
    assert order == ["prompt", "file", "seconds", "size", "seed", "guidance_scale", "submit"]
    tab.page.get_by_label("Prompt").fill(PROMPT)
    tab.page.keyboard.press("Control+Enter")
    tab.expect_completed()
    expect(tab.page.locator("#announcement")).to_have_text(f"Completed: {PROMPT}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(tab: Tab, scheme: str):
    tab.make(PROMPT)
    tab.expect_completed()
    tab.page.emulate_media(color_scheme=scheme)
    colors = tab.page.evaluate(
        """() => {
            const draw = document.createElement("canvas").getContext("2d");
            const rgb = (name) => {
                const probe = document.body.appendChild(document.createElement("i"));
                probe.style.color = `var(--${name})`;
                draw.fillStyle = getComputedStyle(probe).color;
                probe.remove();
                draw.fillRect(0, 0, 1, 1);
                return [...draw.getImageData(0, 0, 1, 1).data].slice(0, 3);
            };
            const names = ["page", "card", "field", "tint", "text", "quiet", "accent", "on-accent", "error", "edge"];
            return Object.fromEntries(names.map((name) => [name, rgb(name)]));
        }"""
    )
    for behind in ("page", "card", "field", "tint"):
        for text in ("text", "quiet"):
            assert contrast(colors[text], colors[behind]) >= 4.5
    for text, behind in (("error", "card"), ("on-accent", "accent"), ("accent", "card")):
        assert contrast(colors[text], colors[behind]) >= 4.5
    assert contrast(colors["edge"], colors["card"]) >= 3


def contrast(one: list[int], other: list[int]) -> float:
    """The contrast ratio of two colors, as WCAG 2 defines it."""
    lights = []
    for color in (one, other):
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(color) / 255)
        lights.append(0.2126 * red + 0.7152 * green + 0.0722 * blue)
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.mark.parametrize(("width", "columns"), [(360, 1), (1280, 2)])
def test_the_page_fits_a_phone_and_a_desktop(tab: Tab, width: int, columns: int):
    tab.page.set_viewport_size({"width": width, "height": 800})
    tab.page.locator("#file").set_input_files([upload(f"{'long' * 20}.png", "image/png", png()), BLUE])
    tab.make("word " * 40 + "x" * 200)
    tab.expect_completed()
    tab.button("Surprise").click()
    expect(tab.page.locator("#surprise")).to_be_visible()
    assert tab.page.evaluate("document.documentElement.scrollWidth") == width
    form, stage = (tab.page.locator(name).bounding_box() for name in ("#form", "#stage"))
    assert (form["x"] == stage["x"]) == (columns == 1)
