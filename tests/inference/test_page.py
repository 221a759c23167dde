"""The page in a real browser: drawing, answers, evidence, files, keyboard, layouts."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers import Server, encoded, write_network
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from featherweight.image_kind import ImageKind
from featherweight.inference import server
from featherweight.inference.labelled import NO_DIGIT
from featherweight.inference.reader import Reader
from featherweight.inference.stress import STROKES
from featherweight.pretrained import DEFAULT_MODEL

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
INVITATION = "Draw a digit"
SAMPLES = json.loads(
    (Path(server.__file__).parent / "static" / "samples.json").read_text(encoding="utf-8")
)
# What the page's own tests below make of an undecided 4 or 9.
UNDECIDED = [0.001] * 4 + [0.58] + [0.001] * 4 + [0.412]
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 3, "has_touch": True}
SIDEWAYS = PHONE | {"viewport": {"width": 844, "height": 390}}


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    return tmp_path_factory.mktemp("collected")


@pytest.fixture(scope="module")
def url(collected):
    server = Server(DEFAULT_MODEL, "--collect", str(collected))
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
def new_page(browser, url):
    """Open pages, and check that they ask no other host and that nothing fails unseen."""
    pages, asked, said = [], [], []

    def open_page(path="/", **settings):
        settings = {
            "viewport": {"width": 1280, "height": 800},
            "reduced_motion": "reduce",
        } | settings
        page = browser.new_page(**settings)
        pages.append(page)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: message.type == "error" and said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url + path)
        if path == "/":
            ready(page)
        return page

    yield open_page
    for page in pages:
        page.unroute_all(behavior="ignoreErrors")
        page.close()
    assert all(each.startswith((url, "data:", "blob:")) for each in asked)
    # Answers that report an error were caused by the tests.
    assert [each for each in said if not each.startswith("Failed to load resource")] == []


def ready(page):
    expect(page.locator("#facts")).to_contain_text("images it never saw")
    expect(page.locator("#samples li")).to_have_count(len(SAMPLES["samples"]))


@pytest.fixture
def page(new_page):
    return new_page()


def draw(page, digit, left=0.3, top=0.2, width=0.42, height=0.6):
    """Draw a digit with the mouse; the place and the size are relative to the sheet."""
    box = page.locator("#sheet").bounding_box()
    for points in STROKES[digit]:
        for i, (x, y) in enumerate(points):
            page.mouse.move(
                box["x"] + box["width"] * (left + width * x),
                box["y"] + box["height"] * (top + height * y),
                steps=4,
            )
            if i == 0:
                page.mouse.down()
        page.mouse.up()


def draw_number(page, digits="1905"):
    for i, digit in enumerate(digits):
        draw(page, int(digit), 0.06 + 0.235 * i, 0.3, 0.15, 0.36)


def is_read(page, label):
    """Wait for an answer to the whole drawing."""
    expect(page.locator("#verdict")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#digit")).to_have_text(label)


def is_empty(page):
    expect(page.locator("#title")).to_have_text(INVITATION)
    is_read(page, "")


def picture(digit=None, kind="PNG", ink=(20, 40, 120), scale=1):
    """Return a photograph of a 1, or of an empty sheet, 300 x 260 pixels at scale 1."""
    sheet = np.full((300 * scale, 260 * scale, 3), 240, np.uint8)
    if digit is not None:
        sheet[60 * scale : 240 * scale, 120 * scale : 140 * scale] = ink
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


def module(page, name, expression, argument=None):
    """Evaluate an expression of what one of the page's modules exports."""
    return page.evaluate(
        f"async (argument) => {{ const m = await import('./static/{name}.js'); "
        f"return {expression}; }}",
        argument,
    )


def inked(page):
    """Return how many of the sheet's pixels are dark."""
    return page.evaluate(
        "sheet.getContext('2d').getImageData(0, 0, sheet.width, sheet.height)"
        ".data.filter((v, i) => i % 4 == 0 && v < 99).length"
    )


def change_answers(page, **changes):
    """Let the server's answers say something else."""

    def answer(route):
        response = route.fetch()
        route.fulfill(response=response, json=response.json() | changes)

    page.route("**/predict?*", answer)


# --- networks that read something else


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """The address of a server whose network tells colours apart, by the mean of each channel."""
    path = tmp_path_factory.mktemp("photographs") / "m.onnx"
    kind = ImageKind(3, 32, 32, "natural", "upright", ("red", "green", "a light blue"))
    weight = np.eye(3).repeat(1024, 0) / 10_000
    server = Server(write_network(path, kind, weight=weight))
    yield server.url
    server.stop()
    server.process.stderr.close()


def test_a_network_of_photographs_opens_pictures_and_shows_them_in_colour(browser, photographs):
    page = browser.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    failed = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(photographs)
    expect(page.locator("#title")).to_have_text("Open a picture")
    expect(page.locator("#why-so")).to_contain_text("red, green, a light blue.")
    for gone in ("#eraser", "#ghost", ".samples"):
        expect(page.locator(gone)).to_be_hidden()
    draw(page, 1)
    expect(page.locator("#title")).to_have_text("Open a picture")
    with page.expect_file_chooser() as chooser:
        page.click("#offer")
    picture = np.full((60, 90, 3), (20, 40, 220), np.uint8)
    chooser.value.set_files({"name": "a.png", "mimeType": "image/png", "buffer": encoded(picture)})
    is_read(page, "a light blue")
    expect(page.locator("#caption")).to_have_text("What the network saw: 32 \u00d7 32 pixels.")
    expect(page.locator("#bars li.first .name")).to_have_text("a light blue")
    pixel = "[...seen.getContext('2d').getImageData(16, 16, 1, 1).data]"
    assert page.evaluate(pixel) == [20, 40, 220, 255]
    page.click("#inside summary")
    expect(page.locator("#order")).to_contain_text("no feature maps")
    page.select_option("#model", DEFAULT_MODEL)
    expect(page.locator("#eraser")).to_be_visible()
    page.click("#clear")
    draw(page, 1)
    is_read(page, "1")
    page.select_option("#model", "made")  # which reads no drawings
    expect(page.locator("#title")).to_have_text("Open a picture")
    expect(page.locator("#offer")).to_be_visible()
    page.close()
    assert failed == []


