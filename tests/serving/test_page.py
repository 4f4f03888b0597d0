"""The page in a real browser."""

import os
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from serving.conftest import MAX_BYTES, picture
from serving.servers import Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None and os.environ.get("CI"):
    raise AssertionError("continuous integration tests the page: apt-get install chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: the page is not tested")

HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        # A container has no user namespaces for the sandbox; the only page that is opened is ours.
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser, server):
    """The page of the shared server; whatever it says on its console, or asks of elsewhere, is an error."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(server.started["url"])
    expect(opened).to_have_title("tiny")
    yield opened
    context.close()
    # A refused picture is a failed request to the browser, as is one without a network; an image that it cannot show
    # says nothing.
    assert not [line for line in said if "status of 4" not in line and "ERR_INTERNET_DISCONNECTED" not in line]
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {f"127.0.0.1:{server.port}"}


def give(page, *files, wrong=0):
    """Choose files, and wait until all are answered, but for those that cannot be."""
    given = [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in files]
    page.set_input_files("#files", given)
    told = f"{len(files) - wrong} answered" + (f", {wrong} not" if wrong else "")
    expect(page.locator("#progress")).to_have_text(told, timeout=30_000)
    return page.locator(".card").all()


def test_several_pictures_at_once(page, server):
    files = [(f"{seed}.png", picture(seed)) for seed in range(7)]
    cards = give(page, *files)
    assert len(cards) == 7
    for card, (name, data) in zip(cards, files, strict=True):
        expected = server.predict(data).json()
        assert card.locator(".picture figcaption").text_content() == name
        assert card.locator(".verdict").text_content() == expected["label"]
        bars = [bar.text_content() for bar in card.locator(".bars li").all()]
        assert bars == [f"{label}{100 * probability:.1f} %" for label, probability in expected["top"]]
        shares = card.locator(".fill").evaluate_all("fills => fills.map(fill => parseFloat(fill.style.width))")
        assert shares == pytest.approx([100 * probability for _, probability in expected["top"]], abs=0.01)
        assert "ms of them in the server" in card.locator(".latency").text_content()
    page.locator("#clear").click()
    assert page.locator(".card").count() == 0


def test_a_broken_file_a_large_one_and_a_good_one(page):
    large = picture(0) + bytes(MAX_BYTES)
    files = [("broken.png", b"nothing"), ("large.png", large), ("good.png", picture(1)), ("a.gif", picture(2, "GIF"))]
    broken, too_large, good, gif = give(page, *files, wrong=3)
    assert "(unsupported_format)" in broken.locator(".problem").text_content()
    assert broken.locator(".picture").get_attribute("class") == "picture broken"
    assert "more than 1.00 MB. (too_large_bytes)" in too_large.locator(".problem").text_content()
    assert re.search("GIF.*JPEG.*PNG.*WEBP", gif.locator(".problem").text_content(), re.IGNORECASE)
    assert [card.locator(".verdict").text_content() for card in (broken, too_large)] == ["No answer"] * 2
    assert [card.get_attribute("class") for card in (broken, too_large, good)] == ["card wrong", "card wrong", "card"]


def test_names_of_files_are_text(page):
    (card,) = give(page, (HOSTILE, picture(0)))
    assert card.locator(".picture figcaption").text_content() == HOSTILE
    assert card.locator(".picture img").count() == 1
    assert card.locator(".picture img").get_attribute("alt") == HOSTILE


@pytest.mark.parametrize("event", ["paste", "drop"])
def test_paste_and_drop(page, event):
    page.evaluate(
        """async ([event, bytes]) => {
            const given = new DataTransfer();
            given.items.add(new File([new Uint8Array(bytes)], "given.png", { type: "image/png" }));
            const fired = event === "paste"
                ? new ClipboardEvent(event, { clipboardData: given, bubbles: true })
                : new DragEvent(event, { dataTransfer: given, bubbles: true, cancelable: true });
            document.body.dispatchEvent(fired);
        }""",
        [event, list(picture(0))],
    )
    page.wait_for_selector(".card:not(.waiting)")
    assert page.locator(".picture figcaption").text_content() == "given.png"


def test_by_keyboard(page):
    """The first stop is the choice of files, which a key opens; then what can be clicked."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    with page.expect_file_chooser() as chosen:
        page.keyboard.press("Space")
    chosen.value.set_files([{"name": "a.png", "mimeType": "image/png", "buffer": picture(0)}])
    page.wait_for_selector(".card:not(.waiting)")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "clear"
    page.keyboard.press("Enter")
    assert page.locator(".card").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits(page, width, scheme, tmp_path):
    """No sideways scrolling with the longest names there are; colours follow the system."""
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    give(page, ("x" * 200 + ".png", picture(0)), ("b.png", picture(1)), ("c.png", b"nothing"), wrong=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    page.screenshot(path=folder / f"page-{width}-{scheme}.png", full_page=True)


def test_scripts_of_others_do_not_run(browser, server):
    """Were markup ever to slip in, the policy would still stop its scripts."""
    page = browser.new_page()
    page.goto(server.started["url"])
    expect(page).to_have_title("tiny")
    blocked = page.evaluate(
        """() => new Promise((resolve) => {
            document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "document.title = 'taken over'";
            document.body.append(script);
        })"""
    )
    assert blocked.startswith("script-src")
    assert page.title() == "tiny"
    page.close()


def test_a_token_is_asked_for(browser, tiny_classifier):
    with Server(tiny_classifier, "--name", "tiny", token="s3cret") as guarded:
        context = browser.new_context()
        opened = context.new_page()
        opened.goto(guarded.started["url"])
        opened.wait_for_selector("#token-form:not([hidden])")
        opened.fill("#token", "s3cret")
        opened.keyboard.press("Enter")
        expect(opened).to_have_title("tiny")
        assert opened.locator("#token-form").is_hidden()
        give(opened, ("a.png", picture(0)))
        assert opened.locator(".card.wrong").count() == 0
        context.close()


def test_why(page):
    """An overlay with a strength, of any method; the attention of a place that is clicked, or moved to by keys."""
    (card,) = give(page, ("a.png", picture(0)))
    assert card.locator(".look").is_hidden()
    card.locator(".why").click()
    layer, hint = card.locator(".layer"), card.locator(".hint")
    expect(hint).to_contain_text("as the network saw it")
    expect(card.locator(".method")).to_have_value("grad_cam")
    first = layer.get_attribute("src")
    widths = [card.locator(name).evaluate("image => image.naturalWidth") for name in (".seen", ".layer")]
    assert widths[0] == widths[1] > 0
    card.locator(".strength").fill("20")
    assert layer.evaluate("image => getComputedStyle(image).opacity") == "0.2"
    assert card.locator(".place").is_hidden()

    width, height = (card.locator(".stage").bounding_box()[side] for side in ("width", "height"))
    card.locator(".stage").click(position={"x": width / 4, "y": height / 4})
    expect(card.locator(".method")).to_have_value("attention")
    expect(card.locator(".place")).to_be_visible()
    expect(card.locator(".parts img")).to_be_visible()
    expect(hint).to_contain_text("arrow keys")
    assert layer.get_attribute("src") != first
    marks = card.locator(".place").evaluate("mark => [mark.style.top, mark.style.left].map(parseFloat)")
    assert marks == pytest.approx([25, 25], abs=1)

    assert len(card.locator(".depth option").all()) == 2  # the blocks of the network
    card.locator(".depth").select_option(index=0)  # the other has one token, which attends to itself
    before = card.locator(".parts img").get_attribute("src")
    card.locator(".stage").focus()
    for _ in range(7):
        page.keyboard.press("ArrowDown")
    expect(card.locator(".parts img")).not_to_have_attribute("src", before)
    if "SCREENSHOTS" in os.environ:
        for width, scheme in ((360, "dark"), (1280, "light")):
            page.set_viewport_size({"width": width, "height": 800})
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=Path(os.environ["SCREENSHOTS"]) / f"why-{width}-{scheme}.png", full_page=True)


