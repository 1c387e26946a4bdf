"""The page in a real Chromium, with a tiny model."""

from collections.abc import Callable, Iterator
from threading import Thread

import pytest

pytest.importorskip("playwright", reason="there is no playwright")

from playwright.sync_api import Browser, Page, expect

from browser_helpers import Tab, chromium
from play_helpers import RATE, tiny_game, tiny_starts
from server_helpers import until
from starflow.play import app as module
from starflow.play.app import create_app
from starflow.play.player import Player
from starflow.serve.listening import bound, url_of
from starflow.serve.settings import AccessSettings

pytestmark = pytest.mark.service

OpenTab = Callable[..., Tab]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def players() -> list[Player]:
    """The sessions that tabs have begun."""
    return []


@pytest.fixture(scope="module")
def url(players: list[Player]) -> Iterator[str]:
    pipeline, starts = tiny_game(), tiny_starts()

    def new_player() -> Player:
        players.append(Player(pipeline, "tiny", starts, seed=3))
        return players[-1]

    settings = AccessSettings(port=0)
    with bound(settings) as listener:
        server = module.server_of(create_app(new_player, settings))
        thread = Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield url_of(listener)
        server.should_exit = True
        thread.join(60)


@pytest.fixture
def open_tab(browser: Browser, url: str) -> Iterator[OpenTab]:
    """Opens tabs of one new user. In the end, none may have had a problem."""
    contexts, tabs = [], []

    def open_one(**options: object) -> Tab:
        contexts.append(browser.new_context(**options))
        tabs.append(Tab(contexts[-1], url))
        return tabs[-1]

    yield open_one
    problems = [problem for tab in tabs for problem in tab.problems]
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def tab(open_tab: OpenTab) -> Tab:
    return open_tab()


def pixels(page: Page) -> list[int]:
    """What the canvas shows."""
    return page.locator("#picture").evaluate("c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")


def wait_for_change(page: Page, before: list[int]) -> None:
    until(lambda: pixels(page) != before)


def test_frames_are_shown_at_about_the_rate_of_the_model(tab: Tab):
    rate, made = tab.page.locator("#rate"), tab.page.locator("#made")
    expect(rate).to_contain_text(f"of {RATE}")
    expect(made).to_contain_text("ms")
    until(lambda: 0.2 * RATE < float(rate.text_content().split()[0]) < 1.2 * RATE)
    assert (tab.page.locator("#picture").get_attribute("width")) == "32"


def test_keys_are_the_actions_of_the_model(tab: Tab, players: list[Player]):
    keyboard, player = tab.page.keyboard, players[-1]
    keyboard.down("KeyD")
    until(lambda: player._action[0] == [2, 0])
    keyboard.down("Space")
    until(lambda: player._action[0] == [2, 1])
    expect(tab.button("shoot")).to_have_attribute("aria-pressed", "true")
    keyboard.down("KeyA")  # the key that was pressed last decides
    until(lambda: player._action[0] == [1, 1])
    keyboard.up("KeyA")
    until(lambda: player._action[0] == [2, 1])
    keyboard.up("KeyD")
    keyboard.up("Space")
    until(lambda: player._action[0] == [0, 0])
    expect(tab.page.locator("#latency")).to_contain_text("ms")


def test_a_short_press_is_not_lost(tab: Tab, players: list[Player]):
    player, taken = players[-1], []
    take = player.take

    def recorded(message: dict) -> None:
        taken.append((message, player._sent))
        take(message)

    player.take = recorded
    tab.page.keyboard.press("Space")  # down and up at once
    until(lambda: len([m for m, _ in taken if m["type"] == "action"]) == 2)
    (pressed, sent), (released, sent_later) = [each for each in taken if each[0]["type"] == "action"]
    assert (pressed["action"], released["action"]) == ([0, 1], [0, 0])
    assert sent_later > sent  # a frame was made between them


def test_touch_presses_buttons(open_tab: OpenTab, players: list[Player]):
    tab = open_tab(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    player = players[-1]
    tab.button("left").hover()
    tab.page.mouse.down()
    until(lambda: player._action[0] == [1, 0])
    tab.page.mouse.up()
    until(lambda: player._action[0] == [0, 0])
    tab.button("shoot").tap()
    until(lambda: player._action[1] == 4)  # pressed and released once more
    assert tab.page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_gamepad_moves_and_shoots(tab: Tab, players: list[Player]):
    player = players[-1]
    tab.page.evaluate(
        """() => {
            window.pad = { axes: [0.9, 0, 0, 0], buttons: [{ pressed: true }] };
            navigator.getGamepads = () => [null, window.pad];
        }"""
    )
    until(lambda: player._action[0] == [2, 1])
    tab.page.evaluate("window.pad = { axes: [-1, 0, 0, 0], buttons: [{ pressed: false }] }")
    until(lambda: player._action[0] == [1, 0])


def test_pause_stops_and_rewind_goes_back(tab: Tab, players: list[Player]):
    player = players[-1]
    until(lambda: player.session.num_undoable > 3)
    tab.page.keyboard.press("p")
    expect(tab.page.get_by_text("Paused")).to_be_visible()
    until(lambda: player.is_waiting)
    before, steps = pixels(tab.page), player.session.num_undoable
    tab.page.keyboard.press("Backspace")
    until(lambda: player.session.num_undoable < steps)
    wait_for_change(tab.page, before)
    steps = player.session.num_undoable
    tab.button("Pause P").click()
    until(lambda: player.session.num_undoable > steps)


def test_a_start_and_a_caption_are_chosen(tab: Tab, players: list[Player]):
    player = players[-1]
    expect(tab.page.get_by_label("Caption")).to_have_value("a red circle moves right")
    tab.page.get_by_label("Start").select_option("nothing")
    tab.button("Start again").click()
    expect(tab.page.get_by_label("Caption")).to_have_value("a blue square grows")
    tab.page.get_by_label("Caption").fill("two green triangles bounce")
    tab.button("Say").click()
    until(lambda: player._prompt == "two green triangles bounce")
    assert player._action[0] == [0, 0]  # the letters were no actions


def test_the_surprise_is_drawn_over_the_picture(tab: Tab):
    heat = tab.page.locator("#heat")
    expect(heat).to_be_hidden()
    tab.button("Surprise").click()
    expect(heat).to_be_visible()
    expect(tab.page.locator("#surprise-text")).to_contain_text("nats")
    assert heat.evaluate("c => [c.width, c.height]") == [2, 2]
    tab.button("Surprise").click()
    expect(heat).to_be_hidden()


def test_the_clip_is_saved(tab: Tab):
    with tab.page.expect_download() as download:
        tab.button("Save the clip").click()
    assert download.value.suggested_filename == "tiny-3.mp4"
    assert download.value.path().read_bytes()[4:8] == b"ftyp"


def test_too_many_tabs_are_told_so(browser: Browser, url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_TABS", 0)
    page = browser.new_page()
    page.goto(url)
    expect(page.get_by_role("alert")).to_contain_text("0 tabs play already")
    page.close()