def test_evidence_lies_on_a_drawing_as_its_rows_and_columns_do(page):
    """A network whose images have rows and columns exchanged has its evidence turned back."""
    whole = {"values": [[1, 0], [0, 0], [0, 0]], "extent": [0, 0, 20, 30], "field": [6, 6]}
    painted = module(
        page,
        "evidence",
        """[false, true].map((transposed) => {
        const make = () => document.createElement("canvas");
        const evidence = new m.Evidence({ sheet: make(), overlay: make(), seen: make(),
            places: make(), readout: make() }, () => {});
        evidence.on = true;
        evidence.show({ evidence: { ...argument, first: "1", second: "7", difference: 1 },
            frame: [0, 0, 1, 1] }, { width: 20, height: 30, transposed }, [0, 0, 1, 1]);
        const canvas = Object.assign(make(), { width: 60, height: 60 });
        const context = canvas.getContext("2d");
        evidence.paintOn(context, 60);
        const alpha = context.getImageData(0, 0, 60, 60).data.filter((v, i) => i % 4 === 3);
        const most = alpha.indexOf(Math.max(...alpha));
        return [most % 60, Math.floor(most / 60)];
    })""",
        whole,
    )
    # The first of three rows and of two columns.
    assert painted[0] == pytest.approx([15, 10], abs=3)
    assert painted[1] == pytest.approx([10, 15], abs=3)


# --- drawing


@pytest.mark.parametrize("digit", range(10))
def test_a_drawn_digit_is_read(page, digit):
    draw(page, digit)
    is_read(page, str(digit))
    expect(page.locator("#bars li.first .name")).to_have_text(str(digit))
    expect(page.locator("#title")).to_contain_text(f" {digit}")
    assert page.evaluate(
        "seen.getContext('2d').getImageData(0, 0, 28, 28).data.filter((v, i) => i % 4 == 0)"
        ".some((v) => v > 200)"
    )


def test_undo_redo_and_clear(page):
    for button in ("#undo", "#redo", "#clear"):
        expect(page.locator(button)).to_be_disabled()
    draw(page, 1)
    is_read(page, "1")
    page.click("#undo")
    page.keyboard.press("Control+z")  # the focus is on a button: not for the sheet
    assert inked(page) > 0
    page.click("#undo")
    is_empty(page)
    page.click("#redo")
    page.click("#redo")
    is_read(page, "1")
    page.click("#clear")
    is_empty(page)
    expect(page.locator("#clear")).to_be_disabled()
    expect(page.locator("#ghost")).to_be_visible()
    page.click("#undo")
    is_read(page, "1")
    expect(page.locator("#ghost")).to_be_hidden()


def test_the_eraser_takes_ink_away(page):
    draw(page, 1)
    is_read(page, "1")
    before = inked(page)
    page.click("#eraser")
    expect(page.locator("#eraser")).to_have_attribute("aria-pressed", "true")
    draw(page, 1)
    page.wait_for_timeout(100)
    assert inked(page) < 0.02 * before
    expect(page.locator("#title")).to_have_text("No digit found")
    page.click("#eraser")
    expect(page.locator("#eraser")).to_have_attribute("aria-pressed", "false")


def test_an_answer_on_its_way_to_a_cleared_sheet_is_not_shown(page):
    held = []
    page.route("**/predict?*", lambda route: held.append(route))
    with page.expect_request("**/predict?*"):
        draw(page, 1)
    page.click("#clear")
    for route in held:
        route.abort()
    page.wait_for_timeout(100)
    is_empty(page)


def test_a_pen_that_presses_harder_draws_wider(page):
    def with_pressure(pressure):
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
        page.wait_for_timeout(100)
        count = inked(page)
        page.click("#clear")
        return count

    # An artificial pointer cannot be captured; everything else is as with a real one.
    page.evaluate("sheet.setPointerCapture = () => {}")
    assert with_pressure(1.0) > 2 * with_pressure(0.1) > 0


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_strokes_are_painted_at_the_resolution_of_the_screen(new_page, ratio):
    page = new_page(device_scale_factor=ratio)
    assert page.evaluate("sheet.width === Math.round(sheet.clientWidth * devicePixelRatio)")
    assert page.evaluate("getComputedStyle(sheet).imageRendering") == "auto"
    assert page.evaluate("getComputedStyle(seen).imageRendering") == "pixelated"
    page.set_viewport_size({"width": 700, "height": 900})
    page.wait_for_function("() => sheet.width === Math.round(sheet.clientWidth * devicePixelRatio)")


def test_a_corner_of_three_points_is_drawn_as_a_curve(page):
    """A polyline passes through the corner's outside, a smooth curve cuts it off."""
    inside = module(
        page,
        "paint",
        """(() => {
        const canvas = document.createElement("canvas");
        canvas.width = canvas.height = 100;
        const context = canvas.getContext("2d");
        context.lineCap = "round";
        m.paintStroke(context,
            { points: [[0.1, 0.1, 0.02], [0.9, 0.1, 0.02], [0.9, 0.9, 0.02]], erase: false }, 100);
        return [[90, 10], [10, 10], [90, 90]]
            .map(([x, y]) => context.getImageData(x, y, 1, 1).data[3] > 0);
    })()""",
    )
    assert inside == [False, True, True]


# --- pictures from elsewhere


@pytest.mark.parametrize("event", ["paste", "drop"])
def test_a_picture_is_pasted_or_dropped(page, event):
    hand_over(page, event, picture(1, "JPEG"), "image/jpeg")
    is_read(page, "1")
    page.click("#undo")
    is_empty(page)


def test_an_upload(page):
    with page.expect_file_chooser() as chooser:
        page.click("#open")
    chooser.value.set_files(
        {"name": "one.webp", "mimeType": "image/webp", "buffer": picture(1, "WEBP")}
    )
    is_read(page, "1")