def test_why_can_be_asked_again_after_a_failure(page):
    (card,) = give(page, ("a.png", picture(0)))
    page.context.set_offline(True)
    card.locator(".why").click()
    expect(card.locator(".hint")).to_have_text("The server does not answer.")
    page.context.set_offline(False)
    card.locator(".again").click()
    expect(card.locator(".hint")).to_contain_text("as the network saw it")
    assert card.locator(".again").is_hidden()


def test_cards_leave_no_holes(page):
    """Each row is filled by its cards, whichever of them is open; on a wide screen there are two in a row."""
    cards = give(page, *[(f"{seed}.png", picture(seed)) for seed in range(5)])
    page.set_viewport_size({"width": 1280, "height": 900})
    for opened in (None, 1, 2):
        if opened is not None:
            cards[opened].locator(".why").click()
            expect(cards[opened].locator(".hint")).to_contain_text("as the network saw it")
        rows = {}
        for card in cards:
            box = card.bounding_box()
            rows.setdefault(round(box["y"]), []).append(box)
        (width,) = {round(boxes[-1]["x"] + boxes[-1]["width"] - boxes[0]["x"]) for boxes in rows.values()}
        assert all(len({round(box["height"]) for box in boxes}) == 1 for boxes in rows.values())
        assert width > 1000
    page.locator("#clear").click()
    assert page.locator("#toolbar").is_hidden()
