"""What only a browser shows: two visitors, reloads, selections that survive refreshes, clicks in the middle of one."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from serving import Server, wait_until

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
pytestmark = pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="there is no Chromium to drive")
ROW = 35  # pixels, the header too


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("browser"))
    server.edit("tasks.py", lambda text: text.replace("lease_s: float = 120.0", "lease_s: float = 4.0"))
    yield server.start()
    server.kill()
    assert "Traceback" not in server.log


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(server: Server, browser: Browser) -> Iterator[Page]:
    """Open the page of an empty board."""
    server.look("board and board.stop(range(1, board._last_id + 1))")
    wait_until(lambda: not server.look("board and sum(board.totals().states[s] for s in ('running', 'stopping'))"))
    server.look("board and board.remove(range(1, board._last_id + 1))")
    with_page = visit(server, browser)
    yield with_page
    with_page.context.close()


def visit(server: Server, browser: Browser, query: str = "", **options: Any) -> Page:
    page = browser.new_context(viewport={"width": 1400, "height": 1000}, **options).new_page()
    page.set_default_timeout(30_000)
    page.goto(server.url + query)
    expect(page.get_by_text("Start counters")).to_be_visible(timeout=30_000)
    expect(page.get_by_text("Ticks per second")).to_be_visible(timeout=30_000)
    return page


def key(page: Page, name: str) -> Locator:
    return page.locator(f".st-key-{name}")


def start(page: Page, **values: object) -> None:
    """Fill in the form and click Start; `private=True` ticks the box."""
    if values.pop("private", False):
        key(page, "new_private").locator("label").first.click()
    for name, value in values.items():
        box = key(page, f"new_{name}").locator("input")
        box.fill(str(value))
        box.press("Tab")
    key(page, "start").locator("button").click()
    expect(page.get_by_text(re.compile(r"Started [\d,]+ counter")).first).to_be_visible()


def click_row(page: Page, row: int) -> None:
    """Tick the box of a row of the table, counted from 0."""
    box = key(page, "table").locator("canvas").first.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 18, box["y"] + ROW * (row + 1) + ROW / 2)


def refreshes(page: Page, server: Server, n: int) -> None:
    """Wait until the page has been refreshed `n` times: it shows the ticks of n later samples."""
    until = server.look("board._samples.last[0]") + n
    wait_until(lambda: server.look("board._samples.last[0]") > until, 60)


def test_two_browsers_share_and_control_the_same_counters(page: Page, server: Server, browser: Browser) -> None:
    start(page, name="apples", n=3)
    other = visit(server, browser)
    expect(other.get_by_text("apples 2", exact=True)).to_be_visible()
    ours, theirs = (where.get_by_test_id("stMetricValue").nth(4) for where in (page, other))
    first = int(ours.inner_text())
    wait_until(lambda: int(ours.inner_text()) > first + 1 and int(theirs.inner_text()) > first + 1)
    key(other, "stop_all").locator("button").click()
    expect(page.get_by_text("stopped").first).to_be_visible()
    wait_until(lambda: page.get_by_test_id("stBadge").count() == 3 or page.locator("text=stopped").count() >= 3)
    other.context.close()


def test_a_reload_keeps_the_counters_and_their_values(page: Page, server: Server) -> None:
    start(page, name="apples")
    value = page.get_by_test_id("stMetricValue").nth(4)
    wait_until(lambda: int(value.inner_text()) >= 3)
    page.reload()
    expect(page.get_by_text("apples", exact=True)).to_be_visible()
    assert int(value.inner_text()) >= 3


def test_a_private_counter_is_invisible_to_others_and_ends_after_the_lease(
    page: Page, server: Server, browser: Browser
) -> None:
    owner = visit(server, browser)
    start(owner, name="secret", private=True)
    expect(owner.get_by_text("secret", exact=True)).to_be_visible()
    expect(page.get_by_text("1 private to others")).to_be_visible()
    expect(page.get_by_text("secret", exact=True)).to_have_count(0)
    refreshes(owner, server, 6)  # longer than the lease of this server: the open page renews it
    assert server.states() == {"running": 1}
    owner.context.close()
    wait_until(lambda: server.states() == {}, 30)


def test_a_selection_its_detail_and_the_scroll_position_survive_ten_refreshes(page: Page, server: Server) -> None:
    start(page, name="apples", n=30)
    table = key(page, "table").locator("canvas").first
    expect(table).to_be_visible()
    time.sleep(1)  # the table settles its columns
    click_row(page, 2)
    expect(page.get_by_text("1 selected")).to_be_visible()
    detail = page.locator("[data-testid=stText]", has_text="apples 3")
    expect(detail).to_be_visible()
    scroller = key(page, "table").locator(".dvn-scroller")
    scroller.evaluate("e => e.scrollTop = 210")
    where = scroller.evaluate("e => e.scrollTop")
    assert where > 0
    refreshes(page, server, 10)
    expect(page.get_by_text("1 selected")).to_be_visible()
    expect(detail).to_be_visible()
    assert scroller.evaluate("e => e.scrollTop") == where
    key(page, "stop_selected").locator("button").click()
    wait_until(lambda: server.look("[r.name for r in board.page(states=['stopped']).rows]") == ["apples 3"])


def test_the_selection_follows_its_counter_when_a_row_above_it_vanishes(page: Page, server: Server) -> None:
    start(page, name="apples", n=20)
    expect(key(page, "table").locator("canvas").first).to_be_visible()
    time.sleep(1)
    first = server.look("board.page().rows[0].id")
    server.look(f"board.stop([{first}])")
    wait_until(lambda: server.states().get("stopped") == 1)
    click_row(page, 4)
    expect(page.locator("[data-testid=stText]", has_text="apples 5")).to_be_visible()
    server.look(f"board.remove([{first}])")
    refreshes(page, server, 3)
    expect(page.locator("[data-testid=stText]", has_text="apples 5")).to_be_visible()
    key(page, "stop_selected").locator("button").click()
    wait_until(lambda: server.look("[r.name for r in board.page(states=['stopped']).rows]") == ["apples 5"])


def test_no_click_is_lost_whenever_it_comes(page: Page, server: Server) -> None:
    start(page, name="apples", n=12)
    ids = server.look("[r.id for r in board.page().rows]")
    for n, id in enumerate(ids, 1):
        key(page, f"stop_{id}").locator("button").click()
        wait_until(lambda n=n: server.states().get("stopped") == n)  # type: ignore[misc]
        time.sleep(0.137)  # at another moment of the second each time


@pytest.mark.parametrize(
    "name", ["**bold** :smile: `code`", "<b>html</b> $x$ :red[x]", "\u202etfel", "😀 :material/x:"]
)
def test_a_name_shows_as_the_text_it_is(page: Page, name: str) -> None:
    start(page, name=name)
    shown = page.get_by_test_id("stText").first
    expect(shown).to_be_visible()
    assert shown.inner_text().strip() == name
    page.get_by_text("Details", exact=True).click()
    expect(page.get_by_text("Close", exact=True)).to_be_visible()
    assert page.get_by_test_id("stText").last.inner_text().strip() == name


def test_search_states_and_page_live_in_the_address(page: Page, server: Server, browser: Browser) -> None:
    start(page, name="apples", n=120)
    key(page, "match").locator("input").fill("apples 1")
    expect(page).to_have_url(re.compile("match=apples"))
    key(page, "states").get_by_text("running").click()
    expect(page).to_have_url(re.compile("states=running"))
    key(page, "match").locator("input").fill("")
    key(page, "page").get_by_role("button", name="Page 3").click()
    expect(page).to_have_url(re.compile("page=3"))
    page.reload()
    expect(key(page, "page").locator("[aria-current=page]")).to_have_text("3")
    other = visit(server, browser, "/?match=apples+12")
    expect(key(other, "match").locator("input")).to_have_value("apples 12")
    other.context.close()


def test_clearing_the_cache_by_key_gives_a_fresh_board(page: Page, server: Server) -> None:
    start(page, name="apples", n=5)
    page.locator("body").press("c")
    page.get_by_role("button", name="Clear caches").click()
    expect(page.get_by_text("No counters yet")).to_be_visible()
    wait_until(lambda: server.loop_threads() == ["counters"])
    assert server.states() == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1400])
def test_the_page_fits_in_light_and_dark_wide_and_narrow(
    page: Page, server: Server, browser: Browser, scheme: str, width: int, tmp_path: Path
) -> None:
    start(page, name="apples", n=20)
    other = visit(server, browser, color_scheme=scheme)
    other.set_viewport_size({"width": width, "height": 1000})
    expect(key(other, "table").locator("canvas").first).to_be_visible()
    assert other.evaluate("document.documentElement.scrollWidth") <= width
    other.context.close()