def test_a_phone_offers_its_camera(new_page):
    page = new_page(**PHONE, is_mobile=True)
    expect(page.locator("#camera")).to_be_visible()
    assert page.locator("#photo").get_attribute("capture") == "environment"
    with page.expect_file_chooser() as chooser:
        page.click("#camera")
    chooser.value.set_files(
        {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": picture(1, "JPEG")}
    )
    is_read(page, "1")


@pytest.mark.parametrize(
    ("kind", "media_type", "scale"),
    [
        ("JPEG", "image/jpeg", 17),  # 22.5 million pixels, more than the server reads
        ("BMP", "image/bmp", 5),  # 5.6 MiB, more than it takes
        ("AVIF", "image/avif", 1),  # a format that it does not know
        ("PNG", "", 1),
        ("PNG", "application/octet-stream", 1),
    ],
)
def test_whatever_the_browser_shows_is_read(page, kind, media_type, scale):
    page.evaluate(
        """() => { const { fetch } = window;
        window.fetch = (url, options) => {
            window.sent = options.body;
            return fetch(url, options);
        }; }"""
    )
    hand_over(page, "drop", picture(1, kind, scale=scale), media_type)
    is_read(page, "1")
    found = page.evaluate(
        "createImageBitmap(sent).then(({ width, height }) => [sent.type, width, height])"
    )
    assert found == ["image/png", *((260, 300) if scale == 1 else (887, 1024))]


def test_a_bad_file_leaves_the_drawing(page):
    draw(page, 3)
    is_read(page, "3")
    before = inked(page)
    hand_over(page, "drop", b"no picture", "image/png")
    message = "This file is not a picture that the browser can show."
    expect(page.locator("#note")).to_have_text(message)
    expect(page.locator("#said")).to_have_text(message)
    is_read(page, "3")
    assert inked(page) == before


def test_a_good_file_can_be_undone(page):
    draw(page, 3)
    is_read(page, "3")
    hand_over(page, "drop", picture(1))
    is_read(page, "1")
    page.click("#undo")
    is_read(page, "3")


# --- answers


def test_a_picture_without_ink(page):
    hand_over(page, "paste", picture())
    expect(page.locator("#title")).to_have_text("No digit found")
    expect(page.locator("#bars")).to_be_hidden()


def test_a_dot_is_too_little_ink(page):
    box = page.locator("#sheet").bounding_box()
    change_answers(page, label=None, probabilities=None, seen=None, side_by_side=0, evidence=None)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#title")).to_have_text("No digit found")
    expect(page.locator("#why-so")).to_have_text("Too little ink to read a digit, or too faint.")


def test_what_is_no_digit_is_not_read(page):
    box = page.locator("#sheet").bounding_box()
    for i, (x, y) in enumerate([(0.2, 0.8), (0.25, 0.2), (0.5, 0.6), (0.75, 0.2), (0.8, 0.8)]):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=5)
        if i == 0:
            page.mouse.down()  # an M
    page.mouse.up()
    expect(page.locator("body")).to_have_attribute("data-state", "unsure")
    expect(page.locator("#title")).to_have_text("Not a digit")
    expect(page.locator("#why-so")).to_have_text("No digit is likely enough.")
    expect(page.locator("#bars li")).to_have_count(10)
    for gone in ("#bars .first", "#bars .second"):
        expect(page.locator(gone)).to_have_count(0)
    for gone in ("#why", "#no-why"):
        expect(page.locator(gone)).to_be_hidden()
    page.click("#wrong")
    expect(page.locator("#truth button.none")).to_be_disabled()


def test_doubt_is_said_in_words(page):
    change_answers(page, label="4", confidence=0.58, unsure=True, probabilities=UNDECIDED)
    draw(page, 4)
    expect(page.locator("#title")).to_have_text("Not sure: a 4, or perhaps a 9")
    expect(page.locator("#why-so")).to_have_text("A close second: 58.0 % for 4, 41.2 % for 9.")
    expect(page.locator("#bars li.second .name")).to_have_text("9")
    zero = {"label": "0", "reason": None, "side_by_side": 1, "unsure": True}
    probabilities = [0.88, 0.12] + [0.0] * 8
    change_answers(page, **zero, confidence=0.88, probabilities=probabilities)
    page.click("#undo")
    expect(page.locator("#title")).to_have_text("Not sure: perhaps a 0")
    expect(page.locator("#why-so")).to_have_text(
        re.compile(r"Sure only from 9\d\.\d\s%: 88\.0\s% for 0, then 12\.0\s% for 1\.")
    )
    probabilities = [0.9, 0.02] + [0.01] * 8
    change_answers(page, **zero, confidence=0.9, probabilities=probabilities)
    page.click("#redo")
    expect(page.locator("#title")).to_have_text("Not sure: perhaps a 0")
    expect(page.locator("#why-so")).to_have_text(
        re.compile(r"Sure only from 9\d\.\d\s%: 90\.0\s% for 0, then 2\.0\s% for 1\.")
    )


@pytest.mark.parametrize("width", [320, 1280])
def test_a_doubtful_picture_is_why_it_is_unsure(new_page, width):
    page = new_page(viewport={"width": width, "height": 800})
    sheet = page.locator("#sheet").bounding_box()
    certain = [0.0005] * 4 + [0.997] + [0.0005] * 5
    answer = {"label": "4", "reason": None, "unsure": True, "side_by_side": 1}
    doubts = ["lines removed", "touches the border", "low contrast"]
    for confidence, probabilities, shown, sentence in (
        (
            0.997,
            certain,
            1,
            "Because of the picture: lines removed. Without that: 99.7\xa0% for 4.",
        ),
        (
            *(0.997, certain, 3),
            "Because of the picture: lines removed, touches the border and 1 more. "
            "Without that: 99.7\xa0% for 4.",
        ),
        (
            *(0.58, UNDECIDED, 2),
            "A close second: 58.0\xa0% for 4, 41.2\xa0% for 9. "
            "Also: lines removed and touches the border.",
        ),
    ):
        changes = {"confidence": confidence, "probabilities": probabilities}
        change_answers(page, **answer, **changes, doubts=doubts[:shown])
        draw(page, 1)
        expect(page.locator("#why-so")).to_have_text(sentence)
        assert page.locator("#sheet").bounding_box() == sheet
        page.click("#clear")


