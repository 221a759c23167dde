"""The page in a real browser: drawing, reading, undo, pasted pictures, and its error messages."""

import base64
import io
import shutil

import numpy as np
import pytest
from helpers import Server
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from featherweight.inference.stress import STROKES

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def url(real_model):
    server = Server(real_model)
    yield server.url
    server.stop()
    server.process.stderr.close()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, url):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: message.type == "error" and said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(url)
    expect(page.locator("#card")).to_contain_text("validation images read correctly")
    yield page
    page.close()
    assert all(each.startswith((url, "data:", "blob:")) for each in asked)
    assert [
        each for each in said if not each.startswith("Failed to load resource")
    ] == []  # caused by the tests


def draw(page, digit):
    box = page.locator("#sheet").bounding_box()
    left, top, side = (
        box["x"] + 0.3 * box["width"],
        box["y"] + 0.2 * box["height"],
        0.6 * box["height"],
    )
    for points in STROKES[digit]:
        for i, (x, y) in enumerate(points):
            page.mouse.move(left + 0.7 * side * x, top + side * y, steps=4)
            if i == 0:
                page.mouse.down()
        page.mouse.up()


def is_read(page, label):
    expect(page.locator("#digit")).to_have_text(label)


def picture(digit=None, kind="PNG", ink=(20, 40, 120)):
    """Return a photograph of a 1, or of an empty sheet."""
    sheet = np.full((300, 260, 3), 240, np.uint8)
    if digit is not None:
        sheet[60:240, 120:140] = ink
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, kind)
    return file.getvalue()


def hand_over(page, event, content, kind="image/png"):
    """Paste or drop a file."""
    page.evaluate(
        """([event, content, kind]) => {
        const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
        const files = new DataTransfer();
        files.items.add(new File([bytes], "file", { type: kind }));
        document.dispatchEvent(event === "paste"
            ? new ClipboardEvent("paste", { clipboardData: files, bubbles: true })
            : new DragEvent("drop", { dataTransfer: files, bubbles: true }));
    }""",
        [event, base64.b64encode(content).decode(), kind],
    )


@pytest.mark.parametrize("digit", range(10))
def test_a_drawn_digit_is_read(page, digit):
    draw(page, digit)
    is_read(page, str(digit))
    expect(page.locator("#bars li.best span").first).to_have_text(str(digit))
    assert page.locator("#stages .stage").count() >= 2
    assert page.locator("#stages canvas").count() >= 16
    assert page.evaluate(
        "seen.getContext('2d').getImageData(0, 0, 28, 28).data.filter((v, i) => i % 4 == 0)"
        ".some((v) => v > 200)"
    )


def test_undo_and_clear(page):
    for button in ("#undo", "#clear"):
        expect(page.locator(button)).to_be_disabled()
    draw(page, 1)
    is_read(page, "1")
    draw(page, 1)
    page.click("#undo")
    page.keyboard.press("Control+z")
    is_read(page, "1")
    page.click("#clear")
    expect(page.locator("#state")).to_have_text("Nothing drawn yet")
    expect(page.locator("#digit")).to_have_text("\N{EN DASH}")
    expect(page.locator("#stages canvas")).to_have_count(0)
    expect(page.locator("#clear")).to_be_disabled()


def test_an_answer_on_its_way_to_a_cleared_sheet_is_not_shown(page):
    held = []
    page.route("**/predict*", lambda route: held.append(route))
    with page.expect_request("**/predict*"):
        draw(page, 1)
    page.click("#clear")
    with page.expect_response("**/predict*"):
        held[0].continue_()
    page.wait_for_timeout(100)
    expect(page.locator("#state")).to_have_text("Nothing drawn yet")


@pytest.mark.parametrize("event", ["paste", "drop"])
def test_a_picture_is_pasted_or_dropped(page, event):
    hand_over(page, event, picture(1, "JPEG"), "image/jpeg")
    is_read(page, "1")
    page.click("#undo")
    expect(page.locator("#state")).to_have_text("Nothing drawn yet")


def test_an_upload(page):
    with page.expect_file_chooser() as chooser:
        page.click("#open")
    chooser.value.set_files(
        {"name": "one.webp", "mimeType": "image/webp", "buffer": picture(1, "WEBP")}
    )
    is_read(page, "1")


def test_no_ink_and_no_picture(page):
    hand_over(page, "paste", picture())
    expect(page.locator("#state")).to_have_text("No ink found")
    hand_over(page, "drop", b"no picture", "image/png")
    expect(page.locator("#state")).to_have_text(
        "This file is not a picture that the browser can show"
    )


def test_what_is_no_digit_is_unsure(page):
    box = page.locator("#sheet").bounding_box()
    random = np.random.default_rng(0)
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    for x, y in random.uniform(100, 400, (25, 2)):
        page.mouse.move(box["x"] + x, box["y"] + y, steps=3)
    page.mouse.up()
    expect(page.locator(".answer")).to_have_class("answer unsure")
    expect(page.locator("#state")).to_contain_text("Unsure")


def test_errors_of_the_server_are_told_and_pass(page):
    page.route(
        "**/predict*",
        lambda route: route.fulfill(status=422, json={"detail": "got this, expected that"}),
    )
    draw(page, 1)
    expect(page.locator("#state")).to_have_text("Not read: got this, expected that")
    page.unroute("**/predict*")
    page.route("**/predict*", lambda route: route.abort())
    draw(page, 1)
    expect(page.locator("#state")).to_have_text("The server does not respond. Draw again to retry.")
    page.unroute("**/predict*")
    page.click("#undo")
    is_read(page, "1")


def test_the_keyboard_alone(page):
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "sheet":
            break
    for key in ["ArrowUp"] * 8 + ["Space"] + ["ArrowDown"] * 16 + ["Space"]:
        page.keyboard.press(key)
    is_read(page, "1")
    page.keyboard.press("u")
    expect(page.locator("#state")).to_have_text("Nothing drawn yet")
    for key in ["Space", "ArrowUp", "Space", "Delete"]:
        page.keyboard.press(key)
    expect(page.locator("#state")).to_have_text("Nothing drawn yet")


def test_a_pen_that_presses_harder_draws_wider(page):
    def inked(pressure):
        page.evaluate(
            """(pressure) => {
            const box = sheet.getBoundingClientRect();
            const at = (type, y) => sheet.dispatchEvent(new PointerEvent(type, {
                pointerId: 1, pointerType: "pen", pressure, button: 0,
                clientX: box.left + 200, clientY: box.top + y, bubbles: true }));
            at("pointerdown", 100); at("pointermove", 300); at("pointerup", 300);
        }""",
            pressure,
        )
        count = page.evaluate(
            "pen.getImageData(0, 0, 560, 560).data.filter((v, i) => i % 4 == 0 && v < 99).length"
        )
        page.click("#clear")
        return count

    # An artificial pointer cannot be captured; everything else is as with a real one.
    page.evaluate("sheet.setPointerCapture = () => {}")
    assert inked(1.0) > 2 * inked(0.1) > 0


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_a_desk_by_day_and_night(page, width, scheme):
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    draw(page, 3)
    is_read(page, "3")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in background[4:-1].split(","))
    assert (brightness > 384) == (scheme == "light")


def test_the_documentation_works_offline(page, url):
    page.goto(f"{url}/docs")
    expect(page.locator(".opblock-summary-path").first).to_be_visible()
    assert page.locator(".opblock").count() == 3
