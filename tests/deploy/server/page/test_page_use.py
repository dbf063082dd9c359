"""Test the page as people use it: with wrong files, a token, a server that goes away, by keys, and many images."""

import io
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Request, Route, expect

from deploy.contract import PIPELINE_MODEL, Contract
from deploy.server import Server
from deploy.server.options import FREE_PORTS
from deploy.server.process.workers import workers_of
from tests.helpers.browser import NEEDS_CHROMIUM, Visit, chromium, is_inference, pretend, visit
from tests.helpers.kinds import BAD
from tests.helpers.serving import served

pytestmark = NEEDS_CHROMIUM
MakeImage = Callable[..., bytes]
WIDTHS = (360, 1024, 1920)
TOKEN = "open-sesame"
MOST_BYTES = 20_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run one browser for the tests of this file."""
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def guarded(repository: Path) -> Iterator[Server]:
    """Run a server with a token and a low limit on requests."""
    with Server(repository, replace(FREE_PORTS, token=TOKEN, max_request_bytes=MOST_BYTES)) as running:
        yield running


def in_front(seen: Visit, name: str) -> str:
    """Choose a result and return what the page says over its picture."""
    seen.choose(name)
    message = seen.page.locator("#message")
    expect(message).to_be_visible()
    return message.inner_text()


def test_a_bad_file_is_a_sentence_and_stops_no_other(browser: Browser, server: Server, make_image: MakeImage) -> None:
    with visit(browser, server.http_url) as seen:
        seen.drop({**{f"{name}.jpg": data for name, data in BAD.items()}, "good.jpg": make_image(kind="JPEG")})
        seen.settled(1, failed=len(BAD))
        for name in BAD:
            seen.choose("good.jpg")
            message = in_front(seen, f"{name}.jpg")
            assert re.fullmatch(r"[A-Z][^\n]+\.", message), message
            # Nothing of the image that was shown before may pass for an answer.
            assert not "".join(seen.page.locator("#panel .figure").all_inner_texts())
            assert seen.page.locator("#downloads button:enabled").count() == 0
        assert in_front(seen, "empty.jpg") == "The image is empty (0 bytes)."
        assert "found GIF" in in_front(seen, "gif.jpg")
        seen.choose("good.jpg")
        expect(seen.page.locator("#message")).to_be_hidden()
        assert "".join(seen.page.locator("#panel .figure").all_inner_texts())


# Click on two results, the second one while the mask of the first waits to be drawn, and draw it late.
LATE = """async (buttons) => {
  const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
  const [frame, held] = [window.requestAnimationFrame, []];
  window.requestAnimationFrame = (work) => held.push(work);
  buttons[0].click();
  while (!held.length) await sleep(10);
  await sleep(200);
  buttons[1].click();
  await sleep(200);
  window.requestAnimationFrame = frame;
  held.forEach((work) => work(performance.now()));
  await sleep(200);
}"""


def test_the_words_are_of_the_image_that_was_chosen_last(
    browser: Browser, server: Server, make_image: MakeImage
) -> None:
    with visit(browser, server.http_url) as seen:
        seen.drop({"a.png": make_image(), "b.png": b"no image, so that nothing is drawn of it"})
        seen.settled(1, failed=1)
        seen.choose("b.png")
        seen.page.locator("#items button").evaluate_all(LATE)
        assert seen.page.locator("#name").inner_text() == "b.png"


def test_a_file_above_the_limit_is_not_sent(browser: Browser, guarded: Server) -> None:
    with visit(browser, guarded.http_url) as seen:
        enter(seen, TOKEN)
        seen.drop({"large.png": bytes(MOST_BYTES)})
        seen.settled(0, failed=1)
        assert "takes at most" in in_front(seen, "large.png")
        assert not [one for one in seen.requests if is_inference(one)]


def enter(seen: Visit, token: str) -> None:
    seen.page.get_by_label("Token").fill(token)
    seen.page.get_by_role("button", name="Use it").click()


def test_a_token_is_asked_for_and_kept_in_memory(browser: Browser, guarded: Server, make_image: MakeImage) -> None:
    with visit(browser, guarded.http_url) as seen:
        # Dropped before anything is known of the server, and answered once it has the token.
        seen.drop({"photo.jpg": make_image(kind="JPEG")})
        expect(seen.page.locator("#notice")).to_contain_text("asks for a token")
        enter(seen, "wrong")
        expect(seen.page.locator("#notice")).to_contain_text("does not take this token")
        # As it is copied from a chat, with a space that nobody sees.
        enter(seen, f"{TOKEN}\u200b")
        expect(seen.page.locator("#notice")).to_contain_text("this one has something else")
        enter(seen, TOKEN)
        seen.settled(1)
        expect(seen.page.locator("#notice")).to_be_hidden()
        kept = seen.page.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])")
        assert TOKEN not in kept + seen.page.url + seen.page.content()
        assert not [one for one in seen.requests if TOKEN in one.url]


def test_the_page_waits_for_a_repair_and_goes_on(browser: Browser, repository: Path, make_image: MakeImage) -> None:
    with served(repository) as server, visit(browser, server.http) as seen:
        expect(seen.page.locator("#served dt").first).to_be_visible()
        (worker,) = workers_of(server.tritonserver, PIPELINE_MODEL)
        # Stopped first: the repair of a worker that is killed before a request is there may be faster than the request.
        os.kill(worker, signal.SIGSTOP)
        with seen.page.expect_request(is_inference):
            seen.drop({f"{number}.jpg": make_image(kind="JPEG", seed=number) for number in range(6)})
        os.kill(worker, signal.SIGKILL)
        expect(seen.page.locator("#notice")).to_contain_text("waits and goes on by itself")
        seen.settled(6)
        expect(seen.page.locator("#notice")).to_be_hidden()


def test_a_lost_connection_is_made_again(browser: Browser, server: Server, make_image: MakeImage) -> None:
    with visit(browser, server.http_url) as seen:
        seen.page.route("**/infer", lambda route: route.abort(), times=2)
        seen.drop({f"{number}.jpg": make_image(kind="JPEG", seed=number) for number in range(3)})
        expect(seen.page.locator("#notice")).to_contain_text("connection to the server is lost")
        seen.settled(3)


def test_an_image_that_the_server_goes_down_with_is_given_up(
    browser: Browser, server: Server, make_image: MakeImage
) -> None:
    alone: list[int] = []
    flying: set[Request] = set()

    def down_with_the_bad_one(route: Route) -> None:
        # A test does not see the files that are sent, but the JSON before a short one is shorter.
        if int(route.request.headers["inference-header-content-length"]) > shortest:
            route.fallback()
            return
        alone.append(len(flying))
        route.fulfill(status=503, json={"error": "the server is not available: it is being started or repaired"})

    with visit(browser, server.http_url) as seen:
        with seen.page.expect_request("**/infer") as first:
            seen.drop({"short.png": b"poison"})
        shortest = int(first.value.headers["inference-header-content-length"])
        seen.settled(0, failed=1)
        seen.page.click("#clear")
        follow(seen, flying)
        seen.page.route("**/infer", down_with_the_bad_one)
        files = {f"{number}.png": make_image(seed=number) for number in range(4)}
        seen.drop({"bad.png": b"poison", **files})
        seen.settled(4, failed=1)
        assert "in three attempts" in in_front(seen, "bad.png")
        assert len(alone) == 3
        assert alone[1:] == [1, 1], "no other image is in work when it is tried again"


@pytest.mark.parametrize("change", [{"version": "2"}, {"sha256": "other"}], ids=["number", "hash"])
def test_a_new_version_is_asked_about_every_image(
    browser: Browser, server: Server, contract: Contract, make_image: MakeImage, change: dict[str, str]
) -> None:
    probabilities, uncalibrated = np.full((4, 51, 51), 0.25, np.float32), replace(contract, thresholds=None)
    with visit(browser, server.http_url) as seen:
        pretend(seen.page, replace(uncalibrated, labels=("old",)), probabilities, np.array([0.25], np.float32))
        seen.page.reload()
        seen.drop({"first.png": make_image()})
        seen.settled(1)
        labels = np.array([0.75], np.float32)
        pretend(seen.page, replace(uncalibrated, labels=("new",)), probabilities, labels, **change)
        seen.drop({"second.png": make_image(seed=1)})
        seen.settled(2)
        for name in ("first.png", "second.png"):
            seen.choose(name)
            expect(seen.page.locator("#labels")).to_have_text("new75.0 %")


NAMES = ("<script>document.title='taken'</script>.png", "<img src=x onerror=\"document.title='taken'\">.png")


def test_names_are_texts(browser: Browser, server: Server, make_image: MakeImage) -> None:
    with visit(browser, server.http_url) as seen:
        seen.drop({**dict.fromkeys(NAMES, make_image()), "<b>bad</b>.png": b"none"})
        seen.settled(2, failed=1)
        for name in NAMES:
            seen.choose(name)
        assert sorted(seen.page.locator(".name").all_inner_texts()) == sorted([*NAMES, "<b>bad</b>.png"])
        assert seen.page.locator("#items b, #items img, #items script, #panel img").count() == 0
        assert seen.page.title() != "taken"


def test_the_page_is_used_by_keys_alone(
    browser: Browser, server: Server, make_image: MakeImage, tmp_path: Path
) -> None:
    with visit(browser, server.http_url) as seen:
        page = seen.page
        page.keyboard.press("Tab")
        expect(page.locator("#choose")).to_be_focused()
        # In place of the system's window for files, which no key of the page can reach.
        page.evaluate(
            """() => document.getElementById("files").addEventListener("click", (event) => {
              event.preventDefault();
              document.body.dataset.asked = "true";
            })"""
        )
        page.keyboard.press("Enter")
        expect(page.locator("body")).to_have_attribute("data-asked", "true")
        for number in range(3):
            (tmp_path / f"{number}.png").write_bytes(make_image(seed=number))
        page.locator("#files").set_input_files(sorted(tmp_path.iterdir()))
        seen.settled(3)
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="0.png")).to_be_focused()
        page.keyboard.press("ArrowDown")
        expect(page.locator("#name")).to_have_text("1.png")
        expect(page.get_by_role("button", name="1.png")).to_have_attribute("aria-current", "true")
        page.locator("#canvas").focus()
        before = page.locator("#zoom").inner_text()
        page.keyboard.press("+")
        expect(page.locator("#zoom")).not_to_have_text(before)
        moved = seen.pixels()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert (seen.pixels() != moved).any()
        page.keyboard.press("1")
        expect(page.locator("#zoom")).to_have_text("100 %")
        page.keyboard.press("0")
        expect(page.locator("#zoom")).to_have_text(before)
        page.locator("#opacity").focus()
        page.keyboard.press("End")
        expect(page.locator("#opacity")).to_have_value("1")


def test_a_pasted_image_is_answered(browser: Browser, server: Server, make_image: MakeImage) -> None:
    with visit(browser, server.http_url) as seen:
        seen.page.evaluate(
            """(bytes) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(bytes)], "image.png", { type: "image/png" }));
              document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
            }""",
            list(make_image()),
        )
        seen.settled(1)


def test_files_of_one_drop_are_a_series_with_a_slider(browser: Browser, server: Server, make_image: MakeImage) -> None:
    with visit(browser, server.http_url) as seen:
        slider, place, zoom = (seen.page.locator(one) for one in ("#slice", "#slice-of", "#zoom"))
        # In the order in which a system may hand them over.
        names = ["slice 10.png", "slice 1.png", "slice 2.png"]
        seen.drop({name: make_image((64, 48), seed=number) for number, name in enumerate(names)})
        seen.settled(3)
        assert seen.page.locator("#items .name").all_inner_texts() == ["slice 1.png", "slice 2.png", "slice 10.png"]
        expect(place).to_have_text("1 of 3")
        seen.page.get_by_role("button", name="Zoom in").click()
        expect(seen.page.locator("#save-overlay")).to_be_enabled()
        first, zoomed = seen.pixels(), zoom.inner_text()
        slider.focus()
        seen.page.keyboard.press("End")
        expect(seen.page.locator("#name")).to_have_text("slice 10.png")
        expect(slider).to_have_attribute("aria-valuetext", "3 of 3, slice 10.png")
        expect(seen.page.locator("#save-overlay")).to_be_enabled()
        assert zoom.inner_text() == zoomed, "images of one size are compared at one place"
        assert (seen.pixels() != first).any()
        seen.drop({"another.png": make_image(seed=3)})
        seen.settled(4)
        expect(slider).to_be_hidden()
        seen.choose("slice 2.png")
        expect(place).to_have_text("2 of 3")
        # Faster than images are opened.
        for key in ["End", "Home"] * 10:
            slider.press(key)
        expect(seen.page.locator("#save-overlay")).to_be_enabled()


def test_a_file_of_several_pages_says_which_was_answered(browser: Browser, server: Server) -> None:
    pages = [Image.new("RGB", (60, 40), colour) for colour in ("red", "green", "blue")]
    several = io.BytesIO()
    pages[0].save(several, "TIFF", save_all=True, append_images=pages[1:])
    with visit(browser, server.http_url) as seen:
        seen.drop({"one.tiff": tiff(), "several.tiff": several.getvalue()})
        seen.settled(2)
        assert "pages" not in in_front(seen, "one.tiff")
        assert in_front(seen, "several.tiff").endswith("This one has 3 pages, and the answer is to the first alone.")


def follow(seen: Visit, flying: set[Request]) -> list[int]:
    """Keep the inferences in flight in a set, and return a list that gets their number at the start of each."""
    counts: list[int] = []

    def start(request: Request) -> None:
        if is_inference(request):
            flying.add(request)
            counts.append(len(flying))

    seen.page.on("request", start)
    for end in ("requestfinished", "requestfailed"):
        seen.page.on(end, lambda request: flying.discard(request))
    return counts


def test_fifty_images_at_once_are_answered_four_at_a_time(
    browser: Browser, server: Server, make_image: MakeImage
) -> None:
    flying: set[Request] = set()
    with visit(browser, server.http_url) as seen:
        counts = follow(seen, flying)
        seen.drop({f"{number}.jpg": make_image((640, 480), "JPEG", seed=number) for number in range(50)})
        # Used while it works.
        seen.choose("3.jpg")
        seen.page.get_by_role("button", name="Zoom in").click()
        seen.settled(50)
        assert max(counts) == 4
        assert seen.page.locator("#items [data-state=done]").count() == 50
        seen.page.get_by_role("button", name="Clear").click()
        expect(seen.page.locator("#empty")).to_be_visible()
        assert seen.complaints == []


def test_the_first_load_is_one_request_and_idle_is_none(browser: Browser, server: Server) -> None:
    with visit(browser, server.http_url) as seen:
        expect(seen.page.locator("#served dt").first).to_be_visible()
        paths = [one.url.partition(server.http_url)[2] for one in seen.requests if not one.url.startswith("data:")]
        assert paths == ["/", f"/v2/models/{PIPELINE_MODEL}/config"]
        seen.page.wait_for_timeout(1500)
        assert len(seen.requests) == len(paths)
        assert seen.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it_at_every_width(
    browser: Browser, server: Server, make_image: MakeImage, scheme: str
) -> None:
    options = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}
    axe = Axe()
    # The policy of the page would refuse the checker's script.
    with visit(browser, server.http_url, color_scheme=scheme, bypass_csp=True) as seen:
        states = {
            "empty": {},
            "answered": {f"{number}.png": make_image(seed=number) for number in range(9)},
            "failed": {"none.png": b"none", "flat.tiff": tiff()},
        }
        for state, files in states.items():
            if files:
                seen.drop(files)
                expect(seen.page.locator("#items [data-state=waiting], #items [data-state=sent]")).to_have_count(0)
            for width in WIDTHS:
                seen.page.set_viewport_size({"width": width, "height": 800})
                assert seen.page.evaluate("document.documentElement.scrollWidth") <= width, (state, width)
                found = axe.run(seen.page, options=options)
                assert found.violations_count == 0, (state, width, found.generate_report())


def tiff() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (60, 40), (200, 150, 140)).save(file, "TIFF")
    return file.getvalue()