def test_a_number_in_boxes_says_why_it_is_unsure(page):
    picture = np.full((200, 400), 255, np.uint8)
    for left in (20, 210):
        picture[20:180, left : left + 170] = 0
        picture[24:176, left + 4 : left + 166] = 255
        picture[29:171, left + 80 : left + 92] = 0  # near the lines
    hand_over(page, "drop", encoded(picture))
    is_read(page, "11")
    expect(page.locator("#why-so")).to_have_text("Not sure because of the picture: lines removed.")


def test_percentages_never_claim_certainty(page):
    found = module(
        page, "words", "argument.map(m.percent)", [1, 0.9996, 0.999, 0.5, 0.0011, 0.0009, 0]
    )
    assert [each.replace("\N{NO-BREAK SPACE}", " ") for each in found] == [
        ">99.9 %",
        ">99.9 %",
        "99.9 %",
        "50.0 %",
        "0.1 %",
        "",
        "",
    ]


def test_bars_have_one_width_and_reach_their_end(page):
    draw(page, 1)
    is_read(page, "1")
    page.wait_for_timeout(300)
    widths = page.evaluate(
        "[...document.querySelectorAll('#bars .bar')].map((e) => e.getBoundingClientRect().width)"
    )
    assert len(widths) == 10
    assert len(set(widths)) == 1
    change_answers(page, probabilities=[0, 1] + [0] * 8, confidence=1)
    page.click("#undo")
    page.click("#redo")
    expect(page.locator("#bars .first .part")).to_have_text(">99.9 %")
    page.wait_for_timeout(300)
    assert page.evaluate(
        "document.querySelector('#bars .first .fill').getBoundingClientRect().width"
    ) == pytest.approx(widths[0])


def test_digits_side_by_side_are_read_as_a_number(page):
    draw_number(page)
    is_read(page, "1905")
    expect(page.locator("#title")).to_have_text("Four digits")
    marks = page.locator("#marks div")
    expect(marks).to_have_count(4)
    sheet = page.locator("#sheet").bounding_box()
    for i in range(4):  # each box lies around its digit
        box = marks.nth(i).bounding_box()
        middle = (box["x"] + box["width"] / 2 - sheet["x"]) / sheet["width"]
        assert middle == pytest.approx(0.06 + 0.235 * i + 0.075, abs=0.03)
        assert box["height"] / sheet["height"] == pytest.approx(0.36 + 0.055 + 0.03, abs=0.03)
    chips = page.locator("#chips button")
    expect(chips).to_have_count(4)
    expect(chips.nth(0)).to_have_attribute("aria-pressed", "true")
    chips.nth(1).click()
    expect(chips.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(chips.nth(1)).to_be_focused()
    expect(page.locator("#bars li.first .name")).to_have_text("9")
    expect(page.locator("#why")).to_contain_text("Why a 9, not")


def doubtful(pairs):
    """Return a number's answer whose digits are each a pair of labels, 0.6 against 0.3."""
    digits = []
    for i, (first, second) in enumerate(pairs):
        probabilities = [0.0125] * 10
        probabilities[first], probabilities[second] = 0.6, 0.3
        digits.append(
            {
                "label": str(first),
                "confidence": 0.6,
                "unsure": True,
                "doubts": [],
                "probabilities": probabilities,
                "seen": base64.b64encode(bytes(784)).decode(),
                "box": [i / len(pairs), 0.3, (i + 0.8) / len(pairs), 0.7],
                "frame": [i / len(pairs), 0.3, (i + 0.8) / len(pairs), 0.7],
                "evidence": None,
            }
        )
    return [{"number": "".join(each["label"] for each in digits), "digits": digits}]


@pytest.mark.parametrize("width", [320, 390])
@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([(7, 8), (1, 7)], "Not sure of the 7 (perhaps an 8) and the 1 (perhaps a 7)."),
        ([(7, 8)] * 7, "Not sure of the 7 (perhaps an 8) and 6 more."),
        (
            [(7, 8), (7, 9), (1, 7), (7, 8), (3, 5), (2, 1), (0, 6)],
            "Not sure of the 7 (perhaps an 8), the 7 (perhaps a 9) and 5 more.",
        ),
    ],
)
def test_at_most_two_doubts_of_a_number_are_named(new_page, pairs, sentence, width):
    page = new_page(**PHONE | {"viewport": {"width": width, "height": 844}})
    (line,) = doubtful(pairs)
    number = line["number"]
    change_answers(page, side_by_side=len(pairs), lines=[line], unsure=True)
    sheet = page.locator("#sheet").bounding_box()
    draw_number(page, "10")
    is_read(page, number)
    expect(page.locator("#why-so")).to_have_text(sentence)
    assert page.locator("#sheet").bounding_box() == sheet
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(
    ("top", "height"), [(0.02, 0.94), (0.02, 0.3), (0.3, 0.46), (0.5, 0.3), (0.5, 0.46)]
)
def test_labels_of_a_number_cover_no_ink(new_page, top, height):
    page = new_page(viewport={"width": 320, "height": 640})
    if top + height > 1:
        height = 0.98 - top
    (line,) = doubtful([(7, 8), (1, 7)])
    for each in line["digits"]:
        each["box"][1], each["box"][3] = top, top + height
    change_answers(page, side_by_side=2, lines=[line])
    draw_number(page, "10")
    is_read(page, "71")
    sheet = page.locator("#sheet").bounding_box()
    for i in range(2):
        name = page.locator("#marks span").nth(i)
        box = page.locator("#marks div").nth(i).bounding_box()
        if height > 0.9:  # there is no room: the answer and the buttons say it
            expect(name).to_be_hidden()
            continue
        label = name.bounding_box()
        above = label["y"] + label["height"] <= box["y"]
        assert above or label["y"] >= box["y"] + box["height"]
        assert label["y"] >= sheet["y"]
        assert label["y"] + label["height"] <= sheet["y"] + sheet["height"]


def test_lines_of_writing_are_shown_line_by_line(page, collected):
    sheet = np.full((300, 300), 255, np.uint8)
    places = [(30, 40), (30, 130), (30, 220), (180, 40), (180, 130)]
    for top, left in places:
        sheet[top : top + 90, left : left + 12] = 0
    hand_over(page, "drop", encoded(sheet))
    is_read(page, "111\n11")
    expect(page.locator("#title")).to_have_text("Five digits in two lines")
    rows = page.locator("#chips > div")
    expect(rows).to_have_count(2)
    expect(rows.nth(1).locator("button")).to_have_count(2)
    expect(page.locator("#marks div")).to_have_count(5)
    # A digit that is kept has nothing of the line above it.
    rows.nth(1).locator("button").first.click()
    expect(rows.nth(1).locator("button").first).to_be_focused()
    page.click("#wrong")
    page.click("#truth button.none")
    expect(page.locator("#thanks")).to_contain_text("Kept as not a digit on this computer")
    (file,) = (collected / NO_DIGIT).iterdir()
    reading = Reader().read(file)
    assert (reading.label, reading.side_by_side) == ("1", 1)


def test_the_boxes_lie_on_a_photograph_that_is_no_square(page):
    photograph = np.full((200, 400, 3), 230, np.uint8)
    photograph[60:140, 100:108] = 20
    photograph[60:140, 300:308] = 20
    file = io.BytesIO()
    Image.fromarray(photograph).save(file, "PNG")
    hand_over(page, "drop", file.getvalue())
    is_read(page, "11")
    sheet = page.locator("#sheet").bounding_box()
    for i, middle in enumerate((104 / 400, 304 / 400)):
        box = page.locator("#marks div").nth(i).bounding_box()
        x = (box["x"] + box["width"] / 2 - sheet["x"]) / sheet["width"]
        y = (box["y"] + box["height"] / 2 - sheet["y"]) / sheet["height"]
        assert (x, y) == (pytest.approx(middle, abs=0.01), pytest.approx(0.5, abs=0.01))


def test_the_answer_says_how_long_it_took(page):
    draw(page, 1)
    expect(page.locator("#timing")).to_have_text(
        re.compile(r"Answered in [\d.]+ ms, [\d.]+ of them the network\.")
    )


def test_errors_of_the_server_are_told_and_pass(page):
    page.route(
        "**/predict?*",
        lambda route: route.fulfill(status=422, json={"detail": "got this, expected that"}),
    )
    draw(page, 1)
    expect(page.locator("#why-so")).to_have_text("Not read: got this, expected that")
    page.unroute("**/predict?*")
    page.route("**/predict?*", lambda route: route.abort())
    draw(page, 1)
    expect(page.locator("#why-so")).to_have_text("The server does not respond.")
    expect(page.locator("#said")).to_have_text("The server does not respond.")
    page.unroute("**/predict?*")
    page.locator("#again").focus()
    page.keyboard.press("Enter")
    is_read(page, "1")
    expect(page.locator("#again")).to_be_hidden()
    expect(page.locator("#sheet")).to_be_focused()


def test_what_the_server_refuses_is_not_tried_again(page):
    page.route("**/predict?*", lambda route: route.fulfill(status=422, json={"detail": "bad"}))
    draw(page, 1)
    expect(page.locator("#why-so")).to_have_text("Not read: bad")
    expect(page.locator("#again")).to_be_hidden()


@pytest.mark.parametrize("way", ["draw", "again"])
def test_a_server_that_was_away_at_the_start_comes_back(new_page, way):
    page = new_page("/healthz")
    page.route("**/models", lambda route: route.abort())
    page.goto(page.url.replace("/healthz", "/"))
    expect(page.locator("#facts")).to_have_text("The server does not respond.")
    expect(page.locator("#again")).to_be_visible()
    page.unroute("**/models")
    if way == "draw":
        draw(page, 1)
        is_read(page, "1")
    else:
        page.click("#again")
        is_empty(page)
    ready(page)
    expect(page.locator("#again")).to_be_hidden()
    assert page.locator("#model").input_value() == DEFAULT_MODEL
    page.click("#card")
    expect(page.locator("#card-title")).to_have_text(DEFAULT_MODEL)


def test_the_model_card_without_models_is_a_link(new_page):
    page = new_page("/healthz")
    page.route("**/models", lambda route: route.abort())
    page.goto(page.url.replace("/healthz", "/"))
    expect(page.locator("#facts")).to_have_text("The server does not respond.")
    page.click("#card")
    page.wait_for_url("**/model")


# --- the model


def test_the_model_is_named_and_can_be_chosen(page):
    expect(page.locator("#facts")).to_have_text(
        re.compile(
            rf"{DEFAULT_MODEL}: 19,650 parameters, \d+ kB, 99\.\d\d\s% right on "
            r"10,000 images it never saw\."
        )
    )
    draw(page, 1)
    is_read(page, "1")
    with page.expect_request(lambda request: "model=sprint" in request.url):
        page.select_option("#model", "sprint")
    expect(page.locator("#facts")).to_contain_text("sprint: 16,302 parameters")
    is_read(page, "1")
    page.click("#card")
    expect(page.locator("#card-title")).to_have_text("sprint")
    expect(page.locator("#card-facts")).to_contain_text("era-v3-s6: PASS")
    assert page.locator("#card-json").get_attribute("href") == "model?name=sprint"
    assert violations(page) == []
    page.keyboard.press("Escape")
    expect(page.locator("#card-dialog")).to_be_hidden()


# --- samples


@pytest.mark.parametrize("number", range(len(SAMPLES["samples"])))
def test_a_sample_is_read_as_its_file_says(page, number):
    sample = SAMPLES["samples"][number]
    page.locator("#samples button").nth(number).click()
    is_read(page, sample["reads"])
    mistake = sample["digit"] != sample["reads"]
    expect(page.locator("#note")).to_contain_text(
        f"It reads this {sample['digit']} as a" if mistake else ""
    )
    assert page.locator("#note").inner_text().endswith("a real mistake.") == mistake


def test_samples_are_some_right_some_mistakes():
    assert SAMPLES["model"] == DEFAULT_MODEL
    mistakes = [each["digit"] != each["reads"] for each in SAMPLES["samples"]]
    assert len(mistakes) == 6
    assert 2 <= sum(mistakes) <= 4


def test_a_sample_is_drawn_stroke_by_stroke(new_page):
    page = new_page(reduced_motion="no-preference")
    page.locator("#samples button").first.click()
    page.wait_for_timeout(200)
    before = inked(page)
    is_read(page, SAMPLES["samples"][0]["reads"])
    page.wait_for_timeout(1000)
    assert 0 < before < inked(page)
    page.click("#undo")  # one step for the whole sample
    is_empty(page)


# --- why


def shown_evidence(page, digit=4):
    draw(page, digit)
    is_read(page, str(digit))
    page.click("#why")
    expect(page.locator("#overlay")).to_be_visible()


def test_evidence_is_off_until_asked_for(page):
    draw(page, 4)
    is_read(page, "4")
    expect(page.locator("#overlay")).to_be_hidden()
    expect(page.locator("#legend")).to_be_hidden()
    page.click("#why")
    expect(page.locator("#why")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#overlay")).to_be_visible()
    expect(page.locator("#legend")).to_contain_text("for 4")
    expect(page.locator("#readout")).to_contain_text("the difference of the logits")
    page.click("#why")
    expect(page.locator("#overlay")).to_be_hidden()


def test_a_network_without_evidence_says_why(page):
    draw(page, 4)
    is_read(page, "4")
    expect(page.locator("#no-why")).to_be_hidden()
    page.select_option("#model", "baseline")
    expect(page.locator("#facts")).to_contain_text("baseline: ")
    is_read(page, "4")
    expect(page.locator("#why")).to_be_hidden()
    expect(page.locator("#no-why")).to_contain_text("This network can\u2019t say where: ")
    page.keyboard.press("w")
    expect(page.locator("#legend")).to_be_hidden()
    page.locator("#inside summary").click()
    expect(page.locator("#order")).to_contain_text("that vary most over the image first")


def test_evidence_is_coloured_where_the_network_looked(page):
    shown_evidence(page)
    colours = page.evaluate(
        """() => { const { width } = overlay;
        const all = overlay.getContext("2d").getImageData(0, 0, width, width).data;
        const at = (x, y) => {
            const first = 4 * (Math.round(y * width) * width + Math.round(x * width));
            return [...all.slice(first, first + 4)];
        };
        return [at(0.5, 0.5), at(0.005, 0.995)]; }"""
    )
    (red, _, blue, alpha), (_, _, _, corner) = colours
    assert red > blue  # for the 4, which it is
    assert alpha > 100
    assert corner < 20


def test_the_picture_of_evidence_sums_to_the_difference(page, url):
    body = base64.b64encode(picture(1)).decode()
    evidence = page.evaluate(
        """async (body) => { const bytes = Uint8Array.from(atob(body), (c) => c.charCodeAt(0));
        const answer = await fetch("predict?evidence=true", { method: "POST",
            headers: { "Content-Type": "image/png" }, body: bytes });
        return (await answer.json()).evidence; }""",
        body,
    )
    pixels = "m.spread(argument, { width: 28, height: 28 })"
    total = module(page, "spread", f"{pixels}.reduce((a, b) => a + b)", evidence)
    assert total == pytest.approx(evidence["difference"], abs=1e-4)
    assert np.sum(evidence["values"]) == pytest.approx(evidence["difference"], abs=1e-4)


def test_places_tell_their_number_to_mouse_and_keyboard(page):
    shown_evidence(page)
    number = re.compile(
        r"^[+\u2212]\d+\.\d\d for 4 against \d here; all \d+ places sum to \d+\.\d\d"
    )
    box = page.locator("#sheet").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#readout")).to_have_text(number)
    page.mouse.move(5, 5)
    expect(page.locator("#readout")).to_contain_text("All ")
    page.locator("#places").focus()
    expect(page.locator("#readout")).to_have_text(number)
    first = page.locator("#readout").inner_text()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#readout")).not_to_have_text(first)
    expect(page.locator("#said")).to_have_text(page.locator("#readout").inner_text())


def test_feature_maps_are_folded_away_until_asked_for(page):
    draw(page, 4)
    is_read(page, "4")
    expect(page.locator(".stage")).to_have_count(0)
    page.locator("#inside summary").click()
    expect(page.locator(".stage").first).to_be_visible()
    expect(page.locator("#order")).to_contain_text(
        "in the last stage the channels that contributed most first, in the others those that vary "
        "most over the image. Black is a stage\u2019s lowest value, white its highest."
    )
    last = page.locator(".stage").last
    parts = [
        float(text.replace("\u2212", "-").replace("+", ""))
        for text in last.locator(".grid span").all_text_contents()
    ]
    assert [abs(each) for each in parts] == sorted(map(abs, parts), reverse=True)
    last.locator(".more").click()
    expect(last.locator(".grid button:visible")).to_have_count(len(parts))


def test_a_feature_map_is_enlarged_with_its_filter(page):
    draw(page, 4)
    is_read(page, "4")
    page.locator("#inside summary").click()
    page.locator(".stage").first.locator(".grid button").first.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("#map")
    expect(dialog).to_be_visible()
    expect(page.locator("#map-title")).to_have_text(re.compile(r"Stage 1, channel \d+"))
    expect(page.locator("#map-numbers")).to_contain_text("activations from")
    expect(page.locator("#filters canvas")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator(".stage").first.locator(".grid button").first).to_be_focused()
    page.locator(".stage").last.locator(".grid button").first.click()
    expect(page.locator("#map-numbers")).to_contain_text("part of the answer")


# --- feedback, saving, sharing


def test_a_wrong_answer_is_kept_with_its_truth(page, collected):
    draw(page, 4)
    is_read(page, "4")
    page.click("#wrong")
    labels = page.locator("#truth button")
    expect(labels).to_have_count(11)  # the digits, and none of them
    expect(labels.nth(4)).to_be_disabled()  # what was read
    labels.nth(9).click()
    expect(page.locator("#thanks")).to_contain_text("Kept as a 9 on this computer")
    expect(page.locator("#thanks")).to_be_focused()
    expect(page.locator("#truth")).to_be_hidden()
    (file,) = (collected / "9").iterdir()
    kept = np.asarray(Image.open(file).convert("L"))
    assert kept.min() < 30
    assert np.median(kept) == 255


def test_a_correction_that_is_not_kept_can_be_sent_again(page, collected):
    draw(page, 4)
    is_read(page, "4")
    page.click("#wrong")
    chosen = page.locator("#truth button").nth(8)
    page.route("**/feedback?*", lambda route: route.abort())
    chosen.click()
    text = "Not kept: The server does not respond. Choose again to retry."
    expect(page.locator("#thanks")).to_have_text(text)
    expect(page.locator("#said")).to_have_text(text)
    expect(chosen).to_have_attribute("aria-pressed", "true")
    expect(chosen).to_be_focused()
    page.route("**/feedback?*", lambda route: route.fulfill(status=507, json={"detail": "full"}))
    chosen.click()
    expect(page.locator("#thanks")).to_have_text("Not kept: full. Choose again to retry.")
    page.unroute("**/feedback?*")
    chosen.click()
    expect(page.locator("#thanks")).to_contain_text("Kept as an 8")
    expect(page.locator("#wrong")).to_be_hidden()
    assert len(list((collected / "8").iterdir())) == 1


@pytest.mark.parametrize("source", ["drawing", "photograph"])
def test_a_digit_of_a_number_is_cut_out_and_kept(page, collected, source):
    """What is kept is read as the same digit, whatever it is called."""
    draw_number(page)
    is_read(page, "1905")
    if source == "photograph":
        content = base64.b64decode(page.evaluate("sheet.toDataURL().split(',')[1]"))
        hand_over(page, "drop", content)
        is_read(page, "1905")
    reader = Reader()
    for i, (read, truth) in enumerate(zip("1905", "2763", strict=True)):
        page.locator("#chips button").nth(i).click()
        expect(page.locator("#wrong")).to_have_text(f"This {read} was wrong")
        page.click("#wrong")
        page.locator("#truth button").nth(int(truth)).click()
        expect(page.locator("#thanks")).to_contain_text("Kept as a ")
        newest = max((collected / truth).iterdir(), key=lambda file: file.stat().st_mtime_ns)
        reading = reader.read(newest)
        assert (reading.label, reading.side_by_side) == (read, 1)
        with Image.open(newest) as kept:
            assert max(kept.size) <= 512
    page.locator("#chips button").first.click()
    expect(page.locator("#wrong")).to_be_hidden()  # kept once


def test_nothing_is_kept_where_the_server_does_not_collect(new_page):
    page = new_page()

    def refuse(route):
        response = route.fetch()
        route.fulfill(response=response, json=response.json() | {"collects": False})

    page.route("**/models", refuse)
    page.reload()
    ready(page)
    draw(page, 4)
    is_read(page, "4")
    expect(page.locator("#save")).to_be_visible()
    expect(page.locator("#wrong")).to_be_hidden()


def test_the_picture_is_saved(page):
    shown_evidence(page)
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "featherweight-4.png"
    saved = Image.open(download.value.path())
    assert saved.size == (1080, 1350)
    pixels = np.asarray(saved.convert("RGB")).astype(int)
    assert (pixels.max(2) < 60).sum() > 5_000  # ink and words
    assert ((pixels[..., 0] - pixels[..., 2]) > 80).sum() > 10_000  # evidence for the first answer
    legend = pixels[1010 + 20 : 1010 + 55]  # below the sheet: a square of each colour
    first, second = np.array([0xE0, 0x7A, 0x1F]), np.array([0x2A, 0x74, 0xB8])
    for colour in (first, second):
        assert (abs(legend - colour).max(2) < 8).sum() > 300


def test_the_saved_picture_says_what_is_unsure(page):
    page.evaluate(
        """() => { window.written = [];
        const write = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
            window.written.push(text);
            return write.call(this, text, ...rest);
        }; }"""
    )
    change_answers(page, label="4", confidence=0.58, unsure=True, probabilities=UNDECIDED)
    draw(page, 4)
    expect(page.locator("body")).to_have_attribute("data-state", "unsure")
    is_read(page, "4")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "featherweight-4.png"
    written = page.evaluate("written")
    assert written[0] == "4?"
    assert not any(text.startswith("for ") for text in written)
    page.click("#why")
    with page.expect_download():
        page.click("#save")
    assert "for 4" in page.evaluate("written")


def test_the_picture_is_shared_where_the_system_can(page):
    expect(page.locator("#share")).to_be_hidden()  # Chromium on Linux can't
    page.add_init_script(
        "navigator.canShare = () => true;"
        "navigator.share = async ({ files }) => { window.shared = files[0].name; };"
    )
    page.reload()
    ready(page)
    draw(page, 4)
    is_read(page, "4")
    page.click("#share")
    page.wait_for_function("() => window.shared === 'featherweight-4.png'")


# --- keyboard and screen reader


def test_the_keyboard_alone(page):
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "sheet":
            break
    expect(page.locator("#keys")).to_be_visible()
    page.wait_for_timeout(50)
    accent = page.evaluate(
        """() => { const { width } = sheet, all = sheet.getContext("2d")
            .getImageData(0, 0, width, width).data;
        return all.filter((v, i) => i % 4 == 2 && v > all[i - 2] + 80).length; }"""
    )
    assert accent > 50  # the pen is seen before the first key
    for key in ["ArrowUp"] * 8 + ["Space"] + ["ArrowDown"] * 16 + ["Space"]:
        page.keyboard.press(key)
    is_read(page, "1")
    page.keyboard.press("w")
    expect(page.locator("#overlay")).to_be_visible()
    page.keyboard.press("u")
    is_empty(page)
    page.keyboard.press("r")
    is_read(page, "1")
    page.keyboard.press("Control+z")
    is_empty(page)
    page.keyboard.press("Control+Shift+z")
    is_read(page, "1")
    page.keyboard.press("Delete")
    is_empty(page)


@pytest.mark.parametrize("settings", [PHONE, SIDEWAYS], ids=["upright", "sideways"])
def test_tab_goes_down_a_phone(new_page, settings):
    """The order of the keyboard is the order on the screen."""
    page = new_page(**settings)
    draw(page, 4)
    is_read(page, "4")
    tops = page.evaluate(
        """(parts) => parts.map((each) => document.querySelector(each))
        .toSorted((a, b) => a.compareDocumentPosition(b) & 4 ? -1 : 1)
        .map((each) => each.getBoundingClientRect().top)""",
        [".rest", ".samples", ".inside", ".verdict"],
    )
    assert tops == sorted(tops)


@pytest.mark.parametrize("place", ["#model", "#save", "#inside summary"])
def test_shortcuts_are_for_the_sheet_alone(page, place):
    draw(page, 1)
    is_read(page, "1")
    page.locator(place).focus()
    for key in ("u", "Delete", "e", "Control+z"):
        page.keyboard.press(key)
    is_read(page, "1")
    assert inked(page) > 0


def test_an_answer_is_said_once_at_pen_up(page):
    page.evaluate(
        """() => { window.said = [];
        new MutationObserver(() => window.said.push(document.getElementById("said").textContent))
            .observe(document.getElementById("said"), { childList: true }); }"""
    )
    box = page.locator("#sheet").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + 100
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(20):
        page.mouse.move(x, y + 15 * step)
        page.wait_for_timeout(20)
    expect(page.locator("#digit")).to_have_text("1")  # shown while it is drawn
    assert page.evaluate("said") == []
    page.mouse.up()
    page.wait_for_function("() => said.length > 0")
    page.wait_for_timeout(700)
    (said,) = page.evaluate("said")
    assert said.startswith("Sure: a 1. ")
    regions = page.locator("[aria-live], [role=status], [role=alert], [role=log], output")
    expect(regions).to_have_count(1)


def violations(page):
    # Bars move for a moment, and a colour on its way has no contrast that means anything.
    page.wait_for_timeout(250)
    response = Axe().run(page).response
    assert len(response["passes"]) > 15  # it has looked
    return [
        (each["id"], [node["html"] for node in each["nodes"]]) for each in response["violations"]
    ]


@pytest.mark.parametrize(
    ("scheme", "settings"), [("light", {}), ("dark", PHONE)], ids=["desk", "phone"]
)
def test_axe_finds_no_violation(new_page, scheme, settings):
    page = new_page(color_scheme=scheme, **settings)
    assert violations(page) == []
    draw(page, 4)
    is_read(page, "4")
    page.click("#wrong")
    assert violations(page) == []
    page.click("#why")
    page.locator("#inside summary").click()
    expect(page.locator(".stage").last).to_be_visible()
    assert violations(page) == []
    page.locator(".stage").last.locator(".grid button").first.click()
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.click("#clear")
    draw_number(page)
    is_read(page, "1905")
    assert violations(page) == []
    change_answers(page, label="4", unsure=True, probabilities=UNDECIDED, side_by_side=1)
    page.click("#clear")
    draw(page, 4)
    expect(page.locator("#title")).to_contain_text("Not sure")
    assert violations(page) == []


def test_what_can_be_pressed_is_large_enough(new_page):
    page = new_page(**PHONE, is_mobile=True)
    draw(page, 4)
    is_read(page, "4")
    page.click("#wrong")
    page.locator("#inside summary").click()
    expect(page.locator(".stage").last).to_be_visible()
    small = page.evaluate(
        """[...document.querySelectorAll("button, select, summary")]
        .map((each) => [each, each.getBoundingClientRect()])
        .filter(([, box]) => box.width && (box.width < 44 || box.height < 44))
        .map(([each, box]) => `${each.id || each.className || each.ariaLabel}: `
            + `${box.width} x ${box.height}`)"""
    )
    assert small == []


def test_it_works_with_forced_colours(new_page):
    page = new_page(forced_colors="active")
    shown_evidence(page)
    assert page.evaluate("getComputedStyle(overlay).forcedColorAdjust") == "none"
    assert violations(page) == []


# --- layouts


@pytest.mark.parametrize(
    ("width", "height", "scheme"),
    [
        *((320, 640, "light"), (390, 844, "dark"), (844, 390, "light")),
        *((1280, 800, "dark"), (1920, 1080, "light"), (2560, 1440, "dark")),
    ],
)
def test_the_sheet_and_the_answer_are_on_the_first_screen(new_page, width, height, scheme):
    page = new_page(viewport={"width": width, "height": height}, color_scheme=scheme)

    def inside():
        for part in ("#sheet", ".verdict"):
            box = page.locator(part).bounding_box()
            assert box["x"] >= 0
            assert box["y"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= height
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        return page.locator("#sheet").bounding_box()

    empty = inside()
    draw_number(page)
    is_read(page, "1905")
    assert inside() == empty  # nothing moves under the hand
    page.click("#clear")
    draw(page, 3)
    is_read(page, "3")
    assert inside() == empty
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in background[4:-1].split(","))
    assert (brightness > 384) == (scheme == "light")


@pytest.mark.parametrize("width", [320, 480, 700, 900, 1600])
def test_nothing_scrolls_sideways(new_page, width):
    page = new_page(viewport={"width": width, "height": 700})
    draw(page, 4)
    is_read(page, "4")
    page.click("#why")
    page.click("#wrong")
    page.locator("#inside summary").click()
    expect(page.locator(".stage").last).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


# --- elsewhere


def test_the_page_works_behind_a_path(new_page, url):
    page = new_page("/healthz")
    page.route(
        "**/course/digits/**",
        lambda route: route.continue_(url=route.request.url.replace("/course/digits", "")),
    )
    page.goto(f"{url}/course/digits/")
    ready(page)
    draw(page, 4)
    is_read(page, "4")
    page.locator("#inside summary").click()
    expect(page.locator(".stage").last).to_be_visible()


def test_the_page_works_inside_another_one(browser, tmp_path):
    server = Server(DEFAULT_MODEL, "--collect", str(tmp_path), "--allow-embedding", "self")
    page = browser.new_page(viewport={"width": 1000, "height": 800}, reduced_motion="reduce")
    page.route(
        "**/course",
        lambda route: route.fulfill(
            content_type="text/html",
            body='<h1>A course</h1><iframe src="/" width="390" height="700"></iframe>',
        ),
    )
    try:
        page.goto(f"{server.url}/course")
        inside = page.frame_locator("iframe")
        inside.locator("#samples button").first.click()
        expect(inside.locator("#digit")).to_have_text(SAMPLES["samples"][0]["reads"])
    finally:
        page.close()
        server.stop()
        server.process.stderr.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_documentation_works_offline(new_page, scheme):
    page = new_page("/docs", color_scheme=scheme)
    expect(page.locator(".opblock-summary-path").first).to_be_visible()
    assert page.locator(".opblock").count() >= 4
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in background[4:-1].split(",")) > 384) == (scheme == "light")
